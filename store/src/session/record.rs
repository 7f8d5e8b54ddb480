//! A session's sign in `gc/` that it exists: its record (B1), an hourly beat, and for readers a last beat that says "ended".

use crate::{
    Result, StoreError,
    platform::{Created, Durability, random_bytes},
    store::Inner,
};
use cairn_store_format::{
    ObjectName, SessionId,
    gc::{BEAT_ENDED, SessionKind, SessionRecord},
    header::ObjectKind,
};
use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// A session gives a sign of life this often, milliseconds; a collection fences it only after 24 hours without. Whoever is taken for dead after less
/// than two periods may be alive: one beat may be late.
pub const BEAT_PERIOD_MS: u64 = 3_600_000;

/// A session that collections know of.
pub(crate) struct Registered {
    store: Arc<Inner>,
    pub(crate) id: SessionId,
    beats: Option<Beats>,
    ends_with_beat: bool,
}

struct Beats {
    stop: Arc<(Mutex<bool>, Condvar)>,
    /// Returns the number of the next beat.
    thread: JoinHandle<u32>,
}

impl Registered {
    /// B1: the record, durable.
    pub(crate) fn new(store: &Arc<Inner>, kind: SessionKind, pins: Vec<SessionId>) -> Result<Self> {
        let platform = &*store.platform;
        let id = SessionId::new(platform.now_unix_ms(), random_bytes(platform));
        let record = SessionRecord { kind, host: store.host.clone(), started_unix_ms: platform.now_unix_ms(), pins, process: platform.process() };
        let bytes = store.keys.small_object(platform, ObjectKind::Session, &id.0, 0, &record.encode())?;
        if platform.create(&ObjectName::session(&id), &bytes, Durability::Now)? == Created::Exists {
            return Err(StoreError::Refused(format!("session id {id} was drawn twice; is the random generator broken?")));
        }
        let beats = (!platform.single_threaded()).then(|| Beats::start(store.clone(), id));
        Ok(Self { store: store.clone(), id, beats, ends_with_beat: kind == SessionKind::Read })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let next = self.beats.take().map_or(1, Beats::stop);
        if self.ends_with_beat
            && let Err(e) = beat(&self.store, &self.id, next, BEAT_ENDED)
        {
            tracing::info!("reader {} could not say that it ended ({e}); its pin holds until a garbage collection finds it silent", self.id);
        }
    }
}

fn beat(store: &Inner, id: &SessionId, n: u32, payload: &[u8]) -> Result<()> {
    let bytes = store.keys.small_object(&*store.platform, ObjectKind::Beat, &id.0, n.into(), payload)?;
    store.platform.create(&ObjectName::beat(id, n), &bytes, Durability::Now).map(drop)
}

impl Beats {
    fn start(store: Arc<Inner>, id: SessionId) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = stop.clone();
        let thread = std::thread::spawn(move || {
            let (stopped, wake) = &*shared;
            let mut n = 1;
            loop {
                let guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
                let wait = wake.wait_timeout_while(guard, Duration::from_millis(BEAT_PERIOD_MS), |s| !*s);
                if *wait.unwrap_or_else(PoisonError::into_inner).0 {
                    return n;
                }
                if let Err(e) = beat(&store, &id, n, b"") {
                    // One missed sign of life is harmless; 24 in a row end in a fence, which loses this backup only.
                    tracing::warn!("session {id} could not write its sign of life: {e}");
                }
                n += 1;
            }
        });
        Self { stop, thread }
    }

    fn stop(self) -> u32 {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        // It holds nothing that could block for long; a panic in it was printed already.
        self.thread.join().unwrap_or(u32::MAX)
    }
}
