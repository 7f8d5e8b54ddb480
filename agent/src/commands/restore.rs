//! `cairn restore`

use super::Done;
use crate::{
    cli::{self, Common},
    context::open_store,
    failure::{DAMAGED, Outcome},
    interrupt,
    output::{self, Bar},
    points,
    restore::{self, Options, Work},
};
use cairn_store::{Damage, Progress};
use std::sync::Arc;

/// Damaged ranges printed; JSON has them all.
const PRINTED_MAX: usize = 10;

/// Writes disks, and defines the domain where that is asked for.
pub fn run(common: &Common, o: &cli::Restore) -> Outcome<Done> {
    o.rename.as_deref().map_or(Ok(()), restore::check_new_name)?;
    let options = options(o)?;
    let store = open_store(common)?;
    let (all, unreadable) = store.points_and_damage()?;
    let p = points::select(&all, &o.point)?;
    let prepared = restore::prepare(Work { common, store: &store, journal: None }, p, &options)?;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "a file that ends in .cairn-partial")?;
    let bar = Bar::start(common, "restore", &progress);
    let (restored, disks) = prepared.run(&runtime, &progress)?;
    drop(bar);
    let domain = &restored.domain;
    let written: Vec<_> = disks
        .iter()
        .zip(&restored.reports)
        .map(|(d, r)| serde_json::json!({"target": d.entry.target, "path": d.path.display().to_string(), "size": d.entry.size_bytes, "written": r.written_bytes, "damage": output::damage_json(&r.damage)}))
        .collect();
    let missing = &restored.warnings;
    if common.json {
        output::print_json(&serde_json::json!({
            "id": p.id.to_string(), "name": p.summary.name, "disks": written, "domain": domain, "own": restored.own, "missing": missing,
        }));
    } else if !common.quiet {
        for d in &disks {
            let format = if d.format == cli::Format::Qcow2 { "qcow2" } else { "raw" };
            let from = format!("{} {}", output::shown(&p.summary.name), p.id);
            out!("{}: {} of {from} restored to {} ({format})", output::shown(&d.entry.target), output::bytes(d.entry.size_bytes), d.path.display());
        }
        if let Some(name) = &domain {
            out!("domain {} defined{}", output::shown(name), if o.start { " and started" } else { "" });
            restored.own.iter().for_each(|own| out!("  {}", output::shown(own)));
        }
    }
    missing.iter().for_each(|m| say!("cairn: warning: {}", output::shown(m)));
    let damaged: Vec<&Damage> = restored.reports.iter().flat_map(|r| &r.damage).collect();
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

fn options(o: &cli::Restore) -> Outcome<Options> {
    Ok(Options {
        rename: o.rename.clone(),
        disks: restore::places(&o.disks)?,
        dir: o.dir.clone(),
        pool: o.elsewhere.pool.clone(),
        format: o.format,
        start: o.start,
        force: o.force,
        allow_damaged: o.allow_damaged,
        mapping: restore::mapping(&o.elsewhere)?,
        ignore_missing: o.elsewhere.ignore_missing,
        mark: false,
    })
}
