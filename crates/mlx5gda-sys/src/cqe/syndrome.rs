//! Syndromes of error completions.

use core::fmt;

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
    (0x01, Syndrome::LocalLength, "local length error"),
    (
        0x02,
        Syndrome::LocalQpOperation,
        "local queue pair operation error",
    ),
    (0x04, Syndrome::LocalProtection, "local protection error"),
    (0x05, Syndrome::WrFlush, "work request flushed"),
    (0x06, Syndrome::MwBind, "memory window bind error"),
    (0x10, Syndrome::BadResponse, "bad response"),
    (0x11, Syndrome::LocalAccess, "local access error"),
    (
        0x12,
        Syndrome::RemoteInvalidRequest,
        "remote invalid request",
    ),
    (0x13, Syndrome::RemoteAccess, "remote access error"),
    (0x14, Syndrome::RemoteOperation, "remote operation error"),
    (
        0x15,
        Syndrome::TransportRetryExceeded,
        "transport retry limit exceeded",
    ),
    (
        0x16,
        Syndrome::RnrRetryExceeded,
        "receiver-not-ready retry limit exceeded",
    ),
    (0x22, Syndrome::RemoteAborted, "remote aborted"),
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
