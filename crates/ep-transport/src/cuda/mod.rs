//! Memory of GPUs, and groups whose data path is a GPU.
//!
//! Builds and starts where there is no driver; [`Driver::get`] then says so.
//!
//! What the crate `cudarc` offers as functions ends in a panic where a driver is not there
//! or too old, and in a Rust enumeration of the result codes of one version of CUDA, which
//! a newer driver does not keep to. So the driver's functions are looked up one by one and
//! their results taken as numbers; the structs and the way in which the library is found
//! are those of `cudarc`, so that both use the same one.

pub mod control;
mod copies;
pub mod device;
pub mod driver;
mod error;
pub mod group;
mod links;
pub mod memory;
pub mod table;
pub mod windows;
pub mod words;

pub use control::{DeviceControl, Settings};
pub use device::{Device, Scope, Uuid};
pub use driver::Driver;
pub use error::CudaError;
pub use group::{GpuGroup, TimeOuts};
pub use memory::{DeviceMemory, DeviceRegion};
pub use windows::Windows;
pub use words::Words;
