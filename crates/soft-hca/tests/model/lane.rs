//! What one direction's memory and queues must look like.

use std::collections::VecDeque;

use crate::action::{AREA, PAIRS, Span, WORDS, Work};

/// Where things are in a device's data memory.
pub(crate) const SOURCE: usize = 0;
const TARGETS: usize = 64 << 10;
const LANDINGS: usize = TARGETS + PAIRS * AREA;
const WORD_AREAS: usize = LANDINGS + PAIRS * AREA;
const RESULTS: usize = WORD_AREAS + PAIRS * WORDS * 8;
const BUFFERS: usize = 512 << 10;
/// Bytes of a receive buffer, a little more than the longest message.
pub(crate) const BUFFER: usize = 6144;
/// Work requests, and so receive buffers, before everything is waited for.
pub(crate) const DEPTH: usize = 32;

/// What each byte of the source area is.
pub(crate) fn source(at: usize) -> u8 {
    (at * 31 + at / 251) as u8
}

/// A message that the peer receives.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) len: usize,
    pub(crate) immediate: Option<u32>,
    pub(crate) is_write: bool,
    /// Where in the source area it comes from.
    pub(crate) from: usize,
    /// Number of the buffer.
    pub(crate) buffer: u16,
}

/// The model of one direction. Each has its own memory at both ends, so that the order of its own
/// requests decides what is in it.
pub(crate) struct Model {
    pair: usize,
    pub(crate) target: Vec<u8>,
    pub(crate) landing: Vec<u8>,
    pub(crate) words: [u8; WORDS * 8],
    pub(crate) results: [u8; DEPTH * 8],
    /// Indices of signalled WQEs, oldest first.
    pub(crate) completions: VecDeque<u16>,
    pub(crate) messages: VecDeque<Message>,
    /// Messages of this life of the pair, and buffers posted for them.
    pub(crate) sent: u16,
    pub(crate) buffers: u16,
    /// Work requests since everything was waited for.
    pub(crate) posted: usize,
    /// A READ has been posted since: what changes its source has to wait for it.
    pub(crate) reading: bool,
}

impl Model {
    pub(crate) fn new(pair: usize) -> Self {
        Self {
            pair,
            target: vec![0; AREA],
            landing: vec![0; AREA],
            words: [0; WORDS * 8],
            results: [0; DEPTH * 8],
            completions: VecDeque::new(),
            messages: VecDeque::new(),
            sent: 0,
            buffers: 0,
            posted: 0,
            reading: false,
        }
    }

    /// Everything posted has been done.
    pub(crate) fn settled(&mut self) {
        assert!(self.completions.is_empty() && self.messages.is_empty());
        self.posted = 0;
        self.reading = false;
    }

    /// The pair starts over: its queues count from 0.
    pub(crate) fn restart(&mut self) {
        self.sent = 0;
        self.buffers = 0;
    }

    pub(crate) const fn target_at(&self) -> usize {
        TARGETS + self.pair * AREA
    }

    pub(crate) const fn landing_at(&self) -> usize {
        LANDINGS + self.pair * AREA
    }

    /// Where the words are, and a byte of them.
    pub(crate) const fn words_at(&self, at: usize) -> usize {
        WORD_AREAS + self.pair * WORDS * 8 + at
    }

    pub(crate) const fn result_at(&self, slot: usize) -> usize {
        RESULTS + (self.pair * DEPTH + slot) * 8
    }

    pub(crate) const fn buffer_at(&self, number: u16) -> usize {
        BUFFERS + (self.pair * DEPTH + number as usize % DEPTH) * BUFFER
    }

    /// Where in the source area the next work request's data is.
    pub(crate) const fn source_at(&self) -> usize {
        self.posted * 97
    }

    /// Does to the model what the work request that is posted next does.
    pub(crate) fn apply(&mut self, work: &Work) {
        let from = self.source_at();
        match *work {
            Work::Nop => {}
            Work::Write { to, immediate } => {
                self.write(from, to);
                if immediate.is_some() {
                    self.message(to.len, immediate, true, from);
                }
            }
            Work::WriteInline { at } => self.write(from, Span { at, len: 16 }),
            Work::Read {
                from: Span { at, len },
            } => {
                self.landing[at..at + len].copy_from_slice(&self.target[at..at + len]);
                self.reading = true;
            }
            Work::Send { len, immediate } => self.message(len, immediate, false, from),
            Work::FetchAdd { word, add } => {
                self.atomic(word * 8, 8, |found| found.wrapping_add(add));
            }
            Work::CompareSwap { word, right, swap } => {
                self.atomic(word * 8, 8, |found| if right { swap } else { found });
            }
            Work::Masked(masked) => {
                self.atomic(masked.at, masked.bytes(), |found| masked.leaves(found));
            }
        }
        self.posted += 1;
    }

    /// The word of 4 or 8 bytes at `at`.
    pub(crate) fn word(&self, at: usize, bytes: usize) -> u64 {
        let word = &self.words[at..at + bytes];
        match bytes {
            4 => u32::from_ne_bytes(word.try_into().unwrap()).into(),
            _ => u64::from_ne_bytes(word.try_into().unwrap()),
        }
    }

    /// Changes a word; what was there is the result.
    fn atomic(&mut self, at: usize, bytes: usize, leaves: impl FnOnce(u64) -> u64) {
        let left = leaves(self.word(at, bytes));
        let word = &mut self.words[at..at + bytes];
        self.results[self.posted * 8..][..bytes].copy_from_slice(word);
        match bytes {
            4 => word.copy_from_slice(&(left as u32).to_ne_bytes()),
            _ => word.copy_from_slice(&left.to_ne_bytes()),
        }
        self.reading = true;
    }

    fn write(&mut self, from: usize, to: Span) {
        for (i, byte) in self.target[to.at..to.at + to.len].iter_mut().enumerate() {
            *byte = source(from + i);
        }
    }

    fn message(&mut self, len: usize, immediate: Option<u32>, is_write: bool, from: usize) {
        self.messages.push_back(Message {
            len,
            immediate,
            is_write,
            from,
            buffer: self.sent,
        });
        self.sent = self.sent.wrapping_add(1);
    }
}
