//! Elastic MoE dispatch and combine.
//!
//! A mixture-of-experts model spreads its experts over ranks. [`EpBuffer::dispatch`]
//! sends each token to the ranks that own its experts, [`EpBuffer::combine`] brings
//! the experts' results back, weighted and summed. Ranks may die and come back in
//! the meantime: a peer that does not answer in time is masked, its share is left
//! out and reported per token, and a rank that is admitted takes part from the
//! agreed epoch on, while nobody else stops.
//!
//! The buffer needs [`Config::footprint`] bytes of a group's shared region, which
//! depends on ranks and tokens and not on the number of experts.

pub mod buffer;
mod combine;
pub mod config;
mod dispatch;
pub mod error;
pub mod exchange;
pub mod layout;
pub mod output;
mod pause;
pub mod placement;
pub mod plan;
pub mod signal;
pub mod slot;
pub mod stats;
pub mod testing;

pub use buffer::EpBuffer;
pub use config::{Config, ConfigBuilder, ConfigError};
pub use error::{EpError, Loss, LossCause};
pub use layout::Layout;
pub use output::{CombineOutput, DispatchOutput, RowRange};
pub use placement::Placement;
pub use plan::DispatchHandle;
pub use stats::{EpStats, Traffic};
