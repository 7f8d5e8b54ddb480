//! `cairn doctor`: what is wrong with this host, its stores and its domains, and how to mend it (docs/doctor.md).
//!
//! - [`finding`]: what a check found; [`limit`]: a limit for what may hang; [`mounts`]: file systems
//! - [`service`]: configuration, hook, daemon; [`host`]: libvirt and QEMU; [`store`], [`scratch`], [`work`] (what is half done); [`domain`]
//!
//! Invariants
//! - Nothing is changed, neither on the host nor in a domain nor in a store.
//! - Every check has a limit, and one that does not come back within it is a finding by itself.
//! - What each disk gets is decided by the functions that a backup decides with.
//! - No finding but a good one is without a remedy.

mod domain;
pub mod finding;
mod host;
pub mod limit;
mod mounts;
mod scratch;
mod service;
pub mod store;
mod work;

use crate::{
    cli::{Common, SocketPlace},
    config::{Config, StoreEntry},
    context,
    failure::Outcome,
    watch::stores,
};
use finding::Finding;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// What is to be examined.
#[derive(Debug, Clone)]
pub struct Request {
    /// Options of the command line.
    pub common: Common,
    /// Names or UUIDs; empty for all.
    pub domains: Vec<String>,
    /// Folder for scratch images.
    pub scratch_dir: PathBuf,
    /// Where the daemon listens.
    pub place: SocketPlace,
}

/// What came of it.
pub struct Report {
    /// In the order of the checks; domains by name, at the end.
    pub findings: Vec<Finding>,
    /// Names that libvirt does not know.
    pub missing: Vec<String>,
}

/// Runs all checks: those of the host beside each other, then the domains.
pub fn run(request: &Request) -> Outcome<Report> {
    let state_dir = context::state_dir(&request.common)?;
    let (config, mut findings) = service::config(&request.common);
    let (host, answers, services, scratch, work) = std::thread::scope(|scope| {
        let host = scope.spawn(|| host::connect(&request.common));
        let stores: Vec<_> =
            stores_of(&request.common, &config).into_iter().map(|(n, e)| scope.spawn(move || store::examine(&request.common, &n, &e))).collect();
        let services = scope.spawn(|| [service::hook(), service::daemon(&request.common, &request.place, &config)].concat());
        let work = scope.spawn(|| work::half_done(&state_dir));
        let scratch = scratch::examine(&request.scratch_dir);
        let answers: Vec<store::Examined> = stores.into_iter().map(|s| joined(s.join())).collect();
        (joined(host.join()), answers, joined(services.join()), scratch, joined(work.join()))
    });
    findings.extend(host.findings);
    findings.extend(host::tools());
    findings.extend(services);
    findings.extend(service::alerts(&config));
    let stores_all_answer = answers.iter().all(|s| s.answering.is_some());
    let mut answering = Vec::new();
    for examined in answers {
        findings.extend(examined.findings);
        answering.extend(examined.answering);
    }
    if answering.is_empty() && stores_all_answer {
        findings.push(Finding::warning(
            "store",
            "no store is known",
            "name one with --store or CAIRN_STORE, or in /etc/cairn/cairn.yaml; 'cairn init' makes one",
        ));
    }
    findings.extend(scratch.findings);
    findings.extend(work);
    let Some(libvirt) = host.host else {
        let unseen = |name: &String| Finding::failed("domain", "it was not looked at: libvirt cannot be asked", "see the check 'libvirt'").of_domain(name);
        findings.extend(request.domains.iter().map(unseen));
        return Ok(Report { findings, missing: Vec::new() });
    };
    let around = domain::Around {
        stores: Arc::new(answering),
        stores_all_answer,
        scratch_dir: request.scratch_dir.clone(),
        scratch_free_bytes: scratch.free_bytes,
        state_dir,
    };
    let (of_domains, missing) = domain::all(&Arc::new(libvirt), &request.domains, &Arc::new(around));
    findings.extend(of_domains);
    Ok(Report { findings, missing })
}

/// Those of the configuration, and one that was named besides.
pub fn stores_of(common: &Common, config: &Option<Config>) -> BTreeMap<String, StoreEntry> {
    let stores = config.as_ref().map(|c| c.stores.clone()).unwrap_or_default();
    let is_name = common.store.as_ref().is_some_and(|name| stores.contains_key(name));
    if is_name { stores } else { stores::with_named(common, stores) }
}

/// A panic of a check goes on here: it is a defect, and its message was printed.
fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
