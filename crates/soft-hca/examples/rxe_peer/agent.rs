//! The program in the guest, which does what a line of text says: tools/rxe-guest/agent.c.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Port that the agent listens on.
const PORT: u16 = 7471;
/// How long the guest may take to start.
const START: Duration = Duration::from_secs(120);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the kernel may take to complete something, in milliseconds.
const COMPLETION: u64 = 30_000;

/// A completion, as libibverbs reports it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// `enum ibv_wc_opcode`.
    pub(crate) opcode: u64,
    /// Bytes received.
    pub(crate) len: u64,
    /// Immediate data, or 0.
    pub(crate) immediate: u64,
}

/// A connection to the agent.
pub(crate) struct Agent {
    from: BufReader<TcpStream>,
    to: TcpStream,
}

impl Agent {
    /// Connects, once the guest has started.
    pub(crate) fn new(address: Ipv4Addr) -> Self {
        let until = Instant::now() + START;
        let to = loop {
            let address = SocketAddr::from((address, PORT));
            match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < until, "no agent at {address}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        to.set_nodelay(true).unwrap();
        to.set_read_timeout(Some(ANSWER)).unwrap();
        Self {
            from: BufReader::new(to.try_clone().unwrap()),
            to,
        }
    }

    /// Says something; the numbers of the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Vec<u64> {
        writeln!(self.to, "{line}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        let numbers = answer.strip_prefix("ok");
        let numbers = numbers.unwrap_or_else(|| panic!("{line}: {answer:?}"));
        numbers
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect()
    }

    /// The next completion, which has to be a success.
    pub(crate) fn poll(&mut self) -> Completion {
        let numbers = self.ask(&format!("poll {COMPLETION}"));
        let [status, opcode, len, immediate] = numbers[..] else {
            panic!("a completion is {numbers:?}");
        };
        assert_eq!(status, 0, "ibv_wc_status of opcode {opcode}");
        Completion {
            opcode,
            len,
            immediate,
        }
    }

    /// Ends the agent, and with it the guest.
    pub(crate) fn quit(&mut self) {
        writeln!(self.to, "quit").unwrap();
    }
}
