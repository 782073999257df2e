// Self-validating lines: how rows cross NVLink.
//
// A row is cut into segments of at most kSlots slots. A slot is one 512-byte store of a
// warp, four aligned lines of 128 bytes; the last word of each line is a tag that names
// the operation and the life of the sender. Whoever reads all tags of a segment right has
// the segment: no flag behind the data, no fence, nothing to clean. 124 of 128 bytes carry
// data. The eight lanes of a line store it together, and NVLink keeps an aligned 128-byte
// store in one piece. PTX does not promise that; NCCL's LL128 protocol relies on it too.
#pragma once
#include "table.cuh"

namespace ep {

constexpr int kSlots = 4;
constexpr int kSlotBytes = 512;

// 16-byte vectors that s slots carry: lanes 7, 15, 23 and 31 give up a quarter of theirs.
__host__ __device__ constexpr int slot_vectors(int s) { return 28 * s + 4 * (3 * s / 4); }

struct Geometry {
    int segments, unit, vectors, last_unit, last_vectors, last_slots;
    uint32_t magic;
    __device__ __forceinline__ Geometry(const EpGeometry& g)
        : segments(g.segments), unit(g.unit), vectors(g.vectors), last_unit(g.last_unit),
          last_vectors(g.last_vectors), last_slots(g.last_slots), magic(g.magic) {}
    __device__ __forceinline__ bool is_last(int segment) const { return segment == segments - 1; }
    // Vectors (bf16) or groups of 128 channels (FP8) in a segment.
    __device__ __forceinline__ int units_of(int segment) const { return is_last(segment) ? last_unit : unit; }
    // Vectors in a segment, scales included.
    __device__ __forceinline__ int vectors_of(int segment) const { return is_last(segment) ? last_vectors : vectors; }
    __device__ __forceinline__ int slots_of(int segment) const { return is_last(segment) ? last_slots : kSlots; }
};

// The vectors of a segment that a lane carries: byte offsets offset + q * stride, q < count.
struct LaneMap {
    int offset, stride, count;
    bool tagged;
    __device__ __forceinline__ LaneMap(int lane, int slots, int vectors) {
        tagged = (lane & 7) == 7;
        const int first = tagged ? 28 * slots + (lane >> 3) : lane - (lane >> 3);
        const int left = vectors - first;
        offset = first * 16;
        stride = tagged ? 4 * 16 : 28 * 16;
        count = left <= 0 ? 0 : min(tagged ? 3 * slots / 4 : slots, tagged ? (left + 3) / 4 : (left + 27) / 28);
    }
};

typedef uint4 Segment[kSlots];

// Stores a segment; tagged lanes spread their three vectors over four slots.
__device__ __forceinline__ void store_lines(char* to, const Segment& s, int slots, uint32_t tag, int lane, bool tagged) {
    const uint32_t* w = reinterpret_cast<const uint32_t*>(s);
#pragma unroll
    for (int j = 0; j < kSlots; j++)
        if (j < slots)
            store_sys(to + j * kSlotBytes + lane * 16,
                      make_uint4(tagged ? w[3 * j] : w[4 * j], tagged ? w[3 * j + 1] : w[4 * j + 1],
                                 tagged ? w[3 * j + 2] : w[4 * j + 2], tagged ? tag : w[4 * j + 3]));
}

__device__ __forceinline__ void load_lines(const char* from, Segment& s, int slots, uint32_t tag, int lane) {
#pragma unroll
    for (int j = 0; j < kSlots; j++) {
        s[j] = make_uint4(0, 0, 0, tag);
        if (j < slots) s[j] = load_sys(from + j * kSlotBytes + lane * 16);
    }
}

__device__ __forceinline__ bool lines_complete(const Segment& s, uint32_t tag, bool tagged) {
    bool complete = true;
#pragma unroll
    for (int j = 0; j < kSlots; j++) complete &= s[j].w == tag;
    return __all_sync(~0u, complete || !tagged);
}

// Undoes what store_lines did for tagged lanes.
__device__ __forceinline__ void unpack_lines(Segment& s, bool tagged) {
    uint32_t* w = reinterpret_cast<uint32_t*>(s);
#pragma unroll
    for (int i = 0; i < 3 * kSlots; i++) w[i] = tagged ? w[i / 3 * 4 + i % 3] : w[i];
}

// Meta lines hold 31 words each; where word j of a token's meta data is.
__device__ __forceinline__ int meta_word(int j) { return j / 31 * 32 + j % 31; }

}  // namespace ep
