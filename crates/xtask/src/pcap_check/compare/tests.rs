use super::*;

const LINE: &str = "src=127.0.0.2 dst=127.0.0.3 src_port=49443 bytes=20 opcode=17 psn=7 qpn=258 \
                    ack=0 solicited=0 pad=0 syndrome=31 msn=1 icrc=1";

/// The line as the dissector would read it.
fn row(edit: impl Fn(&str) -> Option<&'static str>) -> String {
    let value = |name: &str| match name {
        "src" => "127.0.0.2",
        "dst" => "127.0.0.3",
        "src_port" => "49443",
        "udp" => "28",
        "opcode" => "17",
        "psn" => "7",
        "qpn" => "0x000102",
        "ack" | "solicited" | "pad" => "0",
        "syndrome" => "31",
        "msn" => "1",
        "icrc" => "0x00000001",
        _ => "",
    };
    FIELDS
        .map(|(name, _)| edit(name).unwrap_or(value(name)))
        .join("\t")
}

/// What differs in the packets themselves.
fn differences(lines: &[&str], rows: &[String]) -> Vec<String> {
    let frames = vec![Vec::new(); rows.len()];
    let account = compare(lines, &rows.join("\n"), &frames);
    let mut found = account.differences;
    found.retain(|line| !line.contains("CRC expected") && !line.starts_with("no "));
    found
}

#[test]
fn equal_packets_do_not_differ() {
    let account = compare(&[LINE], &row(|_| None), &[Vec::new()]);
    assert_eq!((account.packets, account.facts), (1, 13));
    assert_eq!(differences(&[LINE], &[row(|_| None)]), [""; 0]);
}

#[test]
fn addresses_of_either_family_are_compared() {
    let line = LINE.replace("127.0.0.", "fd00::");
    let over_ipv6 = |name: &str, dst| match name {
        "src" | "dst" => Some(""),
        "src6" => Some("fd00::2"),
        "dst6" => Some(dst),
        _ => None,
    };
    let right = row(|name| over_ipv6(name, "fd00::3"));
    assert_eq!(differences(&[&line], &[right]), [""; 0]);
    let wrong = row(|name| over_ipv6(name, "fd00::4"));
    assert_eq!(differences(&[&line], &[wrong]).len(), 1);
}

#[test]
fn a_changed_field_is_named() {
    let changed = row(|name| (name == "psn").then_some("8"));
    let found = differences(&[LINE], &[changed]);
    assert!(
        matches!(&found[..], [only] if only.contains("packet 1: psn")),
        "{found:?}"
    );
    let extra = row(|name| (name == "addr").then_some("0x01"));
    assert_eq!(differences(&[LINE], &[extra]).len(), 1);
}

#[test]
fn what_the_dissector_complains_about_counts() {
    let bad = row(|name| (name == "malformed").then_some("[Malformed Packet]"));
    // It is not taken for the packet that was sent, which is then missing.
    assert_eq!(differences(&[LINE], &[bad]).len(), 2);
    let other = row(|name| (name == "opcode").then_some(""));
    assert!(differences(&[LINE], &[other])[0].contains("RoCE v2"));
}

#[test]
fn missing_and_additional_packets_count() {
    assert_eq!(
        differences(&[LINE], &[]),
        ["1 packets were sent and not captured"]
    );
    let twice = [row(|_| None), row(|_| None)];
    assert_eq!(differences(&[LINE], &twice).len(), 1);
    let foreign = row(|name| (name == "src").then_some("127.0.0.9"));
    assert_eq!(differences(&[LINE], &[row(|_| None), foreign]), [""; 0]);
}

#[test]
fn a_wrong_crc_and_a_missing_operation_count() {
    let account = compare(&[LINE], &row(|_| None), &[Vec::new()]);
    let has = |what: &str| account.differences.iter().any(|line| line.contains(what));
    assert!(has("invariant CRC") && has("no packet was READ request") && has("0x62"));
    assert!(!has("no packet was Acknowledge"));
}
