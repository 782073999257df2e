//! An etcd of our own: Debian's `etcd` on loopback, with a data directory that goes
//! when it goes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether there is an etcd to start.
pub(crate) fn is_installed() -> bool {
    Command::new("etcd").arg("--version").output().is_ok()
}

pub(crate) struct Etcd {
    directory: PathBuf,
    ports: [u16; 2],
    process: Option<Child>,
}

impl Etcd {
    pub(crate) fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "ep-etcd-{}-{}",
            std::process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        );
        let free = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = free.map(|listener| listener.local_addr().unwrap().port());
        let mut etcd = Self {
            directory: std::env::temp_dir().join(name),
            ports,
            process: None,
        };
        etcd.run();
        etcd
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Starts it, with the data that it had if it was there before.
    pub(crate) fn run(&mut self) {
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let log = File::create(self.directory.with_extension("log")).unwrap();
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(&self.directory)
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // etcd wants to be asked twice on machines that it is not tested on.
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Loses its data.
    pub(crate) fn forget(&self) {
        std::fs::remove_dir_all(&self.directory).unwrap();
    }

    /// Stops it or lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let process = self.process.as_ref().unwrap();
        let sent = Command::new("kill")
            .args([format!("-{name}"), process.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Forgets how keys came to be what they are, up to this revision.
    pub(crate) fn compact(&self, revision: u64) {
        let body = format!("{{\"revision\": \"{revision}\"}}");
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[0])).unwrap();
        write!(
            stream,
            "POST /v3/kv/compaction HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.contains("200 OK"), "{said}");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
        let _ = std::fs::remove_file(self.directory.with_extension("log"));
    }
}
