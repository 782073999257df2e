//! Memory of GPUs, windows and groups over them, on whatever GPUs there are; one will do.
//! Skipped without any.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says so if it cannot begin"
)]

mod processes;

use ep_transport::cuda::{
    CudaError, Device, DeviceMemory, DeviceRegion, Driver, GpuGroup, TimeOuts, Windows,
};
use ep_transport::store::{MemStore, Rendezvous};
use ep_transport::{ConnectionState, Epoch, GroupConfig, Incarnation, MemberEvent, Rank};
use libtest_mimic::{Arguments, Trial};
use rustix::fd::AsFd;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const REGION: u64 = 5 << 20;
const TIME_OUTS: TimeOuts = TimeOuts {
    operation: Duration::from_millis(100),
    decision: Duration::from_secs(20),
};

fn main() -> ExitCode {
    if let Some(role) = processes::role() {
        return processes::run(role);
    }
    let skip = gpus() == 0;
    if skip {
        eprintln!("skipped: no GPU here");
    }
    let tests: [(&str, fn()); 6] = [
        ("what_is_written_is_read_and_nothing_beyond", memory),
        (
            "a_window_shows_the_memory_behind_it_at_one_address",
            windows,
        ),
        ("a_region_that_does_not_fit_is_refused", misfits),
        ("windows_on_the_same_memory_go_at_the_same_time", together),
        ("ranks_of_one_process_lose_one_and_take_it_in", group),
        (
            "a_process_dies_and_another_takes_its_place_behind_the_same_window",
            processes::a_process_dies,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(skip)
    });
    let mut arguments = Arguments::from_args();
    // They share the GPUs, and some have time-outs.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn gpus() -> u32 {
    Driver::get().and_then(Driver::device_count).unwrap_or(0)
}

/// Ranks are dealt out to the GPUs that there are.
fn device(rank: u32) -> Arc<Device> {
    Device::open(rank % gpus()).unwrap()
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(seed | 1)).collect()
}

fn read(windows: &Windows, rank: Rank, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    windows.read(rank, offset, &mut data).unwrap();
    data
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn memory() {
    let device = device(0);
    assert!(device.sm_count().unwrap() > 0 && device.compute_capability().unwrap().0 > 0);
    assert_eq!(device.ordinal_of(device.uuid()).unwrap(), Some(0));
    let memory = DeviceMemory::new(&device, 300_000).unwrap();
    let data = pattern(5, 200_000);
    memory.write(100_000, &data).unwrap();
    let mut seen = vec![1; 300_000];
    // From another thread, which has never seen the context.
    std::thread::scope(|scope| {
        scope.spawn(|| memory.read(0, &mut seen).unwrap());
    });
    assert!(seen[..100_000].iter().all(|byte| *byte == 0));
    assert!(seen[100_000..] == data);
    let beyond = memory.write(299_999, &[0; 2]);
    assert!(matches!(beyond, Err(CudaError::OutOfRange { .. })));
    let error = Device::open(gpus()).unwrap_err();
    assert!(matches!(error, CudaError::NoSuchDevice { .. }), "{error}");
}

fn windows() {
    let device = device(0);
    let windows = Windows::reserve(&device, 3, REGION).unwrap();
    let regions = [(); 2].map(|()| DeviceRegion::new(&device, REGION).unwrap());
    let (own, peer) = (Rank(0), Rank(2));
    let address = windows.address(peer).unwrap();
    let last = windows.stride() - 1000;
    // What goes astray lands in the sink.
    windows.write(peer, last, &[1; 1000]).unwrap();
    // SAFETY: nothing was launched.
    unsafe {
        windows.place_own(own, &regions[0]).unwrap();
        windows.share_in_process(peer, &regions[0]).unwrap();
    }
    let data = pattern(3, 1000);
    windows.write(peer, last, &data).unwrap();
    assert!(read(&windows, own, last, 1000) == data);
    // By descriptor, as another process would.
    let file = regions[1].export().unwrap();
    // SAFETY: nothing was launched.
    unsafe {
        windows
            .replace(peer, file.as_fd(), regions[1].len())
            .unwrap()
    };
    windows.write(peer, last, &[9; 1000]).unwrap();
    assert!(read(&windows, own, last, 1000) == data);
    // SAFETY: nothing was launched.
    unsafe { windows.clear(peer).unwrap() };
    windows.write(peer, last, &[8; 1000]).unwrap();
    // SAFETY: nothing was launched.
    unsafe { windows.share_in_process(peer, &regions[1]).unwrap() };
    drop(regions);
    assert!(read(&windows, peer, last, 1000) == [9; 1000]);
    assert_eq!(windows.address(peer).unwrap(), address);
}

fn misfits() {
    let device = device(0);
    let windows = Windows::reserve(&device, 2, REGION).unwrap();
    let region = DeviceRegion::new(&device, 4 * REGION).unwrap();
    let file = region.export().unwrap();
    // SAFETY: nothing was launched.
    let refused = unsafe {
        [
            windows.share_in_process(Rank(1), &region),
            windows.replace(Rank(1), file.as_fd(), region.len()),
            windows.clear(Rank(2)),
        ]
    };
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
    windows.write(Rank(1), 0, &[1; 10]).unwrap();
    assert!(
        windows
            .write(Rank(1), windows.stride() - 9, &[1; 10])
            .is_err()
    );
    assert!(DeviceRegion::new(&device, 0).is_err());
}

/// As ranks of one process have them: each sees the memory of all.
fn together() {
    const RANKS: u32 = 8;
    for round in 0..10 {
        let regions = (0..RANKS).map(|r| DeviceRegion::new(&device(r), REGION).unwrap());
        let regions: Arc<[DeviceRegion]> = regions.collect();
        let barrier = Barrier::new(RANKS as usize);
        std::thread::scope(|scope| {
            for (r, regions) in (0..RANKS).zip(std::iter::repeat_n(regions, RANKS as usize)) {
                let barrier = &barrier;
                scope.spawn(move || {
                    let made = show(r, &regions, round);
                    drop(regions);
                    // Whoever fails does so behind the barriers, at which others wait.
                    barrier.wait();
                    let seen = made.as_ref().map(|windows| {
                        let mut seen = [0; 10];
                        let read = windows.read(Rank((r + 1) % RANKS), 0, &mut seen);
                        read.map(|()| seen)
                    });
                    barrier.wait();
                    assert_eq!(seen.unwrap().unwrap(), [round; 10]);
                });
            }
        });
    }
}

/// All regions in windows of rank `r`, whose own one is written to.
fn show(r: u32, regions: &[DeviceRegion], byte: u8) -> Result<Windows, CudaError> {
    let device = Device::open(r % gpus())?;
    let windows = Windows::reserve(&device, regions.len() as u32, REGION)?;
    for (of, region) in (0..).zip(regions) {
        // SAFETY: nothing was launched.
        unsafe { windows.share_in_process(Rank(of), region) }?;
    }
    windows.write(Rank(r), 0, &[byte; 10])?;
    Ok(windows)
}

fn config(rank: u32, capacity: u32) -> GroupConfig {
    GroupConfig {
        take_over_time_out: PATIENCE,
        ..GroupConfig::new(Rank(rank), capacity)
    }
}

fn open(rank: u32, capacity: u32, store: Arc<dyn Rendezvous>) -> GpuGroup {
    let config = config(rank, capacity);
    let mut group = GpuGroup::open(&config, &device(rank), REGION, TIME_OUTS, store).unwrap();
    group.announce().unwrap();
    group
}

fn group() {
    let store = MemStore::new();
    let open = |rank| open(rank, 3, Arc::new(store.clone()));
    let mut groups: Vec<GpuGroup> = (0..3).map(open).collect();
    for group in &mut groups {
        assert_eq!(group.wait_admitted(PATIENCE).unwrap(), Epoch(0));
        assert_eq!(group.control().next_epoch().unwrap(), Epoch(0));
    }
    let before = groups[0].snapshot();
    groups[0].windows().write(Rank(2), 64, b"before").unwrap();
    assert_eq!(read(groups[2].windows(), Rank(2), 64, 6), b"before");
    drop(groups.pop());
    let counts = |group: &GpuGroup, life| group.control().counts(Rank(2), Incarnation(life));
    eventually("the death was noticed", || !counts(&groups[0], 1).unwrap());
    // Memory that is seen lives on.
    groups[0].windows().write(Rank(2), 64, b"nobody").unwrap();
    let mut newcomer = open(2);
    let epoch = newcomer.wait_admitted(PATIENCE).unwrap();
    assert_eq!(newcomer.control().next_epoch().unwrap(), epoch);
    for group in &groups {
        eventually("the newcomer counts", || counts(group, 2).unwrap());
        let serves = || group.connection(Rank(2)) == ConnectionState::Serving;
        eventually("the newcomer is served", serves);
    }
    groups[0].windows().write(Rank(2), 64, b"after!").unwrap();
    assert_eq!(read(newcomer.windows(), Rank(2), 64, 6), b"after!");
    assert_eq!(groups[0].snapshot(), before);
    let events = groups[1].take_events();
    let lost = |event: &MemberEvent| matches!(event, MemberEvent::PeerLost { rank: Rank(2), .. });
    assert!(events.iter().any(lost), "{events:?}");
    newcomer.leave().unwrap();
}
