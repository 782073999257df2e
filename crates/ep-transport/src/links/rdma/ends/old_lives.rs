//! What an old life still sends is refused by the responder.

use super::{End, at, eventually, exchange, join, open, settings};
use mlx5gda_sys::wqe::Remote;
use soft_hca::DropReason;

/// Nothing has arrived since the region was zeroed.
fn untouched(end: &End) -> bool {
    let mut all = vec![1; end.region.len() as usize];
    end.region.read(0, &mut all).unwrap();
    all.iter().all(|byte| *byte == 0)
}

fn dropped(end: &End, reason: DropReason) -> u64 {
    end.stats().drops.get(&reason).copied().unwrap_or(0)
}

#[test]
fn writes_to_a_peer_that_was_replaced_find_no_queue_pair() {
    let a = open(&settings(0, at([127, 77, 3, 1]))).unwrap();
    let old = open(&settings(1, at([127, 77, 3, 2]))).unwrap();
    join(&a, &old).unwrap();
    exchange(&a, &old, 3);
    let (rkey, numbers) = (old.address().rkey, old.links.queue_pairs());
    drop(old);
    let new = open(&settings(1, at([127, 77, 3, 2]))).unwrap();
    assert_ne!(new.address().rkey, rkey);
    for (before, after) in numbers.iter().zip(new.links.queue_pairs()) {
        assert_ne!(before.qpn, after.qpn);
    }
    a.post(new.rank, 4).unwrap();
    let fault = a.fault(new.rank);
    assert!(dropped(&new, DropReason::UnknownQp) > 0, "{fault}");
    assert!(untouched(&new));
    join(&a, &new).unwrap();
    exchange(&a, &new, 5);
}

#[test]
fn the_remote_key_of_an_old_life_opens_nothing_in_the_new_one() {
    let a = open(&settings(0, at([127, 77, 4, 1]))).unwrap();
    let old = open(&settings(1, at([127, 77, 4, 2]))).unwrap();
    let rkey = old.address().rkey;
    drop(old);
    let new = open(&settings(1, at([127, 77, 4, 2]))).unwrap();
    join(&a, &new).unwrap();
    // The right connection, the right address, and the key of before.
    let stale = |remote: &mut Remote| remote.rkey = rkey;
    a.with_remote(&new, stale);
    a.post(new.rank, 6).unwrap();
    let fault = a.fault(new.rank);
    assert!(
        fault.contains("remote access") || fault.contains("flush"),
        "{fault}"
    );
    assert!(untouched(&new));
    join(&a, &new).unwrap();
    exchange(&a, &new, 7);
}

#[test]
fn a_rank_that_lives_on_after_its_replacement_reaches_nobody() {
    let survivor = open(&settings(1, at([127, 77, 5, 2]))).unwrap();
    // Both lives at one address, so that nothing but the numbers tells them apart.
    let old = open(&settings(0, at([127, 77, 5, 1]))).unwrap();
    let new = open(&settings(0, at([127, 77, 5, 1]))).unwrap();
    join(&old, &survivor).unwrap();
    exchange(&old, &survivor, 8);
    let numbers = |end: &End| {
        end.links
            .queue_pairs()
            .iter()
            .map(|q| q.qpn)
            .collect::<Vec<_>>()
    };
    let kept = numbers(&survivor);
    join(&new, &survivor).unwrap();
    // The survivor's queue pairs keep their numbers, so these find one.
    assert_eq!(numbers(&survivor), kept);
    exchange(&new, &survivor, 9);
    let refused = |end: &End| {
        let stats = end.stats();
        stats.duplicates + stats.out_of_order + dropped(end, DropReason::WrongSource)
    };
    let before = refused(&survivor);
    old.post(survivor.rank, 10).unwrap();
    eventually("refusal", || refused(&survivor) > before);
    old.fault(survivor.rank);
    assert_eq!(survivor.signal(), 9);
    // The new life does not notice.
    exchange(&new, &survivor, 11);
}
