//! A session: from its record in `gc/` (B1) to its register (B6). Labels are those of docs/format.md.
//!
//! Invariants:
//! - B1 < B2 < B3 < B4: the record is durable before `gc/` is listed, and points are looked at only after that.
//! - Nothing is deleted by a session. One that fails leaves packs that the next one finds again, and an abort register.

use crate::{
    Result, StoreError,
    crypto::Keys,
    gc::Doomed,
    platform::{Created, Durability, Platform, random_bytes},
    point::{Point, PointSet},
    store::{Inner, Store},
};
use cairn_store_format::{
    Location, ObjectName, PackId, SessionId,
    gc::{Report, SessionKind, SessionRecord},
    header::ObjectKind,
    ids::parse_hex,
    limits::SMALL_BYTES_MAX,
    register::{self, RegisterKind, Seen},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A session gives a sign of life this often; a GC fences it only after 24 hours without.
const BEAT_PERIOD_S: u64 = 3600;

/// A session that will commit a point, or not.
pub struct Session {
    pub(crate) store: Arc<Inner>,
    id: SessionId,
    /// D of B2: packs that a GC may delete; nothing may come to depend on them.
    pub(crate) condemned: Doomed,
    /// Places that a reader reported as damaged: nothing new may come to depend on them.
    pub(crate) bad: HashSet<Location>,
    points: PointSet,
    pub(crate) seen: Seen,
    /// Packs of other sessions that chunks were deduplicated into, with the size their footer was read at; checked again in B5a.
    pub(crate) referenced: Mutex<BTreeMap<PackId, u64>>,
    decided: AtomicBool,
    /// None where the platform wants all work on the calling thread.
    beats: Option<Beats>,
}

struct Beats {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Begins a backup session: B1 to B4.
    pub fn begin(&self) -> Result<Session> {
        Session::begin(self.inner.clone())
    }
}

impl Session {
    fn begin(store: Arc<Inner>) -> Result<Self> {
        let platform = &*store.platform;
        let id = SessionId::new(platform.now_unix_ms(), random_bytes(platform));
        // B1: the record, durable.
        let record = SessionRecord {
            kind: SessionKind::Backup,
            host: store.host.clone(),
            started_unix_ms: platform.now_unix_ms(),
            pins: Vec::new(),
            process: platform.process(),
        };
        let bytes = store.keys.small_object(platform, ObjectKind::Session, &id.0, 0, &record.encode())?;
        if platform.create(&ObjectName::session(&id), &bytes, Durability::Now)? == Created::Exists {
            return Err(StoreError::Refused(format!("session id {id} was drawn twice; is the random generator broken?")));
        }
        let beats = (!platform.single_threaded()).then(|| Beats::start(store.platform.clone(), store.keys.clone(), id));
        // B2: fresh list of gc/.
        let condemned = Doomed::of(&store, &store.platform.list("gc")?)?;
        // B3: only now points are looked at, with fresh lists of c/ and f/.
        let points = PointSet::load(&store)?;
        let seen = seen_of(&points);
        // B4: the index, up to date, less what is reported as bad.
        store.refresh_index()?;
        let bad = list_bad(&store)?;
        Ok(Self { store, id, condemned, bad, points, seen, referenced: Mutex::default(), decided: AtomicBool::new(false), beats })
    }

    /// The session's id: the id of the point that it may commit.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Committed points that are not forgotten, as of B3, oldest first: the only ones that may be parents.
    pub fn points(&self) -> &[Point] {
        self.points.live()
    }

    /// A point among [`Session::points`].
    pub fn point(&self, id: &SessionId) -> Option<&Point> {
        self.points().iter().find(|p| p.id == *id)
    }

    /// Whether a register of this session id exists that is a forgotten point.
    pub fn is_forgotten(&self, id: &SessionId) -> bool {
        self.points.is_forgotten(id)
    }

    /// B5a: every pack of another session that this one newly refers to is still there under its final name, in full size. An index that was
    /// stale at B4 may have named packs that a GC removed meanwhile.
    pub(crate) fn check_referenced(&self) -> Result<()> {
        for (pack, size) in &*self.referenced.lock().unwrap_or_else(PoisonError::into_inner) {
            for name in ObjectName::pack(pack) {
                if self.store.platform.size(&name)? != Some(*size) {
                    return Err(StoreError::damaged(
                        &name,
                        "a pack that known chunks lie in is missing or has another size; the backup was not committed, run it again",
                    ));
                }
                // Whoever told us of it had a barrier before; one more costs next to nothing and trusts nobody.
                self.store.platform.cover(&name);
            }
        }
        self.store.platform.barrier()
    }

    /// B6: the one create that makes the point exist.
    pub(crate) fn commit(&self, register: &[u8]) -> Result<()> {
        let created = self.store.platform.create(&ObjectName::register(&self.id), register, Durability::Now)?;
        self.decided.store(true, Ordering::SeqCst);
        match created {
            Created::New => Ok(()),
            Created::Exists => Err(StoreError::Fenced { session: self.id.to_string() }),
        }
    }

    /// Gives up: an abort register tells a GC not to wait for this session.
    fn abort(&self) {
        let written = register::encode(&self.id, RegisterKind::Abort, &[], &[])
            .map_err(StoreError::from)
            .and_then(|bytes| self.store.platform.create(&ObjectName::register(&self.id), &bytes, Durability::Now));
        if let Err(e) = written {
            tracing::info!("session {} leaves no abort register ({e}); a garbage collection will fence it", self.id);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.decided.load(Ordering::SeqCst) {
            self.abort();
        }
        if let Some(beats) = self.beats.take() {
            beats.stop();
        }
    }
}

impl Beats {
    fn start(platform: Arc<dyn Platform>, keys: Arc<Keys>, id: SessionId) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = stop.clone();
        let thread = std::thread::spawn(move || {
            let (stopped, wake) = &*shared;
            for n in 1.. {
                let guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
                let wait = wake.wait_timeout_while(guard, Duration::from_secs(BEAT_PERIOD_S), |s| !*s);
                if *wait.unwrap_or_else(PoisonError::into_inner).0 {
                    return;
                }
                let beat = keys
                    .small_object(&*platform, ObjectKind::Beat, &id.0, u64::from(n), b"")
                    .and_then(|bytes| platform.create(&ObjectName::beat(&id, n), &bytes, Durability::Now));
                if let Err(e) = beat {
                    // One missed sign of life is harmless; 24 in a row end in a fence, which loses this backup only.
                    tracing::warn!("session {id} could not write its sign of life: {e}");
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }

    fn stop(mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(t) = self.thread.take() {
            // It holds nothing that could block for long; a panic in it was printed already.
            let _ = t.join();
        }
    }
}

/// All places in `b/`. A report that cannot be read says nothing.
fn list_bad(store: &Inner) -> Result<HashSet<Location>> {
    let mut out = HashSet::new();
    for name in store.platform.list("b")? {
        let (Ok(id), Some(bytes)) = (parse_hex::<16>(name.file()), store.platform.read(&name, SMALL_BYTES_MAX)?) else { continue };
        let report = store.keys.open_object(&name, ObjectKind::Report, &id, 0, &bytes).and_then(|plain| Ok(Report::decode(&plain)?));
        match report {
            Ok(r) => drop(out.insert(r.at)),
            Err(e) => tracing::warn!("{e}; the report is skipped"),
        }
    }
    Ok(out)
}

/// SHA-256 over the sorted session ids of all registers.
fn seen_of(points: &PointSet) -> Seen {
    let mut hash = Sha256::new();
    let mut count = 0;
    for id in points.register_ids() {
        hash.update(id.0);
        count += 1;
    }
    Seen { count, hash: hash.finalize().into() }
}
