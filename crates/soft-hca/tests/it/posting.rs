//! Well-formed work: segments, inline data, wrap of the ring, what is reported.

use mlx5gda_sys::cqe::CqeOpcode;
use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::wqe::{DataPtr, MAX_GATHER, MAX_INLINE_WRITE_BYTES, Post, Remote, Wqe};

use crate::client::Pair;

fn remote(pair: &Pair, offset: u64) -> Remote {
    Remote {
        addr: pair.b.address() + offset,
        rkey: pair.b.key(),
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 37 + seed * 11 + 1) as u8).collect()
}

#[test]
fn many_segments_make_one_message_and_one_message_many() {
    let mut pair = Pair::new(Mtu::Bytes1024, 5, false);
    let data = pattern(40_000, 0);
    pair.a.store(0, &data);
    // From the back to the front, of uneven lengths.
    let count = MAX_GATHER.min(14);
    let mut segments = Vec::new();
    let mut expected = Vec::new();
    for i in 0..count {
        let (start, len) = (2000 * (count - i), 1 + 137 * i);
        expected.extend_from_slice(&data[start..start + len]);
        segments.push(DataPtr {
            addr: pair.a.address() + start as u64,
            lkey: pair.a.key(),
            len: len as u32,
        });
    }
    let post = pair.a.signalled(&pair.qp_a);
    let wqe = Wqe::rdma_write(post, remote(&pair, 7), &segments, None).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    assert_eq!(pair.a.next(&mut pair.cq_a).opcode(), Ok(CqeOpcode::Req));
    assert_eq!(pair.b.load(7, expected.len()), expected);
    // A read comes apart in the same way.
    for segment in &mut segments {
        segment.addr += 100_000;
    }
    let post = pair.a.signalled(&pair.qp_a);
    let wqe = Wqe::rdma_read(post, remote(&pair, 7), &segments).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    assert_eq!(
        pair.a.next(&mut pair.cq_a).byte_cnt(),
        expected.len() as u32
    );
    let mut at = 0;
    for segment in &segments {
        let offset = (segment.addr - pair.a.address()) as usize;
        let len = segment.len as usize;
        assert_eq!(pair.a.load(offset, len), expected[at..at + len]);
        at += len;
    }
}

#[test]
fn inline_data_of_every_length_wraps_around_the_ring() {
    let mut pair = Pair::new(Mtu::Bytes1024, 3, false);
    for len in 1..=MAX_INLINE_WRITE_BYTES {
        let data = pattern(len, len);
        let post = pair.a.signalled(&pair.qp_a);
        let index = pair.qp_a.posted;
        let wqe = Wqe::rdma_write_inline(post, remote(&pair, 64), &data, None).unwrap();
        pair.a.post(&mut pair.qp_a, &wqe);
        let cqe = pair.a.next(&mut pair.cq_a);
        assert_eq!(
            (cqe.opcode(), cqe.wqe_counter()),
            (Ok(CqeOpcode::Req), index)
        );
        assert_eq!(pair.b.load(64, len), data);
    }
    assert!(pair.qp_a.posted > 300);
}

#[test]
fn only_what_asks_for_it_is_reported() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, false);
    for round in 0..50u64 {
        for signalled in [false, false, true, false, true] {
            let post = Post {
                signalled,
                ..pair.a.signalled(&pair.qp_a)
            };
            let value = (round + 1).to_ne_bytes();
            let wqe = Wqe::rdma_write_inline(post, remote(&pair, 0), &value, None).unwrap();
            let index = pair.qp_a.posted;
            pair.a.post(&mut pair.qp_a, &wqe);
            if signalled {
                assert_eq!(pair.a.next(&mut pair.cq_a).wqe_counter(), index);
            }
        }
    }
    assert_eq!(pair.a.cq_context(&pair.cq_a).producer_counter(), 100);
    assert_eq!(pair.b.load(0, 8), 50u64.to_ne_bytes());
}

#[test]
fn completions_name_the_opcode_and_the_bytes() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, false);
    let into = |len| DataPtr {
        addr: pair.a.address() + 4096,
        lkey: pair.a.key(),
        len,
    };
    let post = |index| Post {
        index,
        ..pair.a.signalled(&pair.qp_a)
    };
    let wqes = [
        (Wqe::nop(post(0)).unwrap(), 0x00, 0),
        (
            Wqe::rdma_write(post(1), remote(&pair, 0), &[into(100)], None).unwrap(),
            0x08,
            100,
        ),
        (
            Wqe::rdma_read(post(2), remote(&pair, 0), &[into(3000)]).unwrap(),
            0x10,
            3000,
        ),
        (
            Wqe::compare_swap(post(3), remote(&pair, 0), into(8), 1, 2).unwrap(),
            0x11,
            8,
        ),
        (
            Wqe::fetch_add(post(4), remote(&pair, 0), into(8), 1).unwrap(),
            0x12,
            8,
        ),
    ];
    for (wqe, opcode, bytes) in wqes {
        pair.a.post(&mut pair.qp_a, &wqe);
        let cqe = pair.a.next(&mut pair.cq_a);
        assert_eq!(cqe.send_opcode(), opcode);
        if opcode >= 0x10 {
            assert_eq!(cqe.byte_cnt(), bytes);
        }
        assert_eq!(cqe.qpn(), pair.qp_a.number);
    }
}
