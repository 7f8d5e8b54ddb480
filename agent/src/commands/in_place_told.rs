//! What `cairn restore --in-place` says at its end.

use crate::{
    cli::Format,
    in_place::{DiskReport, Way, Work, describe},
    output,
};
use cairn_store::Point;

/// The outcome.
pub struct Told<'a> {
    /// Nothing was written.
    pub dry_run: bool,
    /// The point.
    pub p: &'a Point,
    /// The domain, or the image's path.
    pub name: &'a str,
    /// What was not restored, in words.
    pub missing: &'a [String],
    /// The domain was shut down by us.
    pub stopped: bool,
    /// The disks.
    pub work: &'a [Work],
    /// What was done to each.
    pub reports: &'a [DiskReport],
    /// Changes of size, in words.
    pub resizes: &'a [String],
    /// The domain was started by us.
    pub started: bool,
    /// For all disks, milliseconds.
    pub took_ms: u64,
}

impl Told<'_> {
    /// For scripts.
    pub fn json(&self) -> serde_json::Value {
        let disk = |(w, r): (&Work, &DiskReport)| {
            let (way, base) = match &w.way {
                Way::Bitmap { base, .. } if r.fallback.is_none() => ("bitmap", Some(base.to_string())),
                _ => ("compare", None),
            };
            let reason = r.fallback.clone().unwrap_or_else(|| describe(&w.way));
            let d = &r.done;
            serde_json::json!({
                "target": w.entry.target, "path": w.path.display().to_string(), "size": w.entry.size_bytes, "size_before": w.size_bytes, "way": way,
                "base": base, "reason": reason, "candidates": r.candidate_bytes, "read": d.read_bytes, "fetched": d.fetched_bytes,
                "written": d.written_bytes, "zeroed": d.zeroed_bytes, "unchanged": unchanged(w, r), "chain_kept": r.chain_kept, "verified": r.verified,
                "damage": output::damage_json(&d.damage),
            })
        };
        serde_json::json!({
            "id": self.p.id.to_string(), "name": self.p.summary.name, "in_place": self.name, "dry_run": self.dry_run,
            "disks": self.work.iter().zip(self.reports).map(disk).collect::<Vec<_>>(), "resized": self.resizes, "missing": self.missing,
            "stopped": self.stopped, "started": self.started, "duration_ms": self.took_ms,
        })
    }

    /// For people.
    pub fn print(&self) {
        let dry = self.dry_run;
        self.resizes.iter().for_each(|r| out!("{}{r}", if dry { "would need --force: " } else { "" }));
        for (w, r) in self.work.iter().zip(self.reports) {
            let (d, will) = (&r.done, if dry { "would be " } else { "" });
            let how = r.fallback.as_ref().map_or_else(|| describe(&w.way), |why| format!("compared: {}", output::shown(why)));
            out!(
                "{}: {} {will}written and {} {will}zeroed of {} in {}, {} unchanged · {} read, {} from the store ({how})",
                output::shown(&w.entry.target),
                output::bytes(d.written_bytes),
                output::bytes(d.zeroed_bytes),
                output::bytes(w.entry.size_bytes),
                w.path.display(),
                output::bytes(unchanged(w, r)),
                output::bytes(d.read_bytes),
                output::bytes(d.fetched_bytes),
            );
            if r.verified {
                out!("{}: read back, and equal to the point", output::shown(&w.entry.target));
            }
            if !dry && !r.chain_kept && w.format == Format::Qcow2 {
                out!("{}: the next backup compares all of this disk once, since its image carries no usable dirty bitmap", output::shown(&w.entry.target));
            }
        }
        let (name, id) = (output::shown(self.name), self.p.id);
        match (dry, self.started) {
            (true, _) => out!("{name}: nothing was written (--dry-run)"),
            (_, true) => out!("{name}: restored to point {id} in {} and started", output::duration(self.took_ms)),
            _ => out!("{name}: restored to point {id} in {}", output::duration(self.took_ms)),
        }
    }
}

fn unchanged(w: &Work, r: &DiskReport) -> u64 {
    w.entry.size_bytes.saturating_sub(r.done.written_bytes + r.done.zeroed_bytes)
}
