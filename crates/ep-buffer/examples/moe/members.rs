//! What happened to the membership, as lines for whoever watches.

use super::moe::events::{Event, now_us};
use super::moe::layer::Emit;
use ep_transport::{Group, Incarnation, LossKind, MemberEvent, Rank, Snapshot};
use std::collections::HashMap;

/// What is asked of a group, whatever its data path is.
pub(crate) trait Members {
    fn rank(&self) -> Rank;
    fn incarnation(&self) -> Incarnation;
    fn snapshot(&self) -> Snapshot;
    fn take_events(&self) -> Vec<MemberEvent>;
}

impl Members for Group {
    fn rank(&self) -> Rank {
        ep_transport::Fabric::rank(self)
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation()
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot()
    }

    fn take_events(&self) -> Vec<MemberEvent> {
        self.take_events()
    }
}

/// Turns the group's events into lines, and compares what it holds before and after
/// each update.
pub(crate) struct Watch {
    before: Snapshot,
    /// Attempts that have neither been admitted nor dropped.
    attempts: HashMap<u64, Attempt>,
    /// How many attempts have touched the links to a rank since `before`.
    touched: HashMap<Rank, u64>,
}

struct Attempt {
    begun_us: u64,
    /// When its connections stood.
    connected_us: Option<u64>,
    peers: Vec<Rank>,
}

impl Watch {
    pub(crate) fn new(group: &impl Members) -> Self {
        Self {
            before: group.snapshot(),
            attempts: HashMap::new(),
            touched: HashMap::new(),
        }
    }

    /// Emits what has happened since the last call.
    pub(crate) fn poll(&mut self, group: &impl Members, emit: &mut Emit<'_>) {
        let mut events = group.take_events();
        let admitted = |event: &MemberEvent| matches!(event, MemberEvent::Admitted { .. });
        let after = events.iter().any(admitted).then(|| group.snapshot());
        if after.is_some() {
            // An attempt is told before it touches anything, so that whatever the
            // snapshot shows has been told by now.
            events.extend(group.take_events());
        }
        self.tell(group, events, after.as_ref(), emit);
        if let Some(after) = after {
            self.before = after;
            // What is still under way goes on touching them.
            self.touched.clear();
            for peer in self.attempts.values().flat_map(|attempt| &attempt.peers) {
                *self.touched.entry(*peer).or_default() += 1;
            }
        }
    }

    fn tell(
        &mut self,
        group: &impl Members,
        events: Vec<MemberEvent>,
        after: Option<&Snapshot>,
        emit: &mut Emit<'_>,
    ) {
        for event in &events {
            if let MemberEvent::UpdateBegun { peers, .. } = event {
                for peer in peers {
                    *self.touched.entry(*peer).or_default() += 1;
                }
            }
        }
        for event in events {
            match event {
                MemberEvent::PeerLost {
                    rank,
                    incarnation,
                    how,
                    at_us,
                } => emit(Event::PeerLost {
                    rank: rank.0,
                    incarnation: incarnation.0,
                    how: match how {
                        LossKind::Replaced => "replaced by another process",
                        LossKind::Left => "left",
                        _ => "lease ended",
                    }
                    .to_owned(),
                    at_us,
                }),
                MemberEvent::UpdateBegun {
                    attempt,
                    peers,
                    at_us,
                } => {
                    let begun = Attempt {
                        begun_us: at_us,
                        connected_us: None,
                        peers,
                    };
                    self.attempts.insert(attempt, begun);
                    emit(Event::UpdateBegun { attempt, at_us });
                }
                MemberEvent::Connected { attempt, at_us, .. } => {
                    if let Some(attempt) = self.attempts.get_mut(&attempt) {
                        attempt.connected_us = Some(at_us);
                    }
                }
                MemberEvent::Admitted {
                    attempt,
                    from,
                    ranks,
                    own,
                    at_us,
                } => {
                    let done = self.attempts.remove(&attempt);
                    let connect_us =
                        done.and_then(|done| done.connected_us?.checked_sub(done.begun_us));
                    let changed: Vec<Rank> = ranks.iter().map(|(rank, _)| *rank).collect();
                    for (rank, incarnation) in ranks {
                        emit(Event::Admitted {
                            attempt,
                            rank: rank.0,
                            incarnation: incarnation.0,
                            epoch: from.0,
                            at_us,
                        });
                    }
                    if own {
                        emit(Event::Admitted {
                            attempt,
                            rank: group.rank().0,
                            incarnation: group.incarnation().0,
                            epoch: from.0,
                            at_us,
                        });
                    } else if let Some(after) = after {
                        for peer in changed {
                            emit(self.update(after, peer, connect_us));
                        }
                    }
                }
                MemberEvent::UpdateDropped {
                    attempt,
                    by,
                    why,
                    at_us,
                } => {
                    self.attempts.remove(&attempt);
                    emit(Event::UpdateDropped {
                        attempt,
                        by: by.0,
                        why,
                        at_us,
                    });
                }
                MemberEvent::Superseded { by, at_us } => emit(Event::Superseded {
                    incarnation: by.0,
                    at_us,
                }),
                other => tracing::debug!(?other, at_us = now_us(), "no line for this event"),
            }
        }
    }
    /// What connecting to `peer` has touched, failed attempts included.
    fn update(&self, after: &Snapshot, peer: Rank, connect_us: Option<u64>) -> Event {
        let before = &self.before;
        let mut commands = 0;
        let mut qps_touched = 0;
        let mut healthy_qps_touched = 0;
        for (i, now) in after.queue_pairs.iter().enumerate() {
            let then = before.queue_pairs.get(i);
            let spent = now.commands - then.map_or(0, |then| then.commands);
            let same = then.is_some_and(|then| (then.peer, then.qpn) == (now.peer, now.qpn));
            if spent == 0 && same {
                continue;
            }
            if now.peer == peer {
                commands += spent;
                qps_touched += 1;
            } else if !self.touched.contains_key(&now.peer) {
                healthy_qps_touched += 1;
            }
        }
        let moved = |(name, address): &&(String, u64)| {
            !before
                .addresses
                .iter()
                .any(|(n, a)| n == name && a == address)
        };
        Event::Update {
            peer: peer.0,
            attempts: self.touched.get(&peer).copied().unwrap_or(0),
            commands,
            commands_in_all: after.commands - before.commands,
            qps_touched,
            healthy_qps_touched,
            addresses_changed: after.addresses.iter().filter(moved).count() as u64,
            connect_us: connect_us.unwrap_or(0),
        }
    }
}
