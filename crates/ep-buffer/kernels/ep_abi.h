// Made by `cargo xtask kernel-header` from ep-transport's cuda/table.rs and ep-buffer's
// cuda/args.rs; do not edit.
// SPDX-License-Identifier: MIT OR Apache-2.0

#pragma once

#include <cstdint>

/// The most ranks that a table holds.
constexpr static const uintptr_t EP_MAX_RANKS = 32;

/// In words that name an epoch or an operation: none.
constexpr static const uint64_t EP_NEVER = UINT64_MAX;

/// What the thread blocks of one operation add to `begun` and to `ended` together. Of a
/// grid of `G`, block 0 adds this less `G - 1`, the others add 1.
constexpr static const uint64_t EP_OPERATION = 65536;

/// In the low two bits of a verdict, above which the operation is: the rank is there.
constexpr static const uint64_t EP_PRESENT = 1;

/// The same: the rank is not there.
constexpr static const uint64_t EP_ABSENT = 2;

/// The kernel sends, and begins the operation.
constexpr static const uint32_t EP_MODE_SEND = 1;

/// The kernel receives, and ends the operation.
constexpr static const uint32_t EP_MODE_RECEIVE = 2;

/// One `f32` per 128 channels.
constexpr static const uint32_t EP_SCALE_F32 = 0;

/// Scales rounded up to powers of two, their exponents packed by four.
constexpr static const uint32_t EP_SCALE_UE8M0 = 1;

/// Threads of a block in the kernels of small batches.
constexpr static const uint32_t EP_THREADS_SMALL = 256;

/// The same in a dispatch of a middling batch.
constexpr static const uint32_t EP_THREADS_DISPATCH = 384;

/// The same in a combine of a middling batch.
constexpr static const uint32_t EP_THREADS_COMBINE = 512;

/// The same in the kernels of large batches.
constexpr static const uint32_t EP_THREADS_LARGE = 512;

/// Shared memory of each warp of a dispatch in bf16: meta lines, the image of a segment.
constexpr static const uint32_t EP_DISPATCH_WARP_BYTES_BF16 = 2560;

/// The same in FP8: the segment's input too.
constexpr static const uint32_t EP_DISPATCH_WARP_BYTES_FP8 = 6400;

/// Shared memory of each warp of a combine: parts of four rows.
constexpr static const uint32_t EP_COMBINE_WARP_BYTES = 8192;

/// What holds for all ranks: one line of 128 bytes, written by the host.
struct EpHead {
  /// No operation at or beyond this epoch goes on.
  uint64_t run_limit;
  /// The first operation whose epoch is counted from `base_after`.
  uint64_t switch_op;
  /// Epoch less operation, before the switch.
  uint64_t base_before;
  /// Epoch less operation, from the switch on.
  uint64_t base_after;
  /// The first operation in which the rows count.
  uint64_t attached_op;
  /// How long a kernel waits for a peer, by `globaltimer`.
  uint64_t time_out_ns;
  /// How long it waits for `run_limit` to change.
  uint64_t decision_time_out_ns;
  /// This rank's incarnation, which its signals carry.
  uint32_t own_incarnation;
  /// Ranks that there can be.
  uint32_t capacity;
  /// Nothing yet.
  uint64_t reserved[8];
};

/// A word with a line of its own, written by kernels.
struct EpCounter {
  /// The word.
  uint64_t count;
  /// In `ended`: when the last operation ended, by `globaltimer`.
  uint64_t at_ns;
  /// To the end of the line.
  uint64_t line[14];
};

/// When a rank takes part.
struct EpRow {
  /// First epoch in which it does.
  uint64_t active_from;
  /// First epoch in which it does not any more; also written by kernels.
  uint64_t active_until;
  /// In which life.
  uint32_t incarnation;
  /// Not 0: it is dead, or seems so. Nobody stores into its memory any more, and nobody
  /// waits for it.
  uint32_t gone;
  /// Nothing yet.
  uint64_t reserved;
};

/// Statistics, written by kernels.
struct EpWaits {
  /// Time waited for each rank, in nanoseconds.
  uint64_t ns[EP_MAX_RANKS];
  /// Operations that were measured.
  uint64_t ops;
  /// To the end of the line.
  uint64_t line[15];
};

/// All of it.
struct EpTable {
  /// What holds for all ranks.
  EpHead head;
  /// Thread blocks that have begun, as [`OPERATION`] counts them.
  EpCounter begun;
  /// Thread blocks that have ended; divided by [`OPERATION`], operations.
  EpCounter ended;
  /// The epoch after the last one in which another rank took part.
  EpCounter shared_until;
  /// When each rank takes part.
  EpRow rows[EP_MAX_RANKS];
  /// For each rank the last operation in which thread blocks had to agree about it, times 4,
  /// and what they agreed on; written by kernels.
  uint64_t verdict[EP_MAX_RANKS];
  /// Statistics.
  EpWaits waits;
};

/// How a row is cut into segments of at most four slots of 512 bytes.
struct EpGeometry {
  /// Segments of a row.
  uint32_t segments;
  /// Vectors of 16 bytes (bf16) or groups of 128 channels (FP8) of a segment.
  uint32_t unit;
  /// Vectors of a segment, scales included.
  uint32_t vectors;
  /// The same for the last segment.
  uint32_t last_unit;
  /// The same for the last segment.
  uint32_t last_vectors;
  /// Slots of the last segment.
  uint32_t last_slots;
  /// For dividing by `segments`.
  uint32_t magic;
};

/// One row of an expert that belongs to a token.
struct EpEntry {
  /// Row in `recv_x`; negative behind the last one.
  int32_t row;
  /// The router's weight.
  float weight;
};

/// Ranks that did not answer: the epoch plus one in which that was, by rank.
struct EpLost {
  /// By rank.
  uint64_t epoch[32];
};

/// What a dispatch leaves for its combine and for the host.
struct EpHandle {
  /// The epoch of the dispatch.
  uint64_t epoch;
  /// Ranks whose tokens have a place in `recv_x`, one bit each.
  uint32_t present;
  /// The largest number of tokens of one of them.
  uint32_t most_tokens;
  /// Ranks that were present and did not deliver everything, or were never there.
  EpLost lost;
};

/// What a combine leaves for the host.
struct EpReport {
  /// The epoch of the combine.
  uint64_t epoch;
  /// Ranks that took part at its beginning, one bit each.
  uint32_t active;
  /// Low bits of the epoch plus one in which sums were last made anew.
  uint32_t fixed_by;
  /// Ranks that did not deliver everything.
  EpLost lost;
};

/// Everything that a kernel needs to know. Addresses are those of the device.
struct EpArgs {
  /// Rank r's buffer is at `windows + r * stride`.
  uint64_t windows;
  /// See `windows`.
  uint64_t stride;
  /// The device table.
  uint64_t table;
  /// Even epochs use the first half of a buffer, odd ones the second.
  uint64_t half_bytes;
  /// Offsets in a half.
  uint64_t counts_at;
  /// One word from each rank, to be heard in every combine.
  uint64_t hello_at;
  /// Meta lines, `[capacity][max_tokens][meta_lines]`.
  uint64_t meta_at;
  /// Rows as lines, `[capacity][max_tokens]`.
  uint64_t rows_at;
  /// Tokens, `[tokens][hidden]`.
  uint64_t x;
  /// Experts, `[tokens][top_k]`, -1 for none.
  uint64_t topk_idx;
  /// Weights, `[tokens][top_k]`.
  uint64_t topk_weights;
  /// Packed rows, `[local_experts][capacity * max_tokens][hidden]`.
  uint64_t recv_x;
  /// Scales of FP8 rows, `[local_experts][hidden / 128][capacity * max_tokens]`.
  uint64_t recv_scales;
  /// Rows of each local expert.
  uint64_t recv_count;
  /// Index at its source of each row's token.
  uint64_t src_info;
  /// `(count << 32 | begin)`, `[local_experts][capacity]`.
  uint64_t layout_range;
  /// What the experts made, in the shape of `recv_x`, bf16.
  uint64_t y;
  /// Weighted sums, `[tokens][hidden]`.
  uint64_t out;
  /// One bit for each choice that is not in a token's sum, `[tokens]`.
  uint64_t missing;
  /// A `Report`.
  uint64_t report;
  /// A `Handle`.
  uint64_t handle;
  /// Entries of received tokens, `[capacity][max_tokens][max_top_k]`.
  uint64_t handle_entries;
  /// Owner of each choice of own tokens, `[max_tokens][max_top_k]` bytes, 255 for none.
  uint64_t handle_owners;
  /// Ranks that each own token went to, one bit each, `[max_tokens]`.
  uint64_t handle_sent;
  /// Rows that each local expert has had in all, `[local_experts]` words.
  uint64_t expert_tokens;
  /// Ranks that the group can hold.
  uint32_t capacity;
  /// This rank.
  uint32_t me;
  /// This life of it.
  uint32_t incarnation;
  /// `MODE_SEND`, `MODE_RECEIVE` or both.
  uint32_t mode;
  /// Tokens of this rank in this operation.
  uint32_t tokens;
  /// Choices of a token in this operation.
  uint32_t top_k;
  /// Bytes of an element of `topk_idx`, as a power of two: 2 or 3.
  uint32_t index_shift;
  /// `SCALE_F32` or `SCALE_UE8M0`.
  uint32_t scale_format;
  /// Elements of a row.
  uint32_t hidden;
  /// Bytes that a row takes as lines.
  uint32_t row_bytes;
  /// Tokens that a rank may bring.
  uint32_t max_tokens;
  /// Choices that a token may have.
  uint32_t max_top_k;
  /// Lines of 128 bytes that a token's meta data takes.
  uint32_t meta_lines;
  /// Words of counts from each rank.
  uint32_t count_words;
  /// Experts of the group.
  uint32_t experts;
  /// Experts of a rank; the first `extra_experts` ranks have one more.
  uint32_t base_experts;
  /// See `base_experts`.
  uint32_t extra_experts;
  /// Experts of this rank.
  uint32_t local_experts;
  /// Experts of the rank with the most.
  uint32_t max_local_experts;
  /// Blocks that send, in a dispatch or in the combine of a large batch, if it both sends and
  /// receives. All in one that only sends; none in a combine that only receives.
  uint32_t senders;
  /// For dividing by `capacity`.
  uint32_t magic_capacity;
  /// For dividing by `capacity - 1`.
  uint32_t magic_others;
  /// For dividing by `senders`.
  uint32_t magic_senders;
  /// For dividing by `top_k`.
  uint32_t magic_top_k;
  /// For dividing by `count_words`.
  uint32_t magic_count_words;
  /// For dividing by `base_experts + 1`.
  uint32_t magic_long_run;
  /// For dividing by `base_experts`.
  uint32_t magic_short_run;
  /// Rows of a dispatch.
  EpGeometry dispatch;
  /// Rows of a combine.
  EpGeometry combine;
};
