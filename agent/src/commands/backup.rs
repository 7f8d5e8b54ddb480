//! `cairn backup` and its guard.

use super::{
    Done,
    backup_image::{committed_point, print_outcome},
};
use crate::{
    cli::{self, Common},
    context::{open_store, state_dir},
    domain::{BackupRequest, back_up, wait_for_agent},
    failure::{BUSY, FAILED, Failure, Outcome},
    interrupt,
    output::{self, Bar},
    points::{check_name, check_tags},
    read_limit::ReadLimit,
    run::{self, folder::RunFolder, record::Record},
};
use cairn_hypervisor::{
    Domain, Host,
    capture::{offline::Off, options::Tracker},
};
use cairn_store::{BackupOutcome, Progress, Store};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// As long as another's job is waited for.
const KEPT_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);

/// One domain after the other; a failure of one, or its absence, does not keep the others from being saved.
pub fn run(common: &Common, o: &cli::Backup) -> Outcome<Done> {
    check_tags(&o.tags)?;
    if !o.disks.is_empty() && (o.all || o.domains.len() > 1) {
        return Err(Failure::usage("--disk goes with one domain"));
    }
    freeze_mounts(o)?;
    o.on_stuck_freeze.as_deref().map_or(Ok(()), check_program)?;
    let store = open_store(common)?;
    let host = Host::open(common.connect.as_deref())?;
    host.check_versions()?;
    let names = if o.all { all(&host, &state_dir(common)?)? } else { o.domains.clone() };
    let many = o.all || names.len() > 1;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "a backup job of the domain, which the guard ends within seconds")?;
    let limit = o.limit_read.map(|bytes_per_s| ReadLimit::new(bytes_per_s, &progress));
    let (mut done, mut saved, mut failed) = (Done::Clean, Vec::new(), Vec::new());
    for name in &names {
        let outcome = host.domain(name).map_err(Failure::from).and_then(|domain| one(common, o, &store, (name, &domain), limit.as_ref(), &progress));
        match outcome {
            Ok((point, warned)) => {
                saved.push(point);
                done = if warned { Done::WithWarnings } else { done };
                report(common, &store, &saved, many)?;
            }
            Err(f) if !many => return Err(f),
            Err(f) => {
                let f = Failure::new(f.code, format!("{}: {}", output::shown(name), f.message));
                if !common.json {
                    f.print(false);
                }
                let last = f.code == crate::failure::INTERRUPTED;
                failed.push(f);
                if last {
                    break;
                }
            }
        }
    }
    if common.json && many {
        output::print_json(&saved.iter().map(|s| point_value(&store, s)).collect::<Outcome<serde_json::Value>>()?);
    }
    match summary(&failed, names.len(), common.json) {
        None => Ok(done),
        Some(f) => Err(f),
    }
}

/// Better now than when a guest is frozen.
fn check_program(program: &Path) -> Outcome<()> {
    let wrong = |why: &str| Failure::usage(format!("--on-stuck-freeze {}: {why}", output::shown(&program.to_string_lossy())));
    if !program.is_absolute() {
        return Err(wrong("give its whole path: the guard that calls it has no folder to look in"));
    }
    crate::config::is_program(program).map_err(|why| wrong(&why))
}

/// One point at a time, but for scripts that asked for several: they get one array at the end.
fn report(common: &Common, store: &Store, saved: &[BackupOutcome], many: bool) -> Outcome<()> {
    match saved.last() {
        Some(outcome) if !(common.json && many) => print_outcome(common, store, outcome),
        _ => Ok(()),
    }
}

fn point_value(store: &Store, saved: &BackupOutcome) -> Outcome<serde_json::Value> {
    output::point_json(store, &committed_point(store, &saved.id)?)
}

/// What is said at the end. People have read each failure already; scripts get one object, so it holds them all.
fn summary(failed: &[Failure], asked_count: usize, json: bool) -> Option<Failure> {
    let last = failed.last()?;
    let each: Vec<&str> = failed.iter().map(|f| f.message.as_str()).collect();
    let why = if json { each.join("; ") } else { "see above".to_owned() };
    Some(Failure::new(last.code, format!("{} of {asked_count} domains were not saved: {why}", failed.len())))
}

/// Names of all domains that can be backed up here. Boot proofs are gone in a minute, and are copies of what is in the store, as are runs that are off;
/// the images of a domain that went to another host are in use there.
fn all(host: &Host, state_dir: &std::path::Path) -> Outcome<Vec<String>> {
    let fail = |e: &dyn std::error::Error| Failure::new(crate::failure::FAILED, e.to_string());
    let mut out = Vec::new();
    for d in host.domains()? {
        let (name, off) = (d.name().map_err(|e| fail(&e))?, d.off().map_err(|e| fail(&e))?);
        let is_run = RunFolder::of(state_dir, &name).is_ok_and(|run| run.exists());
        let left_out = crate::boot_proof::is_proof(state_dir, &name) || (off.is_some() && is_run) || off == Some(Off::Migrated);
        if !left_out {
            out.push(name);
        }
    }
    if out.is_empty() { Err(Failure::not_found("there is no domain on this host that could be backed up")) } else { Ok(out) }
}

/// Mount points in one form; none where all are frozen.
fn freeze_mounts(o: &cli::Backup) -> Outcome<Vec<String>> {
    let Some(mounts) = &o.freeze_mounts else { return Ok(Vec::new()) };
    if o.quiesce == cli::Quiesce::Never {
        return Err(Failure::usage("--freeze-mounts says what to freeze, and --quiesce never to freeze nothing; leave one of them out"));
    }
    cairn_quiesce::scope::check(mounts).map_err(|why| Failure::usage(format!("--freeze-mounts: {why}")))
}

/// The point, and whether there were warnings, which are printed.
fn one(
    common: &Common,
    o: &cli::Backup,
    store: &Store,
    (name, domain): (&str, &Domain),
    limit: Option<&Arc<ReadLimit>>,
    progress: &Arc<Progress>,
) -> Outcome<(BackupOutcome, bool)> {
    let fail = |e: &dyn std::error::Error| Failure::new(crate::failure::FAILED, e.to_string());
    check_name(&domain.name().map_err(|e| fail(&e))?)?;
    let (state_dir, uuid) = (state_dir(common)?, domain.uuid().map_err(|e| fail(&e))?);
    crate::in_place::refuse_half_restored(&state_dir, &uuid)?;
    let run = run::of_domain(&state_dir, &uuid);
    if let Some((folder, record)) = &run {
        wait_kept(folder, record)?;
    }
    if o.quiesce != cli::Quiesce::Never {
        wait_for_agent(domain, Duration::from_secs(o.wait_for_agent), progress)?;
    }
    let request = BackupRequest {
        store,
        domain,
        disks: &o.disks,
        tracker: match o.capture {
            cli::Capture::Live => Tracker::Bitmaps,
            cli::Capture::LibvirtApi => Tracker::Checkpoints,
        },
        quiesce: o.quiesce,
        freeze_mounts: &freeze_mounts(o)?,
        freeze_limit: Duration::from_secs(o.freeze_limit),
        on_stuck_freeze: o.on_stuck_freeze.clone(),
        tags: &o.tags,
        scratch_dir: o.scratch_dir.clone(),
        priority: o.priority,
        read_limit: limit.cloned(),
        disks_at_once: o.parallel_disks.into(),
    };
    let bar = Bar::start(common, name, progress);
    let (outcome, warnings) = back_up(&request, progress).map_err(|f| match &run {
        // It was asked for while the backup began.
        Some((folder, record)) if f.code == FAILED && run::is_being_kept(folder, record) => being_kept(record, &f.message),
        _ => f,
    })?;
    drop(bar);
    for w in &warnings {
        say!("cairn: warning: {}", output::shown(w));
    }
    Ok((outcome, !warnings.is_empty()))
}

/// A keep that is nearly done is waited for: its block job and a backup's exclude each other.
fn wait_kept(folder: &RunFolder, record: &Record) -> Outcome<()> {
    let until = Instant::now() + KEPT_LIMIT;
    while run::is_being_kept(folder, record) {
        if Instant::now() > until {
            return Err(being_kept(record, "its disks have block jobs"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn being_kept(record: &Record, why: &str) -> Failure {
    let name = output::shown(&record.name);
    Failure::new(BUSY, format!("domain {name} is a run that is being kept ({why}); try again when 'cairn runs' does not show it any more"))
}

/// The process that watches a backup; see the hypervisor's guard.
pub fn guard() -> Outcome<Done> {
    Ok(Done::Code(cairn_hypervisor::guard::main()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_saved_is_named() {
        assert!(summary(&[], 2, true).is_none());
        let failed = [Failure::new(1, "web1: no space"), Failure::not_found("nosuch: there is no such domain")];
        let f = summary(&failed, 3, true).expect("a failure");
        assert_eq!(f.code, crate::failure::NOT_FOUND);
        assert!(f.message.starts_with("2 of 3") && f.message.contains("web1: no space") && f.message.contains("nosuch"), "{}", f.message);
    }
}
