//! A running server: listeners, connections, and their end.
//!
//! Why the oldest negotiation is closed when there are too many: an honest client negotiates in milliseconds, one that holds its turn for long is
//! hardly one. To shut honest clients out an attacker must connect many times in the time that one negotiation takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::connection;
use super::error::{End, ServerError};
use super::export::Exports;
use super::limits::Limits;
use super::listen::{Accepted, Listener};

/// Pause after a failed accept: without descriptors the next one would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For the tasks to see that their time is over.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) exports: Exports,
    pub(super) limits: Limits,
    /// Places for connections in transmission.
    pub(super) places: Arc<Semaphore>,
    /// Bytes in flight that are nobody's own.
    pub(super) bytes: Arc<Semaphore>,
    /// Calls into exports.
    pub(super) readers: Arc<Semaphore>,
    negotiating: Mutex<Turns>,
}

/// Connections in negotiation, oldest first.
#[derive(Default)]
struct Turns {
    next: u64,
    handles: BTreeMap<u64, AbortHandle>,
}

/// A turn to negotiate; dropping it gives it back.
pub(super) struct Negotiating {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Negotiating {
    fn drop(&mut self) {
        self.shared.turns().handles.remove(&self.number);
    }
}

impl Shared {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.negotiating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a connection; the oldest negotiation ends if there are too many.
    fn start(self: &Arc<Self>, tasks: &mut JoinSet<()>, accepted: Accepted, stop: watch::Receiver<bool>) {
        let Accepted { stream, peer, tls } = accepted;
        // Held until the handle is in the table: the task gives its turn back through the same lock.
        let mut turns = self.turns();
        let number = turns.next;
        turns.next += 1;
        let turn = Negotiating { shared: self.clone(), number };
        let serving = connection::serve(stream, self.clone(), tls, turn, stop);
        let handle = tasks.spawn(async move {
            match serving.await {
                Ok(()) => tracing::debug!(%peer, "connection ended"),
                Err(end) if end.is_farewell() => tracing::debug!(%peer, "the client is gone"),
                Err(end @ End::Broken(_)) => tracing::debug!(%peer, "{end}"),
                Err(end) => tracing::info!(%peer, "connection closed: {end}"),
            }
        });
        turns.handles.insert(number, handle);
        if turns.handles.len() > self.limits.negotiating_max
            && let Some((_, oldest)) = turns.handles.pop_first()
        {
            drop(turns);
            tracing::info!("too many clients negotiate; the oldest negotiation is closed");
            oldest.abort();
        }
    }
}

/// A server that runs until it is stopped or dropped. Needs a tokio runtime with time and I/O.
pub struct Server {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    listening: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves all exports on all listeners.
    ///
    /// # Errors
    /// Limits that contradict each other.
    pub fn start(listeners: Vec<Listener>, exports: Exports, limits: Limits) -> Result<Self, ServerError> {
        limits.check()?;
        let shared = Arc::new(Shared {
            exports,
            limits,
            places: Arc::new(Semaphore::new(limits.connections_max)),
            bytes: Arc::new(Semaphore::new(limits.shared_bytes as usize)),
            readers: Arc::new(Semaphore::new(limits.readers_max)),
            negotiating: Mutex::default(),
        });
        let (stop, stopping) = watch::channel(false);
        let listening = listeners.into_iter().map(|listener| tokio::spawn(accept_all(listener, shared.clone(), stopping.clone()))).collect();
        Ok(Self { shared, stop, listening })
    }

    /// Connections in transmission.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.limits.connections_max - self.shared.places.available_permits()
    }

    /// Listens no more, reads no more requests, answers those in flight within [`Limits::stop_limit`], closes everything.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        for listening in &mut self.listening {
            if timeout(self.shared.limits.stop_limit + STOP_GRACE * 2, &mut *listening).await.is_err() {
                listening.abort();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Each holds its connections, which end with it.
        for listening in &self.listening {
            listening.abort();
        }
    }
}

/// Once the server was told to stop, or is gone without a word.
pub(super) async fn told(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
}

async fn accept_all(listener: Listener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let stopping = stop.clone();
    loop {
        tokio::select! {
            () = told(&mut stop) => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(Some(accepted)) => shared.start(&mut tasks, accepted, stopping.clone()),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(shared.limits.stop_limit + STOP_GRACE, all).await.is_err() {
        tracing::warn!("some connections did not end in time; they are closed");
    }
}
