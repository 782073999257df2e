//! Dispatch and combine on GPUs, over NVLink windows.
//!
//! What the host form does, as kernels on the caller's stream: all operations can be
//! captured, and a captured graph goes on when ranks die and are replaced. The kernels ask
//! the device table who takes part ([`ep_transport::cuda`]); the host need not take part in
//! any operation.
//!
//! The kernels are compiled beforehand (`cargo xtask kernels`), the driver is loaded at run
//! time: this builds where there is no CUDA.
//!
//! A decode step of ten layers is captured once, before anybody has heard of this rank, and
//! served from for the life of the process. Who dies is left out of sums at once, and who comes
//! in takes part from the beginning of a replay on, which
//! [`ops_per_round`](crate::ConfigBuilder::ops_per_round) says. A process that is to replace a
//! dead one runs the same:
//!
//! ```no_run
//! use cudarc::driver::{CudaContext, sys};
//! use ep_buffer::Config;
//! use ep_buffer::cuda::{EpBuffer, IndexType, Tensor, Tokens};
//! use ep_transport::cuda::DeviceMemory;
//! use ep_transport::{Rank, store::Rendezvous};
//! use std::{error::Error, sync::Arc, time::Duration};
//!
//! fn serve(rank: Rank, store: Arc<dyn Rendezvous>) -> Result<(), Box<dyn Error>> {
//!     let (layers, tokens, top_k) = (10, 128, 8);
//!     let config = Config::builder(4, 288, 7168, tokens)
//!         .max_top_k(top_k)
//!         .ops_per_round(2 * layers)
//!         .build()?;
//!     let mut ep = EpBuffer::builder(rank, config).device(rank.0).open(store)?;
//!     let stream = CudaContext::new(rank.0 as usize)?.new_stream()?;
//!
//!     // What attention and router leave, what goes to the experts, what they make of it, and
//!     // what comes back.
//!     let choices = u64::from(tokens * top_k);
//!     let memory = |bytes| DeviceMemory::new(ep.fabric().device(), bytes);
//!     let (x, weights) = (memory(u64::from(tokens) * 7168 * 2)?, memory(choices * 4)?);
//!     let experts = memory(choices * 8)?;
//!     let (received, y) = (ep.dispatch_output()?, ep.expert_output()?);
//!     let handle = ep.handle()?;
//!     // Of each layer, since each may lack others.
//!     let combined = (0..layers).map(|_| ep.combine_output());
//!     let combined = combined.collect::<Result<Vec<_>, _>>()?;
//!     let batch = Tokens {
//!         tokens,
//!         top_k,
//!         x: Tensor::from(&x),
//!         topk_idx: Tensor::from(&experts),
//!         index_type: IndexType::I64,
//!         topk_weights: Tensor::from(&weights),
//!     };
//!
//!     stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
//!     for out in &combined {
//!         // The layer's attention and router go here ...
//!         // SAFETY: everything lives until the graph is dropped, and is used on this stream only.
//!         unsafe { ep.dispatch(&stream, &batch, &handle, &received.tensors())? };
//!         // ... and here its experts, from `received` to `y`.
//!         // SAFETY: as above.
//!         unsafe { ep.combine(&stream, (tokens, top_k), &handle, &y, &out.tensors())? };
//!     }
//!     let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
//!     let graph = stream.end_capture(flags)?.ok_or("nothing was captured")?;
//!     graph.launch()?; // warms up alone, every peer masked
//!     stream.synchronize()?;
//!
//!     ep.fabric_mut().wait_admitted(Duration::from_secs(60))?;
//!     loop {
//!         // A new batch is copied to `x` here.
//!         graph.launch()?;
//!         stream.synchronize()?;
//!         // Which choices of each token are not in its sum: none, all 0, while everybody is
//!         // there.
//!         let mut missing = [0_u8; 128 * 4];
//!         for out in &combined {
//!             out.missing.read(0, &mut missing)?;
//!         }
//!         for event in ep.fabric().take_events() {
//!             println!("{event:?}");
//!         }
//!     }
//! }
//! ```
//!
//! A rank that leaves drops its graphs, lets its stream come to rest, takes the group back
//! ([`EpBuffer::into_fabric`]) and calls [`leave`](ep_transport::cuda::GpuGroup::leave); the process that
//! serves a TCP store then waits until it is alone there.
//!
//! # Limits
//!
//! Beyond those of [`Config`](crate::Config), and refused before the rank is taken:
//!
//! | what | limit |
//! | --- | --- |
//! | GPU | compute capability 9.0, and 204 KiB of shared memory for a block |
//! | ranks | [`MAX_RANKS`] |
//! | experts | [`MAX_EXPERTS`] |
//! | tokens of a rank | 65,535, and what the shared memory of a block holds of those of a sender ([`Settings::senders`]) |
//! | time-out | at least 5 ms |
//! | multiprocessors ([`Settings::sms`]) | more than there are ranks; all of them have to become free for an operation |
//! | senders | at least as many as ranks, and fewer than multiprocessors |
//!
//! Tensors are aligned to 16 bytes, which each operation looks at.

pub mod args;
mod buffer;
mod builder;
#[cfg(feature = "cust")]
mod cust;
mod fabric;
mod kernels;
mod launch;
mod layout;
mod limits;
mod resources;
mod settings;
mod tensor;
pub mod testing;

pub use buffer::EpBuffer;
pub use builder::Builder;
pub use fabric::DeviceFabric;
pub use resources::{MAX_EXPERTS, MAX_RANKS};
pub use settings::{DispatchType, ScaleFormat, Settings};
pub use tensor::{
    Answers, CombineOutput, CombineTensors, DispatchHandle, DispatchOutput, DispatchTensors,
    IndexType, Sizes, Stream, Tensor, Tokens,
};
