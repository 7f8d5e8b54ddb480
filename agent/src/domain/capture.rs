//! One backup of a domain, running or off: capture, store, commit, clean up; in this order, and each failure undoes what was begun.

use super::{
    catalog::SessionCatalog,
    chain,
    facts::DomainFacts,
    saved::{LIBVIRT_API, LIVE, OFFLINE, SavedDisk, SavedDomain, SavedFile, SavedImage, SavedQuiesce, SkippedDisk, part_marked},
    source::CapturedSource,
};
use crate::{
    cli::Quiesce,
    commands::now_unix_ms,
    failure::{FAILED, Failure, Outcome},
    give_way::{Priority, giving_way},
    read_limit::{ReadLimit, limited},
};
use cairn_hypervisor::{
    Capture, CarrierRecord, DiskPlan, Domain, LiveCapture, LiveOptions, OfflineCapture, OfflineOptions,
    capture::{
        error::CaptureError,
        live::{CapturedDisk, Health},
        names::hex,
        offline::Off,
        options::Tracker,
    },
    disks::SkipReason,
    guard::link::GuardCommand,
};
use cairn_quiesce::{
    QuiesceLevel, QuiescePolicy,
    record::{self, RECORD_DIR_DEFAULT},
    unasked::{self, UNASKED_DIR_DEFAULT},
};
use cairn_store::{BackupOutcome, DiskJob, Part, Plan, Point, PointInfo, PointState, Progress, Session, Store, StoreError, format::SessionId};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// A guest starts its agent again within seconds, or needs its admin; the guard looks every two seconds.
const THAWED_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(200);

/// What to back up and how.
pub struct BackupRequest<'a> {
    /// The store.
    pub store: &'a Store,
    /// The domain.
    pub domain: &'a Domain,
    /// Targets; empty for all.
    pub disks: &'a [String],
    /// Who tracks the disks of a running domain.
    pub tracker: Tracker,
    /// Level wanted.
    pub quiesce: Quiesce,
    /// Mount points to freeze; empty for all.
    pub freeze_mounts: &'a [String],
    /// Longest freeze.
    pub freeze_limit: Duration,
    /// The admin's program for a guest that is not thawed in that time.
    pub on_stuck_freeze: Option<PathBuf>,
    /// Tags.
    pub tags: &'a [String],
    /// Scratch folder other than the default.
    pub scratch_dir: Option<PathBuf>,
    /// Whom reading and storing give way to.
    pub priority: Priority,
    /// How quickly all disks together may be read; none is as quickly as they can.
    pub read_limit: Option<Arc<ReadLimit>>,
    /// How many disks are read at the same time.
    pub disks_at_once: usize,
}

/// How a point is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Of a running domain.
    Live,
    /// Of one that is off.
    Offline,
}

impl Mode {
    /// What the domain's state asks for now.
    fn of(domain: &Domain) -> Outcome<Self> {
        let runs = domain.is_running().map_err(|e| Failure::new(FAILED, chain(&e)))?;
        Ok(if runs { Self::Live } else { Self::Offline })
    }
}

/// Takes the point; returns it with the warnings that it carries. A domain that starts or ends meanwhile, or an image that changes though the domain is
/// off, makes the first attempt worth nothing; so does a guest whose thaw was not confirmed. There is a second one, and no third.
pub fn back_up(r: &BackupRequest<'_>, progress: &Progress) -> Outcome<(BackupOutcome, Vec<String>)> {
    let mode = Mode::of(r.domain)?;
    let spared = mark_of(r).and_then(|mark| spared(Path::new(UNASKED_DIR_DEFAULT), &mark, r.quiesce));
    let Failed { failure, disturbed, not_thawed } = match attempt(r, mode, spared.clone(), progress) {
        Ok(done) => return Ok(done),
        Err(failed) => failed,
    };
    let is_thawed = not_thawed.is_some() && wait_thawed(r.domain, progress);
    // libvirt may have been restarted for the guest's sake: why there is no point matters more.
    let Ok(now) = Mode::of(r.domain) else { return Err(failure) };
    let happened = match (mode, now) {
        (Mode::Live, Mode::Live) if is_thawed => "was not thawed in time; it is now, and is backed up anew without a freeze",
        (Mode::Offline, Mode::Live) => "started while it was backed up; nothing of that is kept, it is backed up anew while it runs",
        (Mode::Live, Mode::Offline) => "ended while it was backed up; nothing of that is kept, it is backed up anew as it is off now",
        // libvirt gives images back to their owner a moment after a domain has ended: no content changes then, but that cannot be told from here.
        (Mode::Offline, Mode::Offline) if disturbed => "did not stay as it was while it was read; nothing of that is kept, it is read anew",
        _ => return Err(failure),
    };
    if progress.cancel.load(Ordering::SeqCst) {
        return Err(failure);
    }
    tracing::info!("the first attempt: {}", failure.message);
    say!("cairn: domain {} {happened}", crate::output::shown(&r.domain.name().unwrap_or_default()));
    for counter in [&progress.total_bytes, &progress.done_bytes, &progress.read_bytes, &progress.stored_bytes] {
        counter.store(0, Ordering::Relaxed);
    }
    attempt(r, now, not_thawed.or(spared), progress).map_err(|second| of_both(&failure, second.failure))
}

/// Why there is no point after two attempts: the code is that of the second, and why the first came to nothing is not lost for it.
fn of_both(first: &Failure, second: Failure) -> Failure {
    if second.message == first.message {
        return second;
    }
    Failure::new(second.code, format!("{} (the attempt before: {})", second.message, first.message))
}

/// Why the guest's agent is left alone by a backup that could do without: the one before was not thawed in time. What must be quiesced asks all the same.
fn spared(marks: &Path, mark: &str, quiesce: Quiesce) -> Option<String> {
    let why = (quiesce == Quiesce::Prefer).then(|| unasked::why(marks, mark)).flatten()?;
    Some(format!("no freeze was asked for, since the backup before this one was ended without a thaw ({why}); the next one asks again"))
}

/// Each store is to have its points, whatever others have.
fn mark_of(r: &BackupRequest<'_>) -> Option<String> {
    let uuid = r.domain.uuid().ok()?;
    Some(format!("{uuid}-{}", hex(&store8(r))))
}

/// The next backup would fare as this one did, again and again (docs/adr/0023).
fn spare(r: &BackupRequest<'_>, reason: &str) {
    if let Some(mark) = mark_of(r)
        && let Err(error) = unasked::mark(Path::new(UNASKED_DIR_DEFAULT), &mark, reason)
    {
        tracing::warn!(%error, "the next backup asks for a freeze again: that it should not cannot be noted");
    }
}

/// There is a point. One that was never to be quiesced says nothing of the next.
fn spare_no_more(r: &BackupRequest<'_>) {
    if r.quiesce != Quiesce::Never
        && let Some(mark) = mark_of(r)
        && let Err(error) = unasked::clear(Path::new(UNASKED_DIR_DEFAULT), &mark)
    {
        tracing::warn!(%error, "the next backup asks for no freeze: that it may cannot be noted");
    }
}

/// Until the guard of a backup of ours has thawed the guest for certain; false if it does not, in a time in which most agents are started again.
fn wait_thawed(domain: &Domain, progress: &Progress) -> bool {
    let (Ok(uuid), start) = (domain.uuid(), Instant::now()) else { return false };
    while record::is_open_by(Path::new(RECORD_DIR_DEFAULT), &uuid, std::process::id()) {
        if start.elapsed() > THAWED_LIMIT || progress.cancel.load(Ordering::SeqCst) {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Why there is no point.
struct Failed {
    failure: Failure,
    /// The disks had not stayed as they were.
    disturbed: bool,
    /// The guest was frozen, and no thaw was confirmed: why.
    not_thawed: Option<String>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, disturbed: false, not_thawed: None }
    }
}

/// One attempt. `unasked`: why the guest's agent is left alone.
fn attempt(r: &BackupRequest<'_>, mode: Mode, unasked: Option<String>, progress: &Progress) -> Result<(BackupOutcome, Vec<String>), Failed> {
    let (session, facts, capture, time_unix_ms) = begin(r, mode, unasked)?;
    tracing::debug!("step: reading begins");
    match store_capture(r, session, &capture, facts, time_unix_ms, progress) {
        Ok((outcome, mut warnings)) => {
            tracing::debug!("step: committed");
            spare_no_more(r);
            if let Err(e) = capture.finish_success() {
                warnings
                    .push(format!("the point is good, but cleaning up after it failed ({}); its guard tries again, else the next backup does it", chain(&e)));
            }
            Ok((outcome, warnings))
        }
        Err(failure) => {
            let disturbed = matches!(capture.health(), Ok(Health::Died(_)));
            if let Err(e) = capture.abort() {
                tracing::warn!("cleaning up after the failed backup: {}; its guard tries again, else the next backup does it", chain(&e));
            }
            Err(Failed { failure, disturbed, not_thawed: None })
        }
    }
}

/// Opens the point in time; with the time that it is of.
fn begin(r: &BackupRequest<'_>, mode: Mode, unasked: Option<String>) -> Result<(Session, DomainFacts, Capture, u64), Failed> {
    let session = r.store.begin().map_err(Failure::from)?;
    let mut facts = DomainFacts::read(r.domain, mode)?;
    let capture = {
        let catalog = SessionCatalog::new(r.store, &session, &facts.name);
        match mode {
            Mode::Live => match LiveCapture::begin(r.domain, &LiveOptions { unasked, ..live_options(r, &session) }, &catalog) {
                Ok(capture) => Capture::Live(capture),
                Err(e) => {
                    let not_thawed = if let CaptureError::NotThawed { reason, .. } = &e { Some(reason.clone()) } else { None };
                    // A libvirt that went away under the freeze says nothing of the guest's agent.
                    not_thawed.iter().filter(|_| r.domain.is_running().is_ok()).for_each(|reason| spare(r, reason));
                    return Err(Failed { not_thawed, ..Failure::from(e).into() });
                }
            },
            Mode::Offline => Capture::Offline(OfflineCapture::begin(r.domain, &offline_options(r), &catalog).map_err(Failure::from)?),
        }
    };
    let time_unix_ms = now_unix_ms();
    facts.belongings.settle();
    Ok((session, facts, capture, time_unix_ms))
}

fn store8(r: &BackupRequest<'_>) -> [u8; 4] {
    let id = r.store.id().0;
    [id[0], id[1], id[2], id[3]]
}

fn policy(quiesce: Quiesce) -> QuiescePolicy {
    match quiesce {
        Quiesce::Require => QuiescePolicy::Require,
        Quiesce::Prefer => QuiescePolicy::Prefer,
        Quiesce::Never => QuiescePolicy::Never,
    }
}

fn offline_options(r: &BackupRequest<'_>) -> OfflineOptions {
    let mut options = OfflineOptions::new(store8(r));
    options.disks = (!r.disks.is_empty()).then(|| r.disks.to_vec());
    options.quiesce = policy(r.quiesce);
    options
}

fn live_options(r: &BackupRequest<'_>, session: &Session) -> LiveOptions {
    let guard = GuardCommand { argv: vec![crate::own::program().into(), "guard".into()] };
    let mut options = LiveOptions::new(store8(r), session.id().0, guard);
    options.tracker = r.tracker;
    options.disks = (!r.disks.is_empty()).then(|| r.disks.to_vec());
    options.quiesce = policy(r.quiesce);
    options.freeze_mounts = r.freeze_mounts.to_vec();
    options.freeze_limit = r.freeze_limit;
    options.on_stuck_freeze.clone_from(&r.on_stuck_freeze);
    if let Some(dir) = &r.scratch_dir {
        options.scratch_dir.clone_from(dir);
    }
    options
}

fn store_capture(
    r: &BackupRequest<'_>,
    session: Session,
    capture: &Capture,
    mut facts: DomainFacts,
    time_unix_ms: u64,
    progress: &Progress,
) -> Outcome<(BackupOutcome, Vec<String>)> {
    let jobs = capture.disks().iter().map(|d| disk_job(r, &session, &facts.uuid, d)).collect::<Outcome<Vec<_>>>()?;
    let (parts, files, unread) = std::mem::take(&mut facts.belongings).into_parts();
    facts.parts.extend(parts);
    facts.parts.extend(capture.disks().iter().filter_map(marked));
    let clock = crate::points::clock_warning(&session, &facts.name, time_unix_ms);
    let warnings = [warnings(r, capture), unread, std::mem::take(&mut facts.warnings), clock.into_iter().collect()].concat();
    let saved = saved_domain(&facts, r.tracker, files, capture);
    let source = serde_json::to_value(&saved).map_err(|e| Failure::new(FAILED, format!("manifest: {e}")))?;
    let tags = crate::points::with_calendar_tags(&session, &facts.name, time_unix_ms, r.tags);
    let info = || PointInfo {
        name: facts.name,
        time_unix_ms,
        quiesce: saved.quiesce.level.clone(),
        tags,
        warnings: warnings.clone(),
        source,
        parts: facts.parts,
        cairn_version: env!("CARGO_PKG_VERSION").into(),
    };
    let session = session.with_disks_at_once(r.disks_at_once);
    let stored = giving_way(r.priority, || session.backup(&jobs, info, progress, || still_running(capture)));
    match stored {
        Ok(outcome) => Ok((outcome, warnings)),
        // A read that failed because the job ended is explained by the job's end.
        Err(StoreError::Block { what, source }) => match still_running(capture) {
            Ok(()) => Err(StoreError::Block { what, source }.into()),
            Err(died) => Err(died.into()),
        },
        Err(e) => Err(e.into()),
    }
}

/// A point whose job died, or whose images were written to, while it was read is worth nothing.
fn still_running(capture: &Capture) -> Result<(), StoreError> {
    let died = |why: String| match capture {
        Capture::Live(_) => StoreError::Refused(format!(
            "the backup job of the domain ended before its disks were read: {why}; no point was made, the next backup goes on from the last one"
        )),
        Capture::Offline(_) => {
            StoreError::Busy(format!("the domain's disks did not stay as they were while they were read: {why}; no point was made, try again"))
        }
    };
    match capture.health() {
        Ok(Health::Running) => Ok(()),
        Ok(Health::Died(why)) => Err(died(why)),
        Err(e) => Err(StoreError::Refused(format!("whether the domain's disks are still what they were cannot be told: {}; no point was made", chain(&e)))),
    }
}

/// Of a bitmap that is older than the point: what it had marked by then.
fn marked(d: &CapturedDisk) -> Option<Part> {
    // Only a point of a domain that is off names images, and a bitmap that began before it.
    let is_older = !d.carrier.bitmap_name.is_empty() && !d.images.is_empty();
    let pairs: Vec<(u64, u64)> = d.carrier.marked.iter().map(|range| (range.start, range.end)).collect();
    let bytes = serde_json::to_vec(&pairs).expect("pairs of numbers are JSON");
    is_older.then(|| Part { name: part_marked(&d.target), bytes, secret: false })
}

fn disk_job(r: &BackupRequest<'_>, session: &Session, uuid: &str, d: &CapturedDisk) -> Outcome<DiskJob> {
    let base = |session: [u8; 16], ordinal: u32| (SessionId(session), ordinal as usize);
    let plan = match &d.plan {
        DiskPlan::Incremental { base_session, base_ordinal, dirty } => Plan::Incremental { base: base(*base_session, *base_ordinal), dirty: dirty.clone() },
        DiskPlan::Compare { reason, base: Some((id, ordinal)) } if session.point(&SessionId(*id)).is_some_and(|p| p.state() != PointState::Damaged) => {
            Plan::Compare { reason: reason.to_string(), base: base(*id, *ordinal) }
        }
        DiskPlan::Compare { reason, .. } | DiskPlan::Full { reason } => compare_with_newest(r.store, session, uuid, d, &reason.to_string())?,
    };
    Ok(DiskJob { target: d.target.clone(), source: limited(Arc::new(CapturedSource::of(d)), r.read_limit.as_ref()), plan })
}

/// The newest undamaged point of the same domain that has a disk of this target: comparing stores no less, but finds what is unchanged without
/// the index and inherits its map.
fn compare_with_newest(store: &Store, session: &Session, uuid: &str, d: &CapturedDisk, reason: &str) -> Outcome<Plan> {
    let mine = |p: &&Point| store.manifest(p).ok().and_then(|m| SavedDomain::of(&m)).is_some_and(|s| s.uuid == uuid);
    let mut why_full = "first backup of this domain";
    for p in crate::retention::times::taken(session.points(), crate::commands::now_unix_ms()).into_iter().rev().filter(mine) {
        if p.state() == PointState::Damaged {
            why_full = "no undamaged point of this disk";
            continue;
        }
        why_full = "new disk";
        if let Some(i) = store.disks(p)?.iter().position(|e| e.target == d.target) {
            return Ok(Plan::Compare { reason: reason.into(), base: (p.id, i) });
        }
    }
    Ok(Plan::Full { reason: why_full.into() })
}

fn warnings(r: &BackupRequest<'_>, capture: &Capture) -> Vec<String> {
    let mut out = Vec::new();
    let q = capture.quiesce();
    // A domain that may never have run since libvirt did is no news; its level says it.
    let unknown = matches!(capture, Capture::Offline(c) if c.off() == Off::Unknown);
    if r.quiesce == Quiesce::Prefer && q.level == QuiesceLevel::Crash && !unknown {
        out.push(format!("the guest was not quiesced as asked, the point is crash-consistent: {}", q.reason.as_deref().unwrap_or("no reason known")));
    }
    for (target, reason) in capture.skipped_disks() {
        if matches!(reason, SkipReason::Lun | SkipReason::Shareable | SkipReason::Transient) {
            out.push(format!("disk {target} is not in the point: {reason}"));
        }
    }
    out
}

fn saved_domain(facts: &DomainFacts, tracker: Tracker, files: Vec<SavedFile>, capture: &Capture) -> SavedDomain {
    let q = capture.quiesce();
    let disk = |d: &CapturedDisk| {
        let CarrierRecord { size_bytes, image_path, device_inode, bitmap_name, marked: _ } = d.carrier.clone();
        SavedDisk {
            target: d.target.clone(),
            ordinal: d.ordinal,
            size: size_bytes,
            path: image_path,
            format: d.image_format.clone(),
            bitmap: bitmap_name,
            device_inode,
            images: SavedImage::all(&d.images).unwrap_or_default(),
        }
    };
    SavedDomain {
        kind: "domain".into(),
        uuid: facts.uuid.clone(),
        name: facts.name.clone(),
        autostart: facts.autostart,
        persistent: facts.persistent,
        libvirt_version: facts.libvirt_version,
        qemu_version: facts.qemu_version,
        quiesce: SavedQuiesce {
            level: q.level.to_string(),
            freeze_ms: q.freeze_ms,
            frozen_filesystems: q.frozen_filesystems,
            frozen_mounts: q.frozen_mounts.clone(),
            reason: q.reason.clone(),
        },
        capture: match (capture, tracker) {
            (Capture::Offline(_), _) => OFFLINE,
            (Capture::Live(_), Tracker::Bitmaps) => LIVE,
            (Capture::Live(_), Tracker::Checkpoints) => LIBVIRT_API,
        }
        .into(),
        disks: capture.disks().iter().map(disk).collect(),
        skipped: capture.skipped_disks().iter().map(|(t, r)| SkippedDisk { target: t.clone(), reason: r.to_string() }).collect(),
        files,
        snapshots: facts.snapshots.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::BUSY;

    #[test]
    fn a_second_attempt_that_fails_does_not_hide_why_it_was_made() {
        let (first, busy) = (|| Failure::new(FAILED, "it was not thawed"), || Failure::new(BUSY, "process 7 works on it"));
        let both = of_both(&first(), busy());
        assert_eq!((both.code, both.message.as_str()), (BUSY, "process 7 works on it (the attempt before: it was not thawed)"));
        assert_eq!(of_both(&busy(), busy()).message, "process 7 works on it", "the same is said once");
    }

    #[test]
    fn a_guest_that_was_not_thawed_is_spared_where_a_point_without_a_freeze_will_do() {
        let marks = tempfile::tempdir().expect("dir");
        assert_eq!(spared(marks.path(), "u", Quiesce::Prefer), None);
        unasked::mark(marks.path(), "u", "thaw: silence").expect("marked");
        let why = spared(marks.path(), "u", Quiesce::Prefer).expect("a reason");
        assert!(why.contains("no freeze was asked for") && why.contains("(thaw: silence)"), "{why}");
        assert_eq!((spared(marks.path(), "u", Quiesce::Require), spared(marks.path(), "other", Quiesce::Prefer)), (None, None));
    }
}
