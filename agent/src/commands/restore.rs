//! `cairn restore`

use super::Done;
use crate::{
    cli::{self, Common},
    context::{open_store, state_dir},
    failure::{DAMAGED, Failure, INTERRUPTED, Outcome},
    interrupt,
    output::{self, Bar},
    points,
    restore::{Request, plan, refuse_in_use, write_disks},
};
use cairn_store::{Damage, Progress, restore::OnDamage};
use std::sync::{Arc, atomic::Ordering};

/// Damaged ranges printed; JSON has them all.
const PRINTED_MAX: usize = 10;

/// Writes disks, and defines the domain where that is asked for.
pub fn run(common: &Common, o: &cli::Restore) -> Outcome<Done> {
    o.rename.as_deref().map_or(Ok(()), check_new_name)?;
    let store = open_store(common)?;
    let (all, unreadable) = store.points_and_damage()?;
    let p = points::select(&all, &o.point)?;
    let _pin = store.pin(&[p.id])?;
    let (disks, manifest) = (store.disks(p)?, store.manifest(p)?);
    let request = Request { disks: parse_disks(&o.disks)?, rename: o.rename.as_deref(), dir: o.dir.as_deref(), format: o.format, force: o.force };
    let plan = plan(&request, p, &disks, &manifest)?;
    refuse_in_use(&plan, common.connect.as_deref())?;
    let domain = match plan.define {
        true => Some(crate::domain::Recovery::prepare(common, &store, p, &manifest, &plan, o)?),
        false if o.start => return Err(Failure::usage("--start needs a domain: leave --disk away, or give --as NAME")),
        false => None,
    };
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "a file that ends in .cairn-partial")?;
    let on_damage = if o.allow_damaged { OnDamage::WriteZeros } else { OnDamage::Stop };
    let bar = Bar::start(common, "restore", &progress);
    let reports = write_disks(&store, &plan, on_damage, o.force, &runtime, &progress).map_err(|f| interrupted(f, &progress))?;
    drop(bar);
    let written: Vec<_> = plan
        .disks
        .iter()
        .zip(&reports)
        .map(|(d, r)| serde_json::json!({"target": d.entry.target, "path": d.path.display().to_string(), "size": d.entry.size_bytes, "written": r.written_bytes, "damage": output::damage_json(&r.damage)}))
        .collect();
    let missing = domain.as_ref().map(|d| d.missing.clone()).unwrap_or_default();
    if o.rename.is_none()
        && let (Some(_), Some(saved)) = (&domain, crate::domain::SavedDomain::of(&manifest))
    {
        // All its disks are new and whole, whatever they were before.
        crate::in_place::forget_record(&state_dir(common)?, &saved.uuid)?;
    }
    let domain = domain.map(|d| d.finish(o.start)).transpose()?;
    if common.json {
        output::print_json(&serde_json::json!({"id": p.id.to_string(), "name": p.summary.name, "disks": written, "domain": domain, "missing": missing}));
    } else if !common.quiet {
        for d in &plan.disks {
            let format = if d.format == cli::Format::Qcow2 { "qcow2" } else { "raw" };
            let from = format!("{} {}", output::shown(&p.summary.name), p.id);
            out!("{}: {} of {from} restored to {} ({format})", output::shown(&d.entry.target), output::bytes(d.entry.size_bytes), d.path.display());
        }
        if let Some(name) = &domain {
            out!("domain {} defined{}", output::shown(name), if o.start { " and started" } else { "" });
        }
    }
    missing.iter().for_each(|m| say!("cairn: warning: {}", output::shown(m)));
    let damaged: Vec<&Damage> = reports.iter().flat_map(|r| &r.damage).collect();
    if !damaged.is_empty() {
        say!("cairn: warning: {} ranges of the point are damaged and were written as zeros:", damaged.len());
        damaged.iter().take(PRINTED_MAX).for_each(|d| say!("  {}", output::damage_line(d)));
        return Ok(Done::Code(DAMAGED));
    }
    for d in &unreadable {
        say!("cairn: warning: {d}; if the newest point is the one that cannot be read, this was an older one: {} of {}", p.id, output::shown(&p.summary.name));
    }
    Ok(if missing.is_empty() && unreadable.is_empty() { Done::Clean } else { Done::WithWarnings })
}

/// After Ctrl-C whatever went wrong did so because of it.
fn interrupted(f: Failure, progress: &Progress) -> Failure {
    if progress.cancel.load(Ordering::SeqCst) { Failure::new(INTERRUPTED, f.message) } else { f }
}

/// A name that libvirt could not define is wrong usage, and is known before anything is written.
pub(super) fn check_new_name(name: &str) -> Outcome<()> {
    if name.trim().is_empty() {
        return Err(Failure::usage("--as wants a name that is not empty"));
    }
    if name.chars().any(|c| c == '/' || c.is_control()) {
        return Err(Failure::usage(format!("--as {}: a domain's name has no '/' and no control characters", output::shown(name))));
    }
    Ok(())
}

/// `TARGET=PATH`, split at the first `=`.
fn parse_disks(args: &[String]) -> Outcome<Vec<(String, std::path::PathBuf)>> {
    let mut out: Vec<(String, std::path::PathBuf)> = Vec::new();
    for a in args {
        let (target, path) = a
            .split_once('=')
            .filter(|(t, p)| !t.is_empty() && !p.is_empty())
            .ok_or_else(|| Failure::usage(format!("--disk {a}: write TARGET=PATH, as in vda=/tmp/vda.raw")))?;
        if out.iter().any(|d| d.0 == target) {
            return Err(Failure::usage(format!("--disk {target} occurs twice")));
        }
        let path = std::path::absolute(path).map_err(|e| Failure::usage(format!("--disk {a}: {e}")))?;
        out.push((target.to_owned(), path));
    }
    Ok(out)
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
}
