//! Whether a configuration and settings fit a GPU, and what they come to there.

use super::kernels::{DISPATCH_THREADS, MAX_SHARED_BYTES};
use super::launch::dispatch_shared;
use super::layout::Layout;
use super::limits::Limits;
use super::settings::Settings;
use crate::config::Config;
use crate::error::EpError;
use ep_transport::Rank;
use ep_transport::cuda::{CudaError, Device, table};

/// Ranks that the GPU form can hold: a bit in a word, a lane in a warp.
pub const MAX_RANKS: u32 = table::MAX_RANKS as u32;
/// Experts whose counts fit the shared memory of a block with room to spare.
pub const MAX_EXPERTS: u32 = 8192;
/// Blocks of an operation agree on an absence no sooner than after two milliseconds.
const MIN_TIME_OUT_US: u64 = 5_000;
/// Meta data of a token that a warp stores at once.
const MAX_META_LINES: u32 = 4;
/// The numbers of tokens travel in 16 bits.
const MAX_TOKENS: u32 = 65_535;

/// What a buffer takes of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resources {
    pub(super) sms: u32,
    pub(super) senders: u32,
    pub(super) early: bool,
}

impl Resources {
    /// Touches nothing: to be asked before a rank is taken.
    pub(super) fn new(
        config: &Config,
        settings: Settings,
        rank: Rank,
        device: &Device,
    ) -> Result<Self, EpError> {
        let cuda = |source| EpError::Cuda { rank, source };
        usable(device).map_err(cuda)?;
        Self::on(config, settings, rank, device.sm_count().map_err(cuda)?)
    }

    /// On a GPU with `all` multiprocessors.
    fn on(config: &Config, settings: Settings, rank: Rank, all: u32) -> Result<Self, EpError> {
        let limits = Limits { rank };
        let layout = Layout::new(config);
        let (capacity, tokens) = (config.capacity(), config.max_tokens());
        limits.within("capacity", capacity, 1, MAX_RANKS)?;
        limits.within("rank", rank.0, 0, capacity - 1)?;
        limits.within("experts", config.experts(), 1, MAX_EXPERTS)?;
        limits.within("max_tokens", tokens, 1, MAX_TOKENS)?;
        let time_out = u64::try_from(config.time_out().as_micros()).unwrap_or(u64::MAX);
        let what = "time_out in microseconds";
        limits.within(what, time_out, MIN_TIME_OUT_US, u64::MAX)?;
        limits.within("lines of meta data", layout.meta_lines, 1, MAX_META_LINES)?;
        let sms = settings.sms.unwrap_or(all);
        limits.within("sms", sms, capacity + 1, all)?;
        let senders = settings.senders.unwrap_or((sms / 4).max(capacity));
        limits.within("senders", senders, capacity, sms - 1)?;
        let bytes = |threads| dispatch_shared(config, &layout, tokens, senders, threads);
        let threads = DISPATCH_THREADS.of(tokens, |threads| bytes(threads) <= MAX_SHARED_BYTES);
        let what = "shared memory of a block";
        limits.within(what, bytes(threads), 0, MAX_SHARED_BYTES)?;
        Ok(Self {
            sms,
            senders,
            early: settings.early_launch.unwrap_or(settings.sms.is_none()),
        })
    }
}

/// The kernels are compiled for 9.0, and by the driver for what came after it.
fn usable(device: &Device) -> Result<(), CudaError> {
    // What blocks have beside the memory that they ask for at their launch.
    const STATIC_SHARED_BYTES: u32 = 4 << 10;
    let what = if device.compute_capability()? < (9, 0) {
        "compute capability 9.0 or newer"
    } else if device.shared_bytes_per_block()? < MAX_SHARED_BYTES + STATIC_SHARED_BYTES {
        "204 KiB of shared memory for a block"
    } else {
        return Ok(());
    };
    Err(CudaError::Unsupported {
        ordinal: device.ordinal(),
        uuid: device.uuid(),
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigBuilder;
    use crate::cuda::DispatchType;
    use std::time::Duration;

    const SMS: u32 = 132;

    fn refusal(config: ConfigBuilder, settings: Settings, rank: u32) -> Option<&'static str> {
        match Resources::on(&config.build().unwrap(), settings, Rank(rank), SMS) {
            Err(EpError::Limit { what, .. }) => Some(what),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        }
    }

    fn config() -> ConfigBuilder {
        Config::builder(4, 16, 128, 100).max_top_k(2)
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let plain = Settings::default();
        let with = |sms, senders| Settings {
            sms,
            senders,
            ..plain
        };
        assert_eq!(refusal(config(), plain, 0), None);
        assert_eq!(refusal(config(), plain, 4), Some("rank"));
        let time_out = config().time_out(Duration::from_millis(4));
        assert_eq!(
            refusal(time_out, plain, 0),
            Some("time_out in microseconds")
        );
        let many = Config::builder(33, 33, 128, 100);
        assert_eq!(refusal(many, plain, 0), Some("capacity"));
        let many = Config::builder(4, MAX_EXPERTS + 4, 128, 100);
        assert_eq!(refusal(many, plain, 0), Some("experts"));
        let many = Config::builder(4, 16, 128, MAX_TOKENS + 1);
        assert_eq!(refusal(many, plain, 0), Some("max_tokens"));
        for (sms, what) in [(4, Some("sms")), (5, None), (132, None), (133, Some("sms"))] {
            assert_eq!(refusal(config(), with(Some(sms), None), 0), what, "{sms}");
        }
        for (senders, what) in [
            (3, Some("senders")),
            (4, None),
            (9, None),
            (10, Some("senders")),
        ] {
            let settings = with(Some(10), Some(senders));
            assert_eq!(refusal(config(), settings, 0), what, "{senders}");
        }
        let large = || Config::builder(4, 16, 128, 60_000).max_top_k(8);
        let large = || large().dispatch_type(DispatchType::Bf16);
        let what = Some("shared memory of a block");
        assert_eq!(refusal(large(), with(None, Some(4)), 0), what);
        assert_eq!(refusal(large(), with(None, Some(100)), 0), None);
    }

    #[test]
    fn a_quarter_of_the_multiprocessors_sends_if_nothing_else_is_said() {
        let of_gpu =
            |settings| Resources::on(&config().build().unwrap(), settings, Rank(0), SMS).unwrap();
        let of = |sms, senders, early| Resources {
            sms,
            senders,
            early,
        };
        assert_eq!(of_gpu(Settings::default()), of(132, 33, true));
        let few = Settings {
            sms: Some(8),
            ..Settings::default()
        };
        assert_eq!(of_gpu(few), of(8, 4, false));
    }
}
