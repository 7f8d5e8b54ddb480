//! Scrub: reads what lies in the store and checks it, oldest-checked first; with or without keys.
//!
//! Without keys: checksums of all objects and frames, SHA-256 of packs that an index file names. With keys: every seal and every content id besides.
//! Findings leave reports (with keys), so that the next backups and collections heal. A storage that is gone has no findings: the scrub ends. Which
//! pack was checked when is kept in this host's cache: a scrub that was interrupted goes on with what was not looked at for longest.

mod objects;
mod packs;
mod referenced;

use crate::{
    Progress, Result, StoreError,
    damage::read_or_skip,
    gc::Doomed,
    index::Index,
    parallel,
    platform::{LocalPlatform, Platform},
    point::registers::list_months_of,
    resolve::check_there,
    store::{Inner, Store, read_config},
};
use cairn_store_format::{Location, ObjectName, PackId, PackKind, StoreId, index::IndexedPack, limits::LIST_BYTES_MAX, name::parse_pack, pack::Footer};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::atomic::Ordering,
};

/// Packs in memory at once.
const WORKERS_MAX: usize = 4;
/// Findings that are listed; beyond, only the count goes on.
const FINDINGS_LISTED_MAX: usize = 1000;
/// Pauses of the rate limit are no longer than this, so that an interruption is noticed.
const PAUSE_MS_MAX: u64 = 200;
/// Nobody looks for it there: to all others it is missing.
const MISPLACED: &str = "it lies in another object's folder; move it to where its name belongs";

/// How much to check.
#[derive(Clone, Copy, Debug)]
pub struct ScrubOptions {
    /// Share of the packs, 1 to 100.
    pub percent: u8,
    /// Limit of bytes read a second.
    pub rate_bytes_max: Option<u64>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Object, as a path in the store.
    pub object: String,
    /// Byte in it, where that is known.
    pub offset: Option<u64>,
    /// What is wrong.
    pub why: String,
}

/// What a scrub saw.
#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    /// Small objects checked.
    pub objects: u64,
    /// Packs in the store.
    pub packs_total: u64,
    /// Packs checked.
    pub packs: u64,
    /// Bytes of packs read.
    pub bytes: u64,
    /// Frames checked.
    pub frames: u64,
    /// What is wrong, at most 1000 entries.
    pub findings: Vec<Finding>,
    /// All findings, listed or not.
    pub finding_count: u64,
}

impl ScrubReport {
    fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for f in findings {
            self.finding_count += 1;
            if self.findings.len() < FINDINGS_LISTED_MAX {
                self.findings.push(f);
            }
        }
    }
}

impl Store {
    /// Scrubs with this store's keys.
    pub fn scrub(&self, options: &ScrubOptions, progress: &Progress) -> Result<ScrubReport> {
        Scrub { platform: &*self.inner.platform, index: &self.inner.index, store: self.id(), keyed: Some(&self.inner) }.run(options, progress)
    }
}

/// Scrubs the store in a directory without any key.
pub fn scrub_without_keys(root: &Path, state_dir: &Path, options: &ScrubOptions, progress: &Progress) -> Result<ScrubReport> {
    let platform = LocalPlatform::open(root)?;
    let config = read_config(&platform)?;
    let index = Index::open_or_temporary(&state_dir.join("index"), &config.store)?;
    Scrub { platform: &platform, index: &index, store: config.store, keyed: None }.run(options, progress)
}

/// What an index file says of a pack; the footer only as its hash, for there may be many.
struct Indexed {
    size_bytes: u64,
    sha256: [u8; 32],
    footer_sha256: [u8; 32],
}

fn footer_sha256(footer: &Footer) -> [u8; 32] {
    Sha256::digest(footer.encode()).into()
}

struct Scrub<'a> {
    platform: &'a dyn Platform,
    index: &'a Index,
    /// Whose objects these must be.
    store: StoreId,
    keyed: Option<&'a Inner>,
}

impl Scrub<'_> {
    fn run(&self, options: &ScrubOptions, progress: &Progress) -> Result<ScrubReport> {
        let mut report = ScrubReport::default();
        self.objects(&mut report, progress)?;
        let known = self.indexed(progress)?;
        let all = self.list_packs(&mut report)?;
        report.packs_total = all.len() as u64;
        report.add(self.missing(&known, &all)?);
        report.add(self.referenced(&known, &all)?);
        let chosen = self.oldest(all, options.percent)?;
        progress.total_bytes.fetch_add(chosen.iter().filter_map(|p| known.get(p)).map(|k| k.size_bytes).sum(), Ordering::Relaxed);
        let started_ms = self.platform.monotonic_ms();
        let workers = parallel::workers(self.platform, 2, WORKERS_MAX);
        parallel::ordered(
            chosen.into_iter().map(Ok),
            workers,
            workers + 1,
            packs::Worker::new,
            |worker, pack| {
                progress.check()?;
                Ok((pack, self.pack(worker, &pack, known.get(&pack))?))
            },
            |(pack, checked)| {
                progress.check()?;
                report.packs += 1;
                report.bytes += checked.bytes;
                report.frames += checked.frames;
                report.add(checked.findings);
                progress.done_bytes.fetch_add(checked.bytes / if pack.kind == PackKind::Meta { 2 } else { 1 }, Ordering::Relaxed);
                self.index.set_scrubbed(&pack, self.platform.now_unix_ms())?;
                self.pause(started_ms, report.bytes, options.rate_bytes_max, progress)
            },
        )?;
        // The folders of a store that went away list as empty: that is no good news.
        self.check_there()?;
        Ok(report)
    }

    fn check_there(&self) -> Result<()> {
        check_there(self.platform, &self.store)
    }

    fn pause(&self, started_ms: u64, bytes: u64, rate: Option<u64>, progress: &Progress) -> Result<()> {
        let Some(rate) = rate else { return Ok(()) };
        let due_ms = started_ms + bytes.saturating_mul(1000) / rate.max(1);
        loop {
            progress.check()?;
            let now_ms = self.platform.monotonic_ms();
            if now_ms >= due_ms {
                return Ok(());
            }
            self.platform.sleep_ms((due_ms - now_ms).min(PAUSE_MS_MAX));
        }
    }

    fn list_packs(&self, report: &mut ScrubReport) -> Result<BTreeSet<PackId>> {
        let mut out = BTreeSet::new();
        for (root, kind) in [("d", PackKind::Data), ("m", PackKind::Meta)] {
            for name in list_months_of(self.platform, root)? {
                match (name.as_pack(), parse_pack(name.file(), kind)) {
                    (Some(pack), _) => drop(out.insert(pack)),
                    (None, Some(_)) => report.add([Finding { object: name.to_string(), offset: None, why: MISPLACED.into() }]),
                    // Not ours.
                    (None, None) => {}
                }
            }
        }
        Ok(out)
    }

    /// Packs by the index files that can be read.
    fn indexed(&self, progress: &Progress) -> Result<HashMap<PackId, Indexed>> {
        let mut out = HashMap::new();
        for month in self.platform.list_dirs("x")? {
            for name in self.platform.list(&format!("x/{month}"))? {
                progress.check()?;
                let Some(bytes) = read_or_skip(self.platform, &name, LIST_BYTES_MAX)? else { continue };
                if let Ok((_, packs)) = cairn_store_format::index::decode(&bytes) {
                    let indexed = |p: &IndexedPack| Indexed { size_bytes: p.size_bytes, sha256: p.sha256, footer_sha256: footer_sha256(&p.footer) };
                    out.extend(packs.iter().map(|p| (p.pack, indexed(p))));
                }
            }
        }
        Ok(out)
    }

    /// Packs that an index file names and that are not there, unless a collection has taken them.
    fn missing(&self, known: &HashMap<PackId, Indexed>, there: &BTreeSet<PackId>) -> Result<Vec<Finding>> {
        let gone: Vec<&PackId> = known.keys().filter(|p| !there.contains(p)).collect();
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        // Fresh lists: condemned ones are on their way out, and without keys nobody can tell which these are.
        let names = self.platform.list("gc")?;
        let doomed = match self.keyed {
            Some(store) => Doomed::of(store, &names)?,
            None if names.iter().any(|n| n.file().starts_with("condemned-")) => return Ok(Vec::new()),
            None => Doomed::default(),
        };
        let mut out = Vec::new();
        for pack in gone.into_iter().filter(|p| !doomed.contains(p)) {
            let names = ObjectName::pack(pack);
            if self.platform.size(&names[0])?.is_none() && self.indexed_still(pack)? {
                self.report(&crate::damage::whole_pack(*pack), "the pack is missing");
                out.push(Finding { object: names[0].to_string(), offset: None, why: "an index file names it, and it is missing".into() });
            }
        }
        out.sort_by(|a, b| a.object.cmp(&b.object));
        Ok(out)
    }

    /// A collection that ran meanwhile has rewritten the index files of what it took.
    fn indexed_still(&self, pack: &PackId) -> Result<bool> {
        let dir = ObjectName::index(&pack.session, 0);
        for name in self.platform.list(dir.dir())?.iter().filter(|n| n.file().starts_with(&pack.session.to_string())) {
            let Some(bytes) = read_or_skip(self.platform, name, LIST_BYTES_MAX)? else { continue };
            if cairn_store_format::index::decode(&bytes).is_ok_and(|(_, packs)| packs.iter().any(|p| p.pack == *pack)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The share of packs that was not looked at for longest; never looked at comes first, and a time that is still to come is of a clock that was ahead:
    /// nobody knows when that look was, and until that date there would be no other.
    fn oldest(&self, all: BTreeSet<PackId>, percent: u8) -> Result<Vec<PackId>> {
        let (checked, now_ms) = (self.index.scrubbed()?, self.platform.now_unix_ms());
        let count = (all.len() * usize::from(percent.clamp(1, 100))).div_ceil(100);
        let mut all: Vec<PackId> = all.into_iter().collect();
        all.sort_by_key(|p| (checked.get(&p.to_string()).copied().filter(|at_ms| *at_ms <= now_ms).unwrap_or(0), *p));
        all.truncate(count);
        Ok(all)
    }

    fn report(&self, at: &Location, why: &str) {
        if let Some(store) = self.keyed {
            store.report(at, &StoreError::damaged(at.pack, why));
        }
    }
}
