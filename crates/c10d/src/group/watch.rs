//! Ends a group that has lost a peer, where Gloo itself does not notice.
//!
//! A message that was under way when its connection broke is told nothing (see native/waits.h), so a member can wait for
//! one that no longer exists. Usually another of its messages fails at once, or someone aborts the group; this is for
//! when neither happens.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::sockets::Socket;
use super::{Native, WayOut};

/// How often the connections are looked at: two system calls each.
const EVERY: Duration = Duration::from_secs(1);

/// How long a lost peer's last collective may still take: it may have left because it was done, when the others, who have
/// all they need of it, are not.
const GRACE: Duration = Duration::from_secs(10);

/// Stops when it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    _until_dropped: Sender<()>,
}

impl Watch {
    /// Watches a group's connections, if it has any, and does not keep the group alive.
    pub(super) fn of(group: &Arc<Native>) -> Option<io::Result<Self>> {
        match &group.way_out {
            WayOut::Sockets(sockets) if sockets.is_empty() => None,
            WayOut::Sockets(sockets) => Some(Self::start(sockets.clone(), Arc::downgrade(group))),
            #[cfg(feature = "cuda")]
            WayOut::NcclAbort => None,
        }
    }

    fn start(sockets: Vec<Socket>, group: Weak<Native>) -> io::Result<Self> {
        let (until_dropped, dropped) = channel();
        thread::Builder::new().name("group-watch".to_owned()).spawn(move || {
            let mut broken_since = None;
            while dropped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if sockets.iter().any(Socket::is_broken) {
                    let since = *broken_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= GRACE {
                        return group.upgrade().as_deref().map_or((), Native::abort);
                    }
                }
            }
        })?;
        Ok(Self { _until_dropped: until_dropped })
    }
}
