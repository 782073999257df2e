//! What changes under a prefix: a list first, then a watch from where it ends.
//!
//! If etcd has compacted what a watch would have to begin with, there is a list again,
//! with the names of all keys, by which the reader learns what is gone. So has a list of
//! several pages: between two of them keys may go that were on the first.

use super::{Fault, PATIENCE, by, known, revision};
use crate::store::{Change, Changes};
use etcd_client::{
    Error, EventType, GetOptions, KeyValue, KvClient, SortOrder, SortTarget, WatchClient,
    WatchOptions, WatchResponse, WatchStream,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Keys in one page of a list.
const PAGE: i64 = 32;

/// Where one reader of changes is.
pub(super) struct Feed {
    prefix: String,
    /// Everything up to this revision has been reported.
    at: i64,
    source: Source,
}

enum Source {
    /// Keys changed after `at`, page by page.
    List {
        /// Deletions are not known from a watch.
        compacted: bool,
        /// There was a page.
        begun: bool,
    },
    Watch(Option<Box<WatchStream>>),
}

impl Feed {
    /// Goes on with `last` if that is what the reader asks for.
    pub(super) fn resume(last: Option<Self>, prefix: &str, after: i64) -> Self {
        let list = Source::List {
            compacted: false,
            begun: false,
        };
        match last {
            Some(last) if last.prefix == prefix && last.at == after => last,
            _ => Self {
                prefix: prefix.to_owned(),
                at: after,
                source: if after > 0 { Source::Watch(None) } else { list },
            },
        }
    }

    /// The next changes; none if none come within `limit`.
    pub(super) async fn next(
        &mut self,
        mut kv: KvClient,
        mut watch: WatchClient,
        limit: Duration,
    ) -> Result<Changes, Fault> {
        let deadline = crate::clock::deadline(limit);
        loop {
            let changes = match &mut self.source {
                Source::List { compacted, begun } => {
                    let list = (*compacted, *begun);
                    self.page(&mut kv, list).await?
                }
                Source::Watch(None) => {
                    let options = WatchOptions::new()
                        .with_prefix()
                        .with_start_revision(self.at + 1)
                        .with_fragment();
                    let opened = watch.watch(self.prefix.clone(), Some(options));
                    let stream = by(Instant::now() + PATIENCE, opened).await?;
                    self.source = Source::Watch(Some(Box::new(stream)));
                    continue;
                }
                Source::Watch(Some(stream)) => {
                    let message = by(deadline, stream.message()).await;
                    match message {
                        Err(Fault::TimedOut) => return Ok(self.report(Vec::new(), None)),
                        Err(fault) => {
                            self.source = Source::Watch(None);
                            return Err(fault);
                        }
                        Ok(message) => {
                            let changes = self.hear(message)?;
                            self.report(changes, None)
                        }
                    }
                }
            };
            let listed = matches!(self.source, Source::Watch(_));
            if !changes.is_empty() || (listed && limit.is_zero()) {
                return Ok(changes);
            }
        }
    }

    fn report(&self, changes: Vec<Change>, there: Option<BTreeSet<String>>) -> Changes {
        Changes {
            changes,
            revision: known(self.at),
            there,
        }
    }

    async fn page(
        &mut self,
        kv: &mut KvClient,
        (compacted, begun): (bool, bool),
    ) -> Result<Changes, Fault> {
        let options = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Mod, SortOrder::Ascend)
            .with_min_mod_revision(self.at + 1)
            .with_limit(PAGE);
        let list = kv.get(self.prefix.clone(), Some(options));
        let list = by(Instant::now() + PATIENCE, list).await?;
        let now = revision(list.header());
        if now < self.at {
            return Err(Fault::Replaced);
        }
        let changes: Vec<Change> = list.kvs().iter().map(|kv| change(kv, true)).collect();
        let last = changes.last().map(|change| change.revision);
        let next = last.filter(|_| list.more());
        // With the first page after a compaction, since the reader may ask for something
        // else before the next one, and with the last of several.
        let unsure = if begun { next.is_none() } else { compacted };
        let there = match unsure {
            true => Some(self.names(kv, now).await?),
            false => None,
        };
        match next {
            Some(last) => {
                self.at = super::asked(last);
                self.source = Source::List {
                    compacted,
                    begun: true,
                };
            }
            None => {
                self.at = now;
                self.source = Source::Watch(None);
            }
        }
        Ok(self.report(changes, there))
    }

    /// All keys that were there at this revision.
    async fn names(&self, kv: &mut KvClient, at: i64) -> Result<BTreeSet<String>, Fault> {
        let options = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_revision(at);
        let names = kv.get(self.prefix.clone(), Some(options));
        let names = by(Instant::now() + PATIENCE, names).await?;
        Ok(names.kvs().iter().map(name).collect())
    }

    fn hear(&mut self, message: Option<WatchResponse>) -> Result<Vec<Change>, Fault> {
        let ended = |why: &str| Fault::Etcd(Error::WatchError(why.to_owned()));
        let Some(message) = message else {
            self.source = Source::Watch(None);
            return Err(ended("the watch ended"));
        };
        if message.compact_revision() > 0 {
            self.source = Source::List {
                compacted: true,
                begun: false,
            };
            return Ok(Vec::new());
        }
        if message.canceled() {
            self.source = Source::Watch(None);
            return Err(ended(message.cancel_reason()));
        }
        if message.created() && revision(message.header()) < self.at {
            self.source = Source::Watch(None);
            return Err(Fault::Replaced);
        }
        let mut last: BTreeMap<&[u8], Change> = BTreeMap::new();
        for event in message.events() {
            if let Some(kv) = event.kv() {
                let put = event.event_type() == EventType::Put;
                last.insert(kv.key(), change(kv, put));
            }
        }
        let mut changes: Vec<Change> = last.into_values().collect();
        changes.sort_by_key(|change| change.revision);
        if let Some(last) = changes.last() {
            self.at = self.at.max(super::asked(last.revision));
        }
        Ok(changes)
    }
}

/// A key of somebody else's that is no text cannot be one of ours.
fn name(kv: &KeyValue) -> String {
    String::from_utf8_lossy(kv.key()).into_owned()
}

fn change(kv: &KeyValue, put: bool) -> Change {
    Change {
        key: name(kv),
        value: put.then(|| kv.value().to_vec()),
        revision: known(kv.mod_revision()),
    }
}
