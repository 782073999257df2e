//! Every step from every state, by a software NIC.

use super::*;
use crate::config::{GidChoice, Nic};
use crate::region::Region;
use mlx5gda_sys::prm::{CmdStatus, QpState, QueryQpIn};
use soft_hca::{Faults, Live, set_faults, stats};

const PSN: u32 = 0x1234;
const STATES: [State; 5] = [
    State::Reset,
    State::Init,
    State::ReadyToReceive,
    State::ReadyToSend,
    State::Unknown,
];
const NAMES: [&str; 5] = ["RESET", "INIT", "RTR", "RTS", "unknown"];
const STEPS: [Step; 4] = [Step::Reset, Step::Init, Step::Receive, Step::Send];
const COMMANDS: [&str; 4] = ["2RST_QP", "RST2INIT_QP", "INIT2RTR_QP", "RTR2RTS_QP"];

/// In the order of the states that they lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Reset,
    Init,
    Receive,
    Send,
}

/// The model: whether a state allows a step, and the number of its commands.
fn cost(from: State, step: Step) -> Option<u64> {
    match (from, step) {
        (State::Reset, Step::Reset) => Some(0),
        (_, Step::Reset)
        | (State::Reset, Step::Init)
        | (State::Init, Step::Receive)
        | (State::ReadyToReceive, Step::Send) => Some(1),
        _ => None,
    }
}

fn each_step_from_each_state() -> impl Iterator<Item = (State, Step)> {
    STATES
        .into_iter()
        .flat_map(|from| STEPS.map(|step| (from, step)))
}

fn pair() -> AnyQueuePair {
    let device = Device::open(&Nic::Soft { address: None }, GidChoice::Automatic).unwrap();
    let region = Arc::new(Region::shared("queue pair", 8192).unwrap());
    let domain = ProtectionDomain::allocate(&device).unwrap();
    let umem = Umem::register(&device, &region).unwrap();
    let uar = Uar::allocate(&device).unwrap();
    let places = QueuePlaces {
        ring: 0,
        depth: 8,
        record: 1024,
        cqe: 2048,
    };
    let completions = CompletionQueue::create(&device, &umem, &uar, &places, 4096).unwrap();
    AnyQueuePair::create(&device, &domain, &umem, &uar, completions, &places).unwrap()
}

fn path() -> PathSettings {
    PathSettings {
        ack_timeout: 14,
        retry_count: 7,
        rnr_retry: 7,
        traffic_class: 0,
        service_level: 0,
    }
}

/// Itself, as its other end.
fn remote(pair: &AnyQueuePair) -> RemoteEnd {
    RemoteEnd {
        qpn: pair.number(),
        psn: PSN,
        gid: pair.device.port().gid,
        mac: [2, 0, 0, 0, 0, 1],
        lid: 0,
        global: false,
        mtu: 1024,
        flow: 0,
    }
}

fn take(pair: &mut AnyQueuePair, step: Step) -> Result<(), VerbsError> {
    let (remote, path) = (remote(pair), path());
    match step {
        Step::Reset => pair.reset().map(drop),
        Step::Init => pair.checked::<Reset>()?.init().map(drop),
        Step::Receive => {
            let pair = pair.checked::<Init>()?;
            pair.ready_to_receive(&remote, &path).map(drop)
        }
        Step::Send => {
            let pair = pair.checked::<ReadyToReceive>()?;
            pair.ready_to_send(PSN, &path).map(drop)
        }
    }
}

/// Takes a step whose command fails.
fn refused(pair: &mut AnyQueuePair, step: Step) {
    let name = pair.device.name().to_owned();
    let faults = Faults {
        fail_command: Some(0),
        ..Faults::default()
    };
    set_faults(&name, faults).unwrap();
    let error = take(pair, step).unwrap_err();
    set_faults(&name, Faults::default()).unwrap();
    match error {
        VerbsError::Command {
            command: named,
            object,
            status,
            ..
        } => {
            assert_eq!(named, COMMANDS[step as usize]);
            assert_eq!(object, format!("queue pair {:#x}", pair.number()));
            assert_ne!(status, CmdStatus::Ok);
        }
        other => panic!("{other}"),
    }
}

fn bring(pair: &mut AnyQueuePair, state: State) {
    take(pair, Step::Reset).unwrap();
    let steps: &[Step] = match state {
        State::Reset => &[],
        State::Init => &[Step::Init],
        State::ReadyToReceive => &[Step::Init, Step::Receive],
        State::ReadyToSend => &[Step::Init, Step::Receive, Step::Send],
        State::Unknown => {
            refused(pair, Step::Init);
            &[]
        }
    };
    for step in steps {
        take(pair, *step).unwrap();
    }
    assert_eq!(pair.state(), state);
}

/// What the NIC says.
fn there(pair: &AnyQueuePair) -> QpState {
    let mut input = Mailbox::new(QueryQpIn::new());
    input.set_qpn(pair.number()).unwrap();
    QpState::try_from(pair.object.query(&input).qpc.state()).unwrap()
}

/// It can be connected, by four commands.
fn recovers(pair: &mut AnyQueuePair) {
    let before = pair.commands();
    let to_reset = u64::from(pair.state() != State::Reset);
    bring(pair, State::ReadyToSend);
    assert_eq!(pair.commands(), before + to_reset + 3);
    assert_eq!(there(pair), QpState::Rts);
}

fn whole() -> Live {
    Live {
        pds: 1,
        umems: 1,
        uars: 1,
        cqs: 1,
        qps: 1,
        ..Live::default()
    }
}

#[test]
fn every_step_from_every_state_does_what_the_model_says() {
    const THERE: [QpState; 4] = [QpState::Rst, QpState::Init, QpState::Rtr, QpState::Rts];
    let mut pair = pair();
    let name = pair.device.name().to_owned();
    for (from, step) in each_step_from_each_state() {
        bring(&mut pair, from);
        let (commands, sent, was) = (pair.commands(), pair.device.commands(), there(&pair));
        let taken = take(&mut pair, step);
        let spent = pair.commands() - commands;
        // None was sent that was not counted.
        assert_eq!(pair.device.commands() - sent, spent);
        let expected = cost(from, step);
        assert_eq!(spent, expected.unwrap_or(0), "{from:?} {step:?}");
        if expected.is_some() {
            taken.unwrap();
            assert_eq!(pair.state(), STATES[step as usize], "{from:?} {step:?}");
            assert_eq!(there(&pair), THERE[step as usize], "{from:?} {step:?}");
        } else {
            let said = taken.unwrap_err().to_string();
            let (number, to) = (pair.number(), NAMES[step as usize]);
            let from_name = NAMES[STATES.iter().position(|state| *state == from).unwrap()];
            assert_eq!(
                said,
                format!("queue pair {number:#x} cannot go from {from_name} to {to}")
            );
            assert_eq!((pair.state(), there(&pair)), (from, was), "{step:?}");
        }
        assert_eq!(stats(&name).unwrap().live, whole());
        recovers(&mut pair);
    }
    drop(pair);
    assert_eq!(stats(&name).unwrap().live, Live::default());
}

#[test]
fn a_refused_command_leaves_an_unknown_state_that_only_a_reset_ends() {
    let mut pair = pair();
    let name = pair.device.name().to_owned();
    for (from, step) in each_step_from_each_state() {
        if cost(from, step) != Some(1) {
            continue;
        }
        bring(&mut pair, from);
        let commands = pair.commands();
        refused(&mut pair, step);
        assert_eq!(pair.state(), State::Unknown, "{from:?} {step:?}");
        assert_eq!(pair.commands(), commands + 1);
        for next in [Step::Init, Step::Receive, Step::Send] {
            let error = take(&mut pair, next).unwrap_err();
            assert!(
                matches!(
                    error,
                    VerbsError::IllegalTransition {
                        from: "unknown",
                        ..
                    }
                ),
                "{from:?} {step:?}: {error}"
            );
        }
        assert_eq!(stats(&name).unwrap().live, whole());
        recovers(&mut pair);
    }
}

#[test]
fn what_fits_no_command_is_refused_before_it_is_sent() {
    let mut pair = pair();
    bring(&mut pair, State::ReadyToReceive);
    let commands = pair.commands();
    let receiver = pair.checked::<ReadyToReceive>().unwrap();
    let error = receiver.ready_to_send(1 << 24, &path()).unwrap_err();
    assert!(matches!(error, VerbsError::Field(_)), "{error}");
    assert_eq!(pair.commands(), commands);
    assert_eq!(pair.state(), State::ReadyToReceive);
    take(&mut pair, Step::Send).unwrap();
}
