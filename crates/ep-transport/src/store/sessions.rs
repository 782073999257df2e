//! Clients of the TCP store, beyond their connections.
//!
//! A session has the connections that have named its token, and the leases granted
//! through them. When the last connection is closed by the client's system, its
//! process has ended, or the network has had a moment: the session has [`GRACE`] to
//! come back, then its leases end. A connection that fails in another way says
//! nothing about the process, and the leases have their own time.

use super::wire::{Call, Request, Response, Token};
use super::{LeaseId, MemStore, Rendezvous};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long after its connections were closed a client may come back before it is
/// taken for dead. Every death is noticed that much later.
pub(super) const GRACE: Duration = Duration::from_millis(10);
/// Longest wait of one request; who asks for more hears after that long that nothing changed.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(30);

/// What one client holds.
#[derive(Debug, Default)]
pub(super) struct Session(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    leases: Vec<LeaseId>,
    /// The last call that changed something, and what was answered.
    last: Option<(u64, Response)>,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a call, unless it was carried out before and only its answer lost.
    /// Waits for nothing once nobody waits for the answer any more (`over`).
    pub(super) fn answer(&self, call: Call, store: &MemStore, over: &dyn Fn() -> bool) -> Response {
        match call.request {
            Request::Get(key) => store.get(&key).map_or_else(Response::from, Response::Entry),
            Request::Changes(prefix, after, limit) => {
                let limit = limit.min(MAX_WAIT);
                Response::Changes(store.changes_unless(&prefix, after, limit, over))
            }
            request => self.change(call.id, request, store),
        }
    }

    fn change(&self, id: u64, request: Request, store: &MemStore) -> Response {
        // Held throughout: a repeated call waits for the first one to be done.
        let mut held = self.lock();
        match &held.last {
            Some((last, response)) if *last == id => return response.clone(),
            Some((last, _)) if *last > id => {
                return Response::Refused(format!("call {id} comes after call {last}"));
            }
            _ => {}
        }
        let changed = match request {
            Request::Put(key, value, lease) => {
                store.put(&key, &value, lease).map(Response::Revision)
            }
            Request::Delete(key) => store.delete(&key).map(|()| Response::Done),
            Request::Swap(key, expected, value) => store
                .compare_and_swap(&key, expected, &value)
                .map(Response::Swap),
            Request::Grant(ttl) => store.grant(ttl).map(|lease| {
                held.leases.push(lease);
                Response::Lease(lease)
            }),
            Request::KeepAlive(lease) => store.keep_alive(lease).map(|()| Response::Done),
            Request::Revoke(lease) => store.revoke(lease).map(|()| {
                held.leases.retain(|other| *other != lease);
                Response::Done
            }),
            other @ (Request::Join(_) | Request::Get(_) | Request::Changes(..)) => {
                return Response::Refused(format!("out of place: {other:?}"));
            }
        };
        let response = changed.unwrap_or_else(Response::from);
        held.last = Some((id, response.clone()));
        response
    }
}

#[derive(Debug, Default)]
struct Entry {
    session: Arc<Session>,
    connections: usize,
    /// How often a connection has joined.
    joins: u64,
}

/// All sessions of a store.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Token, Entry>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Token, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has named this token.
    pub(super) fn join(&self, token: Token) -> Arc<Session> {
        let mut sessions = self.lock();
        let entry = sessions.entry(token).or_default();
        entry.connections += 1;
        entry.joins += 1;
        Arc::clone(&entry.session)
    }

    /// A connection of this session has ended, `closed` by the client's system or in
    /// another way. Returns after the grace if it was the last one.
    pub(super) fn part(&self, token: Token, closed: bool, store: &MemStore) {
        let mut sessions = self.lock();
        let Some(entry) = sessions.get_mut(&token) else {
            return;
        };
        entry.connections = entry.connections.saturating_sub(1);
        let joins = entry.joins;
        if entry.connections > 0 || !closed {
            return;
        }
        drop(sessions);
        std::thread::sleep(GRACE);
        let mut sessions = self.lock();
        let gone = sessions
            .get(&token)
            .is_some_and(|entry| entry.connections == 0 && entry.joins == joins);
        let session = if gone { sessions.remove(&token) } else { None };
        drop(sessions);
        if let Some(entry) = session {
            for lease in std::mem::take(&mut entry.session.lock().leases) {
                // There is nobody left to be told of an error.
                let _ = store.revoke(lease);
            }
        }
    }

    /// Forgets sessions that nobody is connected to and that hold no lease any more.
    pub(super) fn sweep(&self, store: &MemStore) {
        self.lock().retain(|_, entry| {
            let holds = |entry: &Entry| {
                let leases = &entry.session.lock().leases;
                leases.iter().any(|lease| store.holds(*lease))
            };
            entry.connections > 0 || holds(entry)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Revision, Swap};

    const TTL: Duration = Duration::from_secs(60);

    fn grant(session: &Session, id: u64, store: &MemStore) -> LeaseId {
        let call = Call {
            id,
            request: Request::Grant(TTL),
        };
        match session.answer(call, store, &|| false) {
            Response::Lease(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repeated_call_is_answered_and_not_carried_out_again() {
        let (store, sessions) = (MemStore::new(), Sessions::default());
        let session = sessions.join(Token([1; 16]));
        let swap = |session: &Session, id, value: &[u8]| {
            let request = Request::Swap("k".into(), None, value.into());
            session.answer(Call { id, request }, &store, &|| false)
        };
        let won = Response::Swap(Swap::Won(Revision(1)));
        assert_eq!(swap(&session, 5, b"mine"), won);
        assert_eq!(swap(&session, 5, b"mine"), won);
        assert!(matches!(swap(&session, 4, b"x"), Response::Refused(_)));
        let other = sessions.join(Token([2; 16]));
        assert!(matches!(
            swap(&other, 5, b"mine"),
            Response::Swap(Swap::Lost(Some(_)))
        ));
        assert_eq!(grant(&session, 6, &store), grant(&session, 6, &store));
        assert_ne!(grant(&session, 6, &store), grant(&session, 7, &store));
    }

    #[test]
    fn leases_end_with_the_last_connection_that_was_closed() {
        let (store, sessions) = (MemStore::new(), Sessions::default());
        let token = Token([1; 16]);
        let session = sessions.join(token);
        let lease = grant(&session, 0, &store);
        sessions.join(token);
        sessions.part(token, true, &store);
        assert!(store.holds(lease));
        sessions.part(token, true, &store);
        assert!(!store.holds(lease));
        assert!(sessions.lock().is_empty());
    }

    #[test]
    fn a_client_that_comes_back_in_time_keeps_its_leases() {
        let (store, sessions) = (MemStore::new(), Sessions::default());
        let token = Token([1; 16]);
        let lease = grant(&sessions.join(token), 0, &store);
        std::thread::scope(|scope| {
            scope.spawn(|| sessions.part(token, true, &store));
            while sessions.lock()[&token].connections > 0 {
                std::thread::yield_now();
            }
            sessions.join(token);
        });
        assert!(store.holds(lease));
    }

    #[test]
    fn a_connection_that_failed_leaves_leases_their_time() {
        let (store, sessions) = (MemStore::new(), Sessions::default());
        let token = Token([1; 16]);
        let lease = grant(&sessions.join(token), 0, &store);
        sessions.part(token, false, &store);
        std::thread::sleep(GRACE * 2);
        sessions.sweep(&store);
        assert!(store.holds(lease));
        assert_eq!(sessions.lock().len(), 1);
        store.revoke(lease).unwrap();
        sessions.sweep(&store);
        assert!(sessions.lock().is_empty());
    }
}
