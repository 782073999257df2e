// What every kernel asks the device table, and what it tells it.
//
// The table is described in ep-transport's cuda::table; the host changes it only where no
// block of a running operation can see half of a change, except for `gone`.
#pragma once
#include <cstdint>

#include "ep_abi.h"

namespace ep {

constexpr int kPollsPerLook = 64;  // of a wait, until the clock and the table are looked at

// ---- memory

__device__ __forceinline__ uint4 load_sys(const void* p) {
    uint4 v;
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ void store_sys(void* p, uint4 v) {
    asm volatile("st.relaxed.sys.global.v4.u32 [%0],{%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ uint64_t load_sys64(const void* p) {
    uint64_t v;
    asm volatile("ld.relaxed.sys.global.u64 %0,[%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ uint32_t load_sys32(const void* p) {
    uint32_t v;
    asm volatile("ld.relaxed.sys.global.u32 %0,[%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ void store_sys64(void* p, uint64_t v) {
    asm volatile("st.relaxed.sys.global.u64 [%0],%1;" ::"l"(p), "l"(v) : "memory");
}
struct Pair64 { uint64_t a, b; };
__device__ __forceinline__ Pair64 load_pair(const void* p) {
    Pair64 v;
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0,%1},[%2];" : "=l"(v.a), "=l"(v.b) : "l"(p) : "memory");
    return v;
}
// Input that nobody changes while the kernel runs, read once.
__device__ __forceinline__ uint4 load_input(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ __forceinline__ void store_output(void* p, uint4 v) {
    asm volatile("st.global.L1::no_allocate.v4.u32 [%0],{%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void add_relaxed(uint64_t* p, uint64_t v) {
    asm volatile("red.relaxed.gpu.global.add.u64 [%0],%1;" ::"l"(p), "l"(v) : "memory");
}
__device__ __forceinline__ uint64_t now_ns() {
    uint64_t t;
    asm volatile("mov.u64 %0,%%globaltimer;" : "=l"(t));
    return t;
}

// Where the launch allows it, the next kernel may be brought onto the SMs from here on, and
// this one goes on only when the one before is through. No input is read before.
__device__ __forceinline__ void await_previous_kernel() {
    asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
}

// ---- arithmetic

// x / d for magic = ceil(2^32 / d), if x * d < 2^32; 0 stands for d = 1.
__device__ __forceinline__ int div_by(int x, uint32_t magic) {
    return magic ? static_cast<int>(__umulhi(static_cast<uint32_t>(x), magic)) : x;
}

// Lives are a golden ratio apart, so that their tags meet again only millions of operations later.
__device__ __forceinline__ uint32_t tag_of(uint64_t epoch, uint32_t incarnation) {
    const uint32_t tag = static_cast<uint32_t>(epoch) + incarnation * 0x9E3779B9u;
    return tag ? tag : 0x80000000u;  // fresh memory is zero
}
// Of a rank alone, whose epochs come again once it is among others: by its own count, which does not.
__device__ __forceinline__ uint32_t tag_alone(uint64_t index, uint32_t incarnation) { return tag_of(index ^ 0x80000000u, incarnation); }

// ---- experts

__device__ __forceinline__ int owner_of(const EpArgs& a, int expert) {
    const int in_long_runs = a.extra_experts * (a.base_experts + 1);
    return expert < in_long_runs ? div_by(expert, a.magic_long_run)
                                 : static_cast<int>(a.extra_experts) + div_by(expert - in_long_runs, a.magic_short_run);
}
__device__ __forceinline__ int first_expert_of(const EpArgs& a, int rank) {
    return rank * a.base_experts + min(rank, static_cast<int>(a.extra_experts));
}

// ---- the operation

__device__ __forceinline__ EpTable* table_of(const EpArgs& a) { return reinterpret_cast<EpTable*>(a.table); }
__device__ __forceinline__ char* half_of(const EpArgs& a, int rank, uint64_t epoch) {
    return reinterpret_cast<char*>(a.windows + rank * a.stride + (epoch & 1) * a.half_bytes);
}

// What a block knows of the operation.
struct Operation {
    uint64_t epoch, index;
    uint64_t last_end;   // when the operation before ended
    uint32_t active;     // ranks that take part: all blocks agree
    uint32_t reachable;  // of these, the ones that this block has not found gone
    uint32_t tags[EP_MAX_RANKS];
    __device__ __forceinline__ uint32_t tag_from(int rank) const { return tags[rank]; }
};

__device__ __noinline__ void wait_for_decision(const EpArgs& a, uint64_t epoch) {
    EpTable* t = table_of(a);
    const uint64_t began = now_ns(), patience = load_sys64(&t->head.decision_time_out_ns);
    for (;;) {
        const uint64_t limit = load_sys64(&t->head.run_limit);
        if (epoch < limit) return;
        // The promise was that nobody goes on before there is a decision; but not for ever.
        if (now_ns() - began > patience) atomicCAS(reinterpret_cast<unsigned long long*>(&t->head.run_limit), limit, EP_NEVER);
        __nanosleep(1000);
    }
}

// One warp of each block: all of them would crowd the lines of the table. To be followed by
// a barrier.
__device__ __forceinline__ void begin_operation(const EpArgs& a, Operation& o, int lane) {
    EpTable* t = table_of(a);
    const bool announce = lane == 0 && a.mode & EP_MODE_SEND;
    if (announce) add_relaxed(&t->begun.count, blockIdx.x == 0 ? EP_OPERATION - (gridDim.x - 1) : 1);
    const int rank = min(lane, static_cast<int>(a.capacity) - 1);
    EpRow* row = &t->rows[rank];
#pragma unroll 1
    for (;;) {
        // The head before the rows: the host writes them in the opposite order.
        const Pair64 ended = load_pair(&t->ended.count);  // count, time
        const uint64_t index = ended.a / EP_OPERATION;
        const Pair64 limits = load_pair(&t->head.run_limit), bases = load_pair(&t->head.base_before);
        const uint64_t attached = load_sys64(&t->head.attached_op);
        const Pair64 span = load_pair(&row->active_from);
        const uint64_t life = load_sys64(&row->incarnation);  // incarnation, gone
        const uint64_t epoch = index + (index < limits.b ? bases.a : bases.b);
        if (epoch >= limits.a) {
            wait_for_decision(a, epoch);
            continue;
        }
        const bool me = lane == static_cast<int>(a.me);
        const bool counts = lane < static_cast<int>(a.capacity) && index >= attached && span.a <= epoch && epoch < span.b;
        const uint32_t active = __ballot_sync(~0u, counts || me), reachable = __ballot_sync(~0u, me || (counts && (life >> 32) == 0));
        const bool alone = !(active & ~(1u << a.me));
        o.tags[lane] = alone ? tag_alone(index, a.incarnation) : tag_of(epoch, me ? a.incarnation : static_cast<uint32_t>(life));
        if (lane == 0) {
            o.epoch = epoch;
            o.index = index;
            o.last_end = ended.b;
            o.active = active;
            o.reachable = reachable;
        }
        if (announce && blockIdx.x == 0 && !alone) store_sys64(&t->shared_until.count, epoch + 1);
        return;
    }
}

// What one warp writes for the others of its block, which go on until they need it. To be made
// before a barrier.
struct Notice {
    uint64_t word;
    __device__ __forceinline__ uint32_t address() { return static_cast<uint32_t>(__cvta_generic_to_shared(&word)); }
    __device__ __forceinline__ void make() { asm volatile("mbarrier.init.shared::cta.b64 [%0],32;" ::"r"(address()) : "memory"); }
    // By all lanes of the warp, each for what it wrote.
    __device__ __forceinline__ void publish() { asm volatile("{.reg .b64 s;\nmbarrier.arrive.shared::cta.b64 s,[%0];}" ::"r"(address()) : "memory"); }
    __device__ __forceinline__ void await() {
        uint32_t done = 0;
        while (!done)
            asm volatile("{.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p,[%1],0;\nselp.u32 %0,1,0,p;}"
                         : "=r"(done) : "r"(address()) : "memory");
    }
};

// Once by a block, when all its warps are through.
__device__ __forceinline__ void end_operation(const EpArgs& a) {
    EpTable* t = table_of(a);
    if (a.mode & EP_MODE_RECEIVE && blockIdx.x == 0) store_sys64(&t->ended.at_ns, now_ns());
    if (a.mode & EP_MODE_RECEIVE) add_relaxed(&t->ended.count, blockIdx.x == 0 ? EP_OPERATION - (gridDim.x - 1) : 1);
}

// ---- patience

// Notes that `rank` did not answer in this operation: from the next one on it does not count.
__device__ __noinline__ void give_up(const EpArgs& a, EpLost* lost, int rank, uint64_t epoch) {
    EpTable* t = table_of(a);
    store_sys64(&lost->epoch[rank], epoch + 1);
    atomicMin(reinterpret_cast<unsigned long long*>(&t->rows[rank].active_until), epoch + 1);
}

// Whether the wait for `rank` is over without an answer. Looked at now and then.
__device__ __noinline__ bool is_over(const EpArgs& a, const EpLost* lost, int rank, uint64_t epoch, uint64_t& began) {
    EpTable* t = table_of(a);
    const uint64_t now = now_ns();
    if (began == 0) began = now;
    return now - began > load_sys64(&t->head.time_out_ns) || load_sys32(&t->rows[rank].gone) != 0 ||
           load_sys64(&lost->epoch[rank]) == epoch + 1;
}

}  // namespace ep
