//! Commands that ask, and domains made by command.

use mlx5gda_sys::prm::{
    AllocPdIn, AllocTransportDomainIn, CmdStatus, CommandIn, Mailbox, NopIn, QpState,
    QueryAdapterIn, QueryAdapterOut, QueryIssiIn, QueryIssiOut, QueryNicVportContextIn,
    QueryNicVportContextOut, QueryRoceAddressIn, QueryRoceAddressOut, QueryVportStateIn,
    QueryVportStateOut, RqType,
};
use mlx5gda_sys::wqe::{DataPtr, Post, Wqe};
use soft_hca::{Config, Reason};

use crate::client::Client;

const EREMOTEIO: i32 = 121;

fn ask<I: CommandIn>(client: &Client, input: &I) -> (i32, Mailbox<I::Out>) {
    let mut out = Mailbox::<I::Out>::zeroed();
    let result = client.general(input, zerocopy::IntoBytes::as_mut_bytes(&mut *out));
    (result, out)
}

#[test]
fn a_device_says_who_made_it_and_how_to_talk_to_it() {
    let client = Client::new(Config::default());
    let (result, out) = ask(&client, &QueryAdapterIn::new());
    let adapter: &QueryAdapterOut = &out;
    assert_eq!(result, 0);
    assert_eq!(adapter.query_adapter_struct.ieee_vendor_id(), 0x02c9);
    let (result, out) = ask(&client, &QueryIssiIn::new());
    let issi: &QueryIssiOut = &out;
    assert_eq!((result, issi.current_issi()), (0, 1));
    assert_eq!(issi.supported_issi_dw0(), 0b10);
    assert_eq!(ask(&client, &NopIn::new()).0, 0);
}

#[test]
fn a_port_says_what_it_is() {
    let client = Client::new(Config::default());
    let (result, out) = ask(&client, &QueryNicVportContextIn::new());
    let port: &QueryNicVportContextOut = &out;
    assert_eq!(result, 0);
    let context = &port.nic_vport_context;
    assert!(context.roce_en());
    assert_ne!(context.node_guid(), 0);
    assert_ne!(context.permanent_address.mac_addr_31_0(), 0);
    for (up, state) in [(true, 1), (false, 0), (true, 1)] {
        soft_hca::set_link(&client.name, up).unwrap();
        let (result, out) = ask(&client, &QueryVportStateIn::new());
        let answer: &QueryVportStateOut = &out;
        assert_eq!((result, answer.state()), (0, state));
    }
    let mut other = QueryVportStateIn::new();
    other.set_other_vport(true);
    assert_eq!(ask(&client, &other).0, EREMOTEIO);
    let mut other = QueryNicVportContextIn::new();
    other.set_vport_number(1);
    let (result, out) = ask(&client, &other);
    assert_eq!(result, EREMOTEIO);
    assert_eq!(out.header.syndrome(), Reason::Vport.syndrome());
}

#[test]
fn the_gid_table_is_that_of_the_verbs() {
    let client = Client::new(Config::default());
    let entry = |index| {
        let mut input = QueryRoceAddressIn::new();
        input.set_roce_address_index(index);
        ask(&client, &input)
    };
    for (index, version) in [(0, 0), (1, 2)] {
        let (result, out) = entry(index);
        let answer: &QueryRoceAddressOut = &out;
        assert_eq!(result, 0);
        assert_eq!(answer.roce_address.source_l3_address(), client.gid);
        assert_eq!(answer.roce_address.roce_version(), version);
    }
    let (result, out) = entry(2);
    assert_eq!(result, EREMOTEIO);
    assert_eq!(CmdStatus::from_code(out.header.status()), CmdStatus::IxErr);
}

#[test]
fn domains_are_made_and_freed_by_command() {
    let mut client = Client::new(Config::default());
    let before = soft_hca::stats(&client.name).unwrap().live;
    let (pd, out) = client.create(AllocPdIn::new()).unwrap();
    assert_ne!(out.pd(), client.pdn);
    let cq = client.cq(4, true);
    let (mut input, ..) = client.qp_command(cq.number, 4);
    input.qpc.set_pd(out.pd()).unwrap();
    let (qp, _) = client.create(input).unwrap();
    assert_eq!(client.destroy(pd), EREMOTEIO);
    assert_eq!(client.destroy(qp), 0);
    assert_eq!(client.destroy(cq.object), 0);
    let (domain, out) = client.create(AllocTransportDomainIn::new()).unwrap();
    assert_ne!(out.transport_domain(), 0);
    let live = soft_hca::stats(&client.name).unwrap().live;
    assert_eq!((live.pds, live.transport_domains), (before.pds + 1, 1));
    assert_eq!(client.destroy(pd), 0);
    assert_eq!(client.destroy(domain), 0);
    assert_eq!(soft_hca::stats(&client.name).unwrap().live, before);
}

#[test]
fn a_queue_pair_says_how_far_it_is() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(6, false);
    let mut qp = client.qp_with_receives(&cq, 4);
    let peer = client.end(&qp, 0x77, mlx5gda_sys::prm::Mtu::Bytes1024);
    client.connect(&qp, 0x00ff_fffe, &peer);
    let context = client.context_of(&qp);
    assert_eq!(context.state(), QpState::Rts.code());
    assert_eq!(context.next_rcv_psn(), 0x77);
    assert_eq!(context.next_send_psn(), 0x00ff_fffe);
    assert_eq!(context.last_acked_psn(), 0x00ff_fffd);
    assert_eq!(context.rq_type(), RqType::Regular.code());
    assert!(context.rwe() && context.rre() && context.rae());
    for index in 0..3 {
        let buffer = DataPtr {
            addr: client.address(),
            lkey: client.key(),
            len: 64,
        };
        client.post_receive(&qp, index, &[buffer]);
    }
    let mut cq = cq;
    let quiet = Post {
        signalled: false,
        ..client.signalled(&qp)
    };
    client.post(&mut qp, &Wqe::nop(quiet).unwrap());
    client.nop(&mut qp);
    assert_eq!(client.next(&mut cq).wqe_counter(), 1);
    let context = client.context_of(&qp);
    assert_eq!(context.hw_sq_wqebb_counter(), 2);
    assert_eq!(context.sw_sq_wqebb_counter(), 2);
    assert_eq!((context.hw_rq_counter(), context.sw_rq_counter()), (0, 3));
    assert_eq!(Mailbox::new(context).size(), mlx5gda_sys::prm::Qpc::BYTES);
}
