//! `cairn backup` and its guard.

use super::{Done, backup_image::print_outcome};
use crate::{
    cli::{self, Common},
    context::open_store,
    domain::{BackupRequest, back_up},
    failure::{Failure, Outcome},
    interrupt,
    output::{self, Bar},
    points::{check_name, check_tags},
};
use cairn_hypervisor::{Domain, Host};
use cairn_store::{Progress, Store};
use std::{process::ExitCode, sync::Arc, time::Duration};
use tokio::runtime::Runtime;

/// One domain after the other; a failure of one does not keep the others from being saved.
pub fn run(common: &Common, o: &cli::Backup) -> Outcome<Done> {
    check_tags(&o.tags)?;
    if !o.disks.is_empty() && (o.all || o.domains.len() > 1) {
        return Err(Failure::usage("--disk goes with one domain"));
    }
    let store = open_store(common)?;
    let host = Host::open(common.connect.as_deref())?;
    host.check_versions()?;
    let domains = select(&host, o)?;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "a backup job of the domain, which the guard ends within seconds")?;
    let (mut done, mut failed) = (Done::Clean, None);
    for (name, domain) in &domains {
        match one(common, o, &store, name, domain, &runtime, &progress) {
            Ok(Done::Clean) => {}
            Ok(other) => done = other,
            Err(f) if f.code == crate::failure::INTERRUPTED || domains.len() == 1 => return Err(f),
            Err(f) => {
                let f = Failure::new(f.code, format!("{}: {}", output::shown(name), f.message));
                f.print(common.json);
                failed = Some(f);
            }
        }
    }
    match failed {
        None => Ok(done),
        Some(f) => Err(Failure::new(f.code, format!("not all of {} domains were saved, see above", domains.len()))),
    }
}

fn select(host: &Host, o: &cli::Backup) -> Outcome<Vec<(String, Domain)>> {
    let name_of = |d: &Domain| d.name().map_err(|e| Failure::new(crate::failure::FAILED, e.to_string()));
    if !o.all {
        return o.domains.iter().map(|n| Ok((n.clone(), host.domain(n)?))).collect();
    }
    let mut out = Vec::new();
    for d in host.domains()? {
        if d.is_running().map_err(|e| Failure::new(crate::failure::FAILED, e.to_string()))? {
            out.push((name_of(&d)?, d));
        }
    }
    if out.is_empty() { Err(Failure::not_found("no domain is running on this host")) } else { Ok(out) }
}

fn one(common: &Common, o: &cli::Backup, store: &Store, name: &str, domain: &Domain, _runtime: &Runtime, progress: &Arc<Progress>) -> Outcome<Done> {
    check_name(&domain.name().map_err(|e| Failure::new(crate::failure::FAILED, e.to_string()))?)?;
    let request = BackupRequest {
        store,
        domain,
        disks: &o.disks,
        quiesce: o.quiesce,
        freeze_limit: Duration::from_secs(o.freeze_limit),
        tags: &o.tags,
        scratch_dir: o.scratch_dir.clone(),
    };
    let bar = Bar::start(common, name, progress);
    let (outcome, warnings) = back_up(&request, progress)?;
    drop(bar);
    print_outcome(common, store, &outcome)?;
    for w in &warnings {
        eprintln!("cairn: warning: {}", output::shown(w));
    }
    Ok(if warnings.is_empty() { Done::Clean } else { Done::WithWarnings })
}

/// The process that watches a backup; see the hypervisor's guard.
pub fn guard() -> Outcome<Done> {
    let code: ExitCode = cairn_hypervisor::guard::main();
    Ok(if code == ExitCode::SUCCESS { Done::Clean } else { Done::Code(crate::failure::FAILED) })
}
