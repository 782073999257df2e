// The kernels of ep-buffer, by name.
#include "combine.cuh"
#include "dispatch_receive.cuh"
#include "probes.cuh"

// A kernel of each kind for small batches, which start sooner with fewer threads, for middling
// ones, and for large ones, which have work for each warp many times over. Shared memory: scratch
// of each warp, and in a dispatch what the block counts.
#define EP_KERNEL(name, threads, body) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ EpArgs a) { body(a); }

EP_KERNEL(ep_dispatch_bf16_small, EP_THREADS_SMALL, (ep::dispatch<false, EP_THREADS_SMALL, false>))
EP_KERNEL(ep_dispatch_bf16_middling, EP_THREADS_DISPATCH, (ep::dispatch<false, EP_THREADS_DISPATCH, false>))
EP_KERNEL(ep_dispatch_bf16_large, EP_THREADS_LARGE, (ep::dispatch<false, EP_THREADS_LARGE, true>))
EP_KERNEL(ep_dispatch_fp8_small, EP_THREADS_SMALL, (ep::dispatch<true, EP_THREADS_SMALL, false>))
EP_KERNEL(ep_dispatch_fp8_middling, EP_THREADS_DISPATCH, (ep::dispatch<true, EP_THREADS_DISPATCH, false>))
EP_KERNEL(ep_dispatch_fp8_large, EP_THREADS_LARGE, (ep::dispatch<true, EP_THREADS_LARGE, true>))
EP_KERNEL(ep_combine_small, EP_THREADS_SMALL, (ep::combine<EP_THREADS_SMALL, false>))
EP_KERNEL(ep_combine_middling, EP_THREADS_COMBINE, (ep::combine<EP_THREADS_COMBINE, false>))
EP_KERNEL(ep_combine_large, EP_THREADS_LARGE, (ep::combine<EP_THREADS_LARGE, true>))

extern "C" __global__ void __launch_bounds__(512, 1) ep_push(const __grid_constant__ EpArgs a, uint64_t bytes) { ep::push_bytes(a, bytes); }
extern "C" __global__ void __launch_bounds__(512, 1) ep_nothing(const __grid_constant__ EpArgs a) {}
