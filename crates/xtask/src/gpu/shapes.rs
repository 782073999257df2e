//! What is measured, and what it is held against.

use crate::demo::plan::Dispatch;
use clap::ValueEnum;
use serde::Serialize;

/// Elements of a row, and choices of a token.
pub(super) const HIDDEN: u32 = 7168;
pub(super) const TOP_K: u32 = 8;

/// Which experts tokens choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Routing {
    /// Any of them
    Even,
    /// A few often, most seldom
    Zipf,
    /// Four of them always, and any others
    FourHot,
    /// Only those of rank 0
    OneRank,
}

/// One configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Shape {
    pub(super) ranks: u32,
    pub(super) tokens: u32,
    /// Of rank 0; the last rank has `tokens`, those between are evenly apart.
    pub(super) least_tokens: u32,
    pub(super) experts: u32,
    pub(super) dispatch: Dispatch,
    pub(super) routing: Routing,
    /// A pair of the fastest other implementation that was measured, in microseconds.
    pub(super) peer_us: Option<f64>,
    /// What a pair may take.
    pub(super) bar_us: Option<f64>,
}

impl Shape {
    /// The same, held against nothing.
    pub(super) fn without_bar(self) -> Self {
        Self {
            peer_us: None,
            bar_us: None,
            ..self
        }
    }
}

/// Ranks, tokens, experts, dispatch, and the pair of others and of the bar. The others are
/// DeepEP 1.2.1 (low latency) and Mooncake EP, whichever was faster on H100 SXM over NVLink.
const BARS: [(u32, u32, u32, Dispatch, f64, f64); 7] = [
    (2, 128, 288, Dispatch::Bf16, 88.3, 24.0),
    (2, 128, 288, Dispatch::Fp8, 75.9, 22.0),
    (4, 128, 288, Dispatch::Bf16, 118.6, 43.0),
    (4, 128, 288, Dispatch::Fp8, 99.7, 36.0),
    (4, 8, 256, Dispatch::Fp8, 27.2, 11.0),
    (4, 1, 288, Dispatch::Fp8, 25.5, 9.5),
    (4, 512, 288, Dispatch::Fp8, 364.0, 110.0),
];

/// What is timed with `ranks` ranks: what has a bar with these or with others, skewed
/// routing, large batches, and ranks of which one has no tokens.
pub(super) fn shapes(ranks: u32) -> Vec<Shape> {
    let plain = |tokens, experts, dispatch, routing| Shape {
        ranks,
        tokens,
        least_tokens: tokens,
        experts,
        dispatch,
        routing,
        peer_us: None,
        bar_us: None,
    };
    let mut shapes: Vec<Shape> = Vec::new();
    for &(of, tokens, experts, dispatch, peer, bar) in &BARS {
        let shape = plain(tokens, experts, dispatch, Routing::Even);
        let has_bar = BARS
            .iter()
            .any(|bar| (bar.0, bar.1, bar.3) == (ranks, tokens, dispatch));
        if of == ranks {
            shapes.push(Shape {
                peer_us: Some(peer),
                bar_us: Some(bar),
                ..shape
            });
        } else if !has_bar && !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    for routing in [Routing::Zipf, Routing::FourHot, Routing::OneRank] {
        shapes.push(plain(128, 288, Dispatch::Fp8, routing));
    }
    shapes.push(plain(512, 288, Dispatch::Bf16, Routing::Even));
    shapes.push(plain(4096, 288, Dispatch::Fp8, Routing::Even));
    if ranks > 1 {
        shapes.extend([512, 4096].map(|tokens| Shape {
            least_tokens: 0,
            ..plain(tokens, 288, Dispatch::Fp8, Routing::Even)
        }));
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_measured_and_skew_too() {
        let all: Vec<Shape> = [2, 4].into_iter().flat_map(shapes).collect();
        let bars = all.iter().filter(|shape| shape.bar_us.is_some());
        assert_eq!(bars.count(), BARS.len());
        for ranks in [2, 3, 4, 8] {
            let shapes = shapes(ranks);
            assert!(shapes.iter().all(|shape| shape.ranks == ranks));
            let of = |shape: &Shape| (shape.tokens, shape.dispatch, shape.routing);
            for (tokens, dispatch) in BARS.map(|bar| (bar.1, bar.3)) {
                let rows = shapes.iter().filter(|s| {
                    of(s) == (tokens, dispatch, Routing::Even) && s.least_tokens == tokens
                });
                assert_eq!(rows.count(), 1, "{ranks} ranks, {tokens} tokens");
            }
            assert!(shapes.iter().any(|shape| shape.least_tokens == 0));
            for routing in Routing::value_variants() {
                assert!(shapes.iter().any(|shape| shape.routing == *routing));
            }
        }
    }
}
