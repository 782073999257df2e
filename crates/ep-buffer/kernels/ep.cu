// The kernels of ep-buffer, by name.
#include "combine.cuh"
#include "dispatch_receive.cuh"
#include "probes.cuh"

// A kernel of each kind for small batches, which start sooner with fewer threads, and for
// large ones. Shared memory: scratch of each warp, and what the block counts.
#define EP_KERNEL(name, threads, body) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ EpArgs a) { body(a); }

EP_KERNEL(ep_dispatch_bf16_256, 256, (ep::dispatch<false, 256>))
EP_KERNEL(ep_dispatch_bf16_384, 384, (ep::dispatch<false, 384>))
EP_KERNEL(ep_dispatch_fp8_256, 256, (ep::dispatch<true, 256>))
EP_KERNEL(ep_dispatch_fp8_384, 384, (ep::dispatch<true, 384>))
// Partial sums of that many ranks are loaded together.
EP_KERNEL(ep_combine_1_256, 256, (ep::combine<256, 1>))
EP_KERNEL(ep_combine_1_512, 512, (ep::combine<512, 1>))
EP_KERNEL(ep_combine_2_256, 256, (ep::combine<256, 2>))
EP_KERNEL(ep_combine_2_512, 512, (ep::combine<512, 2>))

extern "C" __global__ void __launch_bounds__(512, 1) ep_push(const __grid_constant__ EpArgs a, uint64_t bytes) { ep::push_bytes(a, bytes); }
extern "C" __global__ void __launch_bounds__(512, 1) ep_nothing(const __grid_constant__ EpArgs a) {}
