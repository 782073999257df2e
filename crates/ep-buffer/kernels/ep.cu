// The kernels of ep-buffer, by name.
#include "combine.cuh"
#include "dispatch_receive.cuh"
#include "probes.cuh"

// A kernel of each kind for small batches, which start sooner with fewer threads, for middling
// ones, and for large ones, which have work for each warp many times over. Shared memory: scratch
// of each warp, and what the block counts.
#define EP_KERNEL(name, threads, body) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ EpArgs a) { body(a); }

EP_KERNEL(ep_dispatch_bf16_small, 256, (ep::dispatch<false, 256, false>))
EP_KERNEL(ep_dispatch_bf16_middling, 384, (ep::dispatch<false, 384, false>))
EP_KERNEL(ep_dispatch_bf16_large, 512, (ep::dispatch<false, 512, true>))
EP_KERNEL(ep_dispatch_fp8_small, 256, (ep::dispatch<true, 256, false>))
EP_KERNEL(ep_dispatch_fp8_middling, 384, (ep::dispatch<true, 384, false>))
EP_KERNEL(ep_dispatch_fp8_large, 512, (ep::dispatch<true, 512, true>))
// Partial sums of that many ranks are loaded together.
EP_KERNEL(ep_combine_1_small, 256, (ep::combine<256, 1, false>))
EP_KERNEL(ep_combine_1_middling, 512, (ep::combine<512, 1, false>))
EP_KERNEL(ep_combine_1_large, 512, (ep::combine<512, 1, true>))
EP_KERNEL(ep_combine_2_small, 256, (ep::combine<256, 2, false>))
EP_KERNEL(ep_combine_2_middling, 512, (ep::combine<512, 2, false>))
EP_KERNEL(ep_combine_2_large, 512, (ep::combine<512, 2, true>))

extern "C" __global__ void __launch_bounds__(512, 1) ep_push(const __grid_constant__ EpArgs a, uint64_t bytes) { ep::push_bytes(a, bytes); }
extern "C" __global__ void __launch_bounds__(512, 1) ep_nothing(const __grid_constant__ EpArgs a) {}
