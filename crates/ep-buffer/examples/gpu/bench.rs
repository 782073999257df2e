//! One configuration: verified, timed beside its floors, verified again.

use crate::data::Data;
use crate::gpu_args::Args;
use crate::rank::{GpuRank, read_all};
use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaGraph, sys};
use ep_buffer::cuda::{DeviceFabric, DispatchType, EpBuffer, ScaleFormat, Tensor};
use ep_buffer::testing::reference::{Batch, Delivered, Reference, Rows, check_combine};
use ep_buffer::{Config, RowRange};
use ep_transport::store::Rendezvous;
use ep_transport::{Rank, RankSet};
use half::bf16;
use serde::Serialize;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// How long ranks wait for each other between two phases.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two ranks that come one after the other; all of them do within the time-out.
const APART: Duration = Duration::from_millis(20);
/// Pairs before those that are timed: the ranks meet in them, and the host gets ahead.
const LEAD: usize = 5;
/// Replays that are not counted.
const WARM_UP: u32 = 5;

/// What is said in the end, times in microseconds.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "timing")]
pub(crate) struct Timing {
    rank: u32,
    device: String,
    dispatch_us: Vec<f64>,
    pair_us: Vec<f64>,
    wire_us: Vec<f64>,
    launch_us: Vec<f64>,
    bytes_moved: u64,
    buffer_bytes: u64,
    verified: bool,
    /// The same for the same sums, to the bit.
    sums: String,
    problem: Option<String>,
}

/// Runs it on a rank with one layer, whose peers are all there.
pub(crate) fn run<F: DeviceFabric>(
    rank: &mut GpuRank<F>,
    args: &Args,
    data: &Data,
    store: &dyn Rendezvous,
) -> Result<Timing> {
    let config = rank.buffer.config().clone();
    let me = rank.buffer.rank();
    let meet = |phase: u32| meet(store, &config, me, phase);
    let batches: Vec<Batch> = ranks(&config).map(|r| data.batch(r, 0)).collect();
    let everybody: RankSet = ranks(&config).collect();
    let reference = Reference::new(&config, &batches, &everybody);
    rank.load(&batches[me.index()])?;
    let y = rank.buffer.expert_output()?;
    let row = config.hidden() as usize;
    for (local, expert) in config.placement().experts_of(me).enumerate() {
        let mut rows = Vec::with_capacity(reference.rows(expert).len() * row);
        for (source, token) in reference.rows(expert) {
            rows.extend_from_slice(data.result(expert, *source, *token));
        }
        let at = (local * config.rows_per_expert() * row * 2) as u64;
        y.write(at, bytemuck::cast_slice(&rows))?;
    }
    let y = Tensor::from(&y);
    let pair = |rank: &mut GpuRank<F>| {
        rank.dispatch(0)?;
        rank.combine(0, y)
    };
    let layers = args.layers as usize;
    let lead = rank.capture(|rank| (0..LEAD).try_for_each(|_| pair(rank)))?;
    let pairs = rank.capture(|rank| (0..layers).try_for_each(|_| pair(rank)))?;
    let dispatches = rank.capture(|rank| (0..layers).try_for_each(|_| rank.dispatch(0)))?;
    let verify =
        |rank: &GpuRank<F>| verify(rank, config.dispatch_type(), &reference, data, &batches);
    meet(0)?;
    lead.launch()?;
    rank.stream.synchronize()?;
    let mut problem = verify(rank)?;
    meet(1)?;
    let pair_us = time(rank, args, Some(&lead), &pairs)?;
    let dispatch_us = time(rank, args, Some(&lead), &dispatches)?;
    lead.launch()?;
    rank.stream.synchronize()?;
    problem = problem.or(verify(rank)?);
    let single = rank.capture(|rank| pair(rank))?;
    let last = config.capacity() - 1;
    let mut sums = Vec::new();
    for late in [me.0, last - me.0] {
        meet(2 + sums.len() as u32)?;
        std::thread::sleep(APART * late);
        single.launch()?;
        rank.stream.synchronize()?;
        sums.push(digest(rank)?);
    }
    if sums.first() != sums.last() {
        problem = problem.or(Some("sums depend on which rank comes first".to_owned()));
    }
    meet(4)?;
    // Nobody waits for an operation any more: what is pushed may lie on top of it.
    let [out, back] = bytes_out(&config, config.dispatch_type(), &reference, &batches, me);
    let others = u64::from(config.capacity() - 1).max(1);
    let each = |bytes: u64| (bytes / others).next_multiple_of(16);
    let stream = std::sync::Arc::clone(&rank.stream);
    let wire = rank.capture(|rank| {
        for _ in 0..layers {
            // SAFETY: all ranks have ended their last operation.
            unsafe {
                rank.buffer.push(&stream, each(out))?;
                rank.buffer.push(&stream, each(back))?;
            }
        }
        Ok(())
    })?;
    let nothing = rank.capture(|rank| {
        for _ in 0..2 * layers {
            // SAFETY: the stream is one of this device.
            unsafe { rank.buffer.nothing(&stream)? };
        }
        Ok(())
    })?;
    let wire_us = time(rank, args, None, &wire)?;
    meet(5)?;
    Ok(Timing {
        rank: me.0,
        device: rank.received.recv_x.device().name()?,
        dispatch_us,
        pair_us,
        wire_us,
        launch_us: time(rank, args, None, &nothing)?,
        bytes_moved: out + back,
        buffer_bytes: EpBuffer::footprint(&config),
        verified: problem.is_none(),
        sums: sums.pop().unwrap_or_default(),
        problem,
    })
}

fn ranks(config: &Config) -> impl Iterator<Item = Rank> + use<> {
    (0..config.capacity()).map(Rank)
}

/// Waits until every rank is here.
fn meet(store: &dyn Rendezvous, config: &Config, me: Rank, phase: u32) -> Result<()> {
    let key = |rank: Rank| format!("bench/{phase}/{}", rank.0);
    store.put(&key(me), b"here", None)?;
    let deadline = Instant::now() + PATIENCE;
    for rank in ranks(config) {
        while store.get(&key(rank))?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "{rank} did not reach phase {phase}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Microseconds of one of the parts of `graph`, by replay; `lead` goes before it, untimed.
fn time<F: DeviceFabric>(
    rank: &GpuRank<F>,
    args: &Args,
    lead: Option<&CudaGraph>,
    graph: &CudaGraph,
) -> Result<Vec<f64>> {
    let context = rank.stream.context();
    let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let (begin, end) = (context.new_event(flags)?, context.new_event(flags)?);
    let mut times = Vec::new();
    for replay in 0..WARM_UP + args.replays {
        rank.stream.synchronize()?;
        if let Some(lead) = lead {
            lead.launch()?;
        }
        begin.record(&rank.stream)?;
        graph.launch()?;
        end.record(&rank.stream)?;
        rank.stream.synchronize()?;
        if replay >= WARM_UP {
            times.push(f64::from(begin.elapsed_ms(&end)?) * 1e3 / f64::from(args.layers));
        }
    }
    Ok(times)
}

/// What is wrong with the last pair.
fn verify<F: DeviceFabric>(
    rank: &GpuRank<F>,
    dispatch: DispatchType,
    reference: &Reference<'_>,
    data: &Data,
    batches: &[Batch],
) -> Result<Option<String>> {
    let (me, config) = (rank.buffer.rank(), rank.buffer.config());
    let received = &rank.received;
    let (count, info) = (
        read_all::<u32>(&received.recv_count)?,
        read_all(&received.src_info)?,
    );
    let ranges = read_all::<u64>(&received.layout_range)?.into_iter();
    let ranges: Vec<RowRange> = ranges
        .map(|word| RowRange {
            begin: word as u32,
            count: (word >> 32) as u32,
        })
        .collect();
    let mut x = vec![bf16::ZERO; received.recv_x.len() as usize / 2];
    received.recv_x.read(0, bytemuck::cast_slice_mut(&mut x))?;
    let scales = match &received.recv_scales {
        Some(scales) => read_all::<f32>(scales)?,
        None => Vec::new(),
    };
    let bytes = bytemuck::cast_slice(&x);
    let delivered = Delivered {
        recv_count: &count,
        src_info: &info,
        layout_range: &ranges,
        rows: match dispatch {
            DispatchType::Fp8(ScaleFormat::F32) => Rows::Fp8(bytes, &scales),
            DispatchType::Fp8(_) => Rows::Fp8Ue8m0(bytes, bytemuck::cast_slice(&scales)),
            _ => Rows::Bf16(&x),
        },
    };
    if let Err(why) = reference.check_dispatch(me, &delivered) {
        return Ok(Some(why.to_string()));
    }
    let everybody: RankSet = ranks(config).collect();
    let (sums, missing) = rank.sums(0)?;
    let batch = batches.get(me.index()).context("no batch")?;
    let result = |expert: u32, token: usize, row: &mut [bf16]| {
        row.copy_from_slice(data.result(expert, me, token as u32));
    };
    let checked = check_combine(config, me, batch, &everybody, (&sums, &missing), result);
    Ok(checked.err().map(|why| why.to_string()))
}

fn digest<F: DeviceFabric>(rank: &GpuRank<F>) -> Result<String> {
    let (sums, missing) = rank.sums(0)?;
    let mut hasher = DefaultHasher::new();
    bytemuck::cast_slice::<bf16, u8>(&sums).hash(&mut hasher);
    missing.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// Bytes of rows that `me` puts on the wire in a dispatch and in a combine.
fn bytes_out(
    config: &Config,
    dispatch: DispatchType,
    reference: &Reference<'_>,
    batches: &[Batch],
    me: Rank,
) -> [u64; 2] {
    let placement = config.placement();
    // Tokens of `from` of which `at` has a row.
    let tokens = |from: Rank, at: Rank| {
        let count = batches.get(from.index()).map_or(0, Batch::tokens) as u32;
        let goes = |token: &u32| {
            let mut experts = placement.experts_of(at);
            experts.any(|expert| reference.row(expert, from, *token).is_some())
        };
        (0..count).filter(goes).count() as u64
    };
    let others = || ranks(config).filter(|rank| *rank != me);
    let hidden = u64::from(config.hidden());
    let row = match dispatch {
        DispatchType::Fp8(ScaleFormat::F32) => hidden + hidden / 128 * 4,
        DispatchType::Fp8(_) => hidden + hidden.div_ceil(512) * 4,
        _ => hidden * 2,
    };
    let out: u64 = others().map(|at| tokens(me, at)).sum();
    let back: u64 = others().map(|from| tokens(from, me)).sum();
    [out * row, back * hidden * 2]
}
