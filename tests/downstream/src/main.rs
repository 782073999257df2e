//! Two ranks in two threads: a dispatch and a combine through the software NIC.
use anyhow::{Result, anyhow, ensure};
use ep_buffer::{Config, EpBuffer};
use ep_transport::{Group, Rank, store::MemStore};
use half::bf16;
use std::{sync::Arc, thread, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);

fn rank(me: Rank, store: Arc<MemStore>) -> Result<()> {
    // 2 ranks, 4 experts, hidden 64, up to 8 tokens a rank, top-2.
    let config = Config::builder(2, 4, 64, 8).max_top_k(2).build()?;
    let mut group = Group::open(&config.group(me), config.footprint(), store)?;
    group.wait_admitted(LIMIT)?;
    let mut ep = EpBuffer::new(config, group)?;
    let (mut received, mut combined) = (ep.dispatch_output()?, ep.combine_output()?);
    // Each token goes to expert 0, which rank 0 owns, and to expert 3, on rank 1.
    let x = vec![bf16::from_f32(1.5); 8 * 64];
    let (topk_idx, topk_weights) = ([0, 3].repeat(8), [0.5; 16]);
    let handle = ep.dispatch(&x, &topk_idx, &topk_weights, 2, &mut received)?;
    // The experts would run here; these give back what they got.
    ep.combine(&handle, received.recv_x(), &mut combined)?;
    ensure!(combined.x() == x, "{me}: wrong sums");
    ensure!(combined.missing() == [0; 8], "{me}: something is missing");
    Ok(ep.into_fabric().finish(LIMIT)?)
}

fn main() -> Result<()> {
    let mut heap = memheap::Heap::new(1 << 20);
    let block = heap.alloc(4096, 64)?;
    heap.free(block)?;
    let store = Arc::new(MemStore::new());
    let ranks = [Rank(0), Rank(1)].map(|me| (store.clone(), me));
    let threads = ranks.map(|(store, me)| thread::spawn(move || rank(me, store)));
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a rank panicked"))??;
    }
    Ok(())
}
