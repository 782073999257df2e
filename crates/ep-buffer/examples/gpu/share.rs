//! All ranks in one process, which share the GPUs that there are: for comparing kernels on
//! machines with fewer GPUs than ranks.

use crate::bench::{self, Timing};
use crate::data::Data;
use crate::gpu_args::Args;
use crate::rank::GpuRank;
use anyhow::{Context, Result, anyhow};
use ep_buffer::Config;
use ep_buffer::cuda::testing::{Member, cluster, sms_of_each};
use ep_buffer::cuda::{DeviceFabric, EpBuffer, Settings};
use ep_transport::store::MemStore;

/// Measures one configuration; what each rank says.
pub(crate) fn run(args: &Args, config: &Config) -> Result<Vec<Timing>> {
    let settings = Settings {
        sms: args.sms.or(sms_of_each(config)?),
        ..args.settings()
    };
    let data = Data::new(config, args);
    let store = MemStore::new();
    // One after the other, as the driver may give streams that are made at the same time the
    // same queue of a GPU.
    let members = cluster(config)?.into_iter();
    let ranks = members.map(|member: Member| {
        let rank = member.rank();
        let buffer = EpBuffer::new(config.clone(), settings, member);
        GpuRank::new(buffer?, 1).with_context(|| rank.to_string())
    });
    let ranks = ranks.collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let threads = ranks.into_iter().map(|mut rank| {
            let (data, store) = (&data, &store);
            scope.spawn(move || bench::run(&mut rank, args, data, store))
        });
        let threads: Vec<_> = threads.collect();
        let ended = threads.into_iter().enumerate().map(|(rank, thread)| {
            let result = thread.join();
            let result = result.map_err(|_| anyhow!("the thread of rank {rank} panicked"))?;
            result.with_context(|| format!("rank {rank}"))
        });
        ended.collect()
    })
}
