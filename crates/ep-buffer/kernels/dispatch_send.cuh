// Dispatch, the sending blocks.
//
// Token t goes to place t of the area that each destination keeps for this rank, so rows
// leave without knowing any counts. Beside them go a meta line per token (which experts of
// it, with which weight, as which row of that expert) and the counts per expert. Nothing
// depends on the order in which threads run.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "dispatch_count.cuh"
#include "lines.cuh"

namespace ep {

template <bool FP8>
__host__ __device__ constexpr int scratch_bytes() {
    // Meta lines; the image of a segment; for FP8, its input.
    return 512 + slot_vectors(kSlots) * 16 + 64 + (FP8 ? kSlots * 15 / 4 * 256 : 0);
}
static_assert(scratch_bytes<false>() == EP_DISPATCH_WARP_BYTES_BF16 && scratch_bytes<true>() == EP_DISPATCH_WARP_BYTES_FP8);

// Loads a segment of a token and brings it into the lanes' order, quantised for FP8: there
// lanes 2g and 2g+1 share group g, so that one shuffle completes its maximum.
template <bool FP8>
struct Loader {
    uint4 input[FP8 ? 1 : kSlots];

    __device__ __forceinline__ void issue(const EpArgs& a, const Geometry& g, int token, int segment, int lane, char* raw) {
        const char* from = reinterpret_cast<const char*>(a.x) + static_cast<size_t>(token) * a.hidden * 2 +
                           segment * g.unit * (FP8 ? 256 : 16);
        if constexpr (FP8) {
            const int vectors = g.units_of(segment) * 16;
            const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(raw));
            __syncwarp();
#pragma unroll 2
            for (int v = lane; v < vectors; v += 32)
                asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(to + v * 16), "l"(from + v * 16) : "memory");
        } else {
            const LaneMap map(lane, g.slots_of(segment), g.vectors_of(segment));
#pragma unroll
            for (int q = 0; q < kSlots; q++) {
                input[q] = make_uint4(0, 0, 0, 0);
                if (q < map.count) input[q] = load_input(from + map.offset + q * map.stride);
            }
        }
    }

    __device__ __forceinline__ void finish(const EpArgs& a, const Geometry& g, int segment, int lane, char* raw, char* image,
                                           const LaneMap& map, Segment& s) {
        if constexpr (FP8) {
            const int groups = g.units_of(segment);
            asm volatile("cp.async.wait_all;" ::: "memory");
            __syncwarp();
            uint4 x[8];
            __nv_bfloat162 most = __float2bfloat162_rn(0.f);
            const bool on = lane < 2 * groups;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                x[i] = make_uint4(0, 0, 0, 0);
                // Lanes begin at different vectors: no bank conflicts.
                if (on) x[i] = *reinterpret_cast<uint4*>(raw + lane * 128 + ((i + lane) & 7) * 16);
                const __nv_bfloat162* h = reinterpret_cast<const __nv_bfloat162*>(&x[i]);
                most = __hmax2(most, __hmax2(__hmax2(__habs2(h[0]), __habs2(h[1])), __hmax2(__habs2(h[2]), __habs2(h[3]))));
            }
            float peak = fmaxf(__low2float(most), __high2float(most));
            peak = fmaxf(fmaxf(peak, __shfl_xor_sync(~0u, peak, 1)), 1e-4f);
            // As the host reference does it, bit for bit.
            float scale = __fmul_rn(peak, 1.f / 448.f), inverse;
            if (a.scale_format == EP_SCALE_UE8M0) {
                const uint32_t bits = __float_as_uint(scale);
                const uint32_t exponent = (bits >> 23) + ((bits & 0x7fffff) != 0);
                scale = __uint_as_float(exponent << 23);
                inverse = __uint_as_float((254 - exponent) << 23);
            } else {
                inverse = __fdiv_rn(448.f, peak);
            }
            if (on && !(lane & 1)) reinterpret_cast<float*>(image + groups * 128)[lane >> 1] = scale;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const __nv_bfloat162* h = reinterpret_cast<const __nv_bfloat162*>(&x[i]);
                uint32_t q[4];
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const float2 p = __bfloat1622float2(h[c]);
                    q[c] = __nv_cvt_float2_to_fp8x2(make_float2(__fmul_rn(p.x, inverse), __fmul_rn(p.y, inverse)), __NV_SATFINITE, __NV_E4M3);
                }
                if (on) *reinterpret_cast<uint2*>(image + lane * 64 + ((i + lane) & 7) * 8) = make_uint2(q[0] | q[1] << 16, q[2] | q[3] << 16);
            }
            __syncwarp();
#pragma unroll
            for (int q = 0; q < kSlots; q++) {
                s[q] = make_uint4(0, 0, 0, 0);
                if (q < map.count) s[q] = *reinterpret_cast<uint4*>(image + map.offset + q * map.stride);
            }
        } else {
#pragma unroll
            for (int q = 0; q < kSlots; q++) s[q] = input[q];
        }
    }
};

template <bool FP8, int NT, bool LARGE>
__device__ __forceinline__ void send_tokens(const EpArgs& a, char* scratch, int* space) {
    constexpr int NW = NT / 32;
    constexpr int kMetaThreads = LARGE ? 256 : 128;
    constexpr bool kLoadsAhead = LARGE;  // a warp has other segments to load while it stores one
    const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, b = blockIdx.x, NS = a.senders, R = a.capacity, me = a.me;
    __shared__ Operation o;
    __shared__ Notice table_read;
    const uint32_t tokens = a.tokens;
    const Geometry g(a.dispatch);
    char *image = scratch, *raw = image + slot_vectors(kSlots) * 16 + 64;
    // Tokens whose meta lines this block makes; rows are dealt out segment by segment.
    const int first = div_by(b * static_cast<int>(tokens), a.magic_senders), last = div_by((b + 1) * static_cast<int>(tokens), a.magic_senders), own = last - first;
    const SendSpace s(a, space, own);
    const int counted = b - (NS - R);
#pragma unroll 1
    for (int i = tid; i < s.zeroed; i += NT) s.before[i] = 0;
    if (tid == 0) table_read.make();
    __syncthreads();
    await_previous_kernel();

    // The table first: everybody waits for it.
    if (warp == NW - 1) {
        begin_operation(a, o, lane);
        table_read.publish();
    }
    // This warp's segments: neighbours on different SMs; the last warps first, since the first ones count.
    int task = (NW - 1 - warp) * NS + b;
    const int tasks = static_cast<int>(tokens) * g.segments;
    Loader<FP8> loader;
    int token, segment, expert = -1, chosen = -1;
    float weight = 0;
    {
        const WarpChoice w(a, lane);
        const int K = a.top_k, t = warp * w.at_once + w.token;
        if (tid < own * K) chosen = expert_at(a, first * K + tid);
        if (tid < kMetaThreads && w.in_warp() && t < own) weight = reinterpret_cast<const float*>(a.topk_weights)[(first + t) * K + w.k];
    }
    auto take = [&] {
        token = div_by(task, g.magic);
        segment = task - token * g.segments;
        loader.issue(a, g, token, segment, lane, raw);
        expert = lane < static_cast<int>(a.top_k) ? expert_at(a, token * a.top_k + lane) : -1;
    };
    // A few warps make the meta lines while the others send rows. Blocks that count for a
    // destination do that before anything else: no row has a place before its counts are there.
    const int team = counted >= 0 ? NT : kMetaThreads;
    if (tid < team) {
        if constexpr (LARGE)
            count_tokens(a, s, first, last, counted, team);
        else
            count_choices(a, s, first, last, counted, team);
    }
    if (task < tasks) take();
    if (tid < team) {
        note_choices(a, s, first, own, chosen, team);
        team_barrier(1, team);
        table_read.await();
        const uint32_t own_tag = o.tags[me], reachable = o.reachable;
        const uint64_t epoch = o.epoch;
        if (counted >= 0 && reachable >> counted & 1) {
            char* const to = half_of(a, counted, epoch) + a.counts_at + static_cast<size_t>(me) * a.count_words * 8;
#pragma unroll 1
            for (int i = tid; i < static_cast<int>(a.count_words); i += NT)
                store_sys64(to + i * 8, static_cast<uint64_t>(own_tag) << 32 | (i == static_cast<int>(a.max_local_experts) ? tokens : s.counts[i]));
        }
        if (warp == 1)
#pragma unroll 1
            for (int i = lane; i < own; i += 32) reinterpret_cast<uint32_t*>(a.handle_sent)[first + i] = s.owners[i] & reachable;
        if (tid < kMetaThreads) send_meta(a, s, first, own, weight, own_tag, reachable, epoch, kMetaThreads);
    }

    table_read.await();
    const uint32_t own_tag = o.tags[me], reachable = o.reachable;
    const uint64_t epoch = o.epoch;
    Segment u;
#pragma unroll 1
    for (bool loaded = true; task < tasks; loaded = kLoadsAhead) {
        if (!loaded) take();
        const int slots = g.slots_of(segment);
        const LaneMap map(lane, slots, g.vectors_of(segment));
        loader.finish(a, g, segment, lane, raw, image, map, u);
        const uint32_t to = __reduce_or_sync(~0u, expert >= 0 ? 1u << owner_of(a, expert) : 0) & reachable;
        // Begin at another destination for each segment: the links are loaded evenly.
        int d = token + segment;
        d += me - div_by(d, a.magic_capacity) * R;
        const size_t place = a.rows_at + static_cast<size_t>(me * a.max_tokens + token) * a.row_bytes + segment * kSlots * kSlotBytes;
        task += NW * NS;
        if (kLoadsAhead && task < tasks) take();  // travels while this one is stored
#pragma unroll 1
        for (int q = 0; q < R; q++) {
            if (++d >= me + R) d = me;
            const int rank = d >= R ? d - R : d;
            if (to >> rank & 1) store_lines(half_of(a, rank, epoch) + place, u, slots, own_tag, lane, map.tagged);
        }
    }
    __syncthreads();
    if (tid == 0) end_operation(a);
}

}  // namespace ep
