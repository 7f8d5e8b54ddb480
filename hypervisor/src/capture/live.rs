//! The live mode: a point in time of a running domain, in nine steps.
//!
//! | step | what | where |
//! |---|---|---|
//! | 1 | lock, versions, running jobs, sweep, plan, scratch, agent asked | `preflight` |
//! | 2 | guard · one transaction adds bitmap N+1 on every disk | here |
//! | 3 | freeze · BackupBegin · thaw · chains are still pre-flight's | here |
//! | 4 | one transaction adds the frozen copy E and merges N of the whole chain into it | `dirty` |
//! | 5 | live nodes exported with E | `dirty` |
//! | 6 | dirty ranges from the live export, everything else from the scratch export | `dirty`, `nbd_disk` |
//! | 7 | the caller reads, stores and commits | caller |
//! | 8 | clients · exports · abort · wait · bitmaps · scratch | [`super::cleanup`] |
//! | 9 | sweep | [`super::sweep`] |
//!
//! In the mode `libvirt-api` ([`super::checkpoints`]) 2 adds no bitmap, libvirt makes its checkpoint within 3, and its job exports in 6 what changed:
//! 4 and 5 are not needed.
//!
//! If we die: before 2, nothing is there but scratch, which the next sweep removes. From 2 on the guard thaws, ends
//! the job and removes E, N+1 and scratch; without a guard the next sweep does. N loses nothing at any step, because nothing is taken from
//! it before the commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cairn_nbd::Address;
use cairn_quiesce::freeze::frozen;
use cairn_quiesce::guard::call_limit;
use cairn_quiesce::hooks;
use cairn_quiesce::record::{self, RECORD_DIR_DEFAULT};
use cairn_quiesce::{QuiesceLevel, QuiescePolicy, QuiesceReport};

use super::checkpoints;
use super::cleanup;
use super::dirty;
use super::error::CaptureError;
use super::job_xml::Job;
use super::lock::DomainLock;
use super::look;
use super::names::{BitmapName, CheckpointName, Role};
use super::nbd_disk::NbdDisk;
use super::offline::stamp::Stamp;
use super::options::Tracker;
use super::plan::{CarrierRecord, DiskPlan, PointCatalog};
use super::preflight::{Chosen, Freezer, Preflight};
use crate::disks::SkipReason;
use crate::domain::Domain;
use crate::ffi;
use crate::guard::config::GuardConfig;
use crate::guard::link::GuardLink;
use crate::host::LIBVIRT_PRESERVE_SHUTDOWN;
use crate::qmp::bitmaps::{BitmapAction, GRANULARITY_BYTES, transaction};
use crate::qmp::nodes::Nodes;

pub use super::options::LiveOptions;

/// Threads for socket work; reading threads are the caller's.
const RUNTIME_THREADS: usize = 2;
/// For the sockets of a capture that ends; closing them takes no time.
pub(super) const SOCKETS_CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One disk at its point in time.
#[derive(Debug)]
pub struct CapturedDisk {
    /// vda, ...
    pub target: String,
    /// Number of the disk in this point.
    pub ordinal: u32,
    /// Bytes.
    pub size_bytes: u64,
    /// What to read.
    pub plan: DiskPlan,
    /// Bitmap that records from this point on; empty if there is none.
    pub bitmap_name: String,
    /// For the next backup to find the image again.
    pub carrier: CarrierRecord,
    /// raw, qcow2, ...
    pub image_format: String,
    /// Of a domain that is off: all images of the disk as they are, top first.
    pub images: Vec<Stamp>,
    /// Becomes true when what is read is no point in time any more, so that reading may end. Of a running domain it never does: its job's end shows.
    pub worthless: Arc<AtomicBool>,
    /// The content.
    pub reader: Arc<NbdDisk>,
}

/// How the capture is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The backup job runs.
    Running,
    /// It ended: guest shutdown, `virsh domjobabort`, the guard.
    Died(String),
}

/// A point in time that is held open for reading. Ends by [`LiveCapture::finish_success`] or [`LiveCapture::abort`]; dropping it aborts.
#[derive(Debug)]
pub struct LiveCapture {
    domain: Domain,
    name: String,
    names: Names,
    tracker: Tracker,
    scratch_folder: PathBuf,
    disks: Vec<CapturedDisk>,
    nodes: Vec<String>,
    skipped: Vec<(String, SkipReason)>,
    quiesce: QuiesceReport,
    /// No freeze was sent, or its thaw is certain.
    thawed: bool,
    /// The freeze of an earlier backup may have come meanwhile.
    left: bool,
    guard: Option<GuardLink>,
    runtime: Option<tokio::runtime::Runtime>,
    ended: bool,
    // Last: the lock goes when everything else is gone.
    _lock: DomainLock,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) store8: [u8; 4],
    pub(super) session: [u8; 16],
}

impl Names {
    pub(super) fn disk(self, ordinal: u32) -> String {
        BitmapName { store8: self.store8, session: self.session, role: Role::Disk(ordinal) }.to_string()
    }

    pub(super) fn export(self) -> String {
        BitmapName { store8: self.store8, session: self.session, role: Role::Export }.to_string()
    }

    pub(super) fn checkpoint(self) -> CheckpointName {
        CheckpointName { store8: self.store8, session: self.session }
    }

    fn is_of(self, name: &BitmapName) -> bool {
        name.store8 == self.store8 && name.session == self.session
    }
}

impl LiveCapture {
    /// Takes the point in time and opens it for reading. Waits for nothing longer than the limits of this module's parts.
    ///
    /// # Errors
    /// [`CaptureError`]; the domain is then as it was before.
    pub fn begin(domain: &Domain, options: &LiveOptions, catalog: &dyn PointCatalog) -> Result<Self, CaptureError> {
        let preflight = Preflight::run(domain, options, catalog)?;
        tracing::debug!("step: pre-flight done");
        let mut capture = Self {
            domain: domain.clone(),
            name: preflight.name.clone(),
            names: Names { store8: options.store8, session: options.session },
            tracker: options.tracker,
            scratch_folder: preflight.scratch.folder().to_owned(),
            disks: Vec::new(),
            nodes: preflight.chosen.iter().map(|chosen| chosen.top().name.clone()).collect(),
            skipped: preflight.skipped.clone(),
            quiesce: QuiesceReport::crash("not asked for"),
            thawed: true,
            left: preflight.left,
            guard: None,
            runtime: None,
            ended: false,
            _lock: preflight.lock,
        };
        // From here on dropping `capture` undoes whatever was done.
        let result = capture.take(options, &preflight.freezer, &preflight.chosen, &preflight.socket);
        match result {
            Ok(()) => Ok(capture),
            Err(error) => {
                if let Err(second) = capture.end(false) {
                    tracing::error!(domain = %capture.name, error = %second, "clean-up after a failed capture; the guard goes on with it");
                }
                Err(error)
            }
        }
    }

    fn take(&mut self, options: &LiveOptions, freezer: &Freezer, chosen: &[Chosen], socket: &Path) -> Result<(), CaptureError> {
        // Before step 2: from here on a job that dies leaves nothing, its new bitmaps included.
        self.guard = Some(self.start_guard(options)?);
        tracing::debug!("step: guard started");
        if self.tracker == Tracker::Bitmaps {
            self.add_bitmaps(chosen)?;
            tracing::debug!("step: bitmaps added");
        }
        self.instant(options, freezer, chosen, socket)?;
        tracing::debug!("step: freeze over");
        match self.tracker {
            Tracker::Bitmaps => self.same_chains(chosen)?,
            Tracker::Checkpoints => checkpoints::preflight::same_images(&self.domain, &self.name, chosen)?,
        }
        if options.quiesce == QuiescePolicy::Require && self.quiesce.level == QuiesceLevel::Crash {
            let reason = self.quiesce.reason.clone().unwrap_or_default();
            return Err(CaptureError::NotQuiesced { domain: self.name.clone(), reason });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
        let runtime = runtime.map_err(|source| CaptureError::File { action: "start threads for", path: socket.to_owned(), source })?;
        let handle = runtime.handle().clone();
        self.runtime = Some(runtime);
        let address = Address::Unix(socket.to_owned());
        let plans = match self.tracker {
            Tracker::Bitmaps => dirty::plans(&self.domain, self.names, chosen, &handle, &address)?,
            Tracker::Checkpoints => checkpoints::changed::plans(chosen, &handle, &address)?,
        };
        let connections = connections_each(chosen.len(), options.connections);
        for (chosen, plan) in chosen.iter().zip(plans) {
            let target = cairn_nbd::ConnectOptions::new(address.clone(), chosen.disk.target.clone());
            let reader = NbdDisk::connect(&handle, target, connections)?;
            self.disks.push(chosen.captured(&self.name, plan, Arc::new(reader))?);
        }
        tracing::debug!("step: disks open");
        Ok(())
    }

    /// Step 2. Starting before the point in time is safe: the set only grows.
    fn add_bitmaps(&self, chosen: &[Chosen]) -> Result<(), CaptureError> {
        let actions: Vec<BitmapAction> = chosen
            .iter()
            .map(|chosen| BitmapAction::BlockDirtyBitmapAdd {
                node: chosen.top().name.clone(),
                name: chosen.bitmap_name.clone(),
                granularity: GRANULARITY_BYTES,
                persistent: chosen.can_persist,
                disabled: false,
            })
            .collect();
        Ok(transaction(&self.domain, &actions)?)
    }

    fn start_guard(&self, options: &LiveOptions) -> Result<GuardLink, CaptureError> {
        let config = GuardConfig {
            uri: self.domain.uri()?,
            domain: self.domain.uuid()?,
            store8: options.store8,
            session: options.session,
            tracker: options.tracker,
            scratch_folder: self.scratch_folder.clone(),
            freeze_limit_ms: u64::try_from(options.freeze_limit.as_millis()).unwrap_or(u64::MAX),
            job_pid: std::process::id(),
            agent_socket: self.domain.agent_socket().unwrap_or_default(),
            on_stuck_freeze: options.on_stuck_freeze.clone(),
        };
        let lock = self._lock.share().map_err(|error| CaptureError::Guard { problem: error.to_string() })?;
        GuardLink::start(&options.guard, &config, lock)
    }

    /// Step 3: freeze · BackupBegin · thaw at once.
    fn instant(&mut self, options: &LiveOptions, freezer: &Freezer, chosen: &[Chosen], socket: &Path) -> Result<(), CaptureError> {
        let job = Job::new(chosen, socket, self.names, self.tracker);
        let (libvirt, _) = self.domain.versions()?;
        let preserve = if libvirt >= LIBVIRT_PRESERVE_SHUTDOWN { ffi::BACKUP_PRESERVE_SHUTDOWN } else { 0 };
        let flags = ffi::BACKUP_REUSE_EXTERNAL | preserve;
        let (probe, scope) = match freezer {
            Ok(freezer) => freezer,
            Err(reason) => {
                self.quiesce = QuiesceReport::crash(reason);
                return Ok(self.begin_job(&job, flags)?);
            }
        };
        let guard = self.guard.as_ref().expect("the guard was started before the freeze");
        let (records, uuid) = (Path::new(RECORD_DIR_DEFAULT), self.domain.uuid()?);
        let record_failed = |source| CaptureError::File { action: "record the freeze in", path: records.to_owned(), source };
        record::open(records, &uuid).map_err(record_failed)?;
        if let Err(error) = guard.freeze_begins() {
            // Nothing was sent: the next backup must not wait for it.
            record::close(records, &uuid).map_err(record_failed)?;
            return Err(error);
        }
        self.thawed = false;
        let outcome = frozen(&self.domain, probe, scope, call_limit(options.freeze_limit), |answered| {
            // A guard that is gone shows below.
            if answered && let Err(error) = guard.freeze_answered() {
                tracing::debug!(%error, "the guard does not hear that the freeze was answered");
            }
            self.begin_job(&job, flags)
        });
        if outcome.is_thawed {
            record::close(records, &uuid).map_err(record_failed)?;
            guard.thawed()?;
            self.thawed = true;
        }
        outcome.value?;
        if outcome.is_stuck && options.quiesce != QuiescePolicy::Require {
            let reason = outcome.report.reason.unwrap_or_default();
            return Err(CaptureError::NotThawed { domain: self.name.clone(), reason });
        }
        self.quiesce = hooks::raised(&self.domain, probe, outcome.report);
        Ok(())
    }

    fn begin_job(&self, job: &Job, flags: u32) -> Result<(), ffi::LibvirtError> {
        tracing::debug!("step: point in time");
        self.domain.backup_begin(&job.backup, job.checkpoint.as_deref(), flags)?;
        tracing::debug!("step: job begun");
        Ok(())
    }

    /// Between pre-flight and the job's begin nothing keeps others from a snapshot, a commit or another image; from the begin on libvirt does.
    /// A chain that changed in between has nodes whose bitmaps would be missed: such a point would lack writes.
    fn same_chains(&self, chosen: &[Chosen]) -> Result<(), CaptureError> {
        let nodes = Nodes::query(&self.domain)?;
        for chosen in chosen {
            let now = nodes.chain(&chosen.disk)?;
            let same = now.len() == chosen.chain.len() && now.iter().zip(&chosen.chain).all(|(a, b)| a.name == b.name && a.filename == b.filename);
            let tracked = now.first().is_some_and(|top| top.bitmaps.iter().any(|b| b.name.as_deref() == Some(&chosen.bitmap_name) && b.recording));
            if !same || !tracked {
                tracing::debug!(before = ?chosen.chain, ?now, tracked, "image chain");
                return Err(CaptureError::Changed { domain: self.name.clone(), disk: chosen.disk.target.clone() });
            }
        }
        Ok(())
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

    /// How quiet the guest was.
    #[must_use]
    pub fn quiesce(&self) -> &QuiesceReport {
        &self.quiesce
    }

    /// Whether the backup job still runs. Ask when a read fails, and before the commit: a point whose job died while it was read is worth nothing.
    ///
    /// # Errors
    /// libvirt's.
    pub fn health(&self) -> Result<Health, CaptureError> {
        let died = |why: &str| Ok(Health::Died(why.to_owned()));
        if self.guard.as_ref().is_some_and(GuardLink::has_ended) {
            return died("the guard ended it: scratch nearly full, or this process was stopped for too long");
        }
        if !self.domain.is_running()? {
            return died("the guest shut down");
        }
        match self.domain.backup_xml()? {
            Some(xml) if cleanup::is_ours(&xml) => Ok(Health::Running),
            _ => died("it was aborted"),
        }
    }

    /// After the commit: removes what this backup needed and the bitmaps of earlier points of this store on these disks.
    ///
    /// # Errors
    /// [`CaptureError`]; the point is good all the same, and the next backup sweeps.
    pub fn finish_success(mut self) -> Result<(), CaptureError> {
        self.end(true)
    }

    /// Without a commit: removes everything this backup added. The next backup is as incremental as this one was.
    ///
    /// # Errors
    /// [`CaptureError`]; the next backup sweeps.
    pub fn abort(mut self) -> Result<(), CaptureError> {
        self.end(false)
    }

    /// Step 8.
    fn end(&mut self, success: bool) -> Result<(), CaptureError> {
        self.ended = true;
        if success && let Some(guard) = &self.guard {
            // From here on a crash must not cost the new bitmaps.
            if let Err(error) = guard.committed() {
                tracing::warn!(%error, "the guard is gone");
            }
        }
        for disk in &self.disks {
            disk.reader.close();
        }
        self.disks.clear();
        if let Some(runtime) = self.runtime.take() {
            // Waits until its sockets are closed: the clean-up stops the NBD server, and must not while one still negotiates (docs/capture.md).
            runtime.shutdown_timeout(SOCKETS_CLOSE_LIMIT);
        }
        let result = match (self.tracker, success) {
            (Tracker::Bitmaps, _) => self.end_with_bitmaps(success),
            (Tracker::Checkpoints, true) => checkpoints::finish(&self.domain, &self.scratch_folder, self.names.checkpoint()),
            (Tracker::Checkpoints, false) => checkpoints::undo(&self.domain, &self.scratch_folder, self.names.checkpoint()),
        };
        if self.left
            && let Ok(uuid) = self.domain.uuid()
        {
            // Its guard may be gone as well, and we have frozen and thawed nothing ourselves.
            look::thaw_recorded(&self.domain, &uuid, Path::new(RECORD_DIR_DEFAULT));
        }
        match self.guard.take() {
            Some(guard) if result.is_err() => guard.hand_over(),
            Some(guard) => guard.dismiss(self.thawed),
            None => {}
        }
        result
    }
}

impl LiveCapture {
    fn end_with_bitmaps(&self, success: bool) -> Result<(), CaptureError> {
        let (names, nodes) = (self.names, &self.nodes);
        cleanup::run(&self.domain, &self.scratch_folder, &|node, name| {
            if success {
                let superseded = name.store8 == names.store8 && nodes.iter().any(|captured| captured == node);
                superseded && !(names.is_of(name) && matches!(name.role, Role::Disk(_))) || (names.is_of(name) && name.role == Role::Export)
            } else {
                names.is_of(name)
            }
        })?;
        if success && self.domain.is_running()? {
            // Of the time when this domain was backed up in the other mode.
            checkpoints::remove_all(&self.domain, &|checkpoint| checkpoint.name.store8 == names.store8)?;
        }
        Ok(())
    }
}

impl Drop for LiveCapture {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        tracing::error!(domain = %self.name, "a capture was dropped without an end; it is aborted");
        if let Err(error) = self.end(false) {
            tracing::error!(domain = %self.name, %error, "clean-up of a dropped capture; the guard goes on with it");
        }
    }
}

/// QEMU's NBD server takes a hundred clients, and lets the next one wait without a word.
pub(super) const CONNECTIONS_TOTAL_MAX: usize = 90;

/// Many disks share what the server takes.
fn connections_each(disk_count: usize, wanted: usize) -> usize {
    (CONNECTIONS_TOTAL_MAX / disk_count.max(1)).clamp(1, wanted.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_disks_share_the_connections() {
        for (disks, each) in [(1, 4), (2, 4), (22, 4), (23, 3), (30, 3), (90, 1), (200, 1)] {
            assert_eq!(connections_each(disks, 4), each, "{disks} disks");
        }
        assert!((1..=CONNECTIONS_TOTAL_MAX).all(|disks| disks * connections_each(disks, 16) <= CONNECTIONS_TOTAL_MAX));
        assert_eq!(connections_each(0, 0), 1);
    }
}
