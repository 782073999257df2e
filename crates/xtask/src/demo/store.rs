//! Where the processes of a run meet: a store over TCP or an etcd, and their secret.

use super::plan::name_of;
use crate::{features, supervised};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use ep_transport::Secret;
use ep_transport::store::TcpStoreServer;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoreKind {
    /// One over TCP that ends with whoever serves it
    #[default]
    Tcp,
    /// An etcd, started for the run; any rank may die
    Etcd,
}

#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct StoreArgs {
    /// Where the ranks meet. For `etcd`, an etcd has to be installed (Debian: etcd-server),
    /// and protoc, with which its client is built (protobuf-compiler, libprotobuf-dev)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) store: StoreKind,
    /// The ranks share a secret, drawn anew and handed to them in a file
    #[arg(long)]
    pub(crate) secret: bool,
}

impl StoreArgs {
    /// Why they cannot meet there on this machine, if they cannot.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        (self.store == StoreKind::Etcd && !Etcd::is_installed())
            .then_some("no etcd is installed (Debian: etcd-server)")
    }

    /// The program that is a rank, built if none is given.
    ///
    /// # Errors
    /// They cannot meet where they are to, or it cannot be built.
    pub(crate) fn program(&self, given: Option<&PathBuf>) -> Result<PathBuf> {
        if let Some(what) = self.missing() {
            bail!("--store {}: {what}", name_of(self.store));
        }
        if let Some(program) = given {
            return Ok(program.clone());
        }
        let features: &[&str] = match self.store {
            StoreKind::Tcp => &[],
            StoreKind::Etcd => {
                if let Some(what) = features::missing()? {
                    bail!("--store etcd: {what}");
                }
                &["etcd"]
            }
        };
        crate::cargo::build_example("ep-buffer", "moe_layer", features)
    }
}

/// The rendezvous of a run.
pub(crate) struct Meeting {
    /// Where it is, for the ranks.
    address: String,
    secret: Option<PathBuf>,
    served: Served,
    _scratch: TempDir,
}

enum Served {
    /// By rank 0.
    Elsewhere,
    Here {
        /// Serves until it is dropped.
        _server: TcpStoreServer,
    },
    Etcd(Etcd),
}

impl Meeting {
    /// Serves it here, at `port` of loopback or any free one.
    pub(crate) fn serve(args: &StoreArgs, port: Option<u16>) -> Result<Self> {
        let (scratch, secret) = prepare(args)?;
        let (address, served) = match args.store {
            StoreKind::Tcp => {
                let address = format!("127.0.0.1:{}", port.unwrap_or(0));
                let secret = secret.as_ref().map(|(secret, _)| secret.clone());
                let server = TcpStoreServer::bind_with_secret(&address, secret)?;
                let address = server.address().to_string();
                (address, Served::Here { _server: server })
            }
            StoreKind::Etcd => {
                let etcd = Etcd::start(scratch.path(), port)?;
                (etcd.address(), Served::Etcd(etcd))
            }
        };
        Ok(Self {
            address,
            secret: secret.map(|(_, file)| file),
            served,
            _scratch: scratch,
        })
    }

    /// Rank 0 serves it, unless it is an etcd.
    pub(crate) fn at_rank_0(args: &StoreArgs, port: Option<u16>) -> Result<Self> {
        if args.store == StoreKind::Etcd {
            return Self::serve(args, port);
        }
        let (scratch, secret) = prepare(args)?;
        let [port] = free_ports([port])?;
        Ok(Self {
            address: format!("127.0.0.1:{port}"),
            secret: secret.map(|(_, file)| file),
            served: Served::Elsewhere,
            _scratch: scratch,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether a rank has to serve it.
    pub(crate) fn needs_server(&self) -> bool {
        matches!(self.served, Served::Elsewhere)
    }

    /// What every rank is told besides the address.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let secret = self.secret.iter();
        secret
            .map(|file| format!("--secret-file={}", file.display()))
            .collect()
    }

    /// Ends the etcd, if there is one and it runs; what it has written stays.
    pub(crate) fn kill(&mut self) -> Result<bool> {
        match &mut self.served {
            Served::Etcd(etcd) => etcd.kill(),
            _ => Ok(false),
        }
    }

    /// Starts the etcd again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        match &mut self.served {
            Served::Etcd(etcd) => etcd.run(),
            _ => Ok(()),
        }
    }
}

/// A directory for what is needed, and the secret with the file in it, if there is to be
/// one: on a command line, others could read it.
fn prepare(args: &StoreArgs) -> Result<(TempDir, Option<(Secret, PathBuf)>)> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    if !args.secret {
        return Ok((scratch, None));
    }
    let mut random = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context("no random numbers")?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = scratch.path().join("secret");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .context("cannot write the secret")?;
    file.write_all(digits.as_bytes())
        .context("cannot write the secret")?;
    Ok((scratch, Some((Secret::new(digits.as_bytes())?, path))))
}

/// Ports of loopback that are free now: those wanted, or any.
fn free_ports<const N: usize>(wanted: [Option<u16>; N]) -> Result<[u16; N]> {
    // All at once, so that they differ.
    let listeners = wanted.map(|port| {
        let port = port.unwrap_or(0);
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("port {port} of the store cannot be used"))
    });
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

/// An etcd of our own, on loopback. It dies with us.
struct Etcd {
    directory: PathBuf,
    ports: [u16; 2],
    process: Option<Child>,
}

impl Etcd {
    fn is_installed() -> bool {
        let mut command = Command::new("etcd");
        command.arg("--version").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn start(directory: &Path, port: Option<u16>) -> Result<Self> {
        let mut etcd = Self {
            directory: directory.to_owned(),
            ports: free_ports([port, None])?,
            process: None,
        };
        etcd.run()?;
        Ok(etcd)
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Starts it, with the data that it had if it was there before.
    fn run(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "etcd runs already");
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let log = self.directory.join("etcd.log");
        let log = File::options().create(true).append(true).open(log);
        let log = log.context("cannot write etcd's log")?;
        let mut command = supervised::command(Path::new("etcd"));
        let process = command
            .arg("--data-dir")
            .arg(self.directory.join("etcd"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // etcd wants to be asked twice on machines that it is not tested on.
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(process.context("cannot start etcd")?);
        Ok(())
    }

    /// Whether it ran.
    fn kill(&mut self) -> Result<bool> {
        let Some(mut process) = self.process.take() else {
            return Ok(false);
        };
        process.kill().context("cannot kill etcd")?;
        process.wait().context("cannot wait for etcd")?;
        Ok(true)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It is gone, or the system will not let go of it.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_secret_is_in_a_file_that_nobody_else_reads() -> Result<()> {
        let args = StoreArgs {
            secret: true,
            ..StoreArgs::default()
        };
        let meeting = Meeting::serve(&args, None)?;
        assert!(!meeting.needs_server());
        let arguments = meeting.arguments();
        let [argument] = arguments.as_slice() else {
            panic!("{arguments:?}");
        };
        let file = argument
            .strip_prefix("--secret-file=")
            .context("no secret file")?;
        assert_eq!(std::fs::metadata(file)?.permissions().mode() & 0o777, 0o600);
        let secret = std::fs::read_to_string(file)?;
        assert!(secret.len() >= 32 && !arguments.concat().contains(&secret));
        let other = Meeting::serve(&args, None)?.arguments();
        assert_ne!(other, arguments);
        assert!(
            Meeting::serve(&StoreArgs::default(), None)?
                .arguments()
                .is_empty()
        );
        drop(meeting);
        assert!(!Path::new(file).exists());
        Ok(())
    }

    #[test]
    fn rank_0_is_asked_to_serve_a_store_over_tcp() -> Result<()> {
        let meeting = Meeting::at_rank_0(&StoreArgs::default(), None)?;
        assert!(meeting.needs_server());
        let port: u16 = meeting.address().rsplit(':').next().unwrap_or("").parse()?;
        // Free for rank 0 to listen at, and taken once it does.
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let error = Meeting::at_rank_0(&StoreArgs::default(), Some(port)).err();
        let text = format!("{:#}", error.context("accepted")?);
        assert!(text.contains(&format!("port {port}")), "{text}");
        Ok(())
    }
}
