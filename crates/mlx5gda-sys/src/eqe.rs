//! Event queue entries: what the device says has happened (`struct mlx5_eqe` of the kernel's
//! `device.h`). A devx event channel delivers them as they are.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::be::Be32;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// What has happened (`MLX5_EVENT_TYPE_*`), of what reliable connections meet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum EventType {
            $($(#[$doc])* $name = $code,)*
        }

        impl EventType {
            /// Every type, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Decodes the type of an entry.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

events! {
    /// A completion queue that was armed has a completion.
    Completion = 0x00;
    /// The first packet arrived at a queue pair that is ready to receive.
    CommunicationEstablished = 0x02;
    /// A completion queue overflowed, or could not be written.
    CqError = 0x04;
    /// A queue pair failed in a way that no completion reports.
    WqCatastrophic = 0x05;
    /// The port changed its state.
    PortChange = 0x09;
    /// A peer's request made no sense.
    InvalidRequest = 0x10;
    /// A peer's request was refused access.
    AccessViolation = 0x11;
}

/// An event queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Eqe {
    rsvd0: u8,
    /// See [`EventType`].
    pub event_type: u8,
    rsvd2: u8,
    /// What exactly, for some types.
    pub sub_type: u8,
    rsvd4: [u8; 28],
    /// By type; see the constructors.
    pub data: [Be32; 7],
    rsvd60: [u8; 2],
    /// Signature, not checked here.
    pub signature: u8,
    /// Owner bit.
    pub owner: u8,
}

const _: () = {
    assert!(size_of::<Eqe>() == 64);
    assert!(offset_of!(Eqe, event_type) == 1);
    assert!(offset_of!(Eqe, data) == 32);
    assert!(offset_of!(Eqe, owner) == 63);
};

impl Eqe {
    /// Sub-type of [`EventType::PortChange`]: the link went down.
    pub const PORT_DOWN: u8 = 1;
    /// Sub-type of [`EventType::PortChange`]: the link came up.
    pub const PORT_ACTIVE: u8 = 4;
    /// Syndrome of [`EventType::CqError`]: more completions than entries.
    pub const CQ_OVERRUN: u8 = 1;
    /// Syndrome of [`EventType::CqError`]: the ring could not be written.
    pub const CQ_ACCESS: u8 = 2;

    fn new(event_type: EventType, sub_type: u8, data: [u32; 7]) -> Self {
        Self {
            rsvd0: 0,
            event_type: event_type as u8,
            rsvd2: 0,
            sub_type,
            rsvd4: [0; 28],
            data: data.map(Be32::new),
            rsvd60: [0; 2],
            signature: 0,
            owner: 0,
        }
    }

    /// An armed completion queue has a completion.
    #[must_use]
    pub fn completion(cqn: u32) -> Self {
        Self::new(EventType::Completion, 0, [0, 0, 0, 0, 0, 0, cqn])
    }

    /// A completion queue is in error.
    #[must_use]
    pub fn cq_error(cqn: u32, syndrome: u8) -> Self {
        let data = [cqn, 0, u32::from(syndrome), 0, 0, 0, 0];
        Self::new(EventType::CqError, 0, data)
    }

    /// Something of a queue pair.
    #[must_use]
    pub fn queue_pair(event_type: EventType, qpn: u32) -> Self {
        Self::new(event_type, 0, [0, 0, 0, 0, 0, 0, qpn])
    }

    /// The port, numbered from 1, changed its state.
    #[must_use]
    pub fn port(port: u8, sub_type: u8) -> Self {
        let data = [0, 0, u32::from(port & 0xf) << 28, 0, 0, 0, 0];
        Self::new(EventType::PortChange, sub_type, data)
    }

    /// What has happened, or the code if it has no name here.
    ///
    /// # Errors
    /// The code.
    pub fn event(&self) -> Result<EventType, u8> {
        EventType::from_code(self.event_type).ok_or(self.event_type)
    }

    /// Number of the completion queue or queue pair that the event is about; `None` if it is
    /// about neither.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        let place = match self.event().ok()? {
            EventType::CqError => 0,
            EventType::PortChange => return None,
            _ => 6,
        };
        self.data.get(place).map(|word| word.get() & 0x00ff_ffff)
    }

    /// Syndrome of [`EventType::CqError`].
    #[must_use]
    pub fn cq_syndrome(&self) -> u8 {
        self.data[2].get() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_in_the_kernels_header() {
        let completion = Eqe::completion(0x12_3456);
        assert_eq!(completion.as_bytes()[1], 0);
        assert_eq!(completion.as_bytes()[56..60], [0, 0x12, 0x34, 0x56]);
        let error = Eqe::cq_error(0x77, Eqe::CQ_OVERRUN);
        assert_eq!(error.as_bytes()[1], 4);
        assert_eq!(error.as_bytes()[32..36], [0, 0, 0, 0x77]);
        assert_eq!(error.as_bytes()[43], 1);
        let fatal = Eqe::queue_pair(EventType::WqCatastrophic, 9);
        assert_eq!(fatal.as_bytes()[1], 5);
        assert_eq!(fatal.as_bytes()[56..60], [0, 0, 0, 9]);
        let port = Eqe::port(1, Eqe::PORT_DOWN);
        assert_eq!(port.as_bytes()[1], 9);
        assert_eq!(port.as_bytes()[3], 1);
        assert_eq!(port.as_bytes()[40], 0x10);
    }

    #[test]
    fn what_was_written_is_read() {
        for code in 0..=u8::MAX {
            match EventType::from_code(code) {
                Some(known) => assert_eq!(known as u8, code),
                None => assert!(!EventType::ALL.iter().any(|known| *known as u8 == code)),
            }
        }
        let error = Eqe::cq_error(0x77, Eqe::CQ_ACCESS);
        assert_eq!((error.number(), error.cq_syndrome()), (Some(0x77), 2));
        assert_eq!(Eqe::port(1, Eqe::PORT_ACTIVE).number(), None);
        let refused = Eqe::queue_pair(EventType::AccessViolation, 5);
        assert_eq!(refused.event(), Ok(EventType::AccessViolation));
        assert_eq!(refused.number(), Some(5));
    }
}
