//! One live backup of a domain: capture, store, commit, clean up; in this order, and each failure undoes what was begun.

use super::{
    catalog::SessionCatalog,
    chain,
    files::Belongings,
    saved::{PART_ACTIVE_XML, PART_INACTIVE_XML, SavedDisk, SavedDomain, SavedFile, SavedQuiesce, SavedSnapshot, SkippedDisk},
    source::CapturedSource,
};
use crate::{
    cli::Quiesce,
    commands::now_unix_ms,
    failure::{FAILED, Failure, Outcome},
};
use cairn_hypervisor::{
    CarrierRecord, DiskPlan, Domain, LiveCapture, LiveOptions,
    capture::live::{CapturedDisk, Health},
    disks::SkipReason,
    guard::link::GuardCommand,
};
use cairn_quiesce::{QuiesceLevel, QuiescePolicy};
use cairn_store::{BackupOutcome, DiskJob, Part, Plan, Point, PointInfo, PointState, Progress, Session, Store, StoreError, format::SessionId};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What to back up and how.
pub struct BackupRequest<'a> {
    /// The store.
    pub store: &'a Store,
    /// The running domain.
    pub domain: &'a Domain,
    /// Targets; empty for all.
    pub disks: &'a [String],
    /// Level wanted.
    pub quiesce: Quiesce,
    /// Longest freeze.
    pub freeze_limit: Duration,
    /// The admin's program for a guest that is not thawed in that time.
    pub on_stuck_freeze: Option<PathBuf>,
    /// Tags.
    pub tags: &'a [String],
    /// Scratch folder other than the default.
    pub scratch_dir: Option<PathBuf>,
}

/// Takes the point; returns it with the warnings that it carries.
pub fn back_up(r: &BackupRequest<'_>, progress: &Progress) -> Outcome<(BackupOutcome, Vec<String>)> {
    let session = r.store.begin()?;
    let options = live_options(r, &session)?;
    let mut facts = DomainFacts::read(r.domain)?;
    let capture = LiveCapture::begin(r.domain, &options, &SessionCatalog::new(r.store, &session))?;
    let time_unix_ms = now_unix_ms();
    facts.belongings.settle();
    match store_capture(r, session, &capture, facts, time_unix_ms, progress) {
        Ok((outcome, mut warnings)) => {
            if let Err(e) = capture.finish_success() {
                warnings
                    .push(format!("the point is good, but cleaning up after it failed ({}); its guard tries again, else the next backup does it", chain(&e)));
            }
            Ok((outcome, warnings))
        }
        Err(failure) => {
            if let Err(e) = capture.abort() {
                tracing::warn!("cleaning up after the failed backup: {}; its guard tries again, else the next backup does it", chain(&e));
            }
            Err(failure)
        }
    }
}

fn live_options(r: &BackupRequest<'_>, session: &Session) -> Outcome<LiveOptions> {
    let program = std::env::current_exe().map_err(|e| Failure::new(FAILED, format!("cannot find my own program for the guard: {e}")))?;
    let id = r.store.id().0;
    let guard = GuardCommand { argv: vec![program.into(), "guard".into()] };
    let mut options = LiveOptions::new([id[0], id[1], id[2], id[3]], session.id().0, guard);
    options.disks = (!r.disks.is_empty()).then(|| r.disks.to_vec());
    options.quiesce = match r.quiesce {
        Quiesce::Require => QuiescePolicy::Require,
        Quiesce::Prefer => QuiescePolicy::Prefer,
        Quiesce::Never => QuiescePolicy::Never,
    };
    options.freeze_limit = r.freeze_limit;
    options.on_stuck_freeze.clone_from(&r.on_stuck_freeze);
    if let Some(dir) = &r.scratch_dir {
        options.scratch_dir.clone_from(dir);
    }
    Ok(options)
}

/// What is asked of libvirt before the point in time: nothing of it may delay a frozen guest.
struct DomainFacts {
    name: String,
    uuid: String,
    autostart: bool,
    persistent: bool,
    libvirt_version: u32,
    qemu_version: u32,
    parts: Vec<Part>,
    belongings: Belongings,
    snapshots: Vec<SavedSnapshot>,
    warnings: Vec<String>,
}

impl DomainFacts {
    fn read(domain: &Domain) -> Outcome<Self> {
        let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
        let persistent = domain.is_persistent().map_err(|e| fail(&e))?;
        let (libvirt_version, qemu_version) = domain.versions().map_err(|e| fail(&e))?;
        let (uuid, live) = (domain.uuid().map_err(|e| fail(&e))?, domain.xml_live().map_err(|e| fail(&e))?);
        let belongings = Belongings::read(&live, &uuid);
        let mut parts = vec![Part { name: PART_ACTIVE_XML.into(), bytes: live.into_bytes(), secret: true }];
        parts.push(Part { name: PART_INACTIVE_XML.into(), bytes: domain.xml_inactive().map_err(|e| fail(&e))?.into_bytes(), secret: true });
        let (snapshots, warnings) = snapshots(domain);
        Ok(Self {
            name: domain.name().map_err(|e| fail(&e))?,
            uuid,
            autostart: domain.autostart().map_err(|e| fail(&e))?,
            persistent,
            libvirt_version,
            qemu_version,
            parts,
            belongings,
            snapshots,
            warnings,
        })
    }
}

/// The list is for information: what cannot be told of it fails no backup.
fn snapshots(domain: &Domain) -> (Vec<SavedSnapshot>, Vec<String>) {
    match domain.snapshots() {
        Ok((list, count)) => {
            let more = (count > list.len()).then(|| format!("the domain has {count} snapshots, and only {} of them are listed in the point", list.len()));
            let saved = |s: cairn_hypervisor::snapshots::Snapshot| SavedSnapshot {
                name: s.name,
                created: s.created_unix_s,
                state: s.state,
                parent: s.parent,
                external: s.external,
            };
            (list.into_iter().map(saved).collect(), more.into_iter().collect())
        }
        Err(e) => (Vec::new(), vec![format!("the list of the domain's snapshots is not in the point: {}", chain(&e))]),
    }
}

fn store_capture(
    r: &BackupRequest<'_>,
    session: Session,
    capture: &LiveCapture,
    mut facts: DomainFacts,
    time_unix_ms: u64,
    progress: &Progress,
) -> Outcome<(BackupOutcome, Vec<String>)> {
    let jobs = capture.disks().iter().map(|d| disk_job(r.store, &session, &facts.uuid, d)).collect::<Outcome<Vec<_>>>()?;
    let (parts, files, unread) = std::mem::take(&mut facts.belongings).into_parts();
    facts.parts.extend(parts);
    let clock = crate::points::clock_warning(&session, &facts.name, time_unix_ms);
    let warnings = [warnings(r, capture), unread, std::mem::take(&mut facts.warnings), clock.into_iter().collect()].concat();
    let saved = saved_domain(&facts, files, capture);
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
    let stored = session.backup(&jobs, info, progress, || still_running(capture));
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

/// A point whose job died while it was read is worth nothing.
fn still_running(capture: &LiveCapture) -> Result<(), StoreError> {
    match capture.health() {
        Ok(Health::Running) => Ok(()),
        Ok(Health::Died(why)) => Err(StoreError::Refused(format!(
            "the backup job of the domain ended before its disks were read: {why}; no point was made, the next backup goes on from the last one"
        ))),
        Err(e) => Err(StoreError::Refused(format!("whether the domain's backup job still runs cannot be told: {}; no point was made", chain(&e)))),
    }
}

fn disk_job(store: &Store, session: &Session, uuid: &str, d: &CapturedDisk) -> Outcome<DiskJob> {
    let base = |session: [u8; 16], ordinal: u32| (SessionId(session), ordinal as usize);
    let plan = match &d.plan {
        DiskPlan::Incremental { base_session, base_ordinal, dirty } => Plan::Incremental { base: base(*base_session, *base_ordinal), dirty: dirty.clone() },
        DiskPlan::Compare { reason, base: Some((id, ordinal)) } if session.point(&SessionId(*id)).is_some_and(|p| p.state() != PointState::Damaged) => {
            Plan::Compare { reason: reason.to_string(), base: base(*id, *ordinal) }
        }
        DiskPlan::Compare { reason, .. } | DiskPlan::Full { reason } => compare_with_newest(store, session, uuid, d, &reason.to_string())?,
    };
    Ok(DiskJob { target: d.target.clone(), source: Arc::new(CapturedSource(d.reader.clone())), plan })
}

/// The newest undamaged point of the same domain that has a disk of this target: comparing stores no less, but finds what is unchanged without
/// the index and inherits its map.
fn compare_with_newest(store: &Store, session: &Session, uuid: &str, d: &CapturedDisk, reason: &str) -> Outcome<Plan> {
    let mine = |p: &&Point| store.manifest(p).ok().and_then(|m| SavedDomain::of(&m)).is_some_and(|s| s.uuid == uuid);
    let mut why_full = "first backup of this domain";
    for p in session.points().iter().rev().filter(mine) {
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

fn warnings(r: &BackupRequest<'_>, capture: &LiveCapture) -> Vec<String> {
    let mut out = Vec::new();
    let q = capture.quiesce();
    if r.quiesce == Quiesce::Prefer && q.level == QuiesceLevel::Crash {
        out.push(format!("the guest was not quiesced, the point is crash-consistent: {}", q.reason.as_deref().unwrap_or("no reason known")));
    }
    for (target, reason) in capture.skipped_disks() {
        if matches!(reason, SkipReason::Lun | SkipReason::Shareable | SkipReason::Transient) {
            out.push(format!("disk {target} is not in the point: {reason}"));
        }
    }
    out
}

fn saved_domain(facts: &DomainFacts, files: Vec<SavedFile>, capture: &LiveCapture) -> SavedDomain {
    let q = capture.quiesce();
    let disk = |d: &CapturedDisk| {
        let CarrierRecord { size_bytes, image_path, device_inode, bitmap_name } = d.carrier.clone();
        SavedDisk {
            target: d.target.clone(),
            ordinal: d.ordinal,
            size: size_bytes,
            path: image_path,
            format: d.image_format.clone(),
            bitmap: bitmap_name,
            device_inode,
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
        quiesce: SavedQuiesce { level: q.level.to_string(), freeze_ms: q.freeze_ms, frozen_filesystems: q.frozen_filesystems, reason: q.reason.clone() },
        disks: capture.disks().iter().map(disk).collect(),
        skipped: capture.skipped_disks().iter().map(|(t, r)| SkippedDisk { target: t.clone(), reason: r.to_string() }).collect(),
        files,
        snapshots: facts.snapshots.clone(),
    }
}
