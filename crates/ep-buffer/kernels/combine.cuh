// Combine. The rank that owns experts sums its rows of a token in fp32, weighted, and returns
// one bf16 partial sum per token and rank, read where the experts left their outputs; the
// token's owner adds the partial sums in the order of ranks to its own. Partial sums for others
// go first, since somebody waits for them.
#pragma once
#include "rows.cuh"

namespace ep {

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

// Adds the partial sums of the ranks in `need`, one after the other: two at a time would not fit
// the registers. Returns those that did not answer.
__device__ __forceinline__ uint32_t add_partials(const EpArgs& a, const Operation& o, EpReport* report, const char* rows, int token, int segment,
                                                 int slots, bool tagged, bool few, uint32_t need, Sum& sum, int lane, uint64_t& began,
                                                 uint32_t& given_up) {
    uint32_t absent = need & (~o.reachable | given_up);
    if (absent & 1u << lane) give_up(a, &report->lost, lane, o.epoch);
    need &= ~absent;
#pragma unroll 1
    while (need) {
        int rank = __ffs(need) - 1;
        need &= need - 1;
        const uint32_t tag = o.tag_from(rank);
        const char* const from = rows + (static_cast<size_t>(rank) * a.max_tokens + token) * a.row_bytes + segment * kSlots * kSlotBytes;
        Segment v;
        bool over = false;
#pragma unroll 1
        for (int polls = 1; rank >= 0; polls++) {
            const bool look = polls % kPollsPerLook == 0;
            bool all = true;
            if (!few) all = __all_sync(~0u, !tagged || load_sys(from + (slots - 1) * kSlotBytes + lane * 16).w == tag);
            if (!all && !look) continue;
            load_lines(from, v, slots, tag, lane);
            if (lines_complete(v, tag, tagged)) break;
            if (!look) continue;
            if (over) {  // More looks after the clock: this block may have stood still before it.
                if (lane == 0) give_up(a, &report->lost, rank, o.epoch);
                absent |= 1u << rank;
                given_up |= 1u << rank;
                rank = -1;
            } else {
                over = __any_sync(~0u, lane == 0 && is_over(a, &report->lost, rank, o.epoch, began));
            }
        }
        if (rank >= 0) {
            unpack_lines(v, tagged);
            sum.add(v);
        }
    }
    return absent;
}

// Cycles for which a warp whose first item is one of its own tokens leaves the memory to those
// that return sums, which others wait for.
template <int NT, bool LARGE>
__device__ constexpr int head_start() { return LARGE ? 6000 : NT == 256 ? 0 : 1500; }

template <int NT, bool LARGE>
__device__ __forceinline__ void combine(const EpArgs& a) {
    constexpr int NW = NT / 32;
    extern __shared__ __align__(128) char shared[];
    __shared__ uint64_t barriers[NW][2];
    __shared__ Operation operation;
    __shared__ Notice table_read;
    __shared__ uint32_t absent_in_block, fixing, present;
    __shared__ int dealt;  // items of a large batch that the block's warps have taken
    const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, b = blockIdx.x, blocks = gridDim.x, R = a.capacity, K = a.max_top_k, me = a.me;
    const Geometry g(a.combine);
    EpHandle* const handle = reinterpret_cast<EpHandle*>(a.handle);
    EpReport* const report = reinterpret_cast<EpReport*>(a.report);
    const EpEntry* const entries = reinterpret_cast<const EpEntry*>(a.handle_entries);
    const bool sending = a.mode & EP_MODE_SEND, receiving = a.mode & EP_MODE_RECEIVE;
    // Of a large batch some blocks return sums and the others see to the own tokens, so that no
    // load waits behind stores to NVLink.
    const int returning = LARGE ? a.senders : blocks;
    const bool returns = b < returning;
    const int alike = returns ? returning : blocks - returning, number = returns ? b : b - returning;
    int step = NW * alike, first = warp * alike + number;
    int others = 0x7fffffff;
    bool own_here = true;  // what this rank dispatched to itself
    Rows rows(shared + warp * Rows::kBytes, barriers[warp], lane);
    // Lane k has the k-th row of the item's token here.
    auto entry_of = [&](int i) {
        const Item item(a, g, i, others);
        EpEntry e{-1, 0.f};
        if (lane < K && item.token < static_cast<int>(a.max_tokens) && (!item.own || own_here)) e = entries[static_cast<size_t>(item.rank * a.max_tokens + item.token) * K + lane];
        return e;
    };
    auto count_of = [&](const EpEntry& e) {
        const int end = __ffs(__ballot_sync(~0u, e.row < 0));
        return end ? end - 1 : 32;
    };
    auto y_of = [&](int segment) { return reinterpret_cast<const char*>(a.y) + segment * g.unit * 16; };
    auto begin = [&](int i, const EpEntry& e) {
        const int segment = Item(a, g, i, others).segment;
        rows.begin(a, e, count_of(e), y_of(segment), g.vectors_of(segment) * 16, lane);
    };
    if (tid == 0) {
        absent_in_block = 0;
        dealt = NW;
        table_read.make();
    }
    __syncthreads();
    await_previous_kernel();
    // Loaded before the number of items is known: right unless it is an own one.
    EpEntry current = R > 1 && sending && returns ? entry_of(first) : EpEntry{-1, 0.f}, next;
    const int most_tokens = handle->most_tokens;
    if (warp == NW - 1) {
        const uint64_t lost = load_sys64(&handle->lost.epoch[lane]), dispatched = handle->epoch;
        const uint32_t there = handle->present;
        begin_operation(a, operation, lane);
        // Not those that were given up in the middle of the dispatch.
        const uint32_t answered = there & __ballot_sync(~0u, lost != dispatched + 1);
        if (lane == 0) present = answered;
        table_read.publish();
    }
    const int sums = R > 1 ? most_tokens * g.segments * (R - 1) : 0;
    const bool begun = sending && returns && first < sums;
    if (begun) begin(first, current);  // travels while the table is read
    table_read.await();
    const Operation& o = operation;
    const uint32_t own_tag = o.tag_from(me);
    if (sending && b == 0 && warp == 0 && lane < R && lane != me && o.reachable >> lane & 1)
        store_sys64(half_of(a, lane, o.epoch) + a.hello_at + me * 8, own_tag);
    others = sums;
    own_here = present >> me & 1;
    const int all = receiving ? others + static_cast<int>(a.tokens) * g.segments : others;
    int items = LARGE && returns ? others : all;
    if (!sending || !returns) first += others;
    const int dealt_from = first - warp * alike;
    const bool few = !LARGE && items <= step;
    char* const partials = half_of(a, me, o.epoch) + a.rows_at;
    if (first >= others && first < items && sending && o.reachable & present & ~(1u << me))
        for (const long long since = clock64(); clock64() - since < head_start<NT, LARGE>();) __nanosleep(20);
    if (!begun && first < items) {
        current = entry_of(first);
        begin(first, current);
    }
    uint32_t left_out = 0, given_up = 0;
    uint64_t began = 0;
#pragma unroll 1
    for (int pass = 0;; pass++) {
#pragma unroll 1
        for (int i = first, following; i < items; i = following) {
            following = i + step;
            if (LARGE && !pass) {  // whichever warp comes first
                if (lane == 0) following = atomicAdd(&dealt, 1);
                following = dealt_from + alike * __shfl_sync(~0u, following, 0);
            }
            const Item item(a, g, i, others);
            const int slots = g.slots_of(item.segment);
            const EpEntry e = current;
            const LaneMap map(lane, slots, g.vectors_of(item.segment));
            if (following < items) next = entry_of(following);  // travels while this one's rows do
            // Of an own token: the ranks that it went to; lane k: the owner of choice k.
            uint32_t sent = 0, owner = 0xff;
            if (item.own) {
                sent = load_sys32(reinterpret_cast<const uint32_t*>(a.handle_sent) + item.token);
                if (item.segment == 0 && lane < static_cast<int>(a.top_k))
                    owner = reinterpret_cast<const uint8_t*>(a.handle_owners)[item.token * a.max_top_k + lane];
            }
            const int n = count_of(e);
            Sum sum;
            sum.clear();
            rows.add(a, e, n, y_of(item.segment), g.vectors_of(item.segment) * 16, map, sum, lane);
            current = next;
            if (following < items) begin(following, next);
            if (!item.own && (n == 0 || !(o.reachable & present & 1u << item.rank))) continue;
            if (pass && !(sent & left_out)) continue;  // the first pass must not wait for `sent` before
            Segment u;
            if (item.own) {
                const uint32_t need = sent & o.active & present & ~(1u << me) & ~left_out;
                const uint32_t absent = add_partials(a, o, report, partials, item.token, item.segment, slots, map.tagged, few, need, sum, lane, began, given_up);
                if (absent && lane == 0) atomicOr(&absent_in_block, absent);
                const uint32_t summed = (need | (sent & present & 1u << me)) & ~absent;
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
        began = __shfl_sync(~0u, began, 0);
        // Each live peer is heard even if no token connects us: two halves are enough only then.
        if (b == 0 && warp == 0 && lane < R && lane != me && o.active >> lane & 1) {
            const char* word = half_of(a, me, o.epoch) + a.hello_at + lane * 8;
            bool over = !(o.reachable >> lane & 1);
#pragma unroll 1
            for (int polls = over ? 0 : 1; polls == 0 || load_sys64(word) != o.tags[lane]; polls++) {
                if (polls % kPollsPerLook) continue;
                if (over) {
                    give_up(a, &report->lost, lane, o.epoch);
                    atomicOr(&absent_in_block, 1u << lane);
                    break;
                }
                over = is_over(a, &report->lost, lane, o.epoch, began);
            }
        }
        __syncthreads();
        if (tid == 0) {
            fixing = 0;
            if (absent_in_block) __threadfence();  // whoever makes sums anew sees who was given up here
            end_operation(a);
            // A rank's contribution is in all of a token or in none of it: one block of those that
            // missed one makes the tokens anew without it, once all others have written theirs.
            if (absent_in_block) {
                fixing = atomicExch(&report->fixed_by, static_cast<uint32_t>(o.epoch + 1)) != static_cast<uint32_t>(o.epoch + 1);
                while (fixing && load_sys64(&table_of(a)->ended.count) / EP_OPERATION == o.index) __nanosleep(200);
                // Nothing orders what others wrote before their counting; it arrives within this time.
                if (fixing)
                    for (const uint64_t since = now_ns(); now_ns() - since < 20000;) __nanosleep(1000);
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
        items = all;
        if (first < items) {
            current = entry_of(first);
            begin(first, current);
        }
    }
    if (!receiving) {
        __syncthreads();
        if (tid == 0) end_operation(a);
    }
}

}  // namespace ep
