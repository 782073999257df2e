//! Commands: what is refused, with which status, and what is freed.

use std::net::Ipv4Addr;
use std::ptr;

use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{
    CapMode, CapType, CmdOpcode, CmdStatus, CommandIn, CreateCqIn, CreateQpIn, InHeader,
    Init2RtrQpIn, Layout, Mailbox, Mtu, OutHeader, PortType, Qp2RstIn, QpState, QueryCqIn,
    QueryHcaCapIn, RqType, Rst2InitQpIn,
};
use soft_hca::{Config, Faults, Live, Reason};

use crate::client::{Client, End, Qp};

/// Runs a command through the general call; errno, and the mailbox's answer.
fn general(client: &Client, input: &[u8], out_len: usize) -> (i32, CmdStatus, u32) {
    let mut out = vec![0xaau8; out_len];
    // SAFETY: the context is open, the mailboxes are as long as said.
    let result = unsafe {
        (client.table.mlx5dv_devx_general_cmd)(
            client.context,
            input.as_ptr().cast(),
            input.len(),
            out.as_mut_ptr().cast(),
            out.len(),
        )
    };
    let header = OutHeader::from_slice(&out).copied();
    let header = header.unwrap_or_else(OutHeader::zeroed);
    (
        result,
        CmdStatus::from_code(header.status()),
        header.syndrome(),
    )
}

fn bytes<T: Layout>(layout: &T) -> &[u8] {
    zerocopy::IntoBytes::as_bytes(layout)
}

/// `EREMOTEIO` of Linux.
const EREMOTEIO: i32 = 121;
/// `EINVAL` of Linux.
const EINVAL: i32 = 22;
/// `EBUSY` of Linux.
const EBUSY: i32 = 16;

/// How to spoil a command, and what is said to it.
type Case<I> = (fn(&mut I), Reason);

fn cap_command(page: CapType) -> QueryHcaCapIn {
    let mut input = QueryHcaCapIn::new();
    input.header.set_op_mod(page.op_mod(CapMode::Current));
    input
}

#[test]
fn capabilities_are_a_roce_device_with_one_port() {
    let client = Client::new(Config::default());
    let input = Mailbox::new(cap_command(CapType::General));
    let mut out = Mailbox::<<QueryHcaCapIn as CommandIn>::Out>::zeroed();
    // SAFETY: as in `general`.
    let result = unsafe {
        (client.table.mlx5dv_devx_general_cmd)(
            client.context,
            input.as_ptr(),
            QueryHcaCapIn::BYTES,
            out.as_mut_ptr(),
            4112,
        )
    };
    assert_eq!(result, 0);
    let cap = &out.capability;
    assert_eq!(cap.port_type(), PortType::Ethernet.code());
    assert_eq!(cap.num_ports(), 1);
    assert!(cap.log_max_qp() >= 10 && cap.log_max_qp_sz() >= 10 && cap.cq_oi());
    for page in [CapType::Roce, CapType::Atomic] {
        let (result, status, _) = general(&client, bytes(&cap_command(page)), 4112);
        assert_eq!((result, status), (0, CmdStatus::Ok));
    }
}

#[test]
fn malformed_mailboxes_are_refused_by_status() {
    let client = Client::new(Config::default());
    let good = cap_command(CapType::General);
    let refuse = |input: &[u8], out_len: usize, reason: Reason| {
        assert_eq!(
            general(&client, input, out_len),
            (EREMOTEIO, reason.status(), reason.syndrome())
        );
    };
    refuse(&bytes(&good)[..12], 4112, Reason::InputLength);
    refuse(bytes(&good), 4111, Reason::OutputLength);
    let mut unknown = good;
    unknown.header.set_op_mod(0x7e);
    refuse(bytes(&unknown), 4112, Reason::OpMod);
    let mut opcode = InHeader::zeroed();
    // The kernel passes some on that it does not know.
    opcode.set_opcode(0xb00);
    refuse(bytes(&opcode), 16, Reason::UnknownCommand);
    // A command of another class is the kernel's to refuse, and so are others:
    // an unknown one, those that have calls of their own, SET_ISSI.
    for code in [CmdOpcode::CreateCq.code(), 0xfff, 0x802, 0x401, 0x10b] {
        opcode.set_opcode(code);
        assert_eq!(general(&client, bytes(&opcode), 16).0, EINVAL);
    }
}

#[test]
fn create_cq_checks_every_reference() {
    let mut client = Client::new(Config::default());
    let (good, _) = client.cq_command(4, false);
    let cases: [Case<CreateCqIn>; 9] = [
        (|c| c.set_cq_umem_id(0x00ff_ffff), Reason::NoUmem),
        (|c| c.set_cq_umem_offset(1 << 40), Reason::UmemRange),
        (|c| c.set_cq_umem_offset(u64::MAX - 63), Reason::UmemRange),
        (|c| c.set_cq_umem_offset(8), Reason::Alignment),
        (|c| c.cq_context.set_dbr_addr(4), Reason::Alignment),
        (|c| c.cq_context.set_c_eqn(77), Reason::NoEq),
        (|c| c.cq_context.set_uar_page(1).unwrap(), Reason::NoUar),
        (|c| c.cq_context.set_cqe_sz(1).unwrap(), Reason::CqeSize),
        (
            |c| c.cq_context.set_log_cq_size(31).unwrap(),
            Reason::QueueDepth,
        ),
    ];
    for (spoil, reason) in cases {
        let mut bad = good;
        spoil(&mut bad);
        assert_eq!(
            client.create(bad).map(|_| ()),
            Err(reason.status()),
            "{reason}"
        );
    }
    assert!(client.create(good).is_ok());
}

#[test]
fn create_qp_checks_every_reference() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, true);
    let (good, ..) = client.qp_command(cq.number, 4);
    let cases: [Case<CreateQpIn>; 8] = [
        (|c| c.qpc.set_st(2), Reason::Service),
        (|c| c.qpc.set_pd(1).unwrap(), Reason::NoPd),
        (|c| c.qpc.set_uar_page(1).unwrap(), Reason::NoUar),
        (|c| c.qpc.set_cqn_snd(1).unwrap(), Reason::NoCq),
        (|c| c.qpc.set_log_sq_size(15).unwrap(), Reason::UmemRange),
        (|c| c.qpc.set_dbr_addr(1 << 50), Reason::UmemRange),
        (
            |c| c.qpc.set_rq_type(RqType::Shared.code()).unwrap(),
            Reason::RqType,
        ),
        (|c| c.set_wq_umem_id(0x00ff_fffe), Reason::NoUmem),
    ];
    for (spoil, reason) in cases {
        let mut bad = good;
        spoil(&mut bad);
        assert_eq!(
            client.create(bad).map(|_| ()),
            Err(reason.status()),
            "{reason}"
        );
    }
    assert!(client.create(good).is_ok());
    // The kernel sets the bits that say that there are umems.
    let mut bare = good;
    bare.set_wq_umem_valid(false);
    bare.qpc.set_dbr_umem_valid(false);
    assert!(client.create(bare).is_ok());
}

#[test]
fn only_legal_transitions_are_made() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, true);
    let mut qp = client.qp(&cq, 4);
    let peer = End {
        lid: 0,
        qpn: 5,
        psn: 0,
        gid: client.gid,
        mtu: Mtu::Bytes4096,
    };
    let bad_state = Err(CmdStatus::BadQpState);
    let state = |client: &Client, qp: &Qp| client.context_of(qp).state();
    for round in 0..2 {
        assert_eq!(client.init2rtr(&qp, &peer), bad_state, "{round}");
        assert_eq!(client.rtr2rts(&qp, 0, 1), bad_state);
        assert_eq!(client.rst2init(&qp), Ok(()));
        assert_eq!(client.rst2init(&qp), bad_state);
        assert_eq!(client.rtr2rts(&qp, 0, 1), bad_state);
        assert_eq!(client.init2rtr(&qp, &peer), Ok(()));
        assert_eq!(client.init2rtr(&qp, &peer), bad_state);
        assert_eq!(client.rtr2rts(&qp, 0, 1), Ok(()));
        assert_eq!(client.rtr2rts(&qp, 0, 1), bad_state);
        assert_eq!(state(&client, &qp), QpState::Rts.code());
        client.error(&qp);
        assert_eq!(state(&client, &qp), QpState::Err.code());
        assert_eq!(client.rst2init(&qp), bad_state);
        client.reset(&mut qp);
        assert_eq!(state(&client, &qp), QpState::Rst.code());
    }
}

#[test]
fn path_parameters_are_checked() {
    let mut client = Client::new(Config {
        mtu: Mtu::Bytes1024,
        ..Config::default()
    });
    let cq = client.cq(4, true);
    let qp = client.qp(&cq, 4);
    let mut input = Rst2InitQpIn::new();
    input.set_qpn(qp.number).unwrap();
    assert_eq!(client.modify(qp.object, input), Err(CmdStatus::BadParam));
    client.rst2init(&qp).unwrap();
    let too_big = client.end(&qp, 0, Mtu::Bytes2048);
    assert_eq!(client.init2rtr(&qp, &too_big), Err(CmdStatus::BadParam));
    let no_ip = End {
        lid: 0,
        gid: [0xfe; 16],
        ..client.end(&qp, 0, Mtu::Bytes1024)
    };
    assert_eq!(client.init2rtr(&qp, &no_ip), Err(CmdStatus::BadParam));
    let mut v1 = Init2RtrQpIn::new();
    v1.set_qpn(qp.number).unwrap();
    v1.qpc.set_mtu(Mtu::Bytes1024.code()).unwrap();
    v1.qpc.primary_address_path.set_rgid_rip(client.gid);
    assert_eq!(client.modify(qp.object, v1), Err(CmdStatus::IxErr));
}

#[test]
fn objects_in_use_stay() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, true);
    let qp = client.qp(&cq, 4);
    assert_eq!(client.destroy(cq.object), EREMOTEIO);
    // SAFETY: refused, as the assertions say.
    unsafe {
        assert_eq!((client.table.mlx5dv_devx_umem_dereg)(client.umem), EBUSY);
        assert_eq!((client.table.ibv_dealloc_pd)(client.pd), EBUSY);
        (client.table.mlx5dv_devx_free_uar)(client.uar);
    }
    assert_eq!(soft_hca::stats(&client.name).unwrap().live.uars, 1);
    assert_eq!(client.destroy(qp.object), 0);
    assert_eq!(client.destroy(cq.object), 0);
    // Gone is gone: the pointer is refused, not followed.
    assert_eq!(client.destroy(qp.object), EINVAL);
    // SAFETY: alive and used by nobody any more.
    unsafe {
        (client.table.mlx5dv_devx_free_uar)(client.uar);
        assert_eq!((client.table.mlx5dv_devx_umem_dereg)(client.umem), 0);
        assert_eq!((client.table.ibv_dereg_mr)(client.mr), 0);
        assert_eq!((client.table.ibv_dereg_mr)(client.mr), EINVAL);
        assert_eq!((client.table.ibv_dealloc_pd)(client.pd), 0);
    }
    let stats = soft_hca::stats(&client.name).unwrap();
    assert_eq!(stats.live, Live::default());
    assert_eq!(client.commands(CmdOpcode::CreateQp), 1);
    assert_eq!(client.commands(CmdOpcode::DestroyQp), 1);
}

#[test]
fn an_object_takes_only_commands_that_name_it() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, true);
    let one = client.qp(&cq, 4);
    let other = client.qp(&cq, 4);
    let mut input = Qp2RstIn::new();
    input.set_qpn(other.number).unwrap();
    let input = Mailbox::new(input);
    let mut out = Mailbox::<<Qp2RstIn as CommandIn>::Out>::zeroed();
    // SAFETY: the mailboxes are as long as said.
    let result = unsafe {
        (client.table.mlx5dv_devx_obj_modify)(
            one.object,
            input.as_ptr(),
            Qp2RstIn::BYTES,
            out.as_mut_ptr(),
            16,
        )
    };
    assert_eq!(result, EINVAL);
}

#[test]
fn bad_memory_is_refused() {
    let client = Client::new(Config::default());
    let access = ffi::IBV_ACCESS_LOCAL_WRITE as i32;
    let remote_only = ffi::IBV_ACCESS_REMOTE_WRITE as i32;
    let reg = |addr: u64, len, access| {
        let addr = ptr::with_exposed_provenance_mut(addr as usize);
        // SAFETY: refused, as the assertions say.
        unsafe { (client.table.ibv_reg_mr)(client.pd, addr, len, access) }
    };
    let own = client.address();
    assert!(reg(own, 0, access).is_null());
    assert!(reg(own, 4096, remote_only).is_null());
    assert!(reg(4096, 4096, access).is_null(), "not mapped");
    assert!(reg(u64::MAX - 4095, 8192, access).is_null());
    assert_eq!(soft_hca::stats(&client.name).unwrap().live.mrs, 1);
}

#[test]
fn the_numbered_command_fails_and_nothing_else() {
    let mut client = Client::new(Config::default());
    let faults = Faults {
        fail_command: Some(1),
        ..Faults::default()
    };
    soft_hca::set_faults(&client.name, faults).unwrap();
    let (first, _) = client.cq_command(4, true);
    let (second, _) = client.cq_command(4, true);
    assert!(client.create(first).is_ok());
    assert_eq!(
        client.create(second).map(|_| ()),
        Err(CmdStatus::InternalErr)
    );
    assert!(client.create(second).is_ok());
}

#[test]
fn closing_frees_what_is_left_and_counts_it() {
    // An address of its own: nobody else picks the device when it is closed.
    let mut client = Client::new(Config {
        addresses: vec![Ipv4Addr::new(127, 8, 9, 10).into()],
        ..Config::default()
    });
    let cq = client.cq(4, true);
    let qp = client.qp(&cq, 4);
    let name = client.name.clone();
    let before = soft_hca::stats(&name).unwrap();
    let alive = Live {
        pds: 1,
        mrs: 1,
        umems: 1,
        uars: 1,
        cqs: 1,
        qps: 1,
        ..Live::default()
    };
    assert_eq!(before.live, alive);
    client.close();
    let after = soft_hca::stats(&name).unwrap();
    assert_eq!(after.leaked - before.leaked, 6);
    assert_eq!(after.live, Live::default());
    // The pointer is refused, not followed.
    assert_eq!(client.destroy(qp.object), EINVAL);
}

#[test]
fn a_completion_queue_answers_queries() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, false);
    let mut input = QueryCqIn::new();
    input.set_cqn(cq.number).unwrap();
    let out = client.query(cq.object, input);
    assert_eq!(out.cq_context.log_cq_size(), 4);
    assert_eq!(out.cq_context.producer_counter(), 0);
}
