//! A session: from its record in `gc/` (B1) to its register (B6). Labels are those of docs/gc.md.
//!
//! Invariants:
//! - B1 < B2 < B3 < B4: the record is durable before `gc/` is listed, and points are looked at only after that.
//! - Nothing is deleted by a session. One that fails leaves packs that the next one finds again, and an abort register.

mod pin;
mod record;

pub use pin::Pin;
pub use record::BEAT_PERIOD_MS;
pub(crate) use record::Registered;

use crate::{
    Result, StoreError,
    backup::DISKS_AT_ONCE_MAX,
    damage::Bad,
    gc::Doomed,
    platform::{Created, Durability},
    point::{Point, PointSet, registers},
    relocation::Moves,
    store::{Inner, Store},
};
use cairn_store_format::{
    ObjectName, PackId, SessionId,
    gc::SessionKind,
    map::Ref,
    register::{self, RegisterKind, Seen},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// A session that will commit a point, or not.
pub struct Session {
    pub(crate) store: Arc<Inner>,
    /// Host that the point is counted for: this one, unless what is stored was another's before.
    pub(crate) host: String,
    registered: Registered,
    /// D of B2: packs that a GC may delete; nothing may come to depend on them.
    pub(crate) condemned: Doomed,
    /// Places that are damaged by reports that hold: nothing new may come to depend on them.
    pub(crate) bad: Bad,
    /// Moved places as of B3: nothing is deduplicated into them.
    pub(crate) moved: Arc<Moves>,
    points: PointSet,
    pub(crate) seen: Seen,
    /// Packs of other sessions that chunks were deduplicated into, with the size their footer was read at; checked again in B5a.
    pub(crate) referenced: Mutex<BTreeMap<PackId, u64>>,
    /// So many disks are read at the same time.
    pub(crate) disks_at_once: usize,
    decided: AtomicBool,
}

impl Store {
    /// Begins a backup session: B1 to B4.
    pub fn begin(&self) -> Result<Session> {
        Session::begin(&self.inner)
    }
}

impl Session {
    fn begin(store: &Arc<Inner>) -> Result<Self> {
        let registered = Registered::new(store, SessionKind::Backup, Vec::new())?;
        let id = registered.id;
        // Whoever collects need not wait for a session that never was one.
        Self::look(store.clone(), registered).inspect_err(|_| abort(store, &id))
    }

    /// B2 to B4.
    fn look(store: Arc<Inner>, registered: Registered) -> Result<Self> {
        // B2: fresh list of gc/.
        let condemned = Doomed::of(&store, &store.platform.list("gc")?)?;
        // B3: only now points are looked at, with fresh lists of c/ and f/.
        let points = PointSet::load(&store)?;
        let seen = seen_of(&points);
        store.refresh_relocations()?;
        let moved = store.relocations.known();
        // B4: the index, up to date, less what is reported as bad.
        store.refresh_index()?;
        store.packs.begin_session();
        let bad = Bad::load(&store)?;
        // All that was listed so far decides what this session relies on.
        store.platform.check_fresh()?;
        Ok(Self {
            host: store.host.clone(),
            store,
            registered,
            condemned,
            bad,
            moved,
            points,
            seen,
            referenced: Mutex::default(),
            disks_at_once: 1,
            decided: AtomicBool::new(false),
        })
    }

    /// The session's id: the id of the point that it may commit.
    pub fn id(&self) -> SessionId {
        self.registered.id
    }

    /// Reads so many disks of its point at the same time, at most [`DISKS_AT_ONCE_MAX`]; without this one after the other.
    #[must_use]
    pub fn with_disks_at_once(mut self, disks: usize) -> Self {
        self.disks_at_once = disks.clamp(1, DISKS_AT_ONCE_MAX);
        self
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

    /// Whether a frame of a parent point is still where it says, by the pack's own footer, and nobody reported it.
    pub(crate) fn holds(&self, r: &Ref) -> bool {
        self.store.locate_whole(&r.at.pack, &r.id) == Some(r.at) && !self.bad.contains(&r.at) && !self.moved.contains_key(&r.at)
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
        let result = commit(&self.store, &self.id(), register);
        // An error may hide that the create took effect: the abort that follows then finds the register there, and changes nothing.
        self.decided.store(matches!(result, Ok(()) | Err(StoreError::Fenced { .. })), Ordering::SeqCst);
        result
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.decided.load(Ordering::SeqCst) {
            abort(&self.store, &self.id());
        }
    }
}

/// B6 of any session. Order: 1 create-if-absent of its register, durable · 2 the register's copy. If we die before 1: no point, a GC fences the session.
/// After: it exists; a GC makes the copy.
pub(crate) fn commit(store: &Inner, id: &SessionId, register: &[u8]) -> Result<()> {
    store.platform.check_fresh()?;
    match store.platform.create(&ObjectName::register(id), register, Durability::Now)? {
        Created::New => {
            registers::copy(store, id, register);
            Ok(())
        }
        Created::Exists => Err(StoreError::Fenced { session: id.to_string() }),
    }
}

/// Gives up: an abort register tells a GC not to wait for this session.
pub(crate) fn abort(store: &Inner, id: &SessionId) {
    let written = register::encode(id, RegisterKind::Abort, &[], &[])
        .map_err(StoreError::from)
        .and_then(|bytes| store.platform.create(&ObjectName::register(id), &bytes, Durability::Now));
    if let Err(e) = written {
        tracing::info!("session {id} leaves no abort register ({e}); a garbage collection will fence it");
    }
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
