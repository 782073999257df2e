// Dispatch, the sending blocks: which row of its expert each choice of a token is.
#pragma once
#include "lines.cuh"

namespace ep {

// Of wider numbers the low 32 bits; what is no expert is no choice.
__device__ __forceinline__ int expert_at(const EpArgs& a, int i) {
    const uint32_t e = *reinterpret_cast<const uint32_t*>(a.topk_idx + (static_cast<uint64_t>(i) << a.index_shift));
    return e < a.experts ? static_cast<int>(e) : -1;
}

// For the first `threads` threads of a block; `id` from 1 on.
__device__ __forceinline__ void team_barrier(int id, int threads) { asm volatile("bar.sync %0,%1;" ::"r"(id), "r"(threads) : "memory"); }

// Shared memory of a sending block, in words.
struct SendSpace {
    uint32_t* meta;    // [own][meta_lines * 32]
    int* chosen;       // [own][top_k], to the next multiple of four: experts, -1 for none
    int* before;       // [experts]: rows of each expert from tokens before those that meta lines are being made of
    uint32_t* counts;  // [count_words]: what one destination is told
    uint32_t* owners;  // [own]: ranks that the token goes to
    uint32_t* again;   // whether a token names an expert twice
    int zeroed;        // words from `before` on that begin as 0
    __device__ __forceinline__ SendSpace(const EpArgs& a, int* space, int own) {
        meta = reinterpret_cast<uint32_t*>(space);
        chosen = space + own * a.meta_lines * 32;
        before = chosen + ((own * a.top_k + 3) & ~3);
        counts = reinterpret_cast<uint32_t*>(before + a.experts);
        owners = counts + a.count_words;
        again = owners + own;
        zeroed = a.experts + a.count_words + own + 1;
    }
};

// Whole tokens of a warp, a lane for each choice.
struct WarpChoice {
    int at_once, token, k;  // tokens of a warp; this lane's token among them and choice of it
    __device__ __forceinline__ WarpChoice(const EpArgs& a, int lane)
        : at_once(div_by(32, a.magic_top_k)), token(div_by(lane, a.magic_top_k)), k(lane - token * static_cast<int>(a.top_k)) {}
    // Where 32 is no multiple of top_k, the last lanes have none.
    __device__ __forceinline__ bool in_warp() const { return token < at_once; }
};

// What a team counts: the tokens until `end`, and rows of the destination's experts.
struct Counted {
    int end, first_expert;
    uint32_t experts;
    __device__ __forceinline__ Counted(const EpArgs& a, int last, int rank)
        : end(rank >= 0 ? static_cast<int>(a.tokens) : last),
          first_expert(rank >= 0 ? first_expert_of(a, rank) : 0),
          experts(rank >= 0 ? first_expert_of(a, rank + 1) - first_expert : 0) {}
};

constexpr int kAheadOfCount = 4;

// Counts of the tokens before `first`, and of all tokens for the destination `counted` (-1:
// none). A lane of the team takes a choice, and sees by shuffles whether its token has made it
// before.
__device__ __forceinline__ void count_choices(const EpArgs& a, const SendSpace& s, int first, int last, int counted, int team) {
    const int lane = threadIdx.x & 31, K = a.top_k;
    const Counted c(a, last, counted);
    const WarpChoice w(a, lane);
    const int step = team / 32 * w.at_once;
    const uint32_t choices = (K < 32 ? (1u << K) - 1 : ~0u) << (w.token * K);
    auto choice = [&](int token) { return w.in_warp() && token < c.end ? expert_at(a, token * K + w.k) : -1; };
    int token = threadIdx.x / 32 * w.at_once + w.token, e = choice(token), next[kAheadOfCount];
#pragma unroll
    for (int i = 0; i < kAheadOfCount; i++) next[i] = choice(token + (i + 1) * step);
#pragma unroll 1
    for (; token - w.token < c.end; token += step) {
        bool again = false;
#pragma unroll 1
        for (int d0 = 1; d0 < K; d0 += 7)
#pragma unroll
            for (int d = 0; d < 7; d++) again |= __shfl_up_sync(~0u, e, d0 + d) == e && d0 + d <= w.k;
        const uint32_t in_counted = static_cast<uint32_t>(e - c.first_expert);
        const bool comes = e >= 0 && in_counted < c.experts;
        const uint32_t present = __ballot_sync(~0u, comes);
        if (e >= 0) {
            if (again) *s.again = 1;
            if (!again && token < first) atomicAdd(&s.before[e], 1);
            if (!again && comes) atomicAdd(&s.counts[in_counted], 1);
        }
        if (w.k == 0 && present & choices) atomicOr(&s.counts[a.max_local_experts + 1 + token / 32], 1u << (token & 31));
        e = next[0];
#pragma unroll
        for (int i = 1; i < kAheadOfCount; i++) next[i - 1] = next[i];
        next[kAheadOfCount - 1] = choice(token + (kAheadOfCount + 1) * step);  // travels meanwhile
    }
}

// The same where there are many tokens: a thread takes one, all choices of it at once.
__device__ __forceinline__ void count_tokens(const EpArgs& a, const SendSpace& s, int first, int last, int counted, int team) {
    const int lane = threadIdx.x & 31, K = a.top_k;
    const Counted c(a, last, counted);
#pragma unroll 1
    for (int base = threadIdx.x & ~31; base < c.end; base += team) {
        const int token = base + lane;
        bool comes = false, twice = false;
#pragma unroll 1
        for (int k0 = 0; k0 < K; k0 += 8) {
            int e[8];
            uint32_t again = 0;
#pragma unroll
            for (int k = 0; k < 8; k++) e[k] = -1;
            const char* const from = reinterpret_cast<const char*>(a.topk_idx + (static_cast<uint64_t>(token * K + k0) << a.index_shift));
            if (token >= c.end) {
            } else if (K % 8 == 0 && !(a.topk_idx & 15)) {
                uint32_t w[16];
#pragma unroll
                for (int v = 0; v < 4; v++)
                    if (v < 2 || a.index_shift == 3) {
                        const uint4 x = *reinterpret_cast<const uint4*>(from + v * 16);
                        w[4 * v] = x.x, w[4 * v + 1] = x.y, w[4 * v + 2] = x.z, w[4 * v + 3] = x.w;
                    }
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    const uint32_t x = a.index_shift == 3 ? w[2 * k] : w[k];
                    e[k] = x < a.experts ? static_cast<int>(x) : -1;
                }
            } else {
#pragma unroll
                for (int k = 0; k < 8; k++)
                    if (k0 + k < K) e[k] = expert_at(a, token * K + k0 + k);
            }
#pragma unroll
            for (int k = 1; k < 8; k++)
#pragma unroll
                for (int j = 0; j < k; j++) again |= e[j] == e[k] ? 1u << k : 0u;
#pragma unroll 1
            for (int j = 0; token < c.end && j < k0; j++) {
                const int earlier = expert_at(a, token * K + j);
#pragma unroll
                for (int k = 0; k < 8; k++) again |= earlier == e[k] ? 1u << k : 0u;
            }
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const uint32_t in_counted = static_cast<uint32_t>(e[k] - c.first_expert);
                if (e[k] < 0) continue;
                comes |= in_counted < c.experts;
                twice |= again >> k & 1;
                if (again >> k & 1) continue;
                if (token < first) atomicAdd(&s.before[e[k]], 1);
                if (in_counted < c.experts) atomicAdd(&s.counts[in_counted], 1);
            }
        }
        const uint32_t present = __ballot_sync(~0u, comes);
        if (lane == 0 && counted >= 0) s.counts[a.max_local_experts + 1 + base / 32] = present;
        if (twice) *s.again = 1;
    }
}

// What the own tokens have chosen; `chosen` is this thread's first choice, loaded before.
__device__ __forceinline__ void note_choices(const EpArgs& a, const SendSpace& s, int first, int own, int chosen, int team) {
    const int K = a.top_k;
#pragma unroll 1
    for (int i = threadIdx.x; i < own * K; i += team) {
        const int e = i < team ? chosen : expert_at(a, first * K + i), token = div_by(i, a.magic_top_k), d = e >= 0 ? owner_of(a, e) : 0xff;
        s.chosen[i] = e;
        if (e >= 0) atomicOr(&s.owners[token], 1u << d);
        reinterpret_cast<uint8_t*>(a.handle_owners)[(first + token) * a.max_top_k + i - token * K] = static_cast<uint8_t>(d);
    }
}

// An expert that a token names again is sent once, with the sum of the weights.
__device__ __noinline__ int merge(const int* chosen, const float* weights, int k, int top_k, float& weight) {
    const int e = chosen[k];
    for (int j = 0; j < k; j++)
        if (chosen[j] == e) return -1;
    for (int j = k + 1; j < top_k; j++)
        if (chosen[j] == e) weight += weights[j];
    return e;
}

// Of the first `threads` threads of a block, each warp makes the meta lines of a few tokens at a
// time, which say which row of its expert each choice is, and stores them. `weight`: of this
// thread's choice among the first ones.
__device__ __forceinline__ void send_meta(const EpArgs& a, const SendSpace& s, int first, int own, float weight, uint32_t own_tag, uint32_t reachable,
                                          uint64_t epoch, int threads) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, K = a.top_k, words = a.meta_lines * 32, vectors = words / 4;
    const WarpChoice w(a, lane);
    const int k = w.k, step = threads / 32 * w.at_once;
    const float* const weights = reinterpret_cast<const float*>(a.topk_weights);
    const bool again = *s.again;
    if (again) {
#pragma unroll 1
        for (int t0 = warp * w.at_once; t0 < own; t0 += step) {
            const int token = t0 + w.token;
            const bool in = w.in_warp() && token < own;
            float sum = 0;
            int e = -1;
            if (in) {
                e = s.chosen[token * K + k];
                sum = weights[(first + token) * K + k];
                if (e >= 0) e = merge(s.chosen + token * K, weights + (first + token) * K, k, K, sum);
            }
            __syncwarp();
            if (!in) continue;
            s.chosen[token * K + k] = e;
            s.meta[token * words + meta_word(2 + 2 * k)] = __float_as_uint(sum);
        }
        team_barrier(2, threads);
    }
#pragma unroll 1
    for (int begin = 0; begin < own; begin += step) {
        const int t0 = begin + warp * w.at_once, token = t0 + w.token, end = t0 < own ? t0 * K : 0;
        const bool in = w.in_warp() && token < own;
        const int e = in ? s.chosen[token * K + k] : -1;
        if (begin && in && !again) weight = weights[(first + token) * K + k];
        const uint32_t same = __match_any_sync(~0u, e);
        int row = __popc(same & ((1u << lane) - 1));
        if (e >= 0) row += s.before[e];
#pragma unroll 1
        for (int j = begin * K; j < end; j += 4) {  // of the warps before this one
            const int4 c = *reinterpret_cast<const int4*>(s.chosen + j);
            row += (c.x == e) + (j + 1 < end && c.y == e) + (j + 2 < end && c.z == e) + (j + 3 < end && c.w == e);
        }
        if (in) {
            uint32_t* const m = s.meta + token * words;
            m[meta_word(1 + 2 * k)] = e >= 0 ? e | row << 16 : ~0u;
            if (!again) m[meta_word(2 + 2 * k)] = __float_as_uint(weight);
            if (k == 0) {
                m[0] = first + token;
#pragma unroll 1
                for (int j = K; j < static_cast<int>(a.max_top_k); j++) m[meta_word(1 + 2 * j)] = ~0u;
#pragma unroll 1
                for (int j = 0; j < static_cast<int>(a.meta_lines); j++) m[j * 32 + 31] = own_tag;
            }
        }
        __syncwarp();
#pragma unroll 1
        for (int v0 = 0; v0 < min(w.at_once, own - t0) * vectors; v0 += 32) {
            const int v = v0 + lane, t = t0 + (vectors == 8 ? v >> 3 : v / vectors);
            const bool on = t < min(t0 + w.at_once, own);
            const uint32_t to = on ? s.owners[t] & reachable : 0;
            uint4 line = make_uint4(0, 0, 0, 0);
            if (on) line = reinterpret_cast<const uint4*>(s.meta + t0 * words)[v];
#pragma unroll 1
            for (uint32_t left = __reduce_or_sync(~0u, to); left; left &= left - 1) {
                const int rank = __ffs(left) - 1;
                if (to >> rank & 1)
                    store_sys(half_of(a, rank, epoch) + a.meta_at + static_cast<size_t>(a.me * a.max_tokens + first + t0) * a.meta_lines * 128 + v * 16, line);
            }
        }
        if (begin + step >= own) break;
        team_barrier(2, threads);
        if (e >= 0) atomicAdd(&s.before[e], 1);
        team_barrier(2, threads);
    }
}

}  // namespace ep
