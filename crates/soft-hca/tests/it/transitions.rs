//! What transitions refuse and what they end, and where a context says that queues begin.

use std::time::{Duration, Instant};

use mlx5gda_sys::prm::{
    CmdStatus, Init2InitQpIn, Init2RtrQpIn, Mtu, PmState, Rst2InitQpIn, Rtr2RtsQpIn, Rts2RtsQpIn,
    opt_param,
};
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use soft_hca::{Config, Reason};
use zerocopy::IntoBytes;

use crate::client::{Client, Cq, Pair, Qp};

/// How to spoil a command, and what is said to it.
type Case<I> = (fn(&mut I), Reason);

#[test]
fn only_fields_that_the_transition_takes_are_changed() {
    let pair = Pair::new(Mtu::Bytes1024, 4, true);
    let mut good = Rts2RtsQpIn::new();
    good.set_qpn(pair.qp_a.number).unwrap();
    good.set_opt_param_mask(opt_param::RNR_TIMEOUT | opt_param::RWE);
    let cases: [Case<Rts2RtsQpIn>; 4] = [
        (|c| c.set_opt_param_mask(1 << 31), Reason::OptParam),
        (|c| c.set_opt_param_mask(1), Reason::OptParam),
        (
            |c| c.set_opt_param_mask(opt_param::PKEY_INDEX),
            Reason::OptParam,
        ),
        (|c| c.header.set_op_mod(1), Reason::OpMod),
    ];
    for (spoil, reason) in cases {
        let mut bad = good;
        spoil(&mut bad);
        let refused = pair.a.modify(pair.qp_a.object, bad);
        assert_eq!(refused, Err(reason.status()), "{reason}");
    }
    let mut dirty = good;
    dirty.as_mut_bytes()[13] = 0xff;
    let refused = pair.a.modify(pair.qp_a.object, dirty);
    assert_eq!(refused, Err(Reason::Reserved.status()));
    assert_eq!(pair.a.modify(pair.qp_a.object, good), Ok(()));
}

#[test]
fn a_path_that_leads_nowhere_is_refused() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, true);
    let qp = client.qp(&cq, 4);
    let mut init = Rst2InitQpIn::new();
    init.set_qpn(qp.number).unwrap();
    init.qpc.set_pm_state(PmState::Migrated.code()).unwrap();
    let path = &mut init.qpc.primary_address_path;
    path.set_vhca_port_num(1);
    path.set_pkey_index(999);
    assert_eq!(client.modify(qp.object, init), Err(CmdStatus::IxErr));
    client.rst2init(&qp).unwrap();
    let mut good = Init2RtrQpIn::new();
    client.fill_rtr(&mut good, &qp, &client.end(&qp, 0, Mtu::Bytes1024));
    let cases: [Case<Init2RtrQpIn>; 6] = [
        (
            |c| c.qpc.primary_address_path.set_rmac([0; 6]),
            Reason::RemoteMac,
        ),
        // Bits of the context and of the path that have no name.
        (|c| c.qpc.as_mut_bytes()[2] |= 0x80, Reason::Reserved),
        (
            |c| c.qpc.primary_address_path.as_mut_bytes()[1] = 1,
            Reason::Reserved,
        ),
        (
            |c| c.qpc.primary_address_path.set_hop_limit(0),
            Reason::HopLimit,
        ),
        (
            |c| c.qpc.primary_address_path.set_udp_sport(0xbfff),
            Reason::SourcePort,
        ),
        (|c| c.set_opt_param_mask(1 << 5), Reason::OptParam),
    ];
    for (spoil, reason) in cases {
        let mut bad = good;
        spoil(&mut bad);
        let refused = client.modify(qp.object, bad);
        assert_eq!(refused, Err(reason.status()), "{reason}");
    }
    assert_eq!(client.modify(qp.object, good), Ok(()));
}

#[test]
fn optional_fields_count_only_where_the_mask_names_them() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, true);
    let qp = client.qp(&cq, 4);
    client.rst2init(&qp).unwrap();

    let mut to_init = Init2InitQpIn::new();
    to_init.set_qpn(qp.number).unwrap();
    to_init.qpc.primary_address_path.set_pkey_index(999);
    to_init.qpc.primary_address_path.set_vhca_port_num(77);
    for (named, reason) in [
        (opt_param::PKEY_INDEX, Reason::PkeyIndex),
        (opt_param::PRIMARY_PORT, Reason::Port),
    ] {
        to_init.set_opt_param_mask(named);
        let refused = client.modify(qp.object, to_init);
        assert_eq!(refused, Err(reason.status()), "{reason}");
    }
    to_init.set_opt_param_mask(0);
    assert_eq!(client.modify(qp.object, to_init), Ok(()));

    let mut to_rtr = Init2RtrQpIn::new();
    client.fill_rtr(&mut to_rtr, &qp, &client.end(&qp, 0, Mtu::Bytes1024));
    to_rtr.qpc.primary_address_path.set_pkey_index(999);
    to_rtr.set_opt_param_mask(opt_param::PKEY_INDEX);
    let refused = client.modify(qp.object, to_rtr);
    assert_eq!(refused, Err(Reason::PkeyIndex.status()));
    to_rtr.set_opt_param_mask(0);
    assert_eq!(client.modify(qp.object, to_rtr), Ok(()));
    let path = client.context_of(&qp).primary_address_path;
    assert_eq!((path.pkey_index(), path.vhca_port_num()), (0, 1));

    let mut to_rts = Rtr2RtsQpIn::new();
    to_rts.set_qpn(qp.number).unwrap();
    to_rts.qpc.set_pm_state(PmState::Rearm.code()).unwrap();
    to_rts.set_opt_param_mask(opt_param::PM_STATE);
    let refused = client.modify(qp.object, to_rts);
    assert_eq!(refused, Err(Reason::PathMigration.status()));
    to_rts.set_opt_param_mask(0);
    assert_eq!(client.modify(qp.object, to_rts), Ok(()));

    let mut in_rts = Rts2RtsQpIn::new();
    in_rts.set_qpn(qp.number).unwrap();
    in_rts.qpc.set_pm_state(PmState::Rearm.code()).unwrap();
    in_rts.set_opt_param_mask(opt_param::PM_STATE);
    let refused = client.modify(qp.object, in_rts);
    assert_eq!(refused, Err(Reason::PathMigration.status()));
    in_rts.set_opt_param_mask(0);
    assert_eq!(client.modify(qp.object, in_rts), Ok(()));
}

#[test]
fn nothing_is_read_after_the_command_that_puts_a_queue_pair_in_error() {
    // Now and then all that was asked for by then has been answered.
    for round in 0..20 {
        let mut pair = Pair::new(Mtu::Bytes1024, 6, true);
        let local = DataPtr {
            addr: pair.a.address(),
            lkey: pair.a.key(),
            len: 1 << 20,
        };
        let remote = Remote {
            addr: pair.b.address(),
            rkey: pair.b.key(),
        };
        let wqe = Wqe::rdma_read(pair.a.signalled(&pair.qp_a), remote, &[local]).unwrap();
        pair.a.post(&mut pair.qp_a, &wqe);
        let until = Instant::now() + Duration::from_secs(10);
        let sent = || soft_hca::stats(&pair.b.name).unwrap().payload_out;
        while sent() == 0 {
            assert!(Instant::now() < until, "no answer");
        }
        pair.b.error(&pair.qp_b);
        let before = sent();
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(sent(), before, "round {round}");
    }
}

#[test]
fn offsets_in_a_page_count_64ths_of_it() {
    /// Pages of 64 KiB, and a 64th of one.
    const LOG: u32 = 4;
    const UNIT: u64 = 1024;
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    pair.a.take(UNIT);
    let (mut input, ring) = pair.a.cq_command(4, true);
    input.set_cq_umem_offset(ring - UNIT);
    input.cq_context.set_log_page_size(LOG).unwrap();
    input.cq_context.set_page_offset(1).unwrap();
    let (object, out) = pair.a.create(input).unwrap();
    let cq = Cq {
        object,
        number: out.cqn(),
        doorbell: input.cq_context.dbr_addr(),
        ring,
        log: 4,
        consumed: 0,
    };
    let (mut input, queue, doorbell) = pair.a.qp_command(cq.number, 4);
    input.set_wq_umem_offset(queue - UNIT);
    input.qpc.set_log_page_size(LOG).unwrap();
    input.qpc.set_page_offset(1).unwrap();
    let (object, out) = pair.a.create(input).unwrap();
    let mut qp = Qp {
        object,
        number: out.qpn(),
        queue,
        doorbell,
        log: 4,
        posted: 0,
    };
    let end = pair.b.end(&pair.qp_b, 1, Mtu::Bytes1024);
    pair.a.connect(&qp, 1, &end);
    let wqe = Wqe::nop(pair.a.signalled(&qp)).unwrap();
    pair.a.post(&mut qp, &wqe);
    assert_eq!(pair.a.wait(&cq, 0), Ok(()));
}
