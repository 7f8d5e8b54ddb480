//! Looks at the domain and its images all the time, so that a backup that is worth nothing any more ends soon, and not after hours of reading.
//!
//! Polling, not events: an event may be lost with its connection, and the stamps tell of every write anyway (docs/adr/0021).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use super::stamp::{Stamp, changed};
use crate::domain::Domain;
use crate::ffi::LibvirtError;

const INTERVAL: Duration = Duration::from_millis(200);
/// Every how many intervals the stamps are looked at: of a device that makes it write out what it has cached.
const STAMPS_EVERY: u32 = 10;

/// What is known to the watcher and to readers.
#[derive(Debug, Default)]
struct Shared {
    why: OnceLock<String>,
    disturbed: Arc<AtomicBool>,
    end: AtomicBool,
}

/// A watching thread; ends when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(domain: &Domain, stamps: Vec<Stamp>) -> io::Result<Self> {
        let (shared, domain) = (Arc::new(Shared::default()), domain.clone());
        let seen = shared.clone();
        let thread = std::thread::Builder::new().name("offline-watch".to_owned()).spawn(move || {
            let mut round = 0;
            while !seen.end.load(Ordering::Relaxed) {
                round += 1;
                let now: &[Stamp] = if round % STAMPS_EVERY == 0 { &stamps } else { &[] };
                match disturbance(&domain, now) {
                    Ok(None) => {}
                    Ok(Some(why)) => {
                        tracing::info!(%why, "what was read is worth nothing");
                        let _ = seen.why.set(why);
                        seen.disturbed.store(true, Ordering::SeqCst);
                        return;
                    }
                    // Whoever commits asks himself, and does not commit without an answer.
                    Err(error) => tracing::debug!(%error, "the domain's state"),
                }
                std::thread::park_timeout(INTERVAL);
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Becomes true when something did.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        self.shared.disturbed.clone()
    }

    /// What happened, if something did.
    pub(super) fn disturbed(&self) -> Option<String> {
        self.shared.why.get().cloned()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to say that was not said.
            let _ = thread.join();
        }
    }
}

/// What makes everything that was read worthless, if something does.
pub(super) fn disturbance(domain: &Domain, stamps: &[Stamp]) -> Result<Option<String>, LibvirtError> {
    if domain.is_running()? {
        return Ok(Some("the domain was started".to_owned()));
    }
    Ok(changed(stamps).map(|stamp| format!("{} was written to, moved or removed", stamp.path.display())))
}
