//! Syndromes of error completions.

use core::fmt;

/// Syndrome byte: the message does not fit what was posted locally.
pub const SYNDROME_LOCAL_LENGTH: u8 = 0x01;
/// Syndrome byte: the WQE or the state of the queue pair is inconsistent.
pub const SYNDROME_LOCAL_QP_OPERATION: u8 = 0x02;
/// Syndrome byte: a local key does not cover the local memory.
pub const SYNDROME_LOCAL_PROTECTION: u8 = 0x04;
/// Syndrome byte: flushed: the queue pair was in the error state.
pub const SYNDROME_WR_FLUSH: u8 = 0x05;
/// Syndrome byte: a memory window could not be bound.
pub const SYNDROME_MW_BIND: u8 = 0x06;
/// Syndrome byte: the responder answered with an unexpected packet.
pub const SYNDROME_BAD_RESPONSE: u8 = 0x10;
/// Syndrome byte: the responder's own memory refused access.
pub const SYNDROME_LOCAL_ACCESS: u8 = 0x11;
/// Syndrome byte: the responder found the request malformed.
pub const SYNDROME_REMOTE_INVALID_REQUEST: u8 = 0x12;
/// Syndrome byte: the remote key, range or permission does not allow the access.
pub const SYNDROME_REMOTE_ACCESS: u8 = 0x13;
/// Syndrome byte: the responder could not carry the operation out.
pub const SYNDROME_REMOTE_OPERATION: u8 = 0x14;
/// Syndrome byte: no acknowledgement within the retry limit.
pub const SYNDROME_TRANSPORT_RETRY_EXCEEDED: u8 = 0x15;
/// Syndrome byte: the responder stayed not ready within the RNR retry limit.
pub const SYNDROME_RNR_RETRY_EXCEEDED: u8 = 0x16;
/// Syndrome byte: the responder aborted the operation.
pub const SYNDROME_REMOTE_ABORTED: u8 = 0x22;

/// Why a work request failed (`MLX5_CQE_SYNDROME_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Syndrome {
    /// The message does not fit what was posted locally.
    LocalLength,
    /// The WQE or the state of the queue pair is inconsistent.
    LocalQpOperation,
    /// A local key does not cover the local memory.
    LocalProtection,
    /// Flushed: the queue pair was in the error state.
    WrFlush,
    /// A memory window could not be bound.
    MwBind,
    /// The responder answered with an unexpected packet.
    BadResponse,
    /// The responder's own memory refused access.
    LocalAccess,
    /// The responder found the request malformed.
    RemoteInvalidRequest,
    /// The remote key, range or permission does not allow the access.
    RemoteAccess,
    /// The responder could not carry the operation out.
    RemoteOperation,
    /// No acknowledgement within the retry limit.
    TransportRetryExceeded,
    /// The responder stayed not ready within the RNR retry limit.
    RnrRetryExceeded,
    /// The responder aborted the operation.
    RemoteAborted,
    /// Any other code.
    Other(u8),
}

/// Code, value and text of every named syndrome.
const SYNDROMES: [(u8, Syndrome, &str); 13] = [
    (
        SYNDROME_LOCAL_LENGTH,
        Syndrome::LocalLength,
        "local length error",
    ),
    (
        SYNDROME_LOCAL_QP_OPERATION,
        Syndrome::LocalQpOperation,
        "local queue pair operation error",
    ),
    (
        SYNDROME_LOCAL_PROTECTION,
        Syndrome::LocalProtection,
        "local protection error",
    ),
    (SYNDROME_WR_FLUSH, Syndrome::WrFlush, "work request flushed"),
    (
        SYNDROME_MW_BIND,
        Syndrome::MwBind,
        "memory window bind error",
    ),
    (SYNDROME_BAD_RESPONSE, Syndrome::BadResponse, "bad response"),
    (
        SYNDROME_LOCAL_ACCESS,
        Syndrome::LocalAccess,
        "local access error",
    ),
    (
        SYNDROME_REMOTE_INVALID_REQUEST,
        Syndrome::RemoteInvalidRequest,
        "remote invalid request",
    ),
    (
        SYNDROME_REMOTE_ACCESS,
        Syndrome::RemoteAccess,
        "remote access error",
    ),
    (
        SYNDROME_REMOTE_OPERATION,
        Syndrome::RemoteOperation,
        "remote operation error",
    ),
    (
        SYNDROME_TRANSPORT_RETRY_EXCEEDED,
        Syndrome::TransportRetryExceeded,
        "transport retry limit exceeded",
    ),
    (
        SYNDROME_RNR_RETRY_EXCEEDED,
        Syndrome::RnrRetryExceeded,
        "receiver-not-ready retry limit exceeded",
    ),
    (
        SYNDROME_REMOTE_ABORTED,
        Syndrome::RemoteAborted,
        "remote aborted",
    ),
];

impl Syndrome {
    /// Decodes the syndrome byte of an error CQE.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        SYNDROMES
            .iter()
            .find(|(known, ..)| *known == code)
            .map_or(Self::Other(code), |(_, syndrome, _)| *syndrome)
    }

    /// The syndrome byte.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Other(code) => code,
            named => SYNDROMES
                .iter()
                .find(|(_, known, _)| *known == named)
                .map_or(0, |(code, ..)| *code),
        }
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SYNDROMES.iter().find(|(_, known, _)| known == self) {
            Some((code, _, text)) => write!(f, "{text} ({code:#04x})"),
            None => write!(f, "unknown syndrome ({:#04x})", self.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips() {
        for code in 0..=u8::MAX {
            assert_eq!(Syndrome::from_code(code).code(), code);
        }
    }

    #[test]
    fn the_text_names_the_error_and_its_code() {
        assert_eq!(
            Syndrome::TransportRetryExceeded.to_string(),
            "transport retry limit exceeded (0x15)"
        );
        assert_eq!(Syndrome::Other(0x99).to_string(), "unknown syndrome (0x99)");
    }
}
