// Combine. The rank that owns experts sums its rows of a token in fp32, weighted, and returns
// one bf16 partial sum per token and rank, read where the experts left their outputs; the
// token's owner adds the partial sums in the order of ranks to its own. First all partial
// sums for others, then the own tokens.
#pragma once
#include "lines.cuh"
#include <cuda_bf16.h>

namespace ep {

struct Sum {
    float f[kSlots][8];
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int k = 0; k < kSlots; k++)
#pragma unroll
            for (int j = 0; j < 8; j++) f[k][j] = 0.f;
    }
    __device__ __forceinline__ void add(const Segment& s) {
#pragma unroll
        for (int k = 0; k < kSlots; k++) {
            const __nv_bfloat162* h = reinterpret_cast<const __nv_bfloat162*>(&s[k]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float2 v = __bfloat1622float2(h[j]);
                f[k][2 * j] += v.x;
                f[k][2 * j + 1] += v.y;
            }
        }
    }
    __device__ __forceinline__ void add_two(const Segment& s, float w, const Segment& t, float v) {
#pragma unroll
        for (int k = 0; k < kSlots; k++) {
            const __nv_bfloat162 *h = reinterpret_cast<const __nv_bfloat162*>(&s[k]), *i = reinterpret_cast<const __nv_bfloat162*>(&t[k]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float2 x = __bfloat1622float2(h[j]), y = __bfloat1622float2(i[j]);
                f[k][2 * j] = fmaf(v, y.x, fmaf(w, x.x, f[k][2 * j]));
                f[k][2 * j + 1] = fmaf(v, y.y, fmaf(w, x.y, f[k][2 * j + 1]));
            }
        }
    }
    __device__ __forceinline__ void round(Segment& s) const {
#pragma unroll
        for (int k = 0; k < kSlots; k++) {
            __nv_bfloat162* h = reinterpret_cast<__nv_bfloat162*>(&s[k]);
#pragma unroll
            for (int j = 0; j < 4; j++) h[j] = __floats2bfloat162_rn(f[k][2 * j], f[k][2 * j + 1]);
        }
    }
};

// A segment of a token: first those of other ranks' tokens, all ranks together, then the own ones.
struct Item {
    int token, segment, rank;
    bool own;
    __device__ __forceinline__ Item(const EpArgs& a, const Geometry& g, int i, int others) {
        own = i >= others;
        int task = i - others;
        rank = a.me;
        if (!own) {
            task = div_by(i, a.magic_others);
            rank = a.me + 1 + i - task * (static_cast<int>(a.capacity) - 1);
            if (rank >= static_cast<int>(a.capacity)) rank -= a.capacity;
        }
        token = div_by(task, g.magic);
        segment = task - token * g.segments;
    }
};

// Adds the partial sums of the ranks in `need`, up to B at a time so that their lines are
// loaded together. Returns those that did not answer.
template <int B>
__device__ __forceinline__ uint32_t add_partials(const EpArgs& a, const Operation& o, EpReport* report, const char* rows, int token, int segment,
                                                 int slots, bool tagged, bool few, uint32_t need, Sum& sum, int lane, uint64_t& began) {
    uint32_t absent = need & ~o.reachable;
    if (absent & 1u << lane) give_up(a, &report->lost, lane, o.epoch);
    need &= o.reachable;
#pragma unroll 1
    while (need) {
        Segment v[B];
        const char* from[B];
        int rank[B];
        uint32_t tag[B];
        uint32_t left = need;
#pragma unroll
        for (int j = 0; j < B; j++) {
            rank[j] = left ? __ffs(left) - 1 : -1;
            left &= left - 1;
            tag[j] = o.tag_from(rank[j] & 31);
            from[j] = rows + (static_cast<size_t>(rank[j] & 31) * a.max_tokens + token) * a.row_bytes + segment * kSlots * kSlotBytes;
        }
#pragma unroll 1
        for (int polls = 1;; polls++) {
            bool all = true;
            if (!few) {
                uint32_t w[B];
#pragma unroll
                for (int j = 0; j < B; j++) w[j] = rank[j] >= 0 ? load_sys(from[j] + (slots - 1) * kSlotBytes + lane * 16).w : tag[j];
#pragma unroll
                for (int j = 0; j < B; j++) all &= !tagged || w[j] == tag[j];
                all = __all_sync(~0u, all);
            }
            const bool look = polls % kPollsPerLook == 0;
            if (all || look) {
                bool complete[B];
                all = true;
#pragma unroll
                for (int j = 0; j < B; j++)
                    if (rank[j] >= 0) load_lines(from[j], v[j], slots, tag[j], lane);
#pragma unroll
                for (int j = 0; j < B; j++) {
                    complete[j] = rank[j] < 0 || lines_complete(v[j], tag[j], tagged);
                    all &= complete[j];
                }
                if (all) break;
                if (look)
#pragma unroll
                    for (int j = 0; j < B; j++)
                        if (!complete[j] && __any_sync(~0u, lane == 0 && is_over(a, &report->lost, rank[j], o.epoch, began))) {
                            if (lane == 0) give_up(a, &report->lost, rank[j], o.epoch);
                            absent |= 1u << rank[j];
                            need &= ~(1u << rank[j]);
                            rank[j] = -1;
                        }
            }
        }
#pragma unroll
        for (int j = 0; j < B; j++)
            if (rank[j] >= 0) {
                need &= ~(1u << rank[j]);
                unpack_lines(v[j], tagged);
                sum.add(v[j]);
            }
    }
    return absent;
}

template <int NT, int B>
__device__ __forceinline__ void combine(const EpArgs& a) {
    constexpr int NW = NT / 32;
    __shared__ Operation operation;
    __shared__ uint32_t absent_in_block, fixing;
    const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, b = blockIdx.x, blocks = gridDim.x, R = a.capacity, K = a.max_top_k, me = a.me;
    const Geometry g(a.combine);
    EpHandle* const handle = reinterpret_cast<EpHandle*>(a.handle);
    EpReport* const report = reinterpret_cast<EpReport*>(a.report);
    const EpEntry* const entries = reinterpret_cast<const EpEntry*>(a.handle_entries);
    const bool sending = a.mode & EP_MODE_SEND, receiving = a.mode & EP_MODE_RECEIVE;
    int step = NW * blocks, first = warp * blocks + b;
    if (tid == 0) absent_in_block = 0;
    int others = 0x7fffffff;
    // Lane k has the k-th row of the item's token here.
    auto entry_of = [&](int i) {
        const Item item(a, g, i, others);
        EpEntry e{-1, 0.f};
        if (lane < K && item.token < static_cast<int>(a.max_tokens)) e = entries[static_cast<size_t>(item.rank * a.max_tokens + item.token) * K + lane];
        return e;
    };
    await_previous_kernel();
    // Loaded before the number of items is known: right unless it is an own one.
    EpEntry current = R > 1 && sending ? entry_of(first) : EpEntry{-1, 0.f}, next;
    const uint32_t present = handle->present;
    const int most_tokens = handle->most_tokens;
    if (warp == NW - 1) begin_operation(a, operation, lane);
    __syncthreads();
    const Operation& o = operation;
    const uint32_t own_tag = o.tag_from(me);
    if (sending && b == 0 && warp == 0 && lane < R && lane != me && o.reachable >> lane & 1)
        store_sys64(half_of(a, lane, o.epoch) + a.hello_at + me * 8, own_tag);
    others = R > 1 ? most_tokens * g.segments * (R - 1) : 0;
    const int items = receiving ? others + static_cast<int>(a.tokens) * g.segments : others;
    if (!sending) first += others;
    const bool few = items <= step;
    if (first >= others && first < items) current = entry_of(first);
    char* const rows = half_of(a, me, o.epoch) + a.rows_at;
    uint32_t left_out = 0;
    uint64_t began = 0;
#pragma unroll 1
    for (int pass = 0;; pass++) {
#pragma unroll 1
        for (int i = first; i < items; i += step) {
            const Item item(a, g, i, others);
            const int slots = g.slots_of(item.segment);
            const EpEntry e = current;
            const LaneMap map(lane, slots, g.vectors_of(item.segment));
            if (i + step < items) next = entry_of(i + step);  // travels while this one's rows do
            // Of an own token: the ranks that it went to; lane k: the owner of choice k.
            uint32_t sent = 0, owner = 0xff;
            if (item.own) {
                sent = load_sys32(reinterpret_cast<const uint32_t*>(a.handle_sent) + item.token);
                if (item.segment == 0 && lane < static_cast<int>(a.top_k))
                    owner = reinterpret_cast<const uint8_t*>(a.handle_owners)[item.token * a.max_top_k + lane];
            }
            const int end = __ffs(__ballot_sync(~0u, e.row < 0)), n = end ? end - 1 : 32;
            current = next;
            if (!item.own && (n == 0 || !(o.reachable & present & 1u << item.rank))) continue;
            if (pass && !(sent & left_out)) continue;  // the first pass must not wait for `sent` here
            Sum sum;
            sum.clear();
            const char* const y = reinterpret_cast<const char*>(a.y) + item.segment * g.unit * 16 + map.offset;
#pragma unroll 1
            for (int j = 0; j < n; j += 2) {
                const bool two = j + 1 < n;
                const int k = two ? j + 1 : j;
                const int r0 = __shfl_sync(~0u, e.row, j), r1 = __shfl_sync(~0u, e.row, k);
                const float w0 = __shfl_sync(~0u, e.weight, j), wk = __shfl_sync(~0u, e.weight, k), w1 = two ? wk : 0.f;
                const char *y0 = y + static_cast<size_t>(r0) * a.hidden * 2, *y1 = y + static_cast<size_t>(r1) * a.hidden * 2;
                Segment s, t;
#pragma unroll
                for (int q = 0; q < kSlots; q++) {
                    s[q] = make_uint4(0, 0, 0, 0);
                    if (q < map.count) s[q] = load_input(y0 + q * map.stride);
                }
#pragma unroll
                for (int q = 0; q < kSlots; q++) {
                    t[q] = make_uint4(0, 0, 0, 0);
                    if (two && q < map.count) t[q] = load_input(y1 + q * map.stride);
                }
                sum.add_two(s, w0, t, w1);
            }
            Segment u;
            if (item.own) {
                const uint32_t need = sent & o.active & ~(1u << me) & ~left_out;
                const uint32_t absent = add_partials<B>(a, o, report, rows, item.token, item.segment, slots, map.tagged, few, need, sum, lane, began);
                if (absent && lane == 0) atomicOr(&absent_in_block, absent);
                const uint32_t summed = (need | (sent & 1u << me)) & ~absent;
                const uint32_t missing = __ballot_sync(~0u, owner != 0xff && !(summed >> (owner & 31) & 1));
                if (item.segment == 0 && lane == 0) reinterpret_cast<uint32_t*>(a.missing)[item.token] = missing;
                sum.round(u);
                char* const to = reinterpret_cast<char*>(a.out) + static_cast<size_t>(item.token) * a.hidden * 2 + item.segment * g.unit * 16 + map.offset;
#pragma unroll
                for (int q = 0; q < kSlots; q++)
                    if (q < map.count) store_output(to + q * map.stride, u[q]);
            } else {
                sum.round(u);
                store_lines(half_of(a, item.rank, o.epoch) + a.rows_at + static_cast<size_t>(me * a.max_tokens + item.token) * a.row_bytes +
                                item.segment * kSlots * kSlotBytes,
                            u, slots, own_tag, lane, map.tagged);
            }
        }
        if (pass || !receiving) break;
        // Each live peer is heard even if no token connects us: two halves are enough only then.
        if (b == 0 && warp == 0 && lane < R && lane != me && o.active >> lane & 1) {
            const char* word = half_of(a, me, o.epoch) + a.hello_at + lane * 8;
#pragma unroll 1
            for (int polls = 1; !(o.reachable >> lane & 1) || load_sys64(word) != o.tags[lane]; polls++)
                if (!(o.reachable >> lane & 1) || polls % kPollsPerLook == 0 && is_over(a, &report->lost, lane, o.epoch, began)) {
                    give_up(a, &report->lost, lane, o.epoch);
                    atomicOr(&absent_in_block, 1u << lane);
                    break;
                }
        }
        __syncthreads();
        if (tid == 0) {
            fixing = 0;
            end_operation(a);
            // A rank's contribution is in all of a token or in none of it: one block of those that
            // missed one makes the tokens anew without it, once all others have written theirs.
            if (absent_in_block) {
                __threadfence();
                fixing = atomicExch(&report->fixed_by, static_cast<uint32_t>(o.epoch + 1)) != static_cast<uint32_t>(o.epoch + 1);
                while (fixing && load_sys64(&table_of(a)->ended.count) / EP_OPERATION == o.index) __nanosleep(200);
                __threadfence();
            }
        }
        __syncthreads();
        if (b == 0 && tid == 0) {
            report->epoch = o.epoch;
            report->active = o.active;
        }
        if (!fixing) break;
        left_out = __ballot_sync(~0u, lane < R && load_sys64(&report->lost.epoch[lane]) == o.epoch + 1);
        first = others + warp;
        step = NW;
        if (first < items) current = entry_of(first);
    }
    if (!receiving) {
        __syncthreads();
        if (tid == 0) end_operation(a);
    }
}

}  // namespace ep
