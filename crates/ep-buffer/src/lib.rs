//! Elastic MoE dispatch and combine.
//!
//! A mixture-of-experts model spreads its experts over ranks. [`EpBuffer::dispatch`]
//! sends each token to the ranks that own its experts, [`EpBuffer::combine`] brings
//! the experts' results back, weighted and summed. Ranks may die and come back in
//! the meantime: a peer that does not answer in time is masked, its share is left
//! out and reported per token, and a rank that is admitted takes part from the
//! agreed epoch on, while nobody else stops.
//!
//! ```
//! use ep_buffer::testing::{Cluster, Network};
//! use ep_buffer::{Config, EpBuffer};
//! use half::bf16;
//!
//! // Two ranks, four experts, rows of 8 elements, at most 16 tokens a rank.
//! let config = Config::builder(2, 4, 8, 16).max_top_k(2).build()?;
//! let (_cluster, fabrics) = Cluster::with_ranks(&config, Network::default(), 2)?;
//! std::thread::scope(|scope| {
//!     for fabric in fabrics {
//!         let mut buffer = EpBuffer::new(config.clone(), fabric).unwrap();
//!         scope.spawn(move || {
//!             let mut received = buffer.dispatch_output().unwrap();
//!             let mut combined = buffer.combine_output().unwrap();
//!             // One token, to expert 0 (of rank 0) and expert 3 (of rank 1).
//!             let x = [bf16::ONE; 8];
//!             let handle = buffer
//!                 .dispatch(&x, &[0, 3], &[0.25, 0.75], 2, &mut received)
//!                 .unwrap();
//!             // Experts that return their input.
//!             let expert_out = received.recv_x().to_vec();
//!             buffer.combine(&handle, &expert_out, &mut combined).unwrap();
//!             assert_eq!(combined.x(), x);
//!             assert_eq!(combined.missing(), [0]);
//!         });
//!     }
//! });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Rows travel in bf16 or, at half the bytes, in FP8 with scales ([`DispatchType`]); what the
//! experts make of them and its sums are bf16 in any case.
//!
//! Between processes the fabric is an [`ep_transport::Group`] whose region has
//! [`Config::footprint`] bytes; the example `moe_layer` shows all of it.
//!
//! With the feature `cuda`, `cuda::EpBuffer` does the same on GPUs, over NVLink.
//!
//! The buffer needs [`Config::footprint`] bytes of a group's shared region, which
//! depends on ranks and tokens and not on the number of experts.

pub mod buffer;
mod combine;
pub mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dispatch;
pub mod error;
pub mod exchange;
pub mod fp8;
mod group;
pub mod layout;
pub mod output;
mod pause;
pub mod placement;
pub mod plan;
pub mod rows;
pub mod signal;
pub mod slot;
pub mod stats;
pub mod testing;

pub use buffer::EpBuffer;
pub use config::{Config, ConfigBuilder, ConfigError};
pub use error::{EpError, Loss, LossCause};
pub use fp8::ScaleFormat;
pub use layout::Layout;
pub use output::{CombineOutput, DispatchOutput, RowRange};
pub use placement::Placement;
pub use plan::DispatchHandle;
pub use rows::{DispatchType, Rows};
pub use stats::{EpStats, Traffic};
