use super::*;

fn plain() -> Records {
    Records::new("ep/", None)
}

fn coded(byte: u8) -> Records {
    Records::new("ep/", Some(&Secret::new(&[byte; 16]).unwrap()))
}

fn ready() -> Ready {
    Ready {
        limit: Epoch(77),
        masked: Vec::new(),
    }
}

#[test]
fn who_comes_in_is_to_blame_and_nobody_else_if_it_is_known() {
    let lives = |ranks: &[u32]| ranks.iter().map(|r| (Rank(*r), Incarnation(1))).collect();
    let proposal = Proposal {
        members: lives(&[0, 1, 3]),
        joining: lives(&[2, 4]),
        pairs: vec![(Rank(0), Rank(1))],
    };
    for (me, peer, blamed) in [
        // A member with one that comes in, or with another member, or alone.
        (0, Some(4), &[4][..]),
        (3, Some(2), &[2]),
        (0, Some(1), &[2, 4, 0]),
        (3, None, &[2, 4, 3]),
        // Who comes in, with a member, alone, or with another that comes in.
        (4, Some(0), &[4]),
        (2, None, &[2]),
        (2, Some(4), &[4]),
        (4, Some(2), &[4]),
    ] {
        let blame = proposal.to_blame(Rank(me), peer.map(Rank));
        let blame: Vec<u32> = blame.into_iter().map(|rank| rank.0).collect();
        assert_eq!(blame, blamed, "{me} with {peer:?}");
    }
}

#[test]
fn records_of_another_version_and_garbage_are_refused() {
    let records = plain();
    let mut bytes = records.encode("ep/ready/3", &ready()).unwrap();
    assert_eq!(records.decode::<Ready>("ready/3", &bytes), Ok(ready()));
    bytes[0] = 9;
    let error = records.decode::<Ready>("ep/ready/3", &bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "record ready/3 has version 9, this side understands 6"
    );
    for bad in [&b""[..], b"\x06", b"\x06\x00", b"\x06\x00\x00\xff\xff"] {
        assert!(records.decode::<Card>("card/1", bad).is_err());
    }
}

#[test]
fn of_offers_only_the_own_line_is_read() {
    let qp = |qpn| QpOffer { qpn, psn: 5 };
    let offers = Offers(vec![
        (Rank(0), vec![qp(1), qp(2)]),
        (Rank(3), vec![qp(3)]),
        (Rank(4), Vec::new()),
    ]);
    let key = "all/offers/1/2";
    for records in [plain(), coded(1)] {
        let bytes = records.encode(key, &offers).unwrap();
        for line in &offers.0 {
            let mine = records.decode_offers(key, &bytes, line.0);
            assert_eq!(mine, Ok(Offers(vec![line.clone()])));
        }
        let nothing = records.decode_offers(key, &bytes, Rank(1));
        assert_eq!(nothing, Ok(Offers(Vec::new())));
    }
    // Somebody's line is garbage: others do not mind.
    let lines = [(Rank(0), &b"\xff"[..]), (Rank(1), b"\0")];
    let lines = lines.map(|(to, line)| (to, Bytes::new(line)));
    let bytes = plain().encode(key, &lines.to_vec()).unwrap();
    let read = |me| plain().decode_offers(key, &bytes, Rank(me));
    assert_eq!(read(1), Ok(Offers(vec![(Rank(1), Vec::new())])));
    assert!(matches!(read(0), Err(RecordError::Malformed { .. })));
}

#[test]
fn a_proposal_out_of_order_is_refused() {
    let lives = |ranks: &[u32]| ranks.iter().map(|r| (Rank(*r), Incarnation(1))).collect();
    let read = |members: &[u32], joining: &[u32], pairs: &[(u32, u32)]| {
        let proposal = Proposal {
            members: lives(members),
            joining: lives(joining),
            pairs: pairs.iter().map(|(a, b)| (Rank(*a), Rank(*b))).collect(),
        };
        let bytes = plain().encode("all/proposal/1", &proposal).unwrap();
        let read = plain().decode::<Proposal>("all/proposal/1", &bytes);
        read.map(|read| assert_eq!(read, proposal))
    };
    assert!(read(&[], &[], &[]).is_ok());
    assert!(read(&[0, 2], &[1, 3], &[(0, 2)]).is_ok());
    for (members, joining, pairs) in [
        (&[0, 2, 1][..], &[][..], &[][..]),
        (&[], &[3, 3], &[]),
        (&[0, 1], &[1], &[]),
        (&[0, 1], &[], &[(1, 0)]),
        (&[0, 1], &[], &[(1, 1)]),
    ] {
        let error = read(members, joining, pairs).unwrap_err();
        assert!(matches!(error, RecordError::Malformed { .. }), "{error}");
    }
}

#[test]
fn a_record_that_was_changed_or_moved_is_refused_by_name() {
    let records = coded(1);
    let bytes = records.encode("ep/ready/3", &ready()).unwrap();
    assert_eq!(records.decode::<Ready>("ready/3", &bytes), Ok(ready()));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        assert!(
            records.decode::<Ready>("ready/3", &changed).is_err(),
            "{at}"
        );
    }
    let moved = records.decode::<Ready>("ready/4", &bytes).unwrap_err();
    assert_eq!(
        moved.to_string(),
        "record ready/4 is not to be trusted: its code does not fit key and contents"
    );
    assert!(coded(2).decode::<Ready>("ready/3", &bytes).is_err());
    let other = Records::new("other/", Some(&Secret::new(&[1; 16]).unwrap()));
    assert!(other.decode::<Ready>("ready/3", &bytes).is_err());
    for (reader, writer, why) in [
        (
            plain(),
            coded(1),
            "it carries a code, this side has no secret",
        ),
        (
            coded(1),
            plain(),
            "it carries no code, this side has a secret",
        ),
    ] {
        let bytes = writer.encode("ready/3", &ready()).unwrap();
        let error = reader.decode::<Ready>("ready/3", &bytes).unwrap_err();
        assert!(error.to_string().ends_with(why), "{error}");
    }
}

#[test]
fn a_card_with_more_nics_than_a_rank_can_have_is_refused() {
    let port = PortAddress {
        gid: [1; 16],
        lid: 0,
        mtu: 4096,
        ethernet: true,
    };
    let with = |nics| Card {
        rank: Rank(1),
        incarnation: Incarnation(1),
        host: String::new(),
        config: String::new(),
        nics: vec![
            NicAddress {
                port: port.clone(),
                rkey: 7
            };
            nics
        ],
        region_address: 0,
        window: None,
    };
    let records = plain();
    let again = |card: &Card| {
        let bytes = records.encode("card/1", card).unwrap();
        crate::fuzzing::records(&bytes[3..]);
        records.decode::<Card>("card/1", &bytes)
    };
    for nics in [0, 1, MAX_NICS] {
        assert_eq!(again(&with(nics)), Ok(with(nics)));
    }
    let error = again(&with(MAX_NICS + 1)).unwrap_err();
    assert!(matches!(error, RecordError::Malformed { .. }), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        crate::fuzzing::records(&bytes);
    }
}
