//! `cairn backup-image`

use super::Done;
use crate::{
    changed_list,
    cli::{self, Common},
    context::{open_store, state_dir},
    failure::{Failure, NOT_FOUND, Outcome},
    give_way::giving_way,
    interrupt,
    output::{self, Bar},
    points::{self, check_chosen_name, check_tags},
    read_limit::{ReadLimit, limited},
    retention::times,
};
use cairn_store::{
    BackupOutcome, BlockSource, DiskJob, FileSource, Plan, Point, PointInfo, PointState, Progress, Session, Store,
    format::{SessionId, register::DiskMode},
};
use std::{
    ops::Range,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Target name of an image's one disk.
const TARGET: &str = "disk0";

/// Takes a point of a file or device.
pub fn run(common: &Common, o: &cli::BackupImage) -> Outcome<Done> {
    check_chosen_name(&o.name)?;
    check_tags(&o.tags)?;
    let store = open_store(common)?;
    let source = open_source(&o.source)?;
    // Before the session: it may come from a command that takes its time.
    let listed = o.changed.as_deref().map(changed_list::read).transpose()?;
    let odd = odd(&o.source, &source);
    // Other commands may look for it from another folder.
    let path = std::path::absolute(&o.source).unwrap_or_else(|_| o.source.clone());
    crate::in_place::refuse_half_restored(&state_dir(common)?, &crate::in_place::image_key(&path))?;
    let (before, time_unix_ms) = (stamp(&o.source), now_unix_ms());
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "packs that the next backup finds again")?;
    let session = store.begin()?;
    let clock = points::clock_warning(&session, &o.name, time_unix_ms);
    let tags = points::with_calendar_tags(&session, &o.name, time_unix_ms, &o.tags);
    let plan = match (listed, &o.since) {
        (Some(dirty), Some(since)) => plan_listed(&session, &store, &o.name, since, dirty, &source)?,
        _ => plan(&session, &store, &o.name)?,
    };
    let limit = o.limit_read.map(|bytes_per_s| ReadLimit::new(bytes_per_s, &progress));
    let job = DiskJob { target: TARGET.into(), source: limited(Arc::new(source), limit.as_ref()), plan };
    let info = || PointInfo {
        name: o.name.clone(),
        time_unix_ms,
        quiesce: "none".into(),
        tags: tags.clone(),
        warnings: changed(&o.source, before).into_iter().chain(clock.clone()).chain(odd.clone()).collect(),
        source: serde_json::json!({"kind": "image", "path": path.display().to_string()}),
        parts: Vec::new(),
        cairn_version: env!("CARGO_PKG_VERSION").into(),
    };
    let bar = Bar::start(common, &o.name, &progress);
    let outcome = giving_way(o.priority, || session.backup(&[job], info, &progress, || Ok(())))?;
    drop(bar);
    tell_waits(&progress);
    print_outcome(common, &store, &outcome)?;
    let unlisted = (o.changed.is_some()).then(|| disbelieved(&outcome)).flatten();
    let warnings: Vec<String> = changed(&o.source, before).into_iter().chain(clock).chain(odd).chain(unlisted).collect();
    warnings.iter().for_each(|warning| say!("cairn: warning: {warning}"));
    Ok(if warnings.is_empty() { Done::Clean } else { Done::WithWarnings })
}

/// For whom wants to know what a backup's speed hangs on (`-v`).
fn tell_waits(progress: &Progress) {
    let ms = |ns: &AtomicU64| ns.load(Ordering::Relaxed) / 1_000_000;
    let w = &progress.waits;
    tracing::info!("stages waited, ms: workers {}, consumer {}, for the writer {}", ms(&w.workers_ns), ms(&w.consumer_ns), ms(&w.writer_ns));
}

/// Size, modification and change time of a file; devices keep no such record.
type Stamp = Option<(u64, i64, i64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let m = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some((m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
}

/// A file that was written to while it was read is no point in time.
fn changed(path: &Path, before: Stamp) -> Option<String> {
    (stamp(path) != before).then(|| format!("{} changed while it was read: the point is not of one moment; save a snapshot of it instead", path.display()))
}

/// A source that is most likely not what was meant: it is saved as it is, and the point says so.
fn odd(path: &Path, source: &FileSource) -> Option<String> {
    /// First bytes of a qcow2 image (versions 2 and 3): magic and version.
    const QCOW2: [[u8; 8]; 2] = [*b"QFI\xfb\0\0\0\x02", *b"QFI\xfb\0\0\0\x03"];
    let path = path.display();
    let mut head = [0; 8];
    if source.size_bytes() == 0 {
        return Some(format!("{path} has 0 bytes, and so has the point: is it the right file, or a device that is not active? Save it again once it is there"));
    }
    // What cannot be read is the backup's to tell.
    if source.size_bytes() < head.len() as u64 || source.read_at(0, &mut head).is_err() {
        return None;
    }
    QCOW2.contains(&head).then(|| {
        format!(
            "{path} is a qcow2 image, and was saved as raw bytes: a restore gives the same file, and no disk that a guest could use as raw; nor is anything of a \
             backing file in the point. Save its domain with 'cairn backup', or convert it first ('qemu-img convert -O raw')"
        )
    })
}

fn open_source(path: &Path) -> Outcome<FileSource> {
    FileSource::open(path).map_err(|e| Failure::new(NOT_FOUND, format!("cannot read the source {}: {e}", path.display())))
}

/// Milliseconds since 1970.
pub fn now_unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// The newest point of this name that is not known to be damaged is compared with: what is compared with a damaged one would inherit its damage.
fn plan(session: &Session, store: &Store, name: &str) -> Outcome<Plan> {
    let mine = times::taken(session.points().iter().filter(|p| p.summary.name == name), now_unix_ms());
    let first = mine.is_empty();
    let newest = mine.into_iter().rev().find(|p| p.state() != PointState::Damaged);
    let Some(p) = newest else { return Ok(Plan::Full { reason: if first { "first backup" } else { "no undamaged point of this name" }.into() }) };
    match store.disks(p)?.iter().position(|d| d.target == TARGET) {
        Some(i) => Ok(Plan::Compare { reason: "an image has no dirty bitmap".into(), base: (p.id, i) }),
        None => Ok(Plan::Full { reason: "the newest point of this name is of a domain".into() }),
    }
}

/// What a list of changes says is read, unless it is found to be wrong.
fn plan_listed(session: &Session, store: &Store, name: &str, since: &str, dirty: Vec<Range<u64>>, source: &FileSource) -> Outcome<Plan> {
    let base = points::select(session.points(), since)?;
    if base.summary.name != name {
        let theirs = output::shown(&base.summary.name);
        return Err(Failure::usage(format!(
            "'--since {since}' is a point of {theirs}, and '--name {name}' another's: a list counts from a point of the same image"
        )));
    }
    let compare = |reason: String| {
        Ok(match plan(session, store, name)? {
            Plan::Compare { base, .. } => Plan::Compare { reason, base },
            other => other,
        })
    };
    if base.state() == PointState::Damaged {
        return compare(format!("the point {since}, since which the list of changes counts, is damaged"));
    }
    let disks = store.disks(base)?;
    let Some(i) = disks.iter().position(|d| d.target == TARGET) else {
        return Err(Failure::usage(format!("'--since {since}' is a point of a domain, and the list of changes is an image's")));
    };
    changed_list::check_fits(&dirty, &disks[i], source)?;
    match changed_list::contradiction(store, &disks[i], source, &dirty)? {
        None => Ok(Plan::Incremental { base: (base.id, i), dirty }),
        Some(at) => compare(format!("the list of changes misses some: first seen at byte {at}; does it count from {since}?")),
    }
}

/// Why a list of changes that was given was not gone by.
fn disbelieved(outcome: &BackupOutcome) -> Option<String> {
    let disk = outcome.disks.iter().map(|d| &d.entry).find(|d| d.mode != DiskMode::Incremental)?;
    Some(format!("the image was read whole and the point is right, but the list of changes was of no use: {}", output::shown(&disk.reason)))
}

/// A point that was just committed. Somebody else may have forgotten it since: it was made all the same, and that is said.
pub fn committed_point(store: &Store, id: &SessionId) -> Outcome<Point> {
    if let Some(p) = store.points()?.into_iter().find(|p| p.id == *id) {
        return Ok(p);
    }
    let forgotten = store.forgotten_points()?.into_iter().find(|p| p.id == *id);
    let p = forgotten.ok_or_else(|| Failure::new(crate::failure::FAILED, format!("point {id} was committed and is not listed")))?;
    say!("cairn: warning: point {id} was committed and has been forgotten since, by another command; 'cairn forget --undo {id}' takes that back");
    Ok(p)
}

/// A point that was there before.
pub fn print_point(common: &Common, store: &Store, id: &SessionId) -> Outcome<Done> {
    if common.json {
        output::print_json(&output::point_json(store, &committed_point(store, id)?)?);
    }
    Ok(Done::Clean)
}

/// What was committed, for people or scripts.
pub fn print_outcome(common: &Common, store: &Store, outcome: &BackupOutcome) -> Outcome<()> {
    let p = &committed_point(store, &outcome.id)?;
    if common.json {
        output::print_json(&output::point_json(store, p)?);
        return Ok(());
    }
    let s = &p.summary;
    out!(
        "{}: point {} · {} read, {} changed, {} stored · {} · {}",
        output::shown(&s.name),
        p.id,
        output::bytes(s.read_bytes),
        output::bytes(s.changed_bytes),
        output::bytes(s.stored_bytes),
        output::duration(s.duration_ms),
        if s.quiesce == "none" { "image".to_owned() } else { format!("quiesce: {}", s.quiesce) },
    );
    for d in &outcome.disks {
        let (d, mode) = (&d.entry, output::disk_json(&d.entry)["mode"].as_str().unwrap_or_default().to_owned());
        let why = if d.reason.is_empty() { String::new() } else { format!(" ({})", output::shown(&d.reason)) };
        out!("  {}: {mode}{why}, {} of {} read", output::shown(&d.target), output::bytes(d.read_bytes), output::bytes(d.size_bytes));
    }
    Ok(())
}
