//! Orders from whoever started this process, one a line of standard input.
//!
//! | order | what happens |
//! | --- | --- |
//! | `leave` | after the step that is under way, this rank leaves on purpose; the software NIC works again, as what it refuses to destroy could only be left behind |
//! | `lose PERCENT MS` | for so long, the software NIC loses that share of what it sends |
//! | `link-down MS` | for so long, its link is down |
//! | `fail-command N` | of the commands that it gets from now on, number N (from 0) fails |
//!
//! When there is no more input, that is an order to leave too.

use soft_hca::{Faults, Outage};
use std::io::BufRead;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Name of the only device of a process with a software NIC.
const SOFT_DEVICE: &str = "soft_mlx5_0";

/// One order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    /// Leave after the step that is under way.
    Leave,
    /// Have the NIC do this, for so long.
    Fail(Faults, Duration),
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| {
            let number = word.parse::<u64>();
            number.map_err(|error| format!("'{line}': {word} is {error}"))
        };
        let millis = |word: &str| number(word).map(Duration::from_millis);
        match words.as_slice() {
            ["leave"] => Ok(Self::Leave),
            ["lose", percent, time] => {
                let faults = Faults {
                    loss: number(percent)?.min(100) as f64 / 100.0,
                    ..Faults::default()
                };
                Ok(Self::Fail(faults, millis(time)?))
            }
            ["link-down", time] => {
                let outage = Outage {
                    from: Duration::ZERO,
                    until: millis(time)?,
                };
                let faults = Faults {
                    link_down: Some(outage),
                    ..Faults::default()
                };
                Ok(Self::Fail(faults, outage.until))
            }
            ["fail-command", command] => {
                let faults = Faults {
                    fail_command: Some(number(command)?),
                    ..Faults::default()
                };
                // The command may come much later, or never.
                Ok(Self::Fail(faults, Duration::MAX))
            }
            _ => Err(format!("'{line}' is no order")),
        }
    }
}

/// The orders that the layer's loop has to carry out.
#[derive(Debug)]
pub(crate) struct Orders(Receiver<()>);

impl Orders {
    /// Takes orders from standard input from now on.
    pub(crate) fn take() -> Self {
        let (sender, orders) = channel();
        // It ends with the process, or with the input.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                match line.parse() {
                    Ok(Order::Leave) => break,
                    Ok(Order::Fail(faults, time)) => fail(faults, time),
                    Err(what) => tracing::error!("{what}"),
                }
            }
            // Without a software NIC there are no faults to end.
            let _ = soft_hca::set_faults(SOFT_DEVICE, Faults::default());
            let _ = sender.send(());
        });
        Self(orders)
    }

    /// Whether this rank is to leave.
    pub(crate) fn to_leave(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}

fn fail(faults: Faults, time: Duration) {
    let set = |faults| {
        if let Err(error) = soft_hca::set_faults(SOFT_DEVICE, faults) {
            tracing::error!("no faults on order: {error}");
        }
    };
    set(faults);
    if faults.loss > 0.0 {
        std::thread::spawn(move || {
            std::thread::sleep(time);
            set(Faults::default());
        });
    }
}

/// Objects of the software NIC that are alive, or were when their context was closed.
/// `None` if this process has not used it.
pub(crate) fn leaked_objects() -> Option<u64> {
    let stats = soft_hca::stats(SOFT_DEVICE).ok()?;
    let live = stats.live;
    let alive = live.pds + live.mrs + live.umems + live.uars + live.cqs + live.qps;
    Some(stats.leaked + alive as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_understood_or_named() {
        assert_eq!("leave".parse(), Ok(Order::Leave));
        let lossy = Faults {
            loss: 0.05,
            ..Faults::default()
        };
        let second = Duration::from_secs(1);
        assert_eq!("lose 5 1000".parse(), Ok(Order::Fail(lossy, second)));
        let Ok(Order::Fail(faults, _)) = "link-down 70".parse() else {
            panic!("no order");
        };
        let until = faults.link_down.map(|outage| outage.until);
        assert_eq!(until, Some(Duration::from_millis(70)));
        let Ok(Order::Fail(faults, _)) = "fail-command 3".parse() else {
            panic!("no order");
        };
        assert_eq!(faults.fail_command, Some(3));
        let refused = "retreat".parse::<Order>();
        assert_eq!(refused, Err("'retreat' is no order".to_owned()));
        let error = "link-down soon".parse::<Order>().unwrap_err();
        assert!(error.contains("soon"), "{error}");
    }
}
