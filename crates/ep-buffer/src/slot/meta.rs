//! The meta data of a dispatch slot: written, parsed, checked.

use super::{EntryMeta, Expect, SlotError, SlotHeader, TokenMeta, limit, meta_stride};
use crate::config::MAX_TOP_K;
use ep_transport::Rank;

/// An entry that arrived, with the row of its expert's block that it got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) expert: u32,
    pub(crate) weight: f32,
    pub(crate) row: u32,
}

/// What one source sent in a dispatch, parsed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Token indices at the source, ascending.
    pub(crate) tokens: Vec<u32>,
    /// Where each token's entries end in `entries`.
    pub(crate) ends: Vec<u32>,
    pub(crate) entries: Vec<Entry>,
}

impl Received {
    pub(crate) fn with_capacity(tokens: usize, top_k: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(tokens),
            ends: Vec::with_capacity(tokens),
            entries: Vec::with_capacity(tokens * top_k),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.ends.clear();
        self.entries.clear();
    }

    fn range_of(&self, position: usize) -> std::ops::Range<usize> {
        let begin = match position {
            0 => 0,
            _ => self.ends[position - 1] as usize,
        };
        begin..self.ends[position] as usize
    }

    /// The entries of the token at `position`.
    pub(crate) fn entries_of(&self, position: usize) -> &[Entry] {
        &self.entries[self.range_of(position)]
    }

    /// The entries of the token at `position`, to assign rows to them.
    pub(crate) fn entries_of_mut(&mut self, position: usize) -> &mut [Entry] {
        let range = self.range_of(position);
        &mut self.entries[range]
    }

    /// Parses the meta data of a checked dispatch header. Rows are not assigned yet.
    ///
    /// # Errors
    /// The first thing that is wrong; `self` is then empty.
    pub(crate) fn parse(
        &mut self,
        header: &SlotHeader,
        meta: &[u8],
        expect: &Expect,
    ) -> Result<(), SlotError> {
        self.clear();
        let result = self.parse_tokens(header, meta, expect);
        if result.is_err() {
            self.clear();
        }
        result
    }

    fn parse_tokens(
        &mut self,
        header: &SlotHeader,
        meta: &[u8],
        expect: &Expect,
    ) -> Result<(), SlotError> {
        let stride = meta_stride(header.top_k) as usize;
        let mut last_token = None;
        for (position, bytes) in meta.chunks_exact(stride).enumerate() {
            let (head, entries) = bytes.split_at(size_of::<TokenMeta>());
            let head: TokenMeta = bytemuck::pod_read_unaligned(head);
            limit("token index", head.token, expect.max_tokens - 1)?;
            limit("entries of a token", head.entries, header.top_k)?;
            if last_token.is_some_and(|last| head.token <= last) {
                return Err(SlotError::Order {
                    what: "tokens",
                    position: position as u64,
                });
            }
            last_token = Some(head.token);
            let mut last_entry = None;
            for bytes in entries
                .chunks_exact(size_of::<EntryMeta>())
                .take(head.entries as usize)
            {
                let entry: EntryMeta = bytemuck::pod_read_unaligned(bytes);
                if entry.expert >= expect.local_experts {
                    return Err(SlotError::Limit {
                        field: "number of local experts needed",
                        value: u64::from(entry.expert) + 1,
                        limit: expect.local_experts.into(),
                    });
                }
                limit("k", entry.k, header.top_k - 1)?;
                if last_entry.is_some_and(|last| (entry.expert, entry.k) <= last) {
                    return Err(SlotError::Order {
                        what: "entries",
                        position: self.entries.len() as u64,
                    });
                }
                last_entry = Some((entry.expert, entry.k));
                self.entries.push(Entry {
                    expert: entry.expert,
                    weight: entry.weight,
                    row: 0,
                });
            }
            self.tokens.push(head.token);
            self.ends.push(self.entries.len() as u32);
        }
        Ok(())
    }
}

/// A token's entries at one destination, collected without allocating.
#[derive(Debug)]
pub(crate) struct TokenEntries {
    head: TokenMeta,
    entries: [EntryMeta; MAX_TOP_K as usize],
}

impl TokenEntries {
    /// Collects what `owner` owns of a token's choices. `owners` has the owner of
    /// each choice, `first` is the first expert of `owner`.
    pub(crate) fn collect(
        token: u32,
        owner: Rank,
        first: u32,
        owners: &[Rank],
        topk_idx: &[i32],
        topk_weights: &[f32],
    ) -> Self {
        let mut it = Self {
            head: TokenMeta { token, entries: 0 },
            entries: [EntryMeta::default(); MAX_TOP_K as usize],
        };
        let mut used = 0;
        for (k, ((&owns, &expert), &weight)) in
            owners.iter().zip(topk_idx).zip(topk_weights).enumerate()
        {
            if owns == owner {
                it.entries[used] = EntryMeta {
                    expert: expert.cast_unsigned() - first,
                    k: k as u32,
                    weight,
                };
                used += 1;
            }
        }
        it.entries[..used].sort_unstable_by_key(|entry| (entry.expert, entry.k));
        it.head.entries = used as u32;
        it
    }

    pub(crate) fn head(&self) -> &[u8] {
        bytemuck::bytes_of(&self.head)
    }

    /// The bytes of all `top_k` entries, unused ones zero.
    pub(crate) fn entries(&self, top_k: usize) -> &[u8] {
        bytemuck::cast_slice(&self.entries[..top_k])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{expect, header};
    use super::*;
    use proptest::prelude::*;

    /// A token's index, and the (expert, k) of its entries.
    type Token<'a> = (u32, &'a [(u32, u32)]);

    fn meta(tokens: &[Token<'_>], top_k: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (token, entries) in tokens {
            let head = TokenMeta {
                token: *token,
                entries: entries.len() as u32,
            };
            bytes.extend_from_slice(bytemuck::bytes_of(&head));
            for i in 0..top_k {
                let (expert, k) = entries.get(i).copied().unwrap_or_default();
                let weight = 0.5;
                let entry = EntryMeta { expert, k, weight };
                bytes.extend_from_slice(bytemuck::bytes_of(&entry));
            }
        }
        bytes
    }

    #[test]
    fn what_was_collected_is_parsed_in_order() {
        let owners = [Rank(1), Rank(0), Rank(1), Rank(1)];
        let token =
            TokenEntries::collect(3, Rank(1), 2, &owners, &[3, 0, 2, 3], &[0.1, 0.2, 0.3, 0.4]);
        let bytes = [token.head(), token.entries(4)].concat();
        let limits = Expect {
            max_top_k: 4,
            ..expect()
        };
        let mut received = Received::default();
        received.parse(&header(1, 4), &bytes, &limits).unwrap();
        assert_eq!(received.tokens, [3]);
        let seen: Vec<_> = received
            .entries
            .iter()
            .map(|e| (e.expert, e.weight))
            .collect();
        assert_eq!(seen, [(0, 0.3), (1, 0.1), (1, 0.4)]);
        assert_eq!(received.entries_of(0).len(), 3);
    }

    #[test]
    fn hostile_meta_data_is_refused() {
        let cases: [(&[Token<'_>], &str); 6] = [
            (&[(4, &[])], "token index is 4, the limit is 3"),
            (&[(1, &[(0, 0)]), (1, &[(0, 0)])], "tokens are not in"),
            (&[(1, &[(2, 0)])], "experts needed is 3, the limit is 2"),
            (
                &[(1, &[(u32::MAX, 0)])],
                "local experts needed is 4294967296",
            ),
            (&[(1, &[(0, 2)])], "k is 2, the limit is 1"),
            (&[(1, &[(1, 0), (1, 0)])], "entries are not in"),
        ];
        for (tokens, words) in cases {
            let bytes = meta(tokens, 2);
            let mut received = Received::default();
            let error = received
                .parse(&header(tokens.len() as u32, 2), &bytes, &expect())
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{error}");
            assert!(received.tokens.is_empty() && received.entries.is_empty());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_leave_the_limits(
            top_k in 0u32..=3,
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200),
        ) {
            let mut received = Received::default();
            if received.parse(&header(4, top_k), &bytes, &expect()).is_ok() {
                prop_assert!(received.entries.iter().all(|e| e.expert < 2));
                prop_assert!(received.tokens.iter().all(|t| *t < 4));
            }
        }
    }
}
