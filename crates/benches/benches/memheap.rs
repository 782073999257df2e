//! Offset allocators under the same loads: an allocation and a free per
//! iteration. `cargo bench -p benches --bench memheap`; takes about three minutes.

use std::time::Duration;

use benches::memheap_loads::{CONTENDERS, Load, SCALING, pin};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// An iteration is a pair; queues are replaced 128 blocks at a time, so criterion
/// counts in these.
const PAIRS: u64 = 128;

fn loads(criterion: &mut Criterion) {
    pin(1);
    let scaling = Load::scaling().into_iter().map(|load| (load, &SCALING[..]));
    let all = Load::all().into_iter().map(|load| (load, &CONTENDERS[..]));
    for (load, contenders) in all.chain(scaling.skip(1)) {
        let mut group = criterion.benchmark_group(format!("memheap/{}", load.name));
        group.throughput(Throughput::Elements(2 * PAIRS));
        group.sample_size(20);
        group.nresamples(10_000);
        group.warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_secs(1));
        for (name, start) in contenders {
            let Some(mut runner) = start(&load) else {
                continue;
            };
            runner.warm_up(load.slots.max(2_000));
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|iterations| runner.time((iterations * PAIRS) as usize));
            });
        }
        group.finish();
    }
}

criterion_group!(memheap, loads);
criterion_main!(memheap);
