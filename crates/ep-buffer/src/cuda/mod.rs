//! Dispatch and combine on GPUs, over NVLink windows.
//!
//! What the host form does, as kernels on the caller's stream: all operations can be
//! captured, and a captured graph goes on when ranks die and are replaced. The kernels ask
//! the device table who takes part ([`ep_transport::cuda`]); the host need not take part in
//! any operation.
//!
//! The kernels are compiled beforehand (`cargo xtask kernels`), the driver is loaded at run
//! time: this builds where there is no CUDA.

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
mod settings;
mod tensor;
pub mod testing;

pub use buffer::{EpBuffer, MAX_EXPERTS, MAX_RANKS};
pub use builder::Builder;
pub use fabric::DeviceFabric;
pub use settings::{DispatchType, ScaleFormat, Settings};
pub use tensor::{
    Answers, CombineOutput, CombineTensors, DispatchHandle, DispatchOutput, DispatchTensors,
    IndexType, Sizes, Stream, Tensor, Tokens,
};
