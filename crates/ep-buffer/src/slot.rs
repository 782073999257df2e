//! What one rank sends another in one operation: the bytes of a slot.
//!
//! ```text
//! dispatch:  header | per token: TokenMeta, then top_k x EntryMeta | pad | rows
//! combine:   header | partial sums, bf16, in the order of the tokens of the dispatch
//! ```
//!
//! A row of a dispatch is its elements in bf16, or in E4M3 and behind them its scales: one `f32`
//! for each 128 channels, or one byte each (UE8M0), padded to a multiple of four.
//!
//! A token is there once per destination rank, with one entry for each of its top-k
//! choices that this rank owns. Tokens are in ascending order, entries in ascending
//! order of (local expert, k). Numbers are in the byte order of the machine, which
//! is little-endian wherever mlx5 devices and GPUs are.
//!
//! A slot is hostile until parsed: another process wrote it. Elements, scales and weights may be
//! anything: they end up in the rows and the sum of their token and nowhere else.

mod meta;

use crate::config::Config;
use crate::layout::align;
use crate::rows::DispatchType;
use bytemuck::{Pod, Zeroable};
use ep_transport::{Epoch, Incarnation};

pub(crate) use meta::{Received, TokenEntries};

const MAGIC: u32 = 0x6265_7031;
/// [`SlotHeader::kind`] of a dispatch.
pub const DISPATCH: u32 = 1;
/// [`SlotHeader::kind`] of a combine.
pub const COMBINE: u32 = 2;
/// [`SlotHeader::dispatch_epoch`] of a combine message from a rank that has no
/// tokens of the receiver, so brings no partial sums.
pub const NO_DISPATCH: u64 = u64::MAX;

/// The first 64 bytes of a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SlotHeader {
    magic: u32,
    /// [`DISPATCH`] or [`COMBINE`].
    pub kind: u32,
    /// The operation.
    pub epoch: u64,
    /// For a combine, the dispatch that it answers, or [`NO_DISPATCH`].
    pub dispatch_epoch: u64,
    /// Rows in this slot.
    pub tokens: u32,
    /// Entries that each token's meta data has room for; 0 in a combine.
    pub top_k: u32,
    /// Elements of a row.
    pub hidden: u32,
    /// The sender's incarnation.
    pub incarnation: u32,
    /// What rows are: 0 for bf16, 1 for FP8 with `f32` scales, 2 for FP8 with UE8M0 scales.
    pub rows: u32,
    reserved: [u32; 5],
}

/// Bytes of a [`SlotHeader`].
pub const HEADER_BYTES: u64 = size_of::<SlotHeader>() as u64;

/// Begins the meta data of a token.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TokenMeta {
    /// The token's index at its source.
    pub token: u32,
    /// How many of the entries that follow are used.
    pub entries: u32,
}

/// One choice of a token.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct EntryMeta {
    /// Index of the expert among those of the destination rank.
    pub expert: u32,
    /// Which of the token's top-k choices this is.
    pub k: u32,
    /// The router's weight.
    pub weight: f32,
}

/// Why the content of a slot was refused. The sender is masked for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// A header field that can have only one value.
    #[error("header field {field} is {value}, expected {expected}")]
    Header {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it must hold.
        expected: u64,
    },
    /// A number beyond its limit.
    #[error("{field} is {value}, the limit is {limit}")]
    Limit {
        /// The number.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The greatest value allowed.
        limit: u64,
    },
    /// Tokens, or entries of a token, that are not in strictly ascending order.
    #[error("{what} are not in ascending order at position {position}")]
    Order {
        /// What is out of order.
        what: &'static str,
        /// Where it was noticed.
        position: u64,
    },
}

/// What a receiver knows about a slot before it looks inside.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// [`DISPATCH`] or [`COMBINE`].
    pub kind: u32,
    /// The operation.
    pub epoch: Epoch,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// Elements of a row.
    pub hidden: u32,
    /// What rows are.
    pub rows: DispatchType,
    /// Limit of [`SlotHeader::tokens`].
    pub max_tokens: u32,
    /// Limit of [`SlotHeader::top_k`].
    pub max_top_k: u32,
    /// Experts of the receiver.
    pub local_experts: u32,
}

impl SlotHeader {
    /// The header of a dispatch of `tokens` rows of `hidden` elements, which are `rows`.
    #[must_use]
    pub fn dispatch(
        epoch: Epoch,
        incarnation: Incarnation,
        tokens: u32,
        top_k: u32,
        (hidden, rows): (u32, DispatchType),
    ) -> Self {
        Self {
            magic: MAGIC,
            kind: DISPATCH,
            epoch: epoch.0,
            dispatch_epoch: epoch.0,
            tokens,
            top_k,
            hidden,
            incarnation: incarnation.0,
            rows: rows.code(),
            reserved: [0; 5],
        }
    }

    /// The header of a combine that answers `dispatch` with `tokens` partial sums;
    /// `None` if there are none to send because that dispatch was not received.
    #[must_use]
    pub fn combine(
        epoch: Epoch,
        incarnation: Incarnation,
        dispatch: Option<Epoch>,
        tokens: u32,
        hidden: u32,
    ) -> Self {
        Self {
            kind: COMBINE,
            dispatch_epoch: dispatch.map_or(NO_DISPATCH, |epoch| epoch.0),
            ..Self::dispatch(epoch, incarnation, tokens, 0, (hidden, DispatchType::Bf16))
        }
    }

    /// Compares with what is expected and checks the limits.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, expect: &Expect) -> Result<(), SlotError> {
        for (field, value, expected) in [
            ("magic", self.magic.into(), u64::from(MAGIC)),
            ("kind", self.kind.into(), expect.kind.into()),
            ("epoch", self.epoch, expect.epoch.0),
            (
                "incarnation",
                self.incarnation.into(),
                expect.incarnation.0.into(),
            ),
            ("hidden", self.hidden.into(), expect.hidden.into()),
            ("rows", self.rows.into(), expect.rows.code().into()),
        ] {
            if value != expected {
                return Err(SlotError::Header {
                    field,
                    value,
                    expected,
                });
            }
        }
        limit("tokens", self.tokens, expect.max_tokens)?;
        limit("top_k", self.top_k, expect.max_top_k)
    }
}

fn limit(field: &'static str, value: u32, limit: u32) -> Result<(), SlotError> {
    if value <= limit {
        return Ok(());
    }
    Err(SlotError::Limit {
        field,
        value: value.into(),
        limit: limit.into(),
    })
}

/// Bytes from one token's meta data to the next.
#[must_use]
pub fn meta_stride(top_k: u32) -> u64 {
    (size_of::<TokenMeta>() + top_k as usize * size_of::<EntryMeta>()) as u64
}

/// Offset in a dispatch slot of the first row.
#[must_use]
pub fn rows_at(tokens: u32, top_k: u32) -> u64 {
    align(HEADER_BYTES + u64::from(tokens) * meta_stride(top_k))
}

/// Bytes of the largest slot: that of a full dispatch, or in FP8, where rows are smaller than
/// partial sums, maybe that of a full combine.
#[must_use]
pub fn max_bytes(config: &Config) -> u64 {
    let tokens = u64::from(config.max_tokens());
    let rows_at = rows_at(config.max_tokens(), config.max_top_k());
    let dispatch = rows_at + tokens * config.dispatch_row_bytes();
    let combine = HEADER_BYTES + tokens * config.sum_bytes();
    align(dispatch.max(combine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn expect() -> Expect {
        Expect {
            kind: DISPATCH,
            epoch: Epoch(5),
            incarnation: Incarnation(2),
            hidden: 64,
            rows: DispatchType::Bf16,
            max_tokens: 4,
            max_top_k: 3,
            local_experts: 2,
        }
    }

    pub(super) fn header(tokens: u32, top_k: u32) -> SlotHeader {
        SlotHeader::dispatch(
            Epoch(5),
            Incarnation(2),
            tokens,
            top_k,
            (64, DispatchType::Bf16),
        )
    }

    #[test]
    fn sizes_are_what_a_kernel_relies_on() {
        assert_eq!(HEADER_BYTES, 64);
        assert_eq!(meta_stride(8), 104);
        assert_eq!(rows_at(0, 8), 64);
        assert_eq!(rows_at(3, 8), 384);
    }

    #[test]
    fn wrong_headers_are_named() {
        let cases = [
            (
                SlotHeader {
                    magic: 0,
                    ..header(1, 1)
                },
                "magic",
            ),
            (
                SlotHeader {
                    kind: COMBINE,
                    ..header(1, 1)
                },
                "kind",
            ),
            (
                SlotHeader {
                    epoch: 3,
                    ..header(1, 1)
                },
                "epoch",
            ),
            (
                SlotHeader {
                    incarnation: 1,
                    ..header(1, 1)
                },
                "incarnation",
            ),
            (
                SlotHeader {
                    hidden: 8,
                    ..header(1, 1)
                },
                "hidden",
            ),
            (
                SlotHeader {
                    rows: 1,
                    ..header(1, 1)
                },
                "rows is 1, expected 0",
            ),
            (header(5, 1), "tokens is 5, the limit is 4"),
            (header(1, 4), "top_k is 4, the limit is 3"),
        ];
        for (header, words) in cases {
            let error = header.check(&expect()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        header(4, 3).check(&expect()).unwrap();
    }

    proptest! {
        #[test]
        fn no_random_header_passes(head in proptest::array::uniform16(any::<u32>())) {
            let wild: SlotHeader = bytemuck::cast(head);
            prop_assert!(wild.check(&expect()).is_err());
        }
    }
}
