//! Where the ranks meet, and what only they know.

use super::args::Args;
use anyhow::Context;
use ep_transport::store::{Rendezvous, StoreError, TcpStore, TcpStoreServer};
use ep_transport::{Error, Group, GroupConfig, Secret};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to look for the store, which another process may still be starting.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a store may be away while this rank takes its place.
const AWAY: Duration = Duration::from_secs(30);
const RETRY_PERIOD: Duration = Duration::from_millis(100);

/// The secret in `file`, a final line break aside.
pub(crate) fn secret(file: &Path) -> anyhow::Result<Secret> {
    let name = || format!("the secret in {}", file.display());
    let bytes = std::fs::read(file).with_context(name)?;
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Secret::new(bytes).with_context(name)
}

/// The rendezvous store, and its server if this process is to serve it.
pub(crate) fn open(
    args: &Args,
    secret: Option<Secret>,
) -> anyhow::Result<(Option<TcpStoreServer>, Arc<dyn Rendezvous>)> {
    if args.serve_store {
        let server = TcpStoreServer::bind_with_secret(&args.store, secret);
        let server = server.context("the rendezvous store")?;
        let store = Arc::new(server.store());
        return Ok((Some(server), store));
    }
    let name = || format!("the rendezvous store at {}", args.store);
    if args.store.contains("://") {
        return Ok((None, etcd(&args.store).with_context(name)?));
    }
    let store = TcpStore::connect_with_secret(&args.store, STORE_PATIENCE, secret);
    Ok((None, Arc::new(store.with_context(name)?)))
}

#[cfg(feature = "etcd")]
fn etcd(members: &str) -> anyhow::Result<Arc<dyn Rendezvous>> {
    let members: Vec<&str> = members.split(',').collect();
    let store = ep_transport::store::EtcdStore::connect(&members, STORE_PATIENCE)?;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "etcd"))]
fn etcd(_members: &str) -> anyhow::Result<Arc<dyn Rendezvous>> {
    anyhow::bail!("this program was built without the feature etcd")
}

/// Takes this rank's place and is taken in by the others. A store that is away is waited
/// for, as it would be later.
pub(crate) fn join(
    config: &GroupConfig,
    region_bytes: u64,
    store: &Arc<dyn Rendezvous>,
    ready: impl FnOnce(&Group),
    limit: Duration,
) -> anyhow::Result<Group> {
    let mut group = patiently(|| Group::open(config, region_bytes, Arc::clone(store)))?;
    ready(&group);
    patiently(|| group.announce())?;
    group.wait_admitted(limit)?;
    Ok(group)
}

fn patiently<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + AWAY;
    loop {
        match call() {
            Err(Error::Store(StoreError::Connection { .. } | StoreError::Unreachable { .. }))
                if Instant::now() < deadline =>
            {
                std::thread::sleep(RETRY_PERIOD);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_and_never_shown() {
        let file = std::env::temp_dir().join(format!("moe-secret-{}", std::process::id()));
        std::fs::write(&file, "sixteen bytes or more\n").unwrap();
        assert!(secret(&file).is_ok());
        std::fs::write(&file, "short\n").unwrap();
        let error = format!("{:#}", secret(&file).unwrap_err());
        std::fs::remove_file(&file).unwrap();
        assert!(
            error.contains("5 bytes") && !error.contains("short"),
            "{error}"
        );
        assert!(secret(&file).is_err());
    }
}
