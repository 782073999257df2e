// Dispatch, the receiving blocks: the counts of all ranks give every row its place; then
// packets are taken in the order in which they left, each into all of its rows at once.
#pragma once
#include "dispatch_send.cuh"

namespace ep {

// Blocks agree on who is there. What has come within this time of the end of the operation
// before is there: each block has seen it before it may think otherwise. Later, the first
// block with an opinion on a rank decides.
constexpr uint64_t kPromptNs = 2000000, kDoubtNs = kPromptNs + 20000;

// One word of counts, or nothing if its sender is given up.
__device__ __forceinline__ uint32_t wait_for_count(const EpArgs& a, const char* word, int rank, uint32_t tag, uint64_t epoch,
                                                   const EpLost* lost, uint32_t* missed, bool timed, uint64_t& began) {
    const uint64_t since = timed ? now_ns() : 0;
    bool over = false;
#pragma unroll 1
    for (int polls = 1;; polls++) {
        const uint64_t v = load_sys64(word);
        if (static_cast<uint32_t>(v >> 32) == tag) {
            if (timed) add_relaxed(&table_of(a)->waits.ns[rank], now_ns() - since);
            return static_cast<uint32_t>(v);
        }
        if (polls % kPollsPerLook) continue;
        if (over) {  // More looks after the clock: this block may have stood still before it.
            atomicOr(missed, 1u << rank);
            return 0;
        }
        over = is_over(a, lost, rank, epoch, began) && now_ns() - began > kDoubtNs;
    }
}

__device__ __noinline__ uint32_t agree(const EpArgs& a, const Operation& o, uint32_t seen, int lane) {
    bool present = false;
    if (o.active >> lane & 1) {
        const unsigned long long mine = o.index << 2 | (seen >> lane & 1 ? EP_PRESENT : EP_ABSENT);
        unsigned long long found = load_sys64(&table_of(a)->verdict[lane]);
        if (found >> 2 != o.index || (found & 3) == 0) {
            const unsigned long long was = found;
            found = atomicCAS(reinterpret_cast<unsigned long long*>(&table_of(a)->verdict[lane]), was, mine);
            if (found == was) found = mine;
        }
        present = (found & 3) == EP_PRESENT;
    }
    return __ballot_sync(~0u, present);
}

// What a receiving block knows from the counts, in shared memory.
struct Counts {
    int* words;  // [capacity][count_words]: first row of each local expert, tokens, which tokens come here
    int stride, experts, max_experts, ranks;
    __device__ __forceinline__ Counts(const EpArgs& a, int* space)
        : words(space), stride(a.count_words), experts(a.local_experts), max_experts(a.max_local_experts), ranks(a.capacity) {}
    __device__ __forceinline__ int begin(int rank, int expert) const { return words[rank * stride + expert]; }
    __device__ __forceinline__ int total(int expert) const { return words[ranks * stride + expert]; }
    __device__ __forceinline__ int tokens(int rank) const { return words[rank * stride + max_experts]; }
    __device__ __forceinline__ bool comes(int rank, int token) const {
        return words[rank * stride + max_experts + 1 + token / 32] >> (token & 31) & 1;
    }
    __device__ __forceinline__ int most_tokens() const {
        int most = 0;
#pragma unroll 1
        for (int r = 0; r < ranks; r++) most = max(most, tokens(r));
        return most;
    }
    // Counts become exclusive sums over the sources.
    __device__ __forceinline__ void sum(int from, int step) {
#pragma unroll 1
        for (int e = from; e < experts; e += step) {
            int sum = 0;
#pragma unroll 1
            for (int r = 0; r < ranks; r++) {
                const int n = words[r * stride + e];
                words[r * stride + e] = sum;
                sum += n;
            }
            words[ranks * stride + e] = sum;
        }
    }
};

// This block's opinion was not the one that counts: takes in what does. One warp.
__device__ __noinline__ void recount(const EpArgs& a, const Operation& o, Counts c, uint32_t present, int lane) {
    const char* from = half_of(a, a.me, o.epoch) + a.counts_at;
#pragma unroll 1
    for (int r = 0; r < c.ranks; r++) {
        const uint32_t tag = o.tag_from(r);
#pragma unroll 1
        for (int i = lane; i < c.stride; i += 32) {
            uint64_t v = 0;
            // Another block has seen them all.
#pragma unroll 1
            for (int polls = 0; present >> r & 1 && polls < 1 << 20; polls++) {
                v = load_sys64(from + static_cast<size_t>(r * c.stride + i) * 8);
                if (static_cast<uint32_t>(v >> 32) == tag) break;
                v = 0;
            }
            const uint32_t n = static_cast<uint32_t>(v);
            c.words[r * c.stride + i] = static_cast<int>(i <= c.max_experts ? min(n, a.max_tokens) : n);
        }
    }
    __syncwarp();
    c.sum(lane, 32);
    __syncwarp();
}

struct Packet {
    int rank, token, segment;
    __device__ __forceinline__ Packet(const EpArgs& a, const Geometry& g, int i) {
        const int p = div_by(i, a.magic_capacity), R = a.capacity;
        rank = a.me + i - p * R;
        if (rank >= R) rank -= R;
        token = div_by(p, g.magic);
        segment = p - token * g.segments;
    }
};

// Waits until all of a packet and its token's meta lines are there; false if its sender is given
// up. `LOOKED`: they have been loaded once.
template <bool LOOKED>
__device__ __forceinline__ bool wait_for_packet(const EpArgs& a, EpLost* lost, const Packet& p, uint64_t epoch, uint32_t tag, const char* meta_from,
                                                const char* from, int slots, bool tagged, bool few, uint32_t* meta, uint4& m,
                                                Segment& u, int lane, uint64_t& began, uint32_t& given_up) {
    const int meta_vectors = 8 * a.meta_lines;
    bool over = false;
#pragma unroll 1
    for (int polls = 1;; polls++) {
        bool look = polls == 1 || few;
        if (!look) {  // The last slot tells: it left last.
            const uint4 v = load_sys(from + (slots - 1) * kSlotBytes + lane * 16);
            look = __all_sync(~0u, !tagged || v.w == tag);
        }
        if (look) {
            if (!LOOKED || polls > 1) {
                m = make_uint4(0, 0, 0, tag);
                if (lane < meta_vectors) m = load_sys(meta_from + lane * 16);
                load_lines(from, u, slots, tag, lane);
            }
            __syncwarp();
            if (lane < meta_vectors) reinterpret_cast<uint4*>(meta)[lane] = m;
            __syncwarp();
            if (__all_sync(~0u, !tagged || m.w == tag) & lines_complete(u, tag, tagged)) return true;
        }
        if (polls % kPollsPerLook) continue;
        if (over) {  // As for counts.
            if (lane == 0) give_up(a, lost, p.rank, epoch);
            given_up |= 1u << p.rank;
            return false;
        }
        over = __any_sync(~0u, lane == 0 && is_over(a, lost, p.rank, epoch, began));
    }
}

template <bool FP8, int NT, bool LARGE>
__device__ __forceinline__ void receive_tokens(const EpArgs& a, char* scratch, int* space) {
    constexpr int NW = NT / 32;
    __shared__ Operation operation;
    __shared__ uint32_t missed;
    __shared__ unsigned long long waited_since;  // one time-out for all that a block waits for
    __shared__ uint32_t present_agreed, packets_agreed;
    __shared__ Notice decided;
    const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, R = a.capacity, me = a.me, K = a.max_top_k, T = a.max_tokens;
    const int others = a.mode & EP_MODE_SEND ? a.senders : 0, block = blockIdx.x - others, blocks = gridDim.x - others;
    const Geometry g(a.dispatch);
    EpHandle* const handle = reinterpret_cast<EpHandle*>(a.handle);
    uint32_t* const meta = reinterpret_cast<uint32_t*>(scratch);
    Counts counts(a, space);
    await_previous_kernel();
    if (warp == NW - 1) begin_operation(a, operation, lane);
    if (tid == 0) {
        missed = 0;
        waited_since = 0;
        decided.make();
        if (block == 0) add_relaxed(&table_of(a)->waits.ops, 1);
    }
    __syncthreads();
    const Operation& o = operation;
    char* const mine = half_of(a, me, o.epoch);

    // 1. Counts of all ranks, and who is there.
    const int words = R * counts.stride;
    uint64_t began = 0;
#pragma unroll 1
    for (int i = tid; i < words; i += NT) {
        const int r = div_by(i, a.magic_count_words);
        const int word = i - r * counts.stride;
        const uint32_t n = o.active >> r & 1 ? wait_for_count(a, mine + a.counts_at + static_cast<size_t>(i) * 8, r, o.tag_from(r), o.epoch, &handle->lost,
                                                              &missed, block == 0 && word == counts.max_experts, began)
                                             : 0;
        // Rows of an expert and tokens; what others say must not lead out of the buffer.
        space[i] = word <= counts.max_experts ? min(n, a.max_tokens) : n;
    }
    if (began) atomicMax(&waited_since, began);
    __syncthreads();
    // Rows in bf16 make more packets than there are warps, and pay for being looked at ahead: the
    // first packet while the counts are summed, others while the one before is stored. Where there
    // are many more, it gains nothing.
    constexpr bool kLooksAhead = !FP8 && !LARGE;
    // Rows are stored by bulk copies where that gains: half a microsecond in bf16 at 128 tokens.
    constexpr bool kBulk = !FP8 && !LARGE;
    uint4 meta_ahead;
    Segment ahead;
    auto look_ahead = [&](int i) {
        const Packet p(a, g, i);
        if (p.token >= T) return;
        const int place = p.rank * T + p.token;
        const uint32_t tag = o.tag_from(p.rank);
        meta_ahead = make_uint4(0, 0, 0, tag);
        if (lane < 8 * static_cast<int>(a.meta_lines)) meta_ahead = load_sys(mine + a.meta_at + static_cast<size_t>(place) * a.meta_lines * 128 + lane * 16);
        load_lines(mine + a.rows_at + static_cast<size_t>(place) * a.row_bytes + p.segment * kSlots * kSlotBytes, ahead, g.slots_of(p.segment), tag, lane);
    };
    if constexpr (kLooksAhead) look_ahead(warp * blocks + block);
    const uint32_t seen = o.active & ~missed;
    if (__builtin_expect(seen != o.active, 0)) {
        began = waited_since;
#pragma unroll 1
        for (int i = tid; i < words; i += NT)
            if (!(seen >> div_by(i, a.magic_count_words) & 1)) space[i] = 0;
        __syncthreads();
    }
    uint32_t present = seen;
    int packets = counts.most_tokens() * R * g.segments;
    const bool few = !LARGE && packets <= NW * blocks;
    counts.sum(tid, NT);
    __syncthreads();
    if (warp == 0) {
        if (__any_sync(~0u, seen != o.active || now_ns() - o.last_end >= kPromptNs)) present = agree(a, o, seen, lane);
        if (present != seen) recount(a, o, counts, present, lane);
        if (lane == 0) {
            present_agreed = present;
            packets_agreed = counts.most_tokens() * R * g.segments;
        }
        decided.publish();
        // Who is absent does not count from the next operation on, even if only other blocks saw it so.
        if (o.active & ~present & 1u << lane) give_up(a, &handle->lost, lane, o.epoch);
    }
    bool confirmed = false;
    // Rows of experts may be written, and packets of other ranks than those seen be looked for, from here on only.
    auto confirm = [&] {
        if (confirmed) return;
        decided.await();
        present = present_agreed;
        packets = packets_agreed;
        confirmed = true;
    };
    if (warp == NW - 1) {
        confirm();
#pragma unroll 1
        for (int e = block; e < counts.experts; e += blocks) {
            const int total = counts.total(e);
            if (lane < R) {
                const int begin = counts.begin(lane, e), end = lane + 1 < R ? counts.begin(lane + 1, e) : total;
                reinterpret_cast<uint64_t*>(a.layout_range)[e * R + lane] = end == begin ? 0 : static_cast<uint64_t>(end - begin) << 32 | static_cast<uint32_t>(begin);
            }
            if (lane == 0) {
                reinterpret_cast<uint32_t*>(a.recv_count)[e] = total;
                add_relaxed(reinterpret_cast<uint64_t*>(a.expert_tokens) + e, total);
            }
        }
        if (block == 0 && lane == 0) {
            handle->epoch = o.epoch;
            handle->present = present;
            handle->most_tokens = counts.most_tokens();
        }
    }

    // 2. Packets, token by token, all ranks together.
    const int rows = R * T, first_expert = first_expert_of(a, me), groups = a.hidden / 128;
    Segment u;
    uint32_t given_up = 0;
#pragma unroll 1
    for (int i = warp * blocks + block;; i += NW * blocks) {
        if (i >= packets) {
            confirm();
            if (i >= packets) break;
        }
        const Packet p(a, g, i);
        if (!(seen >> p.rank & 1)) confirm();  // before its counts are looked at
        const int from = p.rank * T + p.token, slots = g.slots_of(p.segment), vectors = g.vectors_of(p.segment);
        EpEntry* const entries = reinterpret_cast<EpEntry*>(a.handle_entries) + static_cast<size_t>(from) * K;
        const LaneMap map(lane, slots, vectors);
        uint4 m;
        if constexpr (kLooksAhead) {
            m = meta_ahead;
#pragma unroll
            for (int q = 0; q < kSlots; q++) u[q] = ahead[q];
        }
        const bool here = p.token < counts.tokens(p.rank) && counts.comes(p.rank, p.token) && !(given_up >> p.rank & 1) && wait_for_packet<kLooksAhead>(a, &handle->lost, p, o.epoch, o.tag_from(p.rank), mine + a.meta_at + static_cast<size_t>(from) * a.meta_lines * 128,
                             mine + a.rows_at + static_cast<size_t>(from) * a.row_bytes + p.segment * kSlots * kSlotBytes, slots,
                             map.tagged, few, meta, m, u, lane, began, given_up);
        if constexpr (kLooksAhead) look_ahead(i + NW * blocks);
        confirm();
        if (!here || !(present >> p.rank & 1)) {
            if (p.segment == 0 && lane == 0) entries->row = -1;
            continue;
        }
        unpack_lines(u, map.tagged);
        // Lane k looks at choice k of the token.
        int row = -1, expert = 0;
        float weight = 0;
        if (lane < K) {
            const uint32_t entry = meta[meta_word(1 + 2 * lane)];
            expert = static_cast<int>(entry & 0xffff) - first_expert;
            if (entry != ~0u && static_cast<unsigned>(expert) < static_cast<unsigned>(counts.experts)) {
                const int at = counts.begin(p.rank, expert) + (entry >> 16);
                if (at < counts.begin(p.rank + 1, expert)) row = expert * rows + at;  // behind the last rank stands the total
                weight = __uint_as_float(meta[meta_word(2 + 2 * lane)]);
            }
        }
        uint32_t mine_of_token = __ballot_sync(~0u, row >= 0);
        if (p.segment == 0) {
            if (row >= 0) {
                entries[__popc(mine_of_token & ((1u << lane) - 1))] = EpEntry{row, weight};
                reinterpret_cast<uint32_t*>(a.src_info)[row] = p.token;
            }
            const int n = __popc(mine_of_token);
            if (lane == 0 && n < K) entries[n] = EpEntry{-1, 0.f};
        }
        const int bytes = FP8 ? g.units_of(p.segment) * 128 : vectors * 16;  // without scales
        if constexpr (kBulk) {  // an image of the segment in shared memory goes to each row by itself
            char* const image = scratch + 512;
            asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
            __syncwarp();
#pragma unroll
            for (int q = 0; q < kSlots; q++)
                if (q < map.count) *reinterpret_cast<uint4*>(image + map.offset + q * map.stride) = u[q];
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            __syncwarp();
            if (row >= 0)
                asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0],[%1],%2;\ncp.async.bulk.commit_group;" ::"l"(
                                 reinterpret_cast<char*>(a.recv_x) + static_cast<size_t>(row) * a.hidden * 2 + p.segment * g.unit * 16),
                             "r"(static_cast<uint32_t>(__cvta_generic_to_shared(image))), "r"(bytes)
                             : "memory");
            continue;
        }
        char* const to = reinterpret_cast<char*>(a.recv_x) + p.segment * g.unit * (FP8 ? 128 : 16) + map.offset;
        char* const scales = scratch + 512;
        if constexpr (FP8) {
#pragma unroll
            for (int q = 0; q < kSlots; q++) {
                const int at = map.offset + q * map.stride - bytes;
                if (q < map.count && at >= 0) *reinterpret_cast<uint4*>(scales + at) = u[q];
            }
            __syncwarp();
        }
#pragma unroll 1
        for (; mine_of_token; mine_of_token &= mine_of_token - 1) {
            const int k = __ffs(mine_of_token) - 1, to_row = __shfl_sync(~0u, row, k);
            char* const out = to + static_cast<size_t>(to_row) * a.hidden * (FP8 ? 1 : 2);
#pragma unroll
            for (int q = 0; q < kSlots; q++)
                if (q < map.count && (!FP8 || map.offset + q * map.stride < bytes)) store_output(out + q * map.stride, u[q]);
            if constexpr (FP8) {
                const int e = __shfl_sync(~0u, expert, k), in_expert = to_row - e * rows;
                if (lane < g.units_of(p.segment)) {
                    const int group = p.segment * g.unit + lane;
                    const float scale = *reinterpret_cast<float*>(scales + lane * 4);
                    if (a.scale_format == EP_SCALE_UE8M0)
                        reinterpret_cast<uint8_t*>(a.recv_scales)[(static_cast<size_t>(e * ((groups + 3) / 4) + group / 4) * rows + in_expert) * 4 + group % 4] =
                            static_cast<uint8_t>(__float_as_uint(scale) >> 23);
                    else
                        reinterpret_cast<float*>(a.recv_scales)[static_cast<size_t>(e * groups + group) * rows + in_expert] = scale;
                }
            }
        }
    }
    if constexpr (kBulk) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    __syncthreads();
    if (tid == 0) end_operation(a);
}

template <bool FP8, int NT, bool LARGE>
__device__ __forceinline__ void dispatch(const EpArgs& a) {
    extern __shared__ __align__(128) char shared[];
    char* const scratch = shared + (threadIdx.x >> 5) * scratch_bytes<FP8>();
    int* const space = reinterpret_cast<int*>(shared + NT / 32 * scratch_bytes<FP8>());
    // Sending and receiving blocks apart: what shares an SM with stores to NVLink waits with them.
    if (a.mode & EP_MODE_SEND && blockIdx.x < a.senders)
        send_tokens<FP8, NT, LARGE>(a, scratch, space);
    else
        receive_tokens<FP8, NT, LARGE>(a, scratch, space);
}

}  // namespace ep
