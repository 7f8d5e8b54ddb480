//! The offline mode: a domain that is off, its images read as they lie there.
//!
//! | step | what | where |
//! |---|---|---|
//! | O1 | lock · the domain is off, and was not migrated away · disks | here, `disk` |
//! | O2 | images: chain, nobody writes to them, stamps that have settled, chain still the same | `disk`, `in_use`, [`stamp`] |
//! | O3 | watcher: the domain's state and the stamps, all the time | `watch` |
//! | O4 | storage daemons: images read-only and shared, dirty bitmap exported with them | `disk` |
//! | O5 | the caller reads, stores, asks [`OfflineCapture::health`], commits | caller |
//! | O6 | clients · daemons · watcher · lock | here |
//!
//! Invariants
//! - Nothing is written to an image: no bitmap is added or removed, no lock is taken, so nobody who starts the domain notices.
//! - What was read is a point in time if the stamps of all images are the same before the first read and after the last: nothing was written between.
//!   That the domain is still off says no more, but says it early.
//! - If we die: the daemons die with us, the lock goes; nothing is left.

mod disk;
mod in_use;
pub mod stamp;
mod state;
mod watch;

pub use state::Off;

use std::path::PathBuf;

use cairn_quiesce::{QuiesceLevel, QuiescePolicy, QuiesceReport};

use super::error::CaptureError;
use super::live::{CapturedDisk, Health, SOCKETS_CLOSE_LIMIT};
use super::lock::{DomainLock, LOCK_DIR_DEFAULT};
use super::plan::{DiskPlan, PointCatalog};
use super::preflight::select;
use crate::disks::{Disk, SkipReason};
use crate::domain::Domain;
use crate::image_tools::daemon::Daemon;
use crate::qmp::nodes::ChainNode;
use disk::{Around, Image};
use in_use::Writers;
use stamp::Stamp;
use watch::Watch;

/// Threads for socket work; reading threads are the caller's.
const RUNTIME_THREADS: usize = 2;

/// How to capture.
#[derive(Debug, Clone)]
pub struct OfflineOptions {
    /// First four bytes of the store's id.
    pub store8: [u8; 4],
    /// Targets to capture; `None`: all that can be.
    pub disks: Option<Vec<String>>,
    /// What to do about a domain that was not shut down.
    pub quiesce: QuiescePolicy,
    /// Folder of the domains' locks.
    pub lock_dir: PathBuf,
    /// NBD connections per disk.
    pub connections: usize,
}

impl OfflineOptions {
    /// Defaults for everything but the store.
    #[must_use]
    pub fn new(store8: [u8; 4]) -> Self {
        Self {
            store8,
            disks: None,
            quiesce: QuiescePolicy::Prefer,
            lock_dir: LOCK_DIR_DEFAULT.into(),
            connections: cairn_nbd::client::pool::CONNECTIONS_DEFAULT,
        }
    }
}

/// What the caller knows of the last point, besides the catalog: stamps save reading an image that nobody wrote to since.
pub trait StampCatalog: PointCatalog {
    /// The newest usable point whose disk of this target had exactly these images, of this format and size.
    fn unchanged(&self, target: &str, format: &str, size_bytes: u64, images: &[Stamp]) -> Option<([u8; 16], u32)>;
}

/// A domain that is off, open for reading. Ends by [`OfflineCapture::end`] or by being dropped, which is the same.
#[derive(Debug)]
pub struct OfflineCapture {
    name: String,
    off: Off,
    disks: Vec<CapturedDisk>,
    skipped: Vec<(String, SkipReason)>,
    quiesce: QuiesceReport,
    domain: Domain,
    stamps: Vec<Stamp>,
    watch: Option<Watch>,
    runtime: Option<tokio::runtime::Runtime>,
    daemons: Vec<Daemon>,
    // Last: the lock goes when everything else is gone.
    _lock: DomainLock,
}

impl OfflineCapture {
    /// Opens what is there. The domain, and whoever starts it, notice nothing.
    ///
    /// # Errors
    /// [`CaptureError`]: [`CaptureError::Running`] for a domain that is not off (any more).
    pub fn begin(domain: &Domain, options: &OfflineOptions, catalog: &dyn StampCatalog) -> Result<Self, CaptureError> {
        // O1
        let (name, uuid) = (domain.name()?, domain.uuid()?);
        let lock = DomainLock::take(&options.lock_dir, &name, &uuid)?;
        let off = domain.off()?.ok_or_else(|| CaptureError::Running { domain: name.clone() })?;
        if off == Off::Migrated {
            return Err(CaptureError::Elsewhere { domain: name });
        }
        let quiesce = state::level(off);
        if let (QuiescePolicy::Require, QuiesceLevel::Crash, Some(reason)) = (options.quiesce, quiesce.level, &quiesce.reason) {
            return Err(CaptureError::NotQuiesced { domain: name, reason: reason.clone() });
        }
        let (disks, skipped) = select(&name, domain.disks()?, options.disks.as_deref())?;
        tracing::debug!("step: domain is off");
        // O2
        let images = disks.into_iter().map(|disk| Image::find(domain, &name, disk)).collect::<Result<Vec<_>, _>>()?;
        let writers = Writers::beside(domain)?;
        for image in &images {
            image.refuse_written(&name, &writers)?;
        }
        let mut stamps = Vec::new();
        for image in &images {
            stamps.push(image.stamps(&name)?);
        }
        tracing::debug!("step: images found");
        // O3, before the first byte is read.
        let all: Vec<Stamp> = stamps.iter().flatten().cloned().collect();
        let watch =
            Watch::start(domain, all.clone()).map_err(|source| CaptureError::File { action: "start a thread for", path: PathBuf::from(&name), source })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
        let runtime = runtime.map_err(|source| CaptureError::File { action: "start threads for", path: PathBuf::from(&name), source })?;
        let around =
            Around { name: name.clone(), store8: options.store8, connections: options.connections, runtime: runtime.handle().clone(), worthless: watch.flag() };
        let mut capture = Self {
            name,
            off,
            disks: Vec::new(),
            skipped,
            quiesce,
            domain: domain.clone(),
            stamps: all,
            watch: Some(watch),
            runtime: Some(runtime),
            daemons: Vec::new(),
            _lock: lock,
        };
        // O4; from here on dropping `capture` ends whatever was begun.
        for ((image, stamps), ordinal) in images.into_iter().zip(stamps).zip(0..) {
            let opened = image.open(&around, ordinal, stamps, catalog)?;
            capture.daemons.push(opened.0);
            capture.disks.push(opened.1);
        }
        tracing::debug!("step: disks open");
        tracing::debug!(domain = %capture.name, ?off, plans = ?capture.disks.iter().map(|disk| kind(&disk.plan)).collect::<Vec<_>>(), "offline capture");
        Ok(capture)
    }

    /// The disks, in the order of their ordinals.
    #[must_use]
    pub fn disks(&self) -> &[CapturedDisk] {
        &self.disks
    }

    /// Disks that were left out, and why.
    #[must_use]
    pub fn skipped_disks(&self) -> &[(String, SkipReason)] {
        &self.skipped
    }

    /// How the guest had left its disks.
    #[must_use]
    pub fn quiesce(&self) -> &QuiesceReport {
        &self.quiesce
    }

    /// How the domain came to be off.
    #[must_use]
    pub fn off(&self) -> Off {
        self.off
    }

    /// Whether what was read is still of one moment. Ask when a read fails, and after the last one, before the commit.
    ///
    /// # Errors
    /// libvirt's.
    pub fn health(&self) -> Result<Health, CaptureError> {
        if let Some(why) = self.watch.as_ref().and_then(Watch::disturbed) {
            return Ok(Health::Died(why));
        }
        Ok(watch::disturbance(&self.domain, &self.stamps)?.map_or(Health::Running, Health::Died))
    }

    /// Ends it. There is nothing to undo, whether a point came of it or not.
    pub fn end(self) {}
}

impl Drop for OfflineCapture {
    /// O6.
    fn drop(&mut self) {
        for disk in &self.disks {
            disk.reader.close();
        }
        self.disks.clear();
        if let Some(runtime) = self.runtime.take() {
            // Waits until its sockets are closed; only then may a server end (docs/capture.md, "Traps").
            runtime.shutdown_timeout(SOCKETS_CLOSE_LIMIT);
        }
        self.daemons.clear();
        tracing::debug!("step: storage daemons ended");
        self.watch = None;
    }
}

/// The images of one disk as a backup would find them, top first, without opening one: O2 without the stamps.
///
/// # Errors
/// What a backup of the disk would fail with.
pub(super) fn look(domain: &Domain, name: &str, disk: &Disk) -> Result<Vec<ChainNode>, CaptureError> {
    let image = Image::find(domain, name, disk.clone())?;
    image.refuse_written(name, &Writers::beside(domain)?)?;
    Ok(image.into_chain())
}

fn kind(plan: &DiskPlan) -> &'static str {
    match plan {
        DiskPlan::Incremental { .. } => "incremental",
        DiskPlan::Compare { .. } => "compare",
        DiskPlan::Full { .. } => "full",
    }
}
