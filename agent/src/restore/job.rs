//! One restore from its options to its result: everything that can be refused is refused in [`prepare`], before anything is written.
//!
//! Order: 1 place of each disk, and what this host lacks · 2 refusals · 3 volumes made · 4 disks · 5 files, definition, autostart (`domain::Recovery`) ·
//! 6 start. If we die in 4, what is left is replaced by the next try; after 4 a [`Journal`] tells the next try which disks are whole.

use super::{
    DiskPlan, Place, Writing, plan,
    plan::{Request, RestorePlan},
    refuse_in_use,
    volumes::{Volumes, Wanted},
    write_disks,
};
use crate::{
    cli::{Common, Format},
    context::state_dir,
    domain::{Recovery, saved_xml},
    failure::{Failure, INTERRUPTED, Outcome},
    output,
    restore::Journal,
};
use cairn_hypervisor::{needs::Problem, restore_map::Mapping};
use cairn_store::{
    Pin, Point, Progress, Store,
    format::{manifest::Manifest, register::DiskEntry},
    restore::{OnDamage, RestoreReport},
};
use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};
use tokio::runtime::Runtime;

/// How a point is restored.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Another name, with a new identity.
    pub rename: Option<String>,
    /// Places of single disks.
    pub disks: Vec<(String, Place)>,
    /// Folder for the others.
    pub dir: Option<PathBuf>,
    /// Pool for the others.
    pub pool: Option<String>,
    /// Image format.
    pub format: Option<Format>,
    /// Start the domain.
    pub start: bool,
    /// Replace what exists.
    pub force: bool,
    /// Zeros for what is damaged.
    pub allow_damaged: bool,
    /// What is elsewhere here.
    pub mapping: Mapping,
    /// Define it although the host lacks something.
    pub ignore_missing: bool,
    /// Say in the domain's metadata which point it is.
    pub mark: bool,
}

/// What a restore works with.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Options of every command.
    pub common: &'a Common,
    /// The store.
    pub store: &'a Store,
    /// What an earlier try has done.
    pub journal: Option<&'a Journal>,
}

/// A restore that nothing stands in the way of.
pub struct Prepared<'a> {
    work: Work<'a>,
    options: &'a Options,
    /// Where each disk goes.
    pub plan: RestorePlan,
    volumes: Volumes,
    /// The domain to be defined, if one is.
    pub domain: Option<Recovery>,
    /// The point cannot be collected meanwhile.
    _pin: Pin,
}

/// What a restore did.
#[derive(Debug, Default)]
pub struct Restored {
    /// By the plan's order.
    pub reports: Vec<RestoreReport>,
    /// Name of the domain that was defined.
    pub domain: Option<String>,
    /// What the domain lacks, and what could not be done as it should.
    pub warnings: Vec<String>,
    /// What a copy has of its own where the original has something of the host's.
    pub own: Vec<String>,
}

/// Decides where everything goes; refuses all that cannot work. Nothing is written.
pub fn prepare<'a>(work: Work<'a>, point: &Point, o: &'a Options) -> Outcome<Prepared<'a>> {
    o.rename.as_deref().map_or(Ok(()), check_new_name)?;
    let store = work.store;
    let pin = store.pin(&[point.id])?;
    let (disks, manifest) = (store.disks(point)?, store.manifest(point)?);
    let mut problems = Vec::new();
    let volumes = choose_volumes(work, point, o, &disks, &manifest, &mut problems)?;
    let location = store.location();
    let request = Request {
        store: Path::new(&location),
        disks: &o.disks,
        rename: o.rename.as_deref(),
        dir: o.dir.as_deref(),
        format: o.format,
        force: o.force,
        volumes: &volumes,
        mapping: &o.mapping,
        journal: work.journal,
    };
    let plan = plan(&request, point, &disks, &manifest, &mut problems)?;
    refuse_in_use(&plan, work.common.connect.as_deref())?;
    if !plan.define {
        refuse_problems(&problems)?;
        if o.start {
            return Err(Failure::usage("--start needs a domain: leave --disk away, or give --as NAME"));
        }
    }
    let domain = match plan.define {
        true => Some(Recovery::prepare(work, point, &manifest, &plan, &volumes, o, problems)?),
        false => None,
    };
    Ok(Prepared { work, options: o, plan, volumes, domain, _pin: pin })
}

fn choose_volumes(work: Work<'_>, point: &Point, o: &Options, disks: &[DiskEntry], manifest: &Manifest, problems: &mut Vec<Problem>) -> Outcome<Volumes> {
    // Points of images have none.
    let xml = saved_xml(work.store, manifest)?;
    let wanted = Wanted {
        disks: &o.disks,
        pool: o.pool.as_deref(),
        has_dir: o.dir.is_some(),
        rename: o.rename.as_deref(),
        name: o.rename.as_deref().unwrap_or(&point.summary.name),
        format: o.format,
        define: o.rename.is_some() || o.disks.is_empty(),
        xml: xml.as_deref(),
        connect: work.common.connect.as_deref(),
        journal: work.journal,
    };
    Volumes::choose(&wanted, disks, problems)
}

/// Refuses, naming all problems at once.
pub fn refuse_problems(problems: &[Problem]) -> Outcome<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = problems.iter().map(|p| format!("\n  - {}", output::shown(&p.to_string()))).collect();
    Err(Failure::refused(format!("this host lacks what the restore needs, and nothing was written:{}", lines.concat())))
}

impl Prepared<'_> {
    /// Does it; gives what was done, and where each disk is.
    pub fn run(mut self, runtime: &Runtime, progress: &Progress) -> Outcome<(Restored, Vec<DiskPlan>)> {
        let o = self.options;
        let on_damage = if o.allow_damaged { OnDamage::WriteZeros } else { OnDamage::Stop };
        self.volumes.make(&mut self.plan, self.work.journal)?;
        let writing = Writing { on_damage, force: o.force, runtime, progress, journal: self.work.journal };
        let reports = write_disks(self.work.store, &self.plan, &writing).map_err(|f| interrupted(f, progress))?;
        let mut warnings = self.volumes.keep();
        let mut own = Vec::new();
        let domain = match self.domain {
            Some(domain) => {
                own.clone_from(&domain.own);
                warnings.extend(domain.missing.clone());
                if !o.mark {
                    // Of many domains each map is for some.
                    warnings.extend(domain.unused_maps.iter().map(|map| unused_map(map, "the domain")));
                }
                if let Some(uuid) = &domain.replaces {
                    // All its disks are new and whole, whatever they were before.
                    crate::in_place::forget_record(&state_dir(self.work.common)?, uuid)?;
                }
                let (name, more) = domain.finish(o.start)?;
                warnings.extend(more);
                Some(name)
            }
            None => None,
        };
        Ok((Restored { reports, domain, warnings, own }, self.plan.disks))
    }
}

/// A map that fits nothing is a slip.
pub fn unused_map(map: &str, of: &str) -> String {
    format!("{map} fits nothing of {of}: is its left side written as the saved definition has it?")
}

/// After Ctrl-C whatever went wrong did so because of it.
fn interrupted(f: Failure, progress: &Progress) -> Failure {
    if progress.cancel.load(Ordering::SeqCst) { Failure::new(INTERRUPTED, f.message) } else { f }
}

/// A name that libvirt could not define is wrong usage, and is known before anything is written.
pub fn check_new_name(name: &str) -> Outcome<()> {
    if name.trim().is_empty() {
        return Err(Failure::usage("--as wants a name that is not empty"));
    }
    if name.chars().any(|c| c == '/' || c.is_control()) {
        return Err(Failure::usage(format!("--as {}: a domain's name has no '/' and no control characters", output::shown(name))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_defined_are_wrong_usage() {
        for wrong in ["", " ", "a/b", "../x", "a\nb"] {
            assert_eq!(check_new_name(wrong).expect_err(wrong).code, crate::failure::USAGE);
        }
        assert!(check_new_name("web 1 (restored)").is_ok());
    }

    #[test]
    fn after_ctrl_c_every_failure_is_an_interruption() {
        let progress = Progress::default();
        let code = |p: &Progress| interrupted(Failure::new(crate::failure::FAILED, "qemu-storage-daemon ended"), p).code;
        assert_eq!(code(&progress), crate::failure::FAILED);
        progress.cancel.store(true, Ordering::SeqCst);
        assert_eq!(code(&progress), INTERRUPTED);
    }

    #[test]
    fn problems_are_named_all_at_once() {
        assert!(refuse_problems(&[]).is_ok());
        let problem = |what: &str| Problem { what: what.into(), remedy: "mend it".into() };
        let f = refuse_problems(&[problem("no pool"), problem("no network")]).expect_err("two problems");
        assert_eq!(f.code, crate::failure::REFUSED);
        assert!(f.message.contains("no pool: mend it") && f.message.contains("no network"), "{}", f.message);
    }
}
