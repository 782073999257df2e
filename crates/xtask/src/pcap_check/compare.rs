//! What the devices wrote down against what the dissector read.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use super::frames::invariant_crcs;

/// Names of our fields, and the dissector's for the same.
pub(super) const FIELDS: [(&str, &str); 23] = [
    ("malformed", "_ws.malformed"),
    ("complaint", "_ws.expert.message"),
    ("src", "ip.src"),
    ("dst", "ip.dst"),
    ("src6", "ipv6.src"),
    ("dst6", "ipv6.dst"),
    ("src_port", "udp.srcport"),
    ("udp", "udp.length"),
    ("opcode", "infiniband.bth.opcode"),
    ("psn", "infiniband.bth.psn"),
    ("qpn", "infiniband.bth.destqp"),
    ("ack", "infiniband.bth.a"),
    ("solicited", "infiniband.bth.se"),
    ("pad", "infiniband.bth.padcnt"),
    ("addr", "infiniband.reth.va"),
    ("rkey", "infiniband.reth.r_key"),
    ("len", "infiniband.reth.dmalen"),
    ("syndrome", "infiniband.aeth.syndrome"),
    ("msn", "infiniband.aeth.msn"),
    ("swap", "infiniband.atomiceth.swapdt"),
    ("compare", "infiniband.atomiceth.cmpdt"),
    ("immediate", "infiniband.immdt"),
    ("icrc", "infiniband.invariant.crc"),
];

/// Names of the RC opcodes, by number (table 38 of the specification).
pub(super) const NAMES: [&str; 21] = [
    "SEND first",
    "SEND middle",
    "SEND last",
    "SEND last, immediate",
    "SEND only",
    "SEND only, immediate",
    "WRITE first",
    "WRITE middle",
    "WRITE last",
    "WRITE last, immediate",
    "WRITE only",
    "WRITE only, immediate",
    "READ request",
    "READ response first",
    "READ response middle",
    "READ response last",
    "READ response only",
    "Acknowledge",
    "Atomic acknowledge",
    "Compare and swap",
    "Fetch and add",
];

/// What an acknowledgement's syndrome says.
pub(super) const fn answer(syndrome: u8) -> &'static str {
    match syndrome >> 5 {
        0 => "ACK",
        1 => "RNR NAK",
        3 => "NAK",
        _ => "reserved",
    }
}

/// Kinds of answers that the run has to contain.
const ANSWERS: [u8; 4] = [0x1f, 0x20, 0x60, 0x62];

/// What was compared.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) packets: usize,
    pub(super) senders: usize,
    pub(super) facts: usize,
    pub(super) crcs: usize,
    pub(super) opcodes: BTreeMap<u8, u64>,
    pub(super) syndromes: BTreeMap<u8, u64>,
    pub(super) differences: Vec<String>,
}

/// The fields of one packet, by our names.
type Fields<'a> = HashMap<&'a str, u64>;

/// Holds `rows`, the dissector's, against `lines`, the devices' own, sender by sender, in order;
/// and the CRC in each of `frames` against the one computed.
pub(super) fn compare(lines: &[&str], rows: &str, frames: &[Vec<u8>]) -> Account {
    let mut account = Account::default();
    let mut logged: HashMap<u64, VecDeque<Fields<'_>>> = HashMap::new();
    for line in lines {
        let fields = logged_fields(line);
        let sender = fields.get("src").copied().unwrap_or(0);
        logged.entry(sender).or_default().push_back(fields);
    }
    account.senders = logged.len();
    let senders: BTreeSet<u64> = logged.keys().copied().collect();
    for (number, (row, frame)) in rows.lines().zip(frames).enumerate() {
        let found = match dissected_fields(row) {
            Ok(fields) => fields,
            Err(why) => {
                account.differ(number, &why);
                continue;
            }
        };
        let sender = found.get("src").copied().unwrap_or(0);
        if !senders.contains(&sender) {
            // Somebody else's, on the same loopback interface.
            continue;
        }
        match logged.get_mut(&sender).and_then(VecDeque::pop_front) {
            None => account.differ(number, "nobody wrote down that it was sent"),
            Some(expected) => account.packet(number, &expected, &found, frame),
        }
    }
    if rows.lines().count() != frames.len() {
        account.differences.push(format!(
            "{} rows dissected of {} frames",
            rows.lines().count(),
            frames.len()
        ));
    }
    let missing: usize = logged.values().map(VecDeque::len).sum();
    if missing > 0 {
        let what = format!("{missing} packets were sent and not captured");
        account.differences.push(what);
    }
    account.covers_everything();
    account
}

impl Account {
    fn differ(&mut self, number: usize, what: &str) {
        let line = format!("packet {}: {what}", number + 1);
        self.differences.push(line);
    }

    fn packet(&mut self, number: usize, expected: &Fields<'_>, found: &Fields<'_>, frame: &[u8]) {
        self.packets += 1;
        for (name, _) in FIELDS {
            let (ours, theirs) = (expected.get(name), found.get(name));
            self.facts += usize::from(ours.is_some());
            if ours != theirs {
                let what = format!("{name} is {theirs:x?}, {ours:x?} was sent");
                self.differ(number, &what);
            }
        }
        match invariant_crcs(frame) {
            Some((expected, found)) if expected == found => self.crcs += 1,
            crcs => self.differ(
                number,
                &format!("invariant CRC expected and found: {crcs:x?}"),
            ),
        }
        let byte = |name| found.get(name).and_then(|value| u8::try_from(*value).ok());
        for (name, counts) in [
            ("opcode", &mut self.opcodes),
            ("syndrome", &mut self.syndromes),
        ] {
            if let Some(value) = byte(name) {
                *counts.entry(value).or_default() += 1;
            }
        }
    }

    /// A run that leaves an operation out proves nothing of it.
    fn covers_everything(&mut self) {
        for (code, name) in NAMES.iter().enumerate() {
            if !self.opcodes.keys().any(|found| usize::from(*found) == code) {
                self.differences.push(format!("no packet was {name}"));
            }
        }
        for syndrome in ANSWERS {
            // An RNR NAK's low bits are a time.
            let alike = |found: &u8| match syndrome {
                0x20 => found >> 5 == 1,
                exact => *found == exact,
            };
            if !self.syndromes.keys().any(alike) {
                let what = format!("no answer had syndrome {syndrome:#04x}");
                self.differences.push(what);
            }
        }
    }
}

/// Reads `name=value name=value ...`.
fn logged_fields(line: &str) -> Fields<'_> {
    let mut fields: Fields<'_> = line
        .split_whitespace()
        .filter_map(|field| field.split_once('='))
        .filter_map(|(name, value)| Some((name, number(value)?)))
        .collect();
    // The length field of UDP counts its own header.
    if let Some(bytes) = fields.remove("bytes") {
        fields.insert("udp", bytes + 8);
    }
    fields
}

/// Reads a line of [`FIELDS`], separated by tabs; or what the dissector complains about.
fn dissected_fields(row: &str) -> Result<Fields<'static>, String> {
    let mut fields = Fields::new();
    let columns: Vec<&str> = row.split('\t').collect();
    if columns.len() != FIELDS.len() {
        return Err(format!("{} fields of {}", columns.len(), FIELDS.len()));
    }
    for ((name, _), text) in FIELDS.into_iter().zip(columns) {
        if text.is_empty() {
            continue;
        }
        let value = match name {
            // Bytes, without a prefix.
            "immediate" => u64::from_str_radix(text, 16).ok(),
            _ => number(text),
        };
        match (name, value) {
            ("malformed" | "complaint", _) => return Err(format!("tshark says {text:?}")),
            ("src6", Some(value)) => {
                fields.insert("src", value);
            }
            ("dst6", Some(value)) => {
                fields.insert("dst", value);
            }
            (_, Some(value)) => {
                fields.insert(name, value);
            }
            (_, None) => return Err(format!("{name}: {text:?} is no number")),
        }
    }
    if !fields.contains_key("opcode") {
        return Err("not decoded as RoCE v2".to_owned());
    }
    Ok(fields)
}

/// Decimal, hexadecimal with a prefix, a truth value, or an address; the low half of one of IPv6.
fn number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    match text {
        "True" => Some(1),
        "False" => Some(0),
        _ => text.parse().ok().or_else(|| match text.parse().ok()? {
            IpAddr::V4(address) => Some(u64::from(address.to_bits())),
            IpAddr::V6(address) => Some(address.to_bits() as u64),
        }),
    }
}

#[cfg(test)]
mod tests;
