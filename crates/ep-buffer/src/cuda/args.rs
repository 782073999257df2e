//! What a kernel is launched with. Turned into the kernels' header; nothing here but
//! plain structs.

/// The kernel sends, and begins the operation.
pub const MODE_SEND: u32 = 1;
/// The kernel receives, and ends the operation.
pub const MODE_RECEIVE: u32 = 2;

/// One `f32` per 128 channels.
pub const SCALE_F32: u32 = 0;
/// Scales rounded up to powers of two, their exponents packed by four.
pub const SCALE_UE8M0: u32 = 1;

/// Threads of a block in the kernels of small batches.
pub const THREADS_SMALL: u32 = 256;
/// The same in a dispatch of a middling batch.
pub const THREADS_DISPATCH: u32 = 384;
/// The same in a combine of a middling batch.
pub const THREADS_COMBINE: u32 = 512;
/// The same in the kernels of large batches.
pub const THREADS_LARGE: u32 = 512;
/// Shared memory of each warp of a dispatch in bf16: meta lines, the image of a segment.
pub const DISPATCH_WARP_BYTES_BF16: u32 = 2560;
/// The same in FP8: the segment's input too.
pub const DISPATCH_WARP_BYTES_FP8: u32 = 6400;
/// Shared memory of each warp of a combine: parts of four rows.
pub const COMBINE_WARP_BYTES: u32 = 8192;

/// How a row is cut into segments of at most four slots of 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Geometry {
    /// Segments of a row.
    pub segments: u32,
    /// Vectors of 16 bytes (bf16) or groups of 128 channels (FP8) of a segment.
    pub unit: u32,
    /// Vectors of a segment, scales included.
    pub vectors: u32,
    /// The same for the last segment.
    pub last_unit: u32,
    /// The same for the last segment.
    pub last_vectors: u32,
    /// Slots of the last segment.
    pub last_slots: u32,
    /// For dividing by `segments`.
    pub magic: u32,
}

/// One row of an expert that belongs to a token.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    /// Row in `recv_x`; negative behind the last one.
    pub row: i32,
    /// The router's weight.
    pub weight: f32,
}

/// Ranks that did not answer: the epoch plus one in which that was, by rank.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Lost {
    /// By rank.
    pub epoch: [u64; 32],
}

/// What a dispatch leaves for its combine and for the host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Handle {
    /// The epoch of the dispatch.
    pub epoch: u64,
    /// Ranks whose tokens have a place in `recv_x`, one bit each.
    pub present: u32,
    /// The largest number of tokens of one of them.
    pub most_tokens: u32,
    /// Ranks that were present and did not deliver everything, or were never there.
    pub lost: Lost,
}

/// What a combine leaves for the host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Report {
    /// The epoch of the combine.
    pub epoch: u64,
    /// Ranks that took part at its beginning, one bit each.
    pub active: u32,
    /// Low bits of the epoch plus one in which sums were last made anew.
    pub fixed_by: u32,
    /// Ranks that did not deliver everything.
    pub lost: Lost,
}

/// Everything that a kernel needs to know. Addresses are those of the device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Args {
    /// Rank r's buffer is at `windows + r * stride`.
    pub windows: u64,
    /// See `windows`.
    pub stride: u64,
    /// The device table.
    pub table: u64,
    /// Even epochs use the first half of a buffer, odd ones the second.
    pub half_bytes: u64,
    /// Offsets in a half.
    pub counts_at: u64,
    /// One word from each rank, to be heard in every combine.
    pub hello_at: u64,
    /// Meta lines, `[capacity][max_tokens][meta_lines]`.
    pub meta_at: u64,
    /// Rows as lines, `[capacity][max_tokens]`.
    pub rows_at: u64,

    /// Tokens, `[tokens][hidden]`.
    pub x: u64,
    /// Experts, `[tokens][top_k]`, -1 for none.
    pub topk_idx: u64,
    /// Weights, `[tokens][top_k]`.
    pub topk_weights: u64,
    /// Packed rows, `[local_experts][capacity * max_tokens][hidden]`.
    pub recv_x: u64,
    /// Scales of FP8 rows, `[local_experts][hidden / 128][capacity * max_tokens]`.
    pub recv_scales: u64,
    /// Rows of each local expert.
    pub recv_count: u64,
    /// Index at its source of each row's token.
    pub src_info: u64,
    /// `(count << 32 | begin)`, `[local_experts][capacity]`.
    pub layout_range: u64,
    /// What the experts made, in the shape of `recv_x`, bf16.
    pub y: u64,
    /// Weighted sums, `[tokens][hidden]`.
    pub out: u64,
    /// One bit for each choice that is not in a token's sum, `[tokens]`.
    pub missing: u64,
    /// A `Report`.
    pub report: u64,
    /// A `Handle`.
    pub handle: u64,
    /// Entries of received tokens, `[capacity][max_tokens][max_top_k]`.
    pub handle_entries: u64,
    /// Owner of each choice of own tokens, `[max_tokens][max_top_k]` bytes, 255 for none.
    pub handle_owners: u64,
    /// Ranks that each own token went to, one bit each, `[max_tokens]`.
    pub handle_sent: u64,

    /// Rows that each local expert has had in all, `[local_experts]` words.
    pub expert_tokens: u64,

    /// Ranks that the group can hold.
    pub capacity: u32,
    /// This rank.
    pub me: u32,
    /// This life of it.
    pub incarnation: u32,
    /// `MODE_SEND`, `MODE_RECEIVE` or both.
    pub mode: u32,
    /// Tokens of this rank in this operation.
    pub tokens: u32,
    /// Choices of a token in this operation.
    pub top_k: u32,
    /// Bytes of an element of `topk_idx`, as a power of two: 2 or 3.
    pub index_shift: u32,
    /// `SCALE_F32` or `SCALE_UE8M0`.
    pub scale_format: u32,
    /// Elements of a row.
    pub hidden: u32,
    /// Bytes that a row takes as lines.
    pub row_bytes: u32,
    /// Tokens that a rank may bring.
    pub max_tokens: u32,
    /// Choices that a token may have.
    pub max_top_k: u32,
    /// Lines of 128 bytes that a token's meta data takes.
    pub meta_lines: u32,
    /// Words of counts from each rank.
    pub count_words: u32,
    /// Experts of the group.
    pub experts: u32,
    /// Experts of a rank; the first `extra_experts` ranks have one more.
    pub base_experts: u32,
    /// See `base_experts`.
    pub extra_experts: u32,
    /// Experts of this rank.
    pub local_experts: u32,
    /// Experts of the rank with the most.
    pub max_local_experts: u32,
    /// Blocks that send, in a dispatch or in the combine of a large batch, if it both sends and
    /// receives. All in one that only sends; none in a combine that only receives.
    pub senders: u32,
    /// For dividing by `capacity`.
    pub magic_capacity: u32,
    /// For dividing by `capacity - 1`.
    pub magic_others: u32,
    /// For dividing by `senders`.
    pub magic_senders: u32,
    /// For dividing by `top_k`.
    pub magic_top_k: u32,
    /// For dividing by `count_words`.
    pub magic_count_words: u32,
    /// For dividing by `base_experts + 1`.
    pub magic_long_run: u32,
    /// For dividing by `base_experts`.
    pub magic_short_run: u32,
    /// Rows of a dispatch.
    pub dispatch: Geometry,
    /// Rows of a combine.
    pub combine: Geometry,
}
