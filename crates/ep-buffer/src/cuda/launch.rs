//! From checked arguments to a kernel on a stream.

use super::args::{
    Args, COMBINE_WARP_BYTES, DISPATCH_WARP_BYTES_BF16, DISPATCH_WARP_BYTES_FP8, MODE_RECEIVE,
    MODE_SEND, SCALE_F32, SCALE_UE8M0,
};
use super::buffer::EpBuffer;
use super::fabric::DeviceFabric;
use super::kernels::{Kernel, Launch, MAX_SHARED_BYTES};
use super::layout::{Layout, magic};
use super::limits::Limits;
use super::settings::{DispatchType, ScaleFormat};
use super::tensor::{CombineTensors, DispatchHandle, DispatchTensors, Stream, Tensor, Tokens};
use crate::config::Config;
use crate::error::EpError;

impl<F: DeviceFabric> EpBuffer<F> {
    pub(super) fn dispatch_args(
        &self,
        tokens: &Tokens,
        handle: &DispatchHandle,
        out: &DispatchTensors,
    ) -> Result<Args, EpError> {
        let limits = Limits { rank: self.rank() };
        self.check_batch(tokens.tokens, tokens.top_k, handle)?;
        let choices = u64::from(tokens.tokens) * u64::from(tokens.top_k);
        let index_bytes = tokens.index_type.bytes();
        let row = u64::from(self.config.hidden()) * 2;
        for (what, tensor, bytes) in [
            ("x", tokens.x, u64::from(tokens.tokens) * row),
            (
                "topk_idx",
                tokens.topk_idx,
                choices * u64::from(index_bytes),
            ),
            ("topk_weights", tokens.topk_weights, choices * 4),
            ("recv_x", out.recv_x, self.sizes.recv_x),
            ("recv_scales", out.recv_scales, self.sizes.recv_scales),
            ("recv_count", out.recv_count, self.sizes.recv_count),
            ("src_info", out.src_info, self.sizes.src_info),
            ("layout_range", out.layout_range, self.sizes.layout_range),
        ] {
            limits.tensor(what, tensor, bytes)?;
        }
        Ok(Args {
            x: tokens.x.address,
            topk_idx: tokens.topk_idx.address,
            topk_weights: tokens.topk_weights.address,
            recv_x: out.recv_x.address,
            recv_scales: out.recv_scales.address,
            recv_count: out.recv_count.address,
            src_info: out.src_info.address,
            layout_range: out.layout_range.address,
            index_shift: index_bytes.trailing_zeros(),
            ..self.batch_args(tokens.tokens, tokens.top_k, handle)
        })
    }

    pub(super) fn combine_args(
        &self,
        tokens: u32,
        top_k: u32,
        handle: &DispatchHandle,
        y: Tensor,
        out: &CombineTensors,
    ) -> Result<Args, EpError> {
        let limits = Limits { rank: self.rank() };
        self.check_batch(tokens, top_k, handle)?;
        let row = u64::from(self.config.hidden()) * 2;
        limits.tensor("y", y, self.sizes.expert_output)?;
        limits.tensor("x", out.x, u64::from(tokens) * row)?;
        limits.tensor("missing", out.missing, u64::from(tokens) * 4)?;
        Ok(Args {
            y: y.address,
            out: out.x.address,
            missing: out.missing.address,
            ..self.batch_args(tokens, top_k, handle)
        })
    }

    fn check_batch(&self, tokens: u32, top_k: u32, handle: &DispatchHandle) -> Result<(), EpError> {
        let limits = Limits { rank: self.rank() };
        limits.within("the number of tokens", tokens, 0, self.config.max_tokens())?;
        limits.within("top_k", top_k, 1, self.config.max_top_k())?;
        if handle.number != self.number {
            return Err(EpError::Foreign {
                rank: self.rank(),
                what: "handle",
            });
        }
        Ok(())
    }

    fn batch_args(&self, tokens: u32, top_k: u32, handle: &DispatchHandle) -> Args {
        let [words, entries, owners, sent] = handle.addresses();
        Args {
            tokens,
            top_k,
            magic_top_k: magic(top_k),
            handle: words,
            handle_entries: entries,
            handle_owners: owners,
            handle_sent: sent,
            ..self.base
        }
    }

    /// The kernel for a batch of so many tokens, and the bytes of shared memory of its blocks: the
    /// kernel of large ones only where they have room for that.
    pub(super) fn dispatch_kernel(&self, tokens: u32, senders: u32) -> (Kernel, u32) {
        let fp8 = matches!(self.config.dispatch_type(), DispatchType::Fp8(_));
        let bytes = |threads| dispatch_shared(&self.config, &self.layout, tokens, senders, threads);
        let fits = |threads| bytes(threads) <= MAX_SHARED_BYTES;
        let kernel = self.kernels.dispatch(fp8, tokens, fits);
        (kernel, bytes(kernel.threads))
    }

    pub(super) fn plain(&self, stream: Stream) -> Launch {
        Launch {
            blocks: self.resources.sms,
            shared_bytes: 0,
            early: false,
            stream: stream.0,
        }
    }

    /// # Safety
    /// Those of the operation.
    pub(super) unsafe fn launch_dispatch(
        &self,
        stream: Stream,
        mut args: Args,
        mode: u32,
    ) -> Result<(), EpError> {
        args.mode = mode;
        args.senders = match mode {
            MODE_SEND => self.resources.sms,
            _ => self.resources.senders,
        };
        let (kernel, shared_bytes) = self.dispatch_kernel(args.tokens, args.senders);
        args.magic_senders = magic(args.senders);
        let launch = Launch {
            shared_bytes,
            early: self.resources.early,
            ..self.plain(stream)
        };
        // SAFETY: passed on to our caller; sizes were checked.
        self.cuda(unsafe { self.kernels.launch(kernel, launch, &args, 0) })
    }

    /// # Safety
    /// Those of the operation.
    pub(super) unsafe fn launch_combine(
        &self,
        stream: Stream,
        mut args: Args,
        mode: u32,
    ) -> Result<(), EpError> {
        let kernel = self.kernels.combine(args.tokens);
        args.mode = mode;
        args.senders = match mode {
            MODE_SEND => self.resources.sms,
            MODE_RECEIVE => 0,
            _ => returning_blocks(self.config.capacity(), self.resources.sms),
        };
        let launch = Launch {
            shared_bytes: kernel.threads / 32 * COMBINE_WARP_BYTES,
            early: self.resources.early,
            ..self.plain(stream)
        };
        // SAFETY: passed on to our caller; sizes were checked.
        self.cuda(unsafe { self.kernels.launch(kernel, launch, &args, 0) })
    }
}

/// How many blocks of a combine of a large batch return sums to other ranks. With two ranks those
/// sums are a smaller part of the work than with more. There are more blocks than ranks.
fn returning_blocks(capacity: u32, sms: u32) -> u32 {
    match capacity {
        0 | 1 => 0,
        2 => sms * 2 / 5,
        _ => sms / 2,
    }
}

/// Bytes of shared memory of a block of a dispatch.
pub(super) fn dispatch_shared(
    config: &Config,
    layout: &Layout,
    tokens: u32,
    senders: u32,
    threads: u32,
) -> u32 {
    let scratch = match config.dispatch_type() {
        DispatchType::Bf16 => DISPATCH_WARP_BYTES_BF16,
        DispatchType::Fp8(_) => DISPATCH_WARP_BYTES_FP8,
    };
    let own = tokens.div_ceil(senders) + 1;
    let sending = own * (layout.meta_lines * 32 + config.max_top_k() + 1)
        + config.experts()
        + layout.count_words
        + 1;
    let receiving = (config.capacity() + 1) * layout.count_words;
    threads / 32 * scratch + 4 * sending.max(receiving) + 256
}

pub(super) fn base_args<F: DeviceFabric>(config: &Config, layout: &Layout, fabric: &F) -> Args {
    let (capacity, experts) = (config.capacity(), config.experts());
    let base_experts = experts / capacity;
    let windows = fabric.windows();
    Args {
        windows: windows.base(),
        stride: windows.stride(),
        table: fabric.table_address(),
        half_bytes: layout.half_bytes,
        counts_at: layout.counts_at,
        hello_at: layout.hello_at,
        meta_at: layout.meta_at,
        rows_at: layout.rows_at,
        capacity,
        me: fabric.rank().0,
        incarnation: fabric.incarnation().0,
        scale_format: match config.dispatch_type() {
            DispatchType::Fp8(ScaleFormat::Ue8m0) => SCALE_UE8M0,
            _ => SCALE_F32,
        },
        hidden: config.hidden(),
        row_bytes: layout.row_bytes,
        max_tokens: config.max_tokens(),
        max_top_k: config.max_top_k(),
        meta_lines: layout.meta_lines,
        count_words: layout.count_words,
        experts,
        base_experts,
        extra_experts: experts % capacity,
        local_experts: config.placement().local_experts(fabric.rank()),
        max_local_experts: layout.max_local_experts,
        magic_capacity: magic(capacity),
        magic_others: magic(capacity - 1),
        magic_count_words: magic(layout.count_words),
        magic_long_run: magic(base_experts + 1),
        magic_short_run: magic(base_experts),
        dispatch: layout.dispatch,
        combine: layout.combine,
        ..Args::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::ScaleFormat;
    use crate::cuda::args::{THREADS_DISPATCH, THREADS_LARGE};

    /// The batches with which `tests/cuda` tries the middling kernel in the large one's place.
    #[test]
    fn a_large_batch_of_few_senders_has_room_in_the_middling_kernel_only() {
        for ranks in [1, 2, 3, 4, 8] {
            for (tokens, dispatch) in [
                (12_000, DispatchType::Bf16),
                (8_400, DispatchType::Fp8(ScaleFormat::F32)),
            ] {
                let config = Config::builder(ranks, 16, 128, tokens);
                let config = config.max_top_k(8).dispatch_type(dispatch).build().unwrap();
                let layout = Layout::new(&config);
                let bytes = |threads| dispatch_shared(&config, &layout, tokens, 12, threads);
                assert!(bytes(THREADS_DISPATCH) <= MAX_SHARED_BYTES);
                assert!(bytes(THREADS_LARGE) > MAX_SHARED_BYTES);
            }
        }
    }
}
