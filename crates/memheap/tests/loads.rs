#![expect(clippy::unwrap_used, reason = "tests")]
//! What control buffers do to a heap.

use memheap::{Block, Heap};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const KIB: u64 = 1 << 10;

/// An allocator that keeps one number for "highest end" and "bytes in use" hands
/// out 65,536 here: on top of the second block.
#[test]
fn a_block_larger_than_the_hole_does_not_land_on_its_neighbour() {
    let mut heap = Heap::new(1 << 30);
    let a = heap.alloc(64 * KIB, 64 * KIB).unwrap();
    let b = heap.alloc(64 * KIB, 64 * KIB).unwrap();
    assert_eq!((a.offset(), b.offset()), (0, 64 * KIB));
    heap.free(a).unwrap();
    let c = heap.alloc(128 * KIB, 64 * KIB).unwrap();
    assert!(c.offset() >= b.end());
    assert_eq!(heap.stats().used, 192 * KIB);
    let hole = heap.alloc(64 * KIB, 64 * KIB).unwrap();
    assert_eq!(hole.offset(), 0);
    for block in [b, c, hole] {
        heap.free(block).unwrap();
    }
    assert_eq!(heap.stats().free_blocks, 1);
}

/// More blocks than a table of 1,024 entries holds can all be freed.
#[test]
fn every_one_of_many_blocks_can_be_freed() {
    let mut heap = Heap::new(1 << 30);
    let blocks: Vec<Block> = (0..5000).map(|_| heap.alloc(4096, 4096).unwrap()).collect();
    let (even, odd): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|b| b.offset() % 8192 == 0);
    for block in even.into_iter().chain(odd) {
        heap.free(block).unwrap();
    }
    assert_eq!(heap.largest_free(), 1 << 30);
}

struct Queue {
    ring: Block,
    record: Block,
}

impl Queue {
    fn new(heap: &mut Heap, ring: u64) -> Self {
        Self {
            ring: heap.alloc(ring, 4096).unwrap(),
            record: heap.alloc(64, 64).unwrap(),
        }
    }
}

/// Queues of different sizes come and go for ever in little more than what they
/// need at once. Equal sizes would hide it when freed space did not merge.
#[test]
fn mixed_queues_churn_in_place() {
    const RINGS: [u64; 3] = [64 * KIB, 256 * KIB, 1024 * KIB];
    const QUEUES: usize = 256;
    let needed: u64 = (0..QUEUES).map(|i| RINGS[i % 3] + 64).sum();
    let mut heap = Heap::with_granule(2 * needed, 64).unwrap();
    let mut random = SmallRng::seed_from_u64(1);
    let new_queue = |heap: &mut Heap, i: usize| Some(Queue::new(heap, RINGS[i % 3]));
    let mut queues: Vec<_> = (0..QUEUES).map(|i| new_queue(&mut heap, i)).collect();
    for round in 0..500 {
        let share = random.random();
        for queue in &mut queues {
            if random.random_bool(share) {
                let Queue { ring, record } = queue.take().unwrap();
                heap.free(ring).unwrap();
                heap.free(record).unwrap();
            }
        }
        for (i, queue) in queues.iter_mut().enumerate() {
            if queue.is_none() {
                *queue = new_queue(&mut heap, i);
            }
        }
        let mut end = 0;
        for block in &heap {
            assert!(block.start >= end, "overlap in round {round}");
            end = block.end;
        }
        assert_eq!(heap.stats().used, needed);
    }
    let footprint = heap.stats().high_water as f64 / needed as f64;
    assert!(footprint <= 1.02, "{footprint}");
    for Queue { ring, record } in queues.into_iter().flatten() {
        heap.free(ring).unwrap();
        heap.free(record).unwrap();
    }
    assert_eq!(heap.largest_free(), 2 * needed / 64 * 64);
}
