//! `cairn doctor`

use super::Done;
use crate::{
    cli::{self, Common},
    doctor::{
        self, Request,
        finding::{Finding, Status, worst},
    },
    failure::{FAILED, Failure, NOT_FOUND, Outcome},
    output::{self, shown},
};
use cairn_hypervisor::capture::scratch::SCRATCH_DIR_DEFAULT;
use serde_json::{Value, json};
use std::time::Instant;

/// Runs all checks, prints them, and ends by the worst.
pub fn run(common: &Common, o: &cli::Doctor) -> Outcome<Done> {
    let scratch_dir = o.scratch_dir.clone().unwrap_or_else(|| SCRATCH_DIR_DEFAULT.into());
    let scratch_dir = std::path::absolute(&scratch_dir).map_err(|e| Failure::usage(format!("--scratch-dir {}: {e}", scratch_dir.display())))?;
    let start = Instant::now();
    let request = Request { common: common.clone(), domains: o.domains.clone(), scratch_dir, place: o.place.clone() };
    let doctor::Report { findings, missing } = doctor::run(&request)?;
    let status = worst(&findings);
    if common.json {
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let checks: Vec<Value> = findings.iter().map(Finding::json).collect();
        output::print_json(&json!({"status": status.word(), "checks": checks, "took_ms": took_ms}));
    } else {
        tell(&findings, common.quiet);
    }
    if let Some(first) = missing.first() {
        let all = missing.iter().map(|name| format!("'{}'", shown(name))).collect::<Vec<_>>().join(", ");
        let what = if missing.len() == 1 { format!("there is no domain '{}'", shown(first)) } else { format!("there are no domains {all}") };
        return Err(Failure::new(NOT_FOUND, format!("{what} on this host; 'virsh list --all' shows what there is")));
    }
    match status {
        Status::Ok => Ok(Done::Clean),
        Status::Warning => Ok(Done::WithWarnings),
        Status::Failed => Err(Failure::new(FAILED, summary(&findings))),
    }
}

/// A line for each; what to do below it. `quiet`: only what is not as it should be.
fn tell(findings: &[Finding], quiet: bool) {
    for f in findings.iter().filter(|f| !quiet || f.status != Status::Ok) {
        out!("{:<8} {:<9} {}: {}", f.status.word(), f.check, shown(&f.subject()), shown(&f.found));
        if let Some(remedy) = &f.remedy {
            out!("{:<18} what to do: {}", "", shown(remedy));
        }
    }
}

fn summary(findings: &[Finding]) -> String {
    let failed: Vec<String> = findings.iter().filter(|f| f.status == Status::Failed).map(|f| format!("{} ({})", f.check, shown(&f.subject()))).collect();
    format!("{} of {} checks failed: {}; what to do is said with each", failed.len(), findings.len(), failed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_failed() {
        let findings = [Finding::ok("hook", "x"), Finding::failed("disk", "y", "z").of_domain("web").of_disk("vda"), Finding::warning("key", "y", "z")];
        assert_eq!(summary(&findings), "1 of 3 checks failed: disk (web vda); what to do is said with each");
    }
}
