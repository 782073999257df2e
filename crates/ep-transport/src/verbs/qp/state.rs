//! The states of a queue pair, and which command leads from one to the next.

use mlx5gda_sys::prm::{CommandIn, Init2RtrQpIn, Rst2InitQpIn, Rtr2RtsQpIn};

/// A state that is known when the code is compiled. The types have no values.
pub(crate) trait Known {
    const STATE: State;
}

/// A state that leads on. Every state leads to Reset besides.
pub(crate) trait Onward: Known {
    type Next: Known;
    type Command: CommandIn;
}

macro_rules! states {
    ($($(#[$doc:meta])* $state:ident = $name:literal $(, $command:ty => $next:ident)?;)*) => {
        /// Where commands have brought a queue pair. That it has failed since, its
        /// completion queue says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum State {
            $($(#[$doc])* $state,)*
            /// A command was refused or got lost: one of the two states that it is between.
            Unknown,
        }

        impl State {
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$state => $name,)*
                    Self::Unknown => "unknown",
                }
            }
        }

        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub enum $state {}

            impl Known for $state {
                const STATE: State = State::$state;
            }

            $(
                impl Onward for $state {
                    type Next = $next;
                    type Command = $command;
                }
            )?
        )*
    };
}

states! {
    /// The NIC neither reads the queue nor answers.
    Reset = "RESET", Rst2InitQpIn => Init;
    /// It has its port and its rights.
    Init = "INIT", Init2RtrQpIn => ReadyToReceive;
    /// It accepts what its other end sends.
    ReadyToReceive = "RTR", Rtr2RtsQpIn => ReadyToSend;
    /// It sends what is posted.
    ReadyToSend = "RTS";
}

/// Calls of a queue pair. Each compiles in one state, so that it is not for its own sake
/// that it does not in the others.
#[cfg(doctest)]
macro_rules! call {
    (init) => {
        "pair.init()"
    };
    (ready_to_receive) => {
        "pair.ready_to_receive(remote, path)"
    };
    (ready_to_send) => {
        "pair.ready_to_send(7, path)"
    };
    (target) => {
        "pair.target(0, 7)"
    };
    (init_twice) => {
        "pair.init(); let _ = pair.init()"
    };
}

/// A test that a call compiles, or that it does not; but for it all are the same.
#[cfg(doctest)]
macro_rules! example {
    ($outcome:literal, $state:ident, $call:ident) => {
        concat!(
            "```",
            $outcome,
            "\n",
            "use ep_transport::typestate::*;\n",
            "fn step(mut pair: QueuePair<'_, ",
            stringify!($state),
            ">, ",
            "remote: &RemoteEnd, path: &PathSettings) {\n",
            "    let _ = ",
            call!($call),
            ";\n",
            "}\n",
            "```\n",
        )
    };
}

#[cfg(doctest)]
macro_rules! examples {
    ($($state:ident: $legal:ident $(, $error:literal: $($illegal:ident)*)*;)*) => {
        $(
            #[doc = example!("", $state, $legal)]
            $($(#[doc = example!($error, $state, $illegal)])*)*
        )*
        struct Calls;
    };
}

#[cfg(doctest)]
examples! {
    Reset: init,
        "compile_fail,E0599": ready_to_receive ready_to_send target,
        "compile_fail,E0382": init_twice;
    Init: ready_to_receive,
        "compile_fail,E0599": init ready_to_send target;
    ReadyToReceive: ready_to_send,
        "compile_fail,E0599": init ready_to_receive target;
    ReadyToSend: target,
        "compile_fail,E0599": init ready_to_receive ready_to_send;
}
