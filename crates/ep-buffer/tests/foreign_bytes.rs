//! What a rank finds in its memory: old signals, wrong messages, hostile bytes.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use ep_buffer::testing::Network;
use ep_buffer::{
    Config, DispatchHandle, DispatchOutput, DispatchType, LossCause, Rows, ScaleFormat, fp8,
};
use ep_transport::{Epoch, Incarnation, Rank};
use half::bf16;
use proptest::prelude::*;
use std::time::{Duration, Instant};
use support::fake::{Fake, LIFE, ME, PEER};
use support::{ALL_TYPES, Buffer};

const HIDDEN: usize = 8;
const WIDE: usize = 5 * fp8::GROUP;

/// Two ranks with two experts each; waits are short, as everything is there already.
fn config() -> Config {
    Config::builder(2, 4, HIDDEN as u32, 4)
        .max_top_k(2)
        .time_out(Duration::from_millis(20))
        .build()
        .unwrap()
}

/// The same with rows that have five groups of channels.
fn config_of(rows: DispatchType) -> Config {
    Config::builder(2, 4, WIDE as u32, 4)
        .max_top_k(2)
        .dispatch_type(rows)
        .time_out(Duration::from_millis(20))
        .build()
        .unwrap()
}

/// Two tokens of this rank: one to experts 0 and 3, one to expert 2 only.
fn dispatch(buffer: &mut Buffer, out: &mut DispatchOutput) -> DispatchHandle {
    let x = vec![bf16::ONE; 2 * buffer.config().hidden() as usize];
    buffer
        .dispatch(&x, &[0, 3, 2, -1], &[1.0; 4], 2, out)
        .unwrap()
}

fn ranks(out: &DispatchOutput) -> Vec<Rank> {
    out.answered().iter().collect()
}

/// Two tokens of the peer have come as they should.
fn after_a_proper_message(config: &Config) -> DispatchOutput {
    let (fake, mut buffer) = Fake::new(config);
    let tokens: [support::fake::Token<'_>; 2] = [(1, &[(0, 1), (1, 0)]), (3, &[(0, 0)])];
    fake.write(Epoch(0), &fake.dispatch(Epoch(0), &tokens, 3.0));
    fake.signal(Epoch(0), Epoch(0), LIFE);
    let mut out = buffer.dispatch_output().unwrap();
    dispatch(&mut buffer, &mut out);
    assert_eq!(ranks(&out), [ME, PEER]);
    assert_eq!(out.recv_count(), [3, 1]);
    out
}

#[test]
fn a_proper_message_is_taken() {
    let out = after_a_proper_message(&config());
    assert_eq!(out.src_info()[..3], [0, 1, 3]);
    assert_eq!(out.expert_rows(0).unwrap()[HIDDEN], bf16::from_f32(3.0));
}

#[test]
fn a_proper_message_in_fp8_is_taken_and_its_padding_is_not() {
    let format = ScaleFormat::Ue8m0;
    let out = after_a_proper_message(&config_of(DispatchType::Fp8(format)));
    let Rows::Fp8Ue8m0(bytes, scales) = out.rows() else {
        panic!("{:?}", out.rows());
    };
    let group = |value: f32| fp8::quantize_group(&[bf16::from_f32(value); fp8::GROUP], format);
    let (own, (sent, row)) = (group(1.0).0, group(3.0));
    assert_eq!(bytes[WIDE..WIDE + fp8::GROUP], row);
    // By expert, two words for the groups of each of eight rows.
    let exponents = |scale: f32, groups: usize| {
        let mut word = [0; 4];
        word[..groups].fill(fp8::to_ue8m0(scale));
        word
    };
    for (expert, rows) in [(0, &[own, sent, sent][..]), (1, &[sent][..])] {
        for (row, scale) in rows.iter().enumerate() {
            for (word, groups) in [(0, 4), (1, 1)] {
                let at = ((expert * 2 + word) * 8 + row) * 4;
                assert_eq!(scales[at..at + 4], exponents(*scale, groups));
            }
        }
    }
    // 3 is a number of E4M3 under any scale that is a power of two.
    assert!(out.row(0, 1).unwrap().eq([3.0; WIDE]));
    assert!(out.row(1, 1).is_none() && out.row(2, 0).is_none());
    assert!(out.recv_x().is_empty());
    assert_eq!(out.expert_rows(0), Some(&[][..]));
}

#[test]
fn who_sends_other_rows_is_masked() {
    for ours in ALL_TYPES {
        for theirs in ALL_TYPES.into_iter().filter(|theirs| *theirs != ours) {
            let (fake, mut buffer) = Fake::new(&config_of(ours));
            let (other, _) = Fake::new(&config_of(theirs));
            fake.write(Epoch(0), &other.dispatch(Epoch(0), &[(0, &[(0, 0)])], 3.0));
            fake.signal(Epoch(0), Epoch(0), LIFE);
            let mut out = buffer.dispatch_output().unwrap();
            dispatch(&mut buffer, &mut out);
            assert_eq!(ranks(&out), [ME], "{ours}, {theirs}");
            assert_eq!(out.recv_count(), [1, 0]);
            let cause = buffer.losses()[0].cause.to_string();
            assert!(cause.contains("header field rows is"), "{cause}");
        }
    }
}

#[test]
fn signals_of_other_lives_and_other_epochs_are_ignored() {
    let cases = [
        (Epoch(0), Incarnation(1)),
        (Epoch(0), Incarnation(3)),
        (Epoch(2), LIFE),
        (Epoch(1), LIFE),
    ];
    for (epoch, life) in cases {
        let (fake, mut buffer) = Fake::new(&config());
        fake.write(Epoch(0), &fake.dispatch(Epoch(0), &[(0, &[(0, 0)])], 3.0));
        fake.signal(Epoch(0), epoch, life);
        let mut out = buffer.dispatch_output().unwrap();
        dispatch(&mut buffer, &mut out);
        assert_eq!(ranks(&out), [ME], "{epoch} {life}");
        assert_eq!(out.recv_count(), [1, 0]);
        assert!(matches!(buffer.losses()[0].cause, LossCause::Silent { .. }));
        assert!(!fake.control.is_active(PEER, Epoch(1)));
    }
}

#[test]
fn one_lane_is_not_enough() {
    let (fake, mut buffer) = Fake::new(&config());
    fake.write(Epoch(0), &fake.dispatch(Epoch(0), &[(0, &[(0, 0)])], 3.0));
    fake.signal(Epoch(0), Epoch(0), LIFE);
    let second = fake.layout.signal(Epoch(0).half(), PEER, 1);
    fake.region.store_release(second, 0).unwrap();
    let mut out = buffer.dispatch_output().unwrap();
    dispatch(&mut buffer, &mut out);
    assert_eq!(ranks(&out), [ME]);
}

/// Bytes of the header fields that the cases below change.
const KIND: usize = 4;
const EPOCH: usize = 8;
const TOKENS: usize = 24;
const TOP_K: usize = 28;
const INCARNATION: usize = 36;
const FIRST_TOKEN: usize = 64;
const FIRST_ENTRY: usize = FIRST_TOKEN + 8;

#[test]
fn what_cannot_be_right_masks_the_sender() {
    let cases = [
        (KIND, 2, "kind is 2"),
        (EPOCH, 2, "epoch is 2"),
        (TOKENS, 5, "tokens is 5, the limit is 4"),
        (TOKENS, u32::MAX, "tokens is 4294967295"),
        (TOP_K, 3, "top_k is 3, the limit is 2"),
        (FIRST_TOKEN, 4, "token index is 4, the limit is 3"),
        (FIRST_TOKEN + 4, 3, "entries of a token is 3"),
        (FIRST_ENTRY, 2, "local experts needed is 3, the limit is 2"),
        (FIRST_ENTRY + 4, 2, "k is 2, the limit is 1"),
    ];
    for (at, value, words) in cases {
        let (fake, mut buffer) = Fake::new(&config());
        let mut bytes = fake.dispatch(Epoch(0), &[(0, &[(0, 0)])], 3.0);
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fake.write(Epoch(0), &bytes);
        fake.signal(Epoch(0), Epoch(0), LIFE);
        let mut out = buffer.dispatch_output().unwrap();
        dispatch(&mut buffer, &mut out);
        assert_eq!(ranks(&out), [ME]);
        assert_eq!(out.recv_count(), [1, 0]);
        let loss = &buffer.losses()[0];
        assert_eq!((loss.rank, loss.incarnation), (PEER, LIFE));
        assert!(matches!(loss.cause, LossCause::Content(_)));
        assert!(loss.cause.to_string().contains(words), "{}", loss.cause);
        assert!(!fake.control.is_active(PEER, Epoch(0)));
    }
}

#[test]
fn a_combine_that_does_not_fit_its_dispatch_is_left_out() {
    // Both tokens of this rank go to the peer. Epochs, then what is reported.
    let proper = (Some(Epoch(0)), 2);
    for (dispatch_epoch, tokens, missing, lost) in [
        (proper.0, proper.1, [0b00, 0b0], false),
        (None, 0, [0b10, 0b1], false),
        (Some(Epoch(0)), 1, [0b10, 0b1], true),
        (Some(Epoch(4)), 2, [0b10, 0b1], true),
    ] {
        let (fake, mut buffer) = Fake::new(&config());
        fake.write(Epoch(0), &fake.dispatch(Epoch(0), &[], 0.0));
        fake.signal(Epoch(0), Epoch(0), LIFE);
        fake.write(
            Epoch(1),
            &fake.combine(Epoch(1), dispatch_epoch, tokens, 4.0),
        );
        fake.signal(Epoch(1), Epoch(1), LIFE);
        let mut out = buffer.dispatch_output().unwrap();
        let handle = dispatch(&mut buffer, &mut out);
        assert_eq!(ranks(&out), [ME, PEER]);
        let mut combined = buffer.combine_output().unwrap();
        let expert_out = vec![bf16::ONE; buffer.expert_output().unwrap().len()];
        buffer.combine(&handle, &expert_out, &mut combined).unwrap();
        assert_eq!(combined.missing(), missing);
        let peer = if missing == [0, 0] { 4.0 } else { 0.0 };
        assert_eq!(combined.x()[0].to_f32(), 1.0 + peer);
        assert_eq!(combined.x()[HIDDEN].to_f32(), peer);
        assert_eq!(!buffer.losses().is_empty(), lost);
    }
}

#[test]
fn partial_sums_of_a_life_that_was_not_in_the_dispatch_are_left_out() {
    let (fake, mut buffer) = Fake::new(&config());
    fake.write(Epoch(0), &fake.dispatch(Epoch(0), &[], 0.0));
    fake.signal(Epoch(0), Epoch(0), LIFE);
    let mut out = buffer.dispatch_output().unwrap();
    let handle = dispatch(&mut buffer, &mut out);
    let next = Incarnation(LIFE.0 + 1);
    fake.control.mask_now(PEER);
    fake.control.admit(PEER, next, Epoch(1));
    let mut bytes = fake.combine(Epoch(1), Some(Epoch(0)), 2, 4.0);
    bytes[INCARNATION..INCARNATION + 4].copy_from_slice(&next.0.to_le_bytes());
    fake.write(Epoch(1), &bytes);
    fake.signal(Epoch(1), Epoch(1), next);
    let mut combined = buffer.combine_output().unwrap();
    let expert_out = vec![bf16::ONE; buffer.expert_output().unwrap().len()];
    buffer.combine(&handle, &expert_out, &mut combined).unwrap();
    assert_eq!(combined.missing(), [0b10, 0b1]);
    assert_eq!(combined.x()[0], bf16::ONE);
    assert!(buffer.losses().is_empty());
}

#[test]
fn a_link_that_never_completes_is_given_up_before_its_source_is_overwritten() {
    let (fake, mut buffer) = Fake::new(&config());
    fake.cluster.hold(ME, PEER, true);
    let mut out = buffer.dispatch_output().unwrap();
    for epoch in (0..3).map(Epoch) {
        fake.write(epoch, &fake.dispatch(epoch, &[], 0.0));
        fake.signal(epoch, epoch, LIFE);
        dispatch(&mut buffer, &mut out);
        // The third operation needs the staging slot of the first.
        assert_eq!(ranks(&out).contains(&PEER), epoch < Epoch(2));
    }
    let cause = buffer.losses()[0].cause.to_string();
    assert!(
        cause.contains("an earlier operation has not completed"),
        "{cause}"
    );
}

#[test]
fn a_full_queue_is_given_up_in_time() {
    let config = config();
    let network = Network {
        depth: 1,
        ..Network::default()
    };
    let (cluster, fabrics) = ep_buffer::testing::Cluster::with_ranks(&config, network, 2).unwrap();
    cluster.hold(ME, PEER, true);
    let fabric = fabrics.into_iter().next().unwrap();
    let mut buffer = ep_buffer::EpBuffer::new(config, fabric).unwrap();
    let mut out = buffer.dispatch_output().unwrap();
    let began = Instant::now();
    dispatch(&mut buffer, &mut out);
    assert!(began.elapsed() < Duration::from_secs(5));
    let cause = buffer.losses()[0].cause.to_string();
    assert!(cause.contains("the send queue stayed full"), "{cause}");
}

#[test]
fn an_error_completion_ends_the_wait_at_once() {
    let patient = Config::builder(2, 4, HIDDEN as u32, 4)
        .max_top_k(2)
        // Stall reports, which would notice it too, begin after an eighth of this.
        .time_out(Duration::from_secs(240))
        .build()
        .unwrap();
    let (fake, mut buffer) = Fake::new(&patient);
    let mut out = buffer.dispatch_output().unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            fake.cluster.break_link(ME, PEER);
        });
        dispatch(&mut buffer, &mut out);
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(matches!(buffer.losses()[0].cause, LossCause::Fault(_)));
    assert_eq!(ranks(&out), [ME]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_bytes_do_harm(
        changes in proptest::collection::vec((0usize..1600, any::<u8>()), 0..12),
        early in any::<bool>(),
        in_combine in any::<bool>(),
        rows in proptest::sample::select(&ALL_TYPES[..]),
    ) {
        let (fake, mut buffer) = Fake::new(&config_of(rows));
        let tokens: [support::fake::Token<'_>; 2] = [(1, &[(0, 1), (1, 0)]), (3, &[(0, 0)])];
        let mut first = fake.dispatch(Epoch(0), &tokens, 3.0);
        let mut second = fake.combine(Epoch(1), Some(Epoch(0)), 2, 4.0);
        let target = if in_combine { &mut second } else { &mut first };
        for (at, value) in &changes {
            // Headers and choices of tokens, or all of it.
            let at = at % if early { 128 } else { target.len() };
            target[at] = *value;
        }
        fake.write(Epoch(0), &first);
        fake.signal(Epoch(0), Epoch(0), LIFE);
        fake.write(Epoch(1), &second);
        fake.signal(Epoch(1), Epoch(1), LIFE);
        let mut out = buffer.dispatch_output().unwrap();
        let handle = dispatch(&mut buffer, &mut out);
        let mut combined = buffer.combine_output().unwrap();
        buffer.combine(&handle, &buffer.expert_output().unwrap(), &mut combined).unwrap();
        // This rank's own share is there whatever the peer does, and is all there is
        // unless the peer was believed.
        prop_assert!(out.recv_count()[0] >= 1);
        if !out.answered().contains(PEER) {
            prop_assert_eq!(out.recv_count(), [1, 0]);
        }
        let missing = if combined.answered().contains(PEER) { [0, 0] } else { [2, 1] };
        prop_assert_eq!(combined.missing(), missing);
    }
}
