// A weighted sum in fp32, and the experts' rows that go into it.
#pragma once
#include "lines.cuh"
#include <cuda_bf16.h>

namespace ep {

__device__ __forceinline__ uint4 load_shared(uint32_t at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}

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
    __device__ __forceinline__ void add_two(int k, const uint4& s, float w, const uint4& t, float v) {
        const __nv_bfloat162 *h = reinterpret_cast<const __nv_bfloat162*>(&s), *i = reinterpret_cast<const __nv_bfloat162*>(&t);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float2 x = __bfloat1622float2(h[j]), y = __bfloat1622float2(i[j]);
            f[k][2 * j] = fmaf(v, y.x, fmaf(w, x.x, f[k][2 * j]));
            f[k][2 * j + 1] = fmaf(v, y.y, fmaf(w, x.y, f[k][2 * j + 1]));
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

// The experts' rows of a warp's items on their way into its shared memory, in pairs, two of them
// at most. A lane that knows where a row is copies the item's part of it, by one instruction.
struct Rows {
    static constexpr int kRowBytes = kSlots * kSlotBytes, kBytes = 4 * kRowBytes;
    static_assert(kBytes == EP_COMBINE_WARP_BYTES);
    uint32_t space, arrived;  // rows; an mbarrier for each pair of places
    uint32_t turns = 0;       // bits 0 and 2: the phase that each of them is in
    __device__ __forceinline__ Rows(char* shared, uint64_t* barriers, int lane)
        : space(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), arrived(static_cast<uint32_t>(__cvta_generic_to_shared(barriers))) {
        if (lane < 2) asm volatile("mbarrier.init.shared::cta.b64 [%0],1;\nfence.mbarrier_init.release.cluster;" ::"r"(arrived + lane * 8) : "memory");
        __syncwarp();
    }
    // Rows j and j + 1 of n, of each of which `bytes` at `y` are wanted. All have read what was in their places.
    __device__ __forceinline__ void send_for(const EpArgs& a, const EpEntry& e, int j, int n, const char* y, int bytes, int lane) {
        const uint32_t barrier = arrived + (j & 2) * 4;
        if (lane == j)
            asm volatile("{.reg .b64 s;\nmbarrier.arrive.expect_tx.shared::cta.b64 s,[%0],%1;}" ::"r"(barrier), "r"(j + 1 < n ? 2 * bytes : bytes) : "memory");
        __syncwarp();
        if (static_cast<unsigned>(lane - j) < 2u && lane < n)
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(space + (lane & 3) * kRowBytes),
                         "l"(y + static_cast<size_t>(e.row) * a.hidden * 2), "r"(bytes), "r"(barrier)
                         : "memory");
    }
    __device__ __forceinline__ void begin(const EpArgs& a, const EpEntry& e, int n, const char* y, int bytes, int lane) {
        __syncwarp();
        if (n > 0) send_for(a, e, 0, n, y, bytes, lane);
        if (n > 2) send_for(a, e, 2, n, y, bytes, lane);
    }
    // Adds the rows that were begun, and those behind them.
    __device__ __forceinline__ void add(const EpArgs& a, const EpEntry& e, int n, const char* y, int bytes, const LaneMap& map, Sum& sum, int lane) {
#pragma unroll 1
        for (int j = 0; j < n; j += 2) {
            const bool two = j + 1 < n;
            const uint32_t barrier = arrived + (j & 2) * 4, at = space + (j & 2) * kRowBytes + map.offset;
            uint32_t done = 0;
            while (!done)
                asm volatile("{.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p,[%1],%2;\nselp.u32 %0,1,0,p;}"
                             : "=r"(done) : "r"(barrier), "r"(turns >> (j & 2) & 1) : "memory");
            turns ^= 1u << (j & 2);
            const float w = __shfl_sync(~0u, e.weight, j), v = two ? __shfl_sync(~0u, e.weight, j + 1) : 0.f;
#pragma unroll
            for (int q = 0; q < kSlots; q++) {
                uint4 s = make_uint4(0, 0, 0, 0), t = s;
                if (q < map.count) s = load_shared(at + q * map.stride);
                if (two && q < map.count) t = load_shared(at + kRowBytes + q * map.stride);
                sum.add_two(q, s, w, t, v);
            }
            if (j + 4 >= n) continue;
            __syncwarp();
            send_for(a, e, j + 4, n, y, bytes, lane);
        }
    }
};

}  // namespace ep
