//! `cairn verify --boot`: points are booted in isolation, one after the other; each verdict goes into its point's log.

use super::Done;
use crate::{
    boot_proof::{self, Options, Proof},
    cli::{self, Common},
    context,
    domain::SavedDomain,
    failure::{DAMAGED, FAILED, Failure, INTERRUPTED, Outcome},
    interrupt, output, points,
};
use cairn_store::{BootProof, Point, PointState, Progress, Store, format::boot_proof::BootVerdict};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// What came of one point.
struct Line<'a> {
    point: &'a Point,
    result: Result<Shown, Failure>,
}

/// A proof as it is shown.
struct Shown {
    verdict: BootVerdict,
    warnings: Vec<String>,
    recorded: bool,
}

/// Boots points, and tells what came of it.
pub fn run(common: &Common, o: &cli::Verify) -> Outcome<Done> {
    let b = &o.boot;
    let options = Arc::new(Options {
        boot_limit: Duration::from_millis(b.boot_timeout),
        level: b.boot_level.map(Into::into),
        exec: b.boot_exec.clone(),
        script: b.boot_script.as_ref().map(|path| program(path)).transpose()?,
        script_limit: Duration::from_millis(b.boot_script_timeout),
        memory_bytes: b.memory,
        dir: b.dir.clone(),
        pool: b.pool.clone(),
    });
    let store = context::open_store(common)?;
    let (all, unreadable) = store.points_and_damage()?;
    let chosen = choose(&store, &all, &o.what)?;
    let left = boot_proof::sweep(&context::state_dir(common)?);
    left.iter().for_each(|l| say!("cairn: warning: {}", output::shown(l)));
    let (runtime, progress) = (interrupt::runtime()?, Arc::new(Progress::default()));
    interrupt::watch(&runtime, &progress, "a boot proof, which its supervisor takes away")?;
    let mut lines = Vec::new();
    for point in chosen {
        let line = Line { point, result: one(common, &store, &options, point, &progress) };
        if !common.json {
            print(common, &line);
        }
        lines.push(line);
        if progress.cancel.load(Ordering::SeqCst) {
            break;
        }
    }
    if common.json {
        output::print_json(&lines.iter().map(value).collect());
    }
    let hidden = super::unreadable(&unreadable);
    if progress.cancel.load(Ordering::SeqCst) {
        return Err(Failure::new(INTERRUPTED, "interrupted; what was not yet proven is not proven"));
    }
    Ok(match (worst(&lines), left.is_empty()) {
        (Done::Clean, true) => hidden,
        (Done::Clean, false) => Done::WithWarnings,
        (done, _) => done,
    })
}

/// A program that is not there would fail every proof for no reason of the points'.
fn program(path: &std::path::Path) -> Outcome<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::path::absolute(path).map_err(|e| Failure::usage(format!("'{}': {e}", path.display())))?;
    match std::fs::metadata(&path) {
        Ok(m) if m.is_file() && m.permissions().mode() & 0o111 != 0 => Ok(path),
        Ok(_) => Err(Failure::usage(format!("{} is no program: it must be a file that may be executed", path.display()))),
        Err(e) => Err(Failure::usage(format!("--boot-script {}: {e}", path.display()))),
    }
}

/// Those that are named, each once; of a name, and of all, the latest. Images do not boot: that is an error only where one is named.
fn choose<'a>(store: &Store, all: &'a [Point], what: &[String]) -> Outcome<Vec<&'a Point>> {
    let is_domain = |p: &Point| Ok::<bool, Failure>(SavedDomain::of(&store.manifest(p)?).is_some());
    let mut chosen: Vec<&Point> = Vec::new();
    for spec in what {
        let point = points::select(all, spec)?;
        if !is_domain(point)? {
            return Err(Failure::usage(format!("'{}' is an image, not a domain: there is nothing to boot", output::shown(&point.summary.name))));
        }
        if !chosen.iter().any(|c| c.id == point.id) {
            chosen.push(point);
        }
    }
    if what.is_empty() {
        let mut names: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
        all.iter().for_each(|p| names.entry(&p.summary.name).or_default().push(p));
        let latest = names.into_values().filter_map(|mine| points::believed(mine).last().copied());
        // One whose manifest cannot be read shall be told of, not passed over.
        chosen.extend(latest.filter(|point| is_domain(point).unwrap_or(true)));
    }
    if chosen.is_empty() { Err(Failure::not_found(format!("no restore point of a domain in {}", store.location()))) } else { Ok(chosen) }
}

fn one(common: &Common, store: &Store, options: &Arc<Options>, point: &Point, progress: &Arc<Progress>) -> Result<Shown, Failure> {
    if point.state() == PointState::Damaged {
        return Err(Failure::new(DAMAGED, "it is known to be damaged, and was not tried; 'cairn verify' tells where"));
    }
    if !common.json && !common.quiet {
        say!("cairn: booting {} {} in isolation", output::shown(&point.summary.name), point.id);
    }
    let Proof { verdict, evidence, mut warnings, left } = boot_proof::prove(common, options, &point.id.to_string(), progress)?;
    warnings.extend(left);
    let (verdict, recorded) = match store.record_boot_proof(point, &verdict, &evidence) {
        Ok(verdict) => (verdict, true),
        Err(e) => {
            // What was found matters more than the note about it: the store may be mounted read-only.
            warnings.push(format!("the result is not recorded in the point: {e}"));
            (verdict, false)
        }
    };
    Ok(Shown { verdict, warnings, recorded })
}

/// A point that does not boot is as bad as one that is damaged; a host that could not try says nothing of the point.
fn worst(lines: &[Line<'_>]) -> Done {
    let damaged = |l: &Line<'_>| match &l.result {
        Ok(shown) => !shown.verdict.passed,
        Err(f) => f.code == DAMAGED,
    };
    if lines.iter().any(damaged) {
        return Done::Code(DAMAGED);
    }
    match lines.iter().filter_map(|l| l.result.as_ref().err()).next_back() {
        Some(f) => Done::Code(if lines.len() == 1 { f.code } else { FAILED }),
        None if lines.iter().any(|l| l.result.as_ref().is_ok_and(|s| !s.warnings.is_empty())) => Done::WithWarnings,
        None => Done::Clean,
    }
}

fn print(common: &Common, line: &Line<'_>) {
    let name = format!("{} {}", output::shown(&line.point.summary.name), line.point.id);
    match &line.result {
        Ok(shown) => {
            if !(common.quiet && shown.verdict.passed) {
                out!("{name}: {}", output::boot_text(&shown.verdict));
            }
            shown.warnings.iter().for_each(|w| say!("cairn: warning: {}", output::shown(w)));
        }
        Err(f) => out!("{name}: NOT PROVEN: {}", output::shown(&f.message)),
    }
}

fn value(line: &Line<'_>) -> Value {
    let mut value = match &line.result {
        Ok(shown) => {
            let mut value = output::boot_json(&shown.verdict);
            value["warnings"] = json!(shown.warnings);
            value["recorded"] = json!(shown.recorded);
            value
        }
        Err(f) => json!({"passed": null, "level": null, "reason": f.message, "code": f.code, "recorded": false}),
    };
    value["id"] = json!(line.point.id.to_string());
    value["name"] = json!(line.point.summary.name);
    value
}

/// `cairn show --screenshot`, `--console`: evidence of the newest boot proof that has any of that kind.
pub fn show_evidence(store: &Store, point: &Point, o: &cli::Show) -> Outcome<()> {
    let proofs = point.boot_proofs();
    let newest = |has: &dyn Fn(&BootProof) -> bool| proofs.iter().rev().find(|p| has(p)).and_then(|p| p.verdict.evidence);
    let evidence =
        |number: u32| store.evidence(point, number)?.ok_or_else(|| Failure::new(DAMAGED, format!("the evidence of point {} is gone from the store", point.id)));
    if let Some(path) = &o.screenshot {
        let number = newest(&|p| p.verdict.screen.is_some());
        let none = || Failure::not_found(format!("point {} has no boot proof with a picture; 'cairn verify --boot' makes one", point.id));
        let picture = evidence(number.ok_or_else(none)?)?.picture;
        write_new(path, &picture)?;
    }
    if o.console {
        let none = || Failure::not_found(format!("point {} has no boot proof with a console; 'cairn verify --boot' makes one", point.id));
        let console = evidence(newest(&|p| p.verdict.evidence.is_some()).ok_or_else(none)?)?.console;
        String::from_utf8_lossy(&console).lines().for_each(|l| out!("{}", output::shown(l)));
    }
    Ok(())
}

fn write_new(path: &std::path::Path, bytes: &[u8]) -> Outcome<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::refused(format!("{} exists; nothing was written", path.display())),
        _ => Failure::new(FAILED, format!("cannot write {}: {e}", path.display())),
    })
}
