//! Names of the values of enumerations, as `verbs.h` declares them.

use core::ffi::{CStr, c_char, c_int};

/// Name of a value that has none.
const UNKNOWN: &CStr = c"unknown";

const NODES: [&CStr; 7] = [
    c"InfiniBand channel adapter",
    c"InfiniBand switch",
    c"InfiniBand router",
    c"iWARP NIC",
    c"usNIC",
    c"usNIC UDP",
    c"unspecified",
];

const PORT_STATES: [&CStr; 6] = [
    c"PORT_NOP",
    c"PORT_DOWN",
    c"PORT_INIT",
    c"PORT_ARMED",
    c"PORT_ACTIVE",
    c"PORT_ACTIVE_DEFER",
];

const EVENTS: [&CStr; 20] = [
    c"CQ error",
    c"local work queue catastrophic error",
    c"invalid request local work queue error",
    c"local access violation work queue error",
    c"communication established",
    c"send queue drained",
    c"path migrated",
    c"path migration request error",
    c"local catastrophic error",
    c"port active",
    c"port error",
    c"LID change",
    c"P_Key change",
    c"SM change",
    c"SRQ catastrophic error",
    c"SRQ limit reached",
    c"last WQE reached",
    c"client reregistration",
    c"GID table change",
    c"WQ fatal",
];

const WC_STATUSES: [&CStr; 24] = [
    c"success",
    c"local length error",
    c"local QP operation error",
    c"local EE context operation error",
    c"local protection error",
    c"Work Request Flushed Error",
    c"memory management operation error",
    c"bad response error",
    c"local access error",
    c"remote invalid request error",
    c"remote access error",
    c"remote operation error",
    c"transport retry counter exceeded",
    c"RNR retry counter exceeded",
    c"local RDD violation error",
    c"remote invalid RD request",
    c"aborted error",
    c"invalid EE context number",
    c"invalid EE context state",
    c"fatal error",
    c"response timeout error",
    c"general error",
    c"TM error",
    c"TM software rendezvous",
];

fn name(names: &[&'static CStr], first: c_int, value: c_int) -> *const c_char {
    let index = usize::try_from(i64::from(value) - i64::from(first));
    let name = index.ok().and_then(|index| names.get(index));
    name.unwrap_or(&UNKNOWN).as_ptr()
}

/// Name of an `enum ibv_node_type`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ibv_node_type_str(value: c_int) -> *const c_char {
    name(&NODES, 1, value)
}

/// Name of an `enum ibv_port_state`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ibv_port_state_str(value: c_int) -> *const c_char {
    name(&PORT_STATES, 0, value)
}

/// Name of an `enum ibv_event_type`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ibv_event_type_str(value: c_int) -> *const c_char {
    name(&EVENTS, 0, value)
}

/// Name of an `enum ibv_wc_status`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ibv_wc_status_str(value: c_int) -> *const c_char {
    name(&WC_STATUSES, 0, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: *const c_char) -> &'static str {
        // SAFETY: the functions return literals.
        unsafe { CStr::from_ptr(of) }.to_str().unwrap()
    }

    #[test]
    fn values_have_their_names_and_others_none() {
        assert_eq!(text(ibv_node_type_str(1)), "InfiniBand channel adapter");
        assert_eq!(text(ibv_port_state_str(4)), "PORT_ACTIVE");
        assert_eq!(text(ibv_event_type_str(10)), "port error");
        assert_eq!(text(ibv_wc_status_str(10)), "remote access error");
        for value in [c_int::MIN, -1, 24, c_int::MAX] {
            assert_eq!(text(ibv_wc_status_str(value)), "unknown");
            assert_eq!(text(ibv_node_type_str(value)), "unknown");
        }
    }
}
