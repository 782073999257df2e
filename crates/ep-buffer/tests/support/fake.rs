//! A peer whose bytes are written by hand: messages are put into a rank's region
//! before its operation begins, so what it finds there is known to the byte.

use ep_buffer::signal::Signal;
use ep_buffer::slot::{EntryMeta, SlotHeader, TokenMeta, meta_stride, rows_at};
use ep_buffer::testing::{Cluster, Network};
use ep_buffer::{Config, DispatchType, EpBuffer, Layout, ScaleFormat, fp8};
use ep_transport::{Control, Epoch, Incarnation, Rank, Region};
use half::bf16;
use std::sync::Arc;

use super::Buffer;

pub(crate) const ME: Rank = Rank(0);
pub(crate) const PEER: Rank = Rank(1);
pub(crate) const LIFE: Incarnation = Incarnation(2);

/// Rank 0 with a buffer, and what a rank 1 would have of it.
pub(crate) struct Fake {
    pub(crate) cluster: Cluster,
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) region: Arc<Region>,
    pub(crate) control: Arc<Control>,
}

/// A token's index, and the (local expert, k) of its entries.
pub(crate) type Token<'a> = (u32, &'a [(u32, u32)]);

impl Fake {
    /// The peer takes part from epoch 0 on, in its second life.
    pub(crate) fn new(config: &Config) -> (Self, Buffer) {
        let cluster = Cluster::new(config, Network::default()).unwrap();
        let control = cluster.control(ME).unwrap();
        control.admit(PEER, LIFE, Epoch(0));
        let buffer = EpBuffer::new(config.clone(), cluster.fabric(ME).unwrap()).unwrap();
        let fake = Self {
            config: config.clone(),
            layout: Layout::new(config),
            region: cluster.region(ME).unwrap(),
            control,
            cluster,
        };
        (fake, buffer)
    }

    pub(crate) fn signal(&self, at: Epoch, epoch: Epoch, life: Incarnation) {
        for lane in 0..self.config.lanes() {
            let to = self.layout.signal(at.half(), PEER, lane);
            let word = Signal::new(epoch, life).word();
            self.region.store_release(to, word).unwrap();
        }
    }

    pub(crate) fn write(&self, epoch: Epoch, bytes: &[u8]) {
        let to = self.layout.receive(epoch.half(), PEER);
        self.region.write(to, bytes).unwrap();
    }

    /// A dispatch slot as a well-behaved peer would write it, but for padding that is not
    /// zero; rows hold `value`.
    pub(crate) fn dispatch(&self, epoch: Epoch, tokens: &[Token<'_>], value: f32) -> Vec<u8> {
        let (hidden, top_k) = (self.config.hidden(), self.config.max_top_k());
        let count = tokens.len() as u32;
        let rows = self.config.dispatch_type();
        let header = SlotHeader::dispatch(epoch, LIFE, count, top_k, (hidden, rows));
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        for (token, entries) in tokens {
            let next = bytes.len() + meta_stride(top_k) as usize;
            let head = TokenMeta {
                token: *token,
                entries: entries.len() as u32,
            };
            bytes.extend_from_slice(bytemuck::bytes_of(&head));
            for (expert, k) in *entries {
                let entry = EntryMeta {
                    expert: *expert,
                    k: *k,
                    weight: 0.5,
                };
                bytes.extend_from_slice(bytemuck::bytes_of(&entry));
            }
            bytes.resize(next, 0);
        }
        bytes.resize(rows_at(count, top_k) as usize, 0);
        for _ in tokens {
            bytes.extend(dispatched(rows, value, hidden));
        }
        bytes
    }

    /// A combine slot with `tokens` partial sums of `value`.
    pub(crate) fn combine(
        &self,
        epoch: Epoch,
        dispatch: Option<Epoch>,
        tokens: u32,
        value: f32,
    ) -> Vec<u8> {
        let hidden = self.config.hidden();
        let header = SlotHeader::combine(epoch, LIFE, dispatch, tokens, hidden);
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.extend(row(value, tokens * hidden));
        bytes
    }
}

/// A row as it travels in a dispatch.
fn dispatched(rows: DispatchType, value: f32, hidden: u32) -> Vec<u8> {
    let DispatchType::Fp8(format) = rows else {
        return row(value, hidden);
    };
    let (scale, group) = fp8::quantize_group(&[bf16::from_f32(value); fp8::GROUP], format);
    let groups = hidden as usize / fp8::GROUP;
    let mut bytes = group.repeat(groups);
    match format {
        ScaleFormat::F32 => bytes.extend(scale.to_le_bytes().repeat(groups)),
        ScaleFormat::Ue8m0 => {
            bytes.extend([fp8::to_ue8m0(scale)].repeat(groups));
            let words = groups.next_multiple_of(4);
            bytes.resize(hidden as usize + words, 0xa5);
        }
    }
    bytes
}

fn row(value: f32, elements: u32) -> Vec<u8> {
    let values = vec![bf16::from_f32(value); elements as usize];
    bytemuck::cast_slice(&values).to_vec()
}
