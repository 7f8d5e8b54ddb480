//! One backup: disks in, a committed point out.
//!
//! capture -> chunk -> dedupe -> seal -> pack happens in `disk` (workers) and `PackStream` (one consumer); this module orders the
//! disks, writes manifest and register, and holds B5 to B6. Disks are read one after the other, or some at a time (`at_once`).

mod at_once;
mod disk;
mod parts;
mod worker;

use crate::{
    BlockSource, Result, StoreError,
    pack::PackStream,
    parallel::StageWaits,
    point::{
        self, Point,
        registers::{CachedReader, Decided},
    },
    session::Session,
    tree::{self, TreeReader},
    witness,
};
use cairn_store_format::{
    ObjectName, SessionId,
    limits::DISKS_MAX,
    manifest::{Manifest, PartRef},
    map::Ref,
    pack::FrameKind,
    register::{self, Body, DiskEntry, DiskMode, DiskTable, INLINE_DISKS_BYTES_MAX, Parent, RegisterKind, Summary},
};
use disk::Sink;
use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Most disks of a point that can be read at the same time: they share workers, and each needs one.
pub const DISKS_AT_ONCE_MAX: usize = 8;

/// Why a disk is compared although a list of changes was given.
const LYING_LIST: &str = "the list of changes misses some, as after a disk was cut short and grew again";

/// How a disk is read. Bases are points of [`Session::points`] and the disk's position in them.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Nothing to compare with.
    Full {
        /// Why.
        reason: String,
    },
    /// Read whole, compare with a point's disk.
    Compare {
        /// Why not incremental.
        reason: String,
        /// What to compare with.
        base: (SessionId, usize),
    },
    /// Only these ranges may differ from a point's disk: sorted, disjoint bytes.
    Incremental {
        /// What it differs from.
        base: (SessionId, usize),
        /// Dirty ranges.
        dirty: Vec<Range<u64>>,
    },
}

/// A disk to save.
pub struct DiskJob {
    /// `vda`, `disk0`.
    pub target: String,
    /// Its content at the point in time.
    pub source: Arc<dyn BlockSource>,
    /// How to read it.
    pub plan: Plan,
}

/// A blob that goes with the point (domain XML, NVRAM).
pub struct Part {
    /// Name in the manifest.
    pub name: String,
    /// Content.
    pub bytes: Vec<u8>,
    /// May hold secrets: sealed like data.
    pub secret: bool,
}

/// What a point is besides its disks.
pub struct PointInfo {
    /// Domain or image name.
    pub name: String,
    /// The point in time, Unix milliseconds.
    pub time_unix_ms: u64,
    /// Level reached: `application`, `filesystem`, `crash`, `none`.
    pub quiesce: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Warnings.
    pub warnings: Vec<String>,
    /// The agent's description of the source.
    pub source: serde_json::Value,
    /// Blobs.
    pub parts: Vec<Part>,
    /// Program version.
    pub cairn_version: String,
}

/// Counters that a caller may watch while the backup runs, and the way to stop it.
#[derive(Default)]
pub struct Progress {
    /// Bytes of the disks that are to be looked at.
    pub total_bytes: AtomicU64,
    /// Bytes looked at.
    pub done_bytes: AtomicU64,
    /// Bytes read from sources.
    pub read_bytes: AtomicU64,
    /// Bytes stored.
    pub stored_bytes: AtomicU64,
    /// How long the stages of a backup waited for each other.
    pub waits: StageWaits,
    /// Set to stop: the backup ends with [`StoreError::Interrupted`].
    pub cancel: AtomicBool,
}

impl Progress {
    pub(crate) fn check(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(StoreError::Interrupted) } else { Ok(()) }
    }
}

/// One disk's figures.
#[derive(Clone, Debug)]
pub struct DiskResult {
    /// The entry as committed.
    pub entry: DiskEntry,
}

/// A committed backup.
#[derive(Clone, Debug)]
pub struct BackupOutcome {
    /// The new point.
    pub id: SessionId,
    /// Its disks.
    pub disks: Vec<DiskResult>,
    /// Bytes put into packs, metadata included.
    pub stored_bytes: u64,
}

/// What was read and how much of it was new.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) read_bytes: u64,
    pub(crate) changed_bytes: u64,
    pub(crate) stored_bytes: u64,
}

/// What a point is made of, once all of it is in packs.
struct Stored {
    info: PointInfo,
    parents: Vec<Parent>,
    entries: Vec<DiskEntry>,
    manifest: Ref,
    disk_table: DiskTable,
}

impl Session {
    /// Reads, stores and commits. `before_commit` runs when all is stored and durable, right before the register: the caller's last
    /// chance to say that the capture did not hold.
    pub fn backup(
        self,
        disks: &[DiskJob],
        info: impl FnOnce() -> PointInfo,
        progress: &Progress,
        before_commit: impl FnOnce() -> Result<()>,
    ) -> Result<BackupOutcome> {
        let started_ms = self.store.platform.monotonic_ms();
        check_disks(disks)?;
        let store = self.store.clone();
        let index = self.store.clone();
        let mut stream =
            PackStream::new(store.platform.clone(), store.keys.clone(), self.id(), Box::new(move |p| index.index.add_or_warn(std::slice::from_ref(p))));
        let stored = self.store_all(disks, info, &mut stream, progress);
        // What is stored already is told to others also where something failed, so that the next backup goes on from there: the first error counts.
        let finished = stream.finish();
        let Stored { info, parents, entries, manifest, disk_table } = stored?;
        finished?;
        self.check_referenced()?;
        before_commit()?;
        progress.check()?;
        let body = Body { parents, seen: self.seen, disks: disk_table, manifest: Some(manifest) };
        let duration_ms = self.store.platform.monotonic_ms().saturating_sub(started_ms);
        let summary = summary_of(&self.host, &info, &entries, stream.stored_bytes, duration_ms);
        self.commit(&self.seal_register(&summary, &body)?)?;
        Ok(BackupOutcome { id: self.id(), disks: entries.into_iter().map(|entry| DiskResult { entry }).collect(), stored_bytes: stream.stored_bytes })
    }

    /// B5, but for its end.
    fn store_all(&self, disks: &[DiskJob], info: impl FnOnce() -> PointInfo, stream: &mut PackStream, progress: &Progress) -> Result<Stored> {
        let (parents, entries) = self.save_disks(disks, stream, progress)?;
        let info = info();
        let manifest = self.save_manifest(&info, &parents, stream)?;
        let disk_table = self.disk_table(&entries, stream)?;
        Ok(Stored { info, parents, entries, manifest, disk_table })
    }

    fn save_disks(&self, disks: &[DiskJob], stream: &mut PackStream, progress: &Progress) -> Result<(Vec<Parent>, Vec<DiskEntry>)> {
        let mut parents = Vec::new();
        let bases = disks.iter().map(|job| self.base_of(&job.plan, &mut parents)).collect::<Result<Vec<_>>>()?;
        let at_once = if self.store.platform.single_threaded() { 1 } else { self.disks_at_once.min(disks.len()).max(1) };
        let sink = Sink::new(stream, at_once);
        let save = |i: usize| self.save_disk(&disks[i], bases[i].as_ref(), &sink, progress);
        Ok((parents, at_once::run(disks.len(), at_once, &sink.failed, save)?))
    }

    /// The base disk of a plan; its point becomes a parent.
    fn base_of(&self, plan: &Plan, parents: &mut Vec<Parent>) -> Result<Option<DiskEntry>> {
        let (Plan::Compare { base, .. } | Plan::Incremental { base, .. }) = plan else { return Ok(None) };
        let none = || StoreError::NotFound(format!("the base point {} is not in the store (any more)", base.0));
        let point: &Point = self.point(&base.0).ok_or_else(none)?;
        // What a backup builds on stands in the store itself, whatever this host remembers.
        if let Ok(Decided::Closed | Decided::Relocation(_)) = CachedReader::new(&self.store, false).register(&base.0, &ObjectName::register(&base.0)) {
            return Err(none());
        }
        let entry = point::disks(&self.store, point)?.into_iter().nth(base.1).ok_or_else(none)?;
        let parent = Parent { session: point.id, register_sha256: point.register_sha256 };
        if !parents.contains(&parent) {
            parents.push(parent);
        }
        Ok(Some(entry))
    }

    fn save_disk(&self, job: &DiskJob, base: Option<&DiskEntry>, sink: &Sink<'_>, progress: &Progress) -> Result<DiskEntry> {
        let size_bytes = job.source.size_bytes();
        let of_disk = |e| match e {
            StoreError::Block { what, source } => StoreError::Block { what: format!("disk {}: {what}", job.target), source },
            other => other,
        };
        let open = |b: &DiskEntry| TreeReader::new(self.store.clone(), b.root, b.size_bytes);
        let (mode, reason) = match &job.plan {
            Plan::Full { reason } => (DiskMode::Full, reason.clone()),
            Plan::Compare { reason, .. } => (DiskMode::Compare, reason.clone()),
            Plan::Incremental { .. } => (DiskMode::Incremental, String::new()),
        };
        let known_bad = match base {
            Some(b) if !self.bad.is_empty() => tree::damaged_ranges(&self.store, open(b)?, &self.bad)?,
            _ => Some(Vec::new()),
        };
        let (parent, dirty, mode, reason) = match (base, known_bad, &job.plan) {
            (Some(_), None, _) => (None, None, DiskMode::Full, "the map of the point before is damaged".into()),
            (Some(b), Some(bad), Plan::Incremental { dirty, .. }) => {
                let dirty = disk::dirty_with_resize(&[&dirty[..], &bad].concat(), b.size_bytes, size_bytes);
                match witness::contradiction(&self.store, b, &*job.source, &dirty).map_err(of_disk)? {
                    None => (Some(Arc::new(open(b)?)), Some(dirty), mode, reason),
                    Some(at) => (Some(Arc::new(open(b)?)), None, DiskMode::Compare, format!("{LYING_LIST}: first seen at byte {at}")),
                }
            }
            (Some(b), ..) => (Some(Arc::new(open(b)?)), None, mode, reason),
            (None, ..) => (None, None, mode, reason),
        };
        let (root, counts) = disk::save(self, &*job.source, parent.as_ref(), dirty.as_deref(), sink, progress).map_err(of_disk)?;
        let Counts { read_bytes, changed_bytes, stored_bytes } = counts;
        Ok(DiskEntry { target: job.target.clone(), size_bytes, root, read_bytes, changed_bytes, stored_bytes, mode, reason })
    }

    fn save_manifest(&self, info: &PointInfo, parents: &[Parent], stream: &mut PackStream) -> Result<Ref> {
        let known = parts::known(self, parents);
        let mut parts = BTreeMap::new();
        for p in &info.parts {
            let id = self.store.keys.content_id(FrameKind::Blob, 0, &p.bytes);
            let r = match known.get(&p.name).filter(|k| k.0.id == id && k.1 == p.secret) {
                Some((r, _)) => *r,
                None => stream.put_plain(FrameKind::Blob, &p.bytes, p.secret)?,
            };
            parts.insert(p.name.clone(), PartRef::new(&r, p.bytes.len() as u64, p.secret));
        }
        let manifest = Manifest {
            host: self.host.clone(),
            cairn_version: info.cairn_version.clone(),
            parts,
            warnings: info.warnings.clone(),
            source: info.source.clone(),
        };
        stream.put_plain(FrameKind::Manifest, &manifest.encode(), false)
    }

    fn disk_table(&self, entries: &[DiskEntry], stream: &mut PackStream) -> Result<DiskTable> {
        let bytes = register::encode_disks(entries)?;
        if bytes.len() <= INLINE_DISKS_BYTES_MAX {
            return Ok(DiskTable::Inline(entries.to_vec()));
        }
        Ok(DiskTable::Frame(stream.put_plain(FrameKind::DiskTable, &bytes, false)?))
    }

    fn seal_register(&self, summary: &Summary, body: &Body) -> Result<Vec<u8>> {
        let kind = RegisterKind::Manifest;
        let seal = |part: u8, plain: &[u8]| self.store.keys.seal_small(&*self.store.platform, &register::aad(&self.id(), kind, part), plain);
        Ok(register::encode(&self.id(), kind, &seal(1, &summary.encode()?), &seal(2, &body.encode()?))?)
    }

    /// Name of the register that a commit creates, for messages.
    pub fn register_name(&self) -> String {
        ObjectName::register(&self.id()).to_string()
    }
}

fn check_disks(disks: &[DiskJob]) -> Result<()> {
    let mut seen = HashSet::new();
    if let Some(twice) = disks.iter().find(|d| !seen.insert(d.target.as_str())) {
        return Err(StoreError::Usage(format!("disk {} occurs twice", twice.target)));
    }
    if disks.len() > DISKS_MAX { Err(StoreError::Usage(format!("{} disks are more than the {DISKS_MAX} of one point", disks.len()))) } else { Ok(()) }
}

fn summary_of(host: &str, info: &PointInfo, entries: &[DiskEntry], stored_bytes: u64, duration_ms: u64) -> Summary {
    let sum = |f: fn(&DiskEntry) -> u64| entries.iter().map(f).sum();
    Summary {
        name: info.name.clone(),
        time_unix_ms: info.time_unix_ms,
        duration_ms,
        size_bytes: sum(|d| d.size_bytes),
        read_bytes: sum(|d| d.read_bytes),
        changed_bytes: sum(|d| d.changed_bytes),
        stored_bytes,
        quiesce: info.quiesce.clone(),
        disks: entries.len() as u64,
        warnings: info.warnings.len() as u64,
        tags: info.tags.clone(),
        host: host.to_owned(),
    }
}
