//! `cairn restore --in-place`

use super::{Done, in_place_told::Told};
use crate::{
    cli::{self, Common, Format},
    context::{open_store, state_dir},
    domain::{SavedDomain, chain},
    failure::{BUSY, DAMAGED, FAILED, Failure, Outcome},
    in_place::{Off, Record, Run, Way, Work, forget_record, image_key, require_off, run_disk},
    interrupt,
    output::{self, Bar},
    points,
    restore::{refuse_paths_in_use, refuse_store_folder},
};
use cairn_hypervisor::{
    Domain, Host,
    capture::lock::DomainLock,
    capture::lock::LOCK_DIR_DEFAULT,
    disks::{Disk, SkipReason},
    image_tools::chain::Look,
};
use cairn_store::{
    Pin, Point, Progress, Store,
    format::{SessionId, register::DiskEntry},
    restore::OnDamage,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// A storage daemon that an earlier restore left lets go of the image within this time.
const IMAGE_FREE_MS_MAX: u64 = 15_000;
const POLL_MS: u64 = 250;

/// Whose disks they are, and which.
struct Owner {
    /// The domain's UUID, or an image's key.
    key: String,
    name: String,
    domain: Option<Domain>,
    stopped: bool,
    disks: Vec<(DiskEntry, PathBuf, Format)>,
    /// Disks of the point that are not restored, or of the domain that the point does not have.
    missing: Vec<String>,
    _lock: DomainLock,
}

/// Brings disks to what a point says, writing only what differs.
pub fn run(common: &Common, o: &cli::Restore) -> Outcome<Done> {
    let store = open_store(common)?;
    let (all, unreadable) = store.points_and_damage()?;
    let p = points::select(&all, &o.point)?;
    let _pin = store.pin(&[p.id])?;
    let entries = store.disks(p)?;
    let manifest = store.manifest(p)?;
    let state_dir = state_dir(common)?;
    let wanted = Wanted { store: &store, all: &all, unreadable: &unreadable, p, state_dir: &state_dir };
    let owner = match SavedDomain::of(&manifest) {
        Some(saved) => of_domain(common, o, &wanted, &entries, &saved)?,
        None => of_image(o, p, &entries, &manifest.source)?,
    };
    let (stopped, name) = (owner.stopped, output::shown(&owner.name));
    // Whoever reads why it failed must not have to find out that the guest is off as well.
    restore(common, o, &wanted, &owner)
        .map_err(|f| if stopped { Failure { message: format!("{}; domain {name} was shut down for this, and is off", f.message), ..f } } else { f })
}

/// What the command is about.
struct Wanted<'a> {
    store: &'a Store,
    all: &'a [Point],
    unreadable: &'a [String],
    p: &'a Point,
    state_dir: &'a Path,
}

/// Brings the disks of what is off and locked to the point.
fn restore(common: &Common, o: &cli::Restore, wanted: &Wanted<'_>, owner: &Owner) -> Outcome<Done> {
    let Wanted { store, all, unreadable, p, state_dir } = *wanted;
    let earlier = Record::read(state_dir, &owner.key)?;
    if let Some(earlier) = &earlier {
        go_on(earlier, owner, p)?;
    }
    let paths: Vec<&Path> = owner.disks.iter().map(|d| d.1.as_path()).collect();
    let location = store.location();
    paths.iter().try_for_each(|path| refuse_store_folder(Path::new(&location), path))?;
    wait_until_free(&paths, common.connect.as_deref(), earlier.is_some())?;
    let mut work = Vec::new();
    for (entry, path, format) in &owner.disks {
        work.push(Work::of(store, all, entry.clone(), path.clone(), *format, Look::Alone)?);
    }
    let _base_pins = pin_bases(store, &mut work);
    let resizes = refuse_resize(o, &work)?;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "a disk that is half restored, until the same command is run again")?;
    let mut record = Record {
        key: owner.key.clone(),
        name: owner.name.clone(),
        point: p.id.to_string(),
        point_name: p.summary.name.clone(),
        disks: owner.disks.iter().map(|d| d.0.target.clone()).collect(),
        daemon: None,
    };
    if !o.in_place.dry_run {
        record.write(state_dir)?;
    }
    let bar = Bar::start(common, "restore", &progress);
    let mut run = Run {
        store,
        points: all,
        runtime: &runtime,
        progress: &progress,
        on_damage: if o.allow_damaged { OnDamage::WriteZeros } else { OnDamage::Stop },
        verify: o.in_place.verify,
        record: if o.in_place.dry_run { None } else { Some((state_dir, &mut record)) },
        touched: false,
    };
    let begin = Instant::now();
    let mut reports = Vec::new();
    for w in &work {
        match run_disk(&mut run, w) {
            Ok(done) => reports.push(done),
            Err(f) if !run.touched => {
                if earlier.is_none() && !o.in_place.dry_run {
                    forget_record(state_dir, &owner.key)?;
                }
                return Err(f);
            }
            Err(f) => return Err(half_restored(&f, &record)),
        }
    }
    drop(bar);
    let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let started = match (&owner.domain, o.start) {
        (Some(domain), true) => {
            let fail = |e: &dyn std::error::Error| Failure::new(FAILED, format!("domain {} is restored, but: {}", output::shown(&owner.name), chain(e)));
            domain.start().map_err(|e| fail(&e))?;
            true
        }
        _ => false,
    };
    let told = Told {
        dry_run: o.in_place.dry_run,
        p,
        name: &owner.name,
        missing: &owner.missing,
        stopped: owner.stopped,
        work: &work,
        reports: &reports,
        resizes: &resizes,
        started,
        took_ms,
    };
    if common.json {
        output::print_json(&told.json());
    } else if !common.quiet {
        told.print();
    }
    owner.missing.iter().for_each(|m| say!("cairn: warning: {}", output::shown(m)));
    for d in unreadable {
        say!("cairn: warning: {}; if the newest point is the one that cannot be read, this was an older one: {}", output::shown(d), p.id);
    }
    let damaged: Vec<_> = reports.iter().flat_map(|r| &r.done.damage).collect();
    if !damaged.is_empty() {
        say!("cairn: {} ranges of the point are damaged and were written as zeros:", damaged.len());
        damaged.iter().take(10).for_each(|d| say!("  {}", output::damage_line(d)));
        return Ok(Done::Code(DAMAGED));
    }
    Ok(if owner.missing.is_empty() && unreadable.is_empty() { Done::Clean } else { Done::WithWarnings })
}

/// The point's disks that the domain has at the same target, and the domain off and locked.
fn of_domain(common: &Common, o: &cli::Restore, wanted: &Wanted<'_>, entries: &[DiskEntry], saved: &SavedDomain) -> Outcome<Owner> {
    use cairn_hypervisor::host::HostError;
    let p = wanted.p;
    let host = Host::open(common.connect.as_deref())?;
    let domain = host.domain(&saved.uuid).map_err(|e| match e {
        HostError::NoDomain { .. } => Failure::not_found(format!(
            "domain {} (UUID {}) is not defined on this host; 'cairn restore {}' brings it back as a whole",
            output::shown(&saved.name),
            saved.uuid,
            p.id
        )),
        other => other.into(),
    })?;
    let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
    let name = domain.name().map_err(|e| fail(&e))?;
    refuse_run(wanted.state_dir, &saved.uuid)?;
    if let Some(wrong) = o.disks.iter().find(|d| d.contains('=')) {
        return Err(Failure::usage(format!("--disk {wrong}: with --in-place a disk goes where the domain has it; write its target alone, as in --disk vda")));
    }
    if let Some(wrong) = o.disks.iter().find(|t| !entries.iter().any(|e| e.target == **t)) {
        let have: Vec<&str> = entries.iter().map(|e| e.target.as_str()).collect();
        return Err(Failure::not_found(format!("point {} has no disk '{wrong}', it has {}", p.id, have.join(", "))));
    }
    let off = Off { stop: o.in_place.stop, limit: Duration::from_secs(o.in_place.stop_limit), force: o.force, dry_run: o.in_place.dry_run };
    // What the definition says is looked at before anything is stopped, and what the stopped domain has is what counts.
    let (disks, _) = choose(o, entries, &domain.disks().map_err(|e| fail(&e))?, &name)?;
    if o.in_place.stop {
        would_do(o, wanted, &disks)?;
    }
    let (lock, stopped) = require_off(&domain, &name, &saved.uuid, off)?;
    let (disks, missing) = choose(o, entries, &domain.disks().map_err(|e| fail(&e))?, &name)?;
    Ok(Owner { key: saved.uuid.clone(), name, domain: Some(domain), stopped, disks, missing, _lock: lock })
}

/// Whether these disks could be restored: a guest is not shut down for a command that then refuses to write.
fn would_do(o: &cli::Restore, wanted: &Wanted<'_>, disks: &[(DiskEntry, PathBuf, Format)]) -> Outcome<()> {
    let location = wanted.store.location();
    let mut work = Vec::new();
    for (entry, path, format) in disks {
        refuse_store_folder(Path::new(&location), path)?;
        work.push(Work::of(wanted.store, wanted.all, entry.clone(), path.clone(), *format, Look::Shared)?);
    }
    refuse_resize(o, &work).map(drop)
}

/// The disks of a run lie over its point: written from outside they would be neither the one nor the other.
fn refuse_run(state_dir: &Path, uuid: &str) -> Outcome<()> {
    let Some((_, record)) = crate::run::of_domain(state_dir, uuid) else { return Ok(()) };
    Err(Failure::refused(format!(
        "domain {0} runs from point {1} itself; nothing was written ('cairn keep {0}' makes it an ordinary domain first; or 'cairn discard {0} --force', and \
         'cairn run' or 'cairn restore' the other point)",
        output::shown(&record.name),
        record.point
    )))
}

type Chosen = (Vec<(DiskEntry, PathBuf, Format)>, Vec<String>);

fn choose(o: &cli::Restore, entries: &[DiskEntry], have: &[Disk], name: &str) -> Outcome<Chosen> {
    let (mut disks, mut missing) = (Vec::new(), Vec::new());
    let wanted = |target: &str| o.disks.is_empty() || o.disks.iter().any(|d| d == target);
    for entry in entries.iter().filter(|e| wanted(&e.target)) {
        let target = &entry.target;
        let Some(disk) = have.iter().find(|d| d.target == *target) else {
            let why = format!("domain {} has no disk {target} any more", output::shown(name));
            if !o.disks.is_empty() {
                return Err(Failure::not_found(format!("{why}; nothing was written ('cairn restore POINT --disk {target}=PATH' restores it elsewhere)")));
            }
            missing.push(format!("{why}: what the point has of it was not restored"));
            continue;
        };
        let refuse = |why: &str| Failure::refused(format!("disk {target} of domain {} {why}; nothing was written", output::shown(name)));
        if disk.encrypted {
            return Err(refuse("is encrypted by QEMU, which a restore in place does not serve"));
        }
        // A disk that is excluded from new points can be given what an older one has.
        if let Some(reason) = disk.skip.filter(|reason| *reason != SkipReason::Excluded) {
            return Err(refuse(&format!("is not one that is restored now ({reason})")));
        }
        let path = disk.source.path().ok_or_else(|| refuse("is neither a file nor a block device; restore it with --disk TARGET=PATH instead"))?;
        let format = match disk.format.as_str() {
            "qcow2" => Format::Qcow2,
            "raw" => Format::Raw,
            other => return Err(refuse(&format!("has the format {other}; raw and qcow2 can be restored in place"))),
        };
        disks.push((entry.clone(), PathBuf::from(path), format));
    }
    if disks.is_empty() {
        return Err(Failure::not_found(format!("domain {} has none of the point's disks", output::shown(name))));
    }
    if o.disks.is_empty() {
        let extra = have.iter().filter(|d| d.skip.is_none() && !entries.iter().any(|e| e.target == d.target));
        missing.extend(extra.map(|d| format!("disk {} of the domain is not in the point and stays as it is", d.target)));
    }
    Ok((disks, missing))
}

/// An image goes back to where it came from, or to `TARGET=PATH`.
fn of_image(o: &cli::Restore, p: &Point, entries: &[DiskEntry], source: &serde_json::Value) -> Outcome<Owner> {
    if o.start || o.in_place.stop {
        return Err(Failure::usage(format!("'{}' is an image, not a domain: --start and --stop have nothing to act on", output::shown(&p.summary.name))));
    }
    let entry = entries.first().ok_or_else(|| Failure::not_found(format!("point {} has no disk", p.id)))?;
    let path = match o.disks.as_slice() {
        [] => source["path"].as_str().map(PathBuf::from),
        [one] => match one.split_once('=') {
            Some((target, path)) if target == entry.target && !path.is_empty() => Some(PathBuf::from(path)),
            None if *one == entry.target => source["path"].as_str().map(PathBuf::from),
            _ => return Err(Failure::usage(format!("--disk {one}: the point has the disk {}; write {0} or {0}=PATH", entry.target))),
        },
        _ => return Err(Failure::usage(format!("the point has one disk, {}", entry.target))),
    };
    let path = path.ok_or_else(|| Failure::usage(format!("the point does not say where it was made from; give --disk {}=PATH", entry.target)))?;
    let path = std::path::absolute(&path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let (key, name) = (image_key(&path), path.display().to_string());
    let lock = DomainLock::take(Path::new(LOCK_DIR_DEFAULT), &name, &key)?;
    Ok(Owner { key, name, domain: None, stopped: false, disks: vec![(entry.clone(), path, Format::Raw)], missing: Vec::new(), _lock: lock })
}

/// An earlier restore broke off: its daemon is ended, and what it left half done must be part of this one.
fn go_on(earlier: &Record, owner: &Owner, p: &Point) -> Outcome<()> {
    earlier.end_leftover()?;
    let left: Vec<&str> = earlier.disks.iter().map(String::as_str).filter(|t| !owner.disks.iter().any(|d| d.0.target == *t)).collect();
    if !left.is_empty() {
        return Err(Failure::refused(format!(
            "disk {} of {} is half restored to point {} and not among the disks of this restore; nothing was written (name it, too; without --disk all disks are restored)",
            left.join(", "),
            output::shown(&owner.name),
            earlier.point
        )));
    }
    let same = if earlier.point == p.id.to_string() { "goes on with it" } else { "replaces it by another point" };
    say!("cairn: a restore of {} broke off before; this one {same}", output::shown(&owner.name));
    Ok(())
}

fn wait_until_free(paths: &[&Path], connect: Option<&str>, after_another: bool) -> Outcome<()> {
    let begin = Instant::now();
    loop {
        match refuse_paths_in_use(paths, connect) {
            Err(_) if after_another && begin.elapsed() < Duration::from_millis(IMAGE_FREE_MS_MAX) => std::thread::sleep(Duration::from_millis(POLL_MS)),
            other => return other,
        }
    }
}

/// A base that is being forgotten at this moment is no base.
fn pin_bases(store: &Store, work: &mut [Work]) -> Vec<Pin> {
    let mut pins = Vec::new();
    let mut pinned: Vec<SessionId> = Vec::new();
    for w in work {
        let Way::Bitmap { base, .. } = &w.way else { continue };
        if pinned.contains(base) {
            continue;
        }
        match store.pin(&[*base]) {
            Ok(pin) => {
                pinned.push(*base);
                pins.push(pin);
            }
            Err(e) => w.way = Way::Compare { reason: e.to_string() },
        }
    }
    pins
}

fn refuse_resize(o: &cli::Restore, work: &[Work]) -> Outcome<Vec<String>> {
    let mut out = Vec::new();
    for w in work {
        out.extend(w.resize()?);
    }
    if !out.is_empty() && !o.force && !o.in_place.dry_run {
        return Err(Failure::refused(format!("{}; nothing was written (--force does that)", out.join("; "))));
    }
    Ok(out)
}

/// What failed in the middle says how to go on.
fn half_restored(f: &Failure, record: &Record) -> Failure {
    let again = format!("'{}' goes on", record.again());
    let code = if f.code == BUSY { FAILED } else { f.code };
    Failure::new(code, format!("{} ({} may be half restored now and is not backed up until it is whole; {again})", f.message, output::shown(&record.name)))
}
