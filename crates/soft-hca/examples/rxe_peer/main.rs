//! The software NIC's end of `cargo xtask rxe-check`: exchanges every operation with the kernel's
//! Soft-RoCE and checks both ends' memory and completions.
//!
//! `rxe_peer OUR-ADDRESS GUEST-ADDRESS LOSS` does everything without loss, and again with LOSS
//! percent in each direction. It ends with a table and status 0, or with what went wrong.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a check, which may end here and says what it found"
)]

mod agent;
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/it/client.rs"]
mod client;
mod from_kernel;
mod link;
mod to_kernel;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use mlx5gda_sys::prm::Mtu;
use soft_hca::{DropReason, Faults, Stats};

use link::Link;

/// Lengths of messages: nothing, less than a packet, exactly one, several, many.
const LENGTHS: [u32; 7] = [0, 1, 1000, 1024, 4096, 5003, 65_537];
/// Additions that must each count once.
const ADDITIONS: u64 = 50;
/// Rounds of everything under loss, so that something is lost of each kind.
const ROUNDS: u32 = 5;

/// Messages and bytes by direction and operation.
type Tally = BTreeMap<(&'static str, &'static str), (u64, u64)>;

/// A kind of message: its name and lengths, and how it is exchanged.
type Kind = (&'static str, fn(&mut Link, u32));

const TO_KERNEL: [Kind; 8] = [
    ("WRITE", Link::write),
    ("WRITE, immediate", Link::write_immediate),
    ("READ", Link::read),
    ("SEND", Link::send),
    ("SEND, immediate", Link::send_immediate),
    ("SEND, no buffer yet", Link::send_too_early),
    ("fetch and add", Link::add),
    ("compare and swap", Link::swap),
];

const FROM_KERNEL: [Kind; 8] = [
    ("WRITE", Link::kernel_write),
    ("WRITE, immediate", Link::kernel_write_immediate),
    ("READ", Link::kernel_read),
    ("SEND", Link::kernel_send),
    ("SEND, immediate", Link::kernel_send_immediate),
    ("SEND, no buffer yet", Link::kernel_send_too_early),
    ("fetch and add", Link::kernel_add),
    ("compare and swap", Link::kernel_swap),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ours, guests, percent] = &arguments[..] else {
        panic!("rxe_peer OUR-ADDRESS GUEST-ADDRESS LOSS");
    };
    let (ours, guests): (Ipv4Addr, Ipv4Addr) = (ours.parse().unwrap(), guests.parse().unwrap());
    let percent: u8 = percent.parse().unwrap();
    let mut link = Link::new(ours, guests);
    let mut before = Stats::default();
    for (percent, rounds) in [(0, 1), (percent, ROUNDS)] {
        link.lose(Faults {
            loss: f64::from(percent) / 100.0,
            seed: 1,
            ..Faults::default()
        });
        let mut tally = Tally::new();
        for _ in 0..rounds {
            for mtu in [Mtu::Bytes1024, Mtu::Bytes4096] {
                // The second numbers packets beyond the end of the 24 bits.
                let psn = if mtu == Mtu::Bytes1024 {
                    100
                } else {
                    0x00ff_ffe0
                };
                link.reconnect(mtu, psn);
                everything(&mut link, &mut tally);
            }
        }
        let now = soft_hca::stats(&link.soft.name).unwrap();
        print(percent, &tally, &before, &now);
        before = now;
    }
    link.lose(Faults::default());
    link.end();
}

fn everything(link: &mut Link, tally: &mut Tally) {
    for (direction, kinds) in [("to", TO_KERNEL), ("from", FROM_KERNEL)] {
        for (name, exchange) in kinds {
            let atomic = ["fetch and add", "compare and swap"].contains(&name);
            let lengths = match name {
                _ if atomic => &[8; 1][..],
                // The delay that is asked for takes its time.
                "SEND, no buffer yet" => &[5003],
                _ => &LENGTHS,
            };
            let messages = if name == "fetch and add" {
                ADDITIONS
            } else {
                1
            };
            for len in lengths {
                exchange(link, *len);
                let (count, bytes) = tally.entry((name, direction)).or_default();
                *count += messages;
                *bytes += messages * u64::from(*len);
            }
        }
    }
}

fn print(percent: u8, tally: &Tally, before: &Stats, now: &Stats) {
    println!("loss {percent} % in each direction; path MTU 1024 and 4096 bytes");
    println!(
        "{:<22}{:>22}{:>26}",
        "", "soft-hca to kernel", "kernel to soft-hca"
    );
    println!(
        "{:<22}{:>10}{:>12}{:>14}{:>12}",
        "operation", "messages", "bytes", "messages", "bytes"
    );
    for (name, _) in TO_KERNEL {
        let of = |direction| tally.get(&(name, direction)).copied().unwrap_or_default();
        let ((to, to_bytes), (from, from_bytes)) = (of("to"), of("from"));
        println!("{name:<22}{to:>10}{to_bytes:>12}{from:>14}{from_bytes:>12}");
    }
    let drops = |stats: &Stats, reason| stats.drops.get(&reason).copied().unwrap_or(0);
    let since = |count: fn(&Stats) -> u64| count(now) - count(before);
    let lost = drops(now, DropReason::Injected) - drops(before, DropReason::Injected);
    let again = since(|stats| stats.retransmits);
    println!(
        "soft-hca: {} packets out, {} in, {lost} lost on purpose, {again} sent again, \
         {} duplicates and {} early ones seen\n",
        since(|stats| stats.packets_out),
        since(|stats| stats.packets_in),
        since(|stats| stats.duplicates),
        since(|stats| stats.out_of_order),
    );
    for reason in [DropReason::Icrc, DropReason::Malformed, DropReason::Send] {
        assert_eq!(drops(now, reason), 0, "packets dropped: {reason:?}");
    }
    // A guest that answers late is asked again without any loss.
    assert_eq!(lost > 0, percent > 0, "loss");
    assert!(again > 0 || percent == 0, "repair");
}
