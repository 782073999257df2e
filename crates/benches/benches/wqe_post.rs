//! What a work request costs whoever posts it: building the entry, and building it, copying it into
//! the send queue, writing the doorbell record and ringing the doorbell. By kind of request.
//!
//! `cargo bench -p benches --bench wqe_post`, less than a minute. There is no device: the queue, the
//! record and the register are memory that nobody else looks at, so the times are those of the
//! processor alone.
#![expect(clippy::unwrap_used, reason = "a benchmark may end here")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mlx5gda_sys::wqe::{AtomicOp, AtomicWidth, DataPtr, Post, Remote, WQEBB_BYTES, Wqe, WqeError};

/// Blocks of the send queue, a power of two.
const DEPTH: usize = 1024;
/// Words of a block.
const WORDS: usize = WQEBB_BYTES / 8;

const LOCAL: DataPtr = DataPtr {
    addr: 0x7f00_0000_1000,
    lkey: 0x1234_5600,
    len: 7168,
};
const WORD: DataPtr = DataPtr { len: 8, ..LOCAL };
const REMOTE: Remote = Remote {
    addr: 0x7e00_0000_2000,
    rkey: 0x0065_4321,
};

/// Builds the entry of one kind.
type Build = fn(Post) -> Result<Wqe, WqeError>;

const KINDS: [(&str, Build); 10] = [
    ("nop", Wqe::nop),
    ("write", |post| {
        Wqe::rdma_write(post, REMOTE, black_box(&[LOCAL]), None)
    }),
    ("write, 4 buffers", |post| {
        Wqe::rdma_write(post, REMOTE, black_box(&[LOCAL; 4]), None)
    }),
    ("write, immediate", |post| {
        Wqe::rdma_write(post, REMOTE, black_box(&[LOCAL]), Some(7))
    }),
    ("write, 8 bytes inline", |post| {
        Wqe::rdma_write_inline(post, REMOTE, black_box(&[1; 8]), None)
    }),
    ("write, 64 bytes inline", |post| {
        Wqe::rdma_write_inline(post, REMOTE, black_box(&[1; 64]), None)
    }),
    ("read", |post| {
        Wqe::rdma_read(post, REMOTE, black_box(&[LOCAL]))
    }),
    ("send", |post| Wqe::send(post, black_box(&[LOCAL]), None)),
    ("fetch and add", |post| {
        Wqe::fetch_add(post, REMOTE, black_box(WORD), 1)
    }),
    ("masked compare and swap", |post| {
        let op = AtomicOp::MaskedCompareSwap {
            width: AtomicWidth::Eight,
            compare: 1,
            swap: 2,
            compare_mask: 0xff,
            swap_mask: 0xff00,
        };
        Wqe::atomic(post, REMOTE, black_box(WORD), op)
    }),
];

/// A send queue with its doorbell record and register.
struct Queue {
    blocks: Vec<[AtomicU64; WORDS]>,
    record: AtomicU32,
    register: AtomicU64,
    posted: u16,
}

impl Queue {
    fn new() -> Self {
        let block = || [const { AtomicU64::new(0) }; WORDS];
        Self {
            blocks: (0..DEPTH).map(|_| block()).collect(),
            record: AtomicU32::new(0),
            register: AtomicU64::new(0),
            posted: 0,
        }
    }

    const fn post(&self) -> Post {
        Post {
            qpn: 0x0001_2345,
            index: self.posted,
            signalled: true,
            solicited: false,
            fence: false,
        }
    }

    /// Copies, then counts, then rings: the device must not see them in another order.
    fn push(&mut self, wqe: &Wqe) {
        for bytes in wqe.bytes().as_chunks::<WQEBB_BYTES>().0 {
            let block = &self.blocks[usize::from(self.posted) % DEPTH];
            for (word, bytes) in block.iter().zip(bytes.as_chunks().0) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
            self.posted = self.posted.wrapping_add(1);
        }
        let record = u32::from(self.posted).to_be();
        self.record.store(record, Ordering::Release);
        self.register.store(wqe.ctrl_doorbell(), Ordering::Release);
    }
}

fn post(criterion: &mut Criterion) {
    for rings in [false, true] {
        let name = if rings {
            "wqe_post/post"
        } else {
            "wqe_post/build"
        };
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .throughput(Throughput::Elements(1));
        for (kind, build) in KINDS {
            let mut queue = Queue::new();
            group.bench_function(kind, |bencher| {
                bencher.iter(|| {
                    let wqe = build(black_box(queue.post())).unwrap();
                    if rings {
                        queue.push(&wqe);
                    } else {
                        black_box(&wqe);
                    }
                });
            });
            black_box(&queue);
        }
        group.finish();
    }
}

criterion_group!(benches, post);
criterion_main!(benches);
