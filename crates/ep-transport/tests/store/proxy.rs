//! A network between client and store that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Shared {
    streams: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
    /// Swallow what the store says from now on, and count it.
    deaf: AtomicBool,
    swallowed: AtomicUsize,
    flip: AtomicBool,
}

pub(crate) struct Proxy {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(crate) fn to(store: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        let here = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if here.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(store) = TcpStream::connect(store) else {
                    continue;
                };
                let mut streams = here.streams.lock().unwrap();
                for stream in [&client, &store] {
                    stream.set_nodelay(true).unwrap();
                    streams.push(stream.try_clone().unwrap());
                }
                for (from, to, is_answer) in [
                    (
                        client.try_clone().unwrap(),
                        store.try_clone().unwrap(),
                        false,
                    ),
                    (store, client, true),
                ] {
                    let here = Arc::clone(&here);
                    std::thread::spawn(move || here.forward(from, to, is_answer));
                }
            }
        });
        Self { address, shared }
    }

    /// Closes every connection; new ones are taken.
    pub(crate) fn cut(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on answers are lost, until [`Proxy::cut`] and then [`Proxy::hear`].
    pub(crate) fn lose_answers(&self) {
        self.shared.deaf.store(true, Ordering::SeqCst);
    }

    pub(crate) fn hear(&self) {
        self.shared.deaf.store(false, Ordering::SeqCst);
    }

    /// Waits until an answer was lost.
    pub(crate) fn wait_for_a_lost_answer(&self) {
        while self.shared.swallowed.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Changes a bit in the next thing that the client says: in the value of a put with
    /// a secret, behind which are the lease (none) and the code.
    pub(crate) fn tamper(&self) {
        self.shared.flip.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn forward(&self, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut bytes = [0; 4096];
        while let Ok(read) = from.read(&mut bytes)
            && read > 0
        {
            if is_answer && self.deaf.load(Ordering::SeqCst) {
                self.swallowed.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            if !is_answer && self.flip.swap(false, Ordering::SeqCst) {
                bytes[read - 1 - 1 - 32] ^= 0x10;
            }
            if to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
