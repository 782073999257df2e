//! Raw UDP sockets that do what a connection does, without doing the work.

use std::io::ErrorKind;
use std::mem::{size_of_val, zeroed};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a full packet: MTU, base header, invariant CRC.
const SEGMENT: usize = 4096 + 12 + 4;
/// Bytes that a first packet has on top: the RDMA header.
const FIRST: usize = 16;
/// Bytes of an acknowledgement.
const ACK: usize = 20;
/// Bytes in flight, as a queue pair has them.
const WINDOW: usize = 1 << 20;
/// Segments in one system call, at most, and bytes.
const SEGMENTS: usize = 15;

/// A socket with large buffers. With offload it takes and gives many datagrams
/// at a time.
fn socket(batched: bool) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let timeout = Some(Duration::from_secs(5));
    socket.set_read_timeout(timeout).unwrap();
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20);
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 8 << 20);
    if batched {
        set(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    }
    socket
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) -> bool {
    // SAFETY: these options take an `int`, which `value` is.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    result == 0
}

/// Sends `bytes` as datagrams of `segment` bytes, on a connected socket.
fn send(socket: &UdpSocket, bytes: &[u8], segment: usize) {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        value: [u8; 8],
    }
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + 2,
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        },
        value: [0; 8],
    };
    control.value[..2].copy_from_slice(&(segment as u16).to_ne_bytes());
    let mut data = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all bits zero is a valid message header: nothing.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the header is to a local value or to `bytes`,
    // which sending does not change.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, 0) };
    assert_eq!(usize::try_from(sent), Ok(bytes.len()));
}

/// A sender and a receiver.
pub(crate) struct Sockets {
    a: UdpSocket,
    b: UdpSocket,
    batched: bool,
}

impl Sockets {
    pub(crate) fn new(batched: bool) -> Self {
        let (a, b) = (socket(batched), socket(batched));
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        Self { a, b, batched }
    }

    /// Messages of `size` bytes for about `time`; MiB/s.
    pub(crate) fn throughput(&mut self, size: usize, time: Duration) -> f64 {
        let message = size.div_ceil(4096) * (SEGMENT - 4096) + FIRST + size;
        let stop = AtomicBool::new(false);
        let started = Instant::now();
        let mut sent = 0usize;
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(&self.b, message, &stop));
            let data = vec![7; message];
            let mut answered = 0;
            let mut answer = [0; ACK * 64];
            while started.elapsed() < time {
                self.message(&data);
                sent += 1;
                while (sent - answered) * message > WINDOW.max(message) {
                    answered += self.a.recv(&mut answer).unwrap() / ACK;
                }
            }
            while answered < sent {
                answered += self.a.recv(&mut answer).unwrap() / ACK;
            }
            stop.store(true, Ordering::Release);
            // It waits for one more.
            send(&self.a, &[0], 1);
            receiver.join().unwrap();
        });
        sent as f64 * size as f64 / f64::from(1 << 20) / started.elapsed().as_secs_f64()
    }

    fn message(&self, data: &[u8]) {
        if self.batched {
            for part in data.chunks(SEGMENTS * SEGMENT) {
                send(&self.a, part, SEGMENT);
            }
        } else {
            for datagram in data.chunks(SEGMENT) {
                self.a.send(datagram).unwrap();
            }
        }
    }
}

/// Answers each message of `message` bytes.
fn receive(socket: &UdpSocket, message: usize, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        bytes += socket.recv(&mut buffer).unwrap();
        if stop.load(Ordering::Acquire) {
            return;
        }
        while bytes >= message {
            bytes -= message;
            socket.send(&[0; ACK]).unwrap();
        }
    }
}

/// A packet there and back between two threads for about `time`; microseconds
/// one way. The threads sleep until it comes, or `spin`.
pub(crate) fn latency(size: usize, spin: bool, time: Duration) -> f64 {
    let (a, b) = (socket(false), socket(false));
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    for socket in [&a, &b] {
        socket.set_nonblocking(spin).unwrap();
    }
    let data = vec![7; size + 12 + FIRST + 4];
    let mut count = 0u64;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let mut buffer = [0; 1 << 13];
            loop {
                let len = next(&b, &mut buffer);
                if len == 1 {
                    return;
                }
                b.send(&buffer[..len]).unwrap();
            }
        });
        let mut buffer = [0; 1 << 13];
        while started.elapsed() < time {
            a.send(&data).unwrap();
            assert_eq!(next(&a, &mut buffer), data.len());
            count += 2;
        }
        a.send(&[0]).unwrap();
        echo.join().unwrap();
    });
    started.elapsed().as_secs_f64() * 1e6 / count as f64
}

fn next(socket: &UdpSocket, buffer: &mut [u8]) -> usize {
    loop {
        match socket.recv(buffer) {
            Ok(len) => return len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}
