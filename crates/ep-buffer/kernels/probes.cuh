// What the figures of dispatch and combine are held against: the wire and the launch.
#pragma once
#include "lines.cuh"

namespace ep {

// Stores `bytes` bytes to every other rank with all SMs, 16 bytes a thread.
__device__ __forceinline__ void push_bytes(const EpArgs& a, uint64_t bytes) {
    const uint64_t vectors = bytes / 16, step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < vectors; i += step)
        for (uint32_t k = 1; k < a.capacity; k++) {
            const uint32_t r = (a.me + k) % a.capacity;
            store_sys(reinterpret_cast<char*>(a.windows + r * a.stride) + a.rows_at + i * 16, make_uint4(i, i, i, i));
        }
}

}  // namespace ep
