//! Orders from whoever started this process, one a line of standard input.
//!
//! | order | what happens |
//! | --- | --- |
//! | `leave` | after the step that is under way, this rank leaves on purpose |
//!
//! When there is no more input, that is an order to leave too.

use std::io::BufRead;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, channel};

/// Name of the only device of a process with a software NIC.
const SOFT_DEVICE: &str = "soft_mlx5_0";

/// One order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    /// Leave after the step that is under way.
    Leave,
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["leave"] => Ok(Self::Leave),
            _ => Err(format!("'{line}' is no order")),
        }
    }
}

/// The orders that have not been carried out yet.
#[derive(Debug)]
pub(crate) struct Orders(Receiver<Order>);

impl Orders {
    /// Takes orders from standard input from now on.
    pub(crate) fn take() -> Self {
        let (sender, orders) = channel();
        // It ends with the process, or with the input.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                match line.parse() {
                    Ok(order) => {
                        let _ = sender.send(order);
                    }
                    Err(what) => tracing::error!("{what}"),
                }
            }
            let _ = sender.send(Order::Leave);
        });
        Self(orders)
    }

    /// What has come since the last call.
    pub(crate) fn given(&self) -> impl Iterator<Item = Order> + '_ {
        self.0.try_iter()
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
        let refused = "retreat".parse::<Order>();
        assert_eq!(refused, Err("'retreat' is no order".to_owned()));
    }
}
