//! `cairn reconcile`: one look at domains.

use super::Done;
use crate::{
    cli::{self, Common},
    failure::{BUSY, Failure, NOT_FOUND, Outcome},
    output::{self, shown},
    watch::{
        reconcile::{self, Done as Look, Report, Request},
        stores,
    },
};
use serde_json::Value;
use std::{collections::BTreeMap, io::Read};

/// Settings from the daemon are no longer than its configuration.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;

/// Looks, and says what was found and done.
pub fn run(common: &Common, o: &cli::Reconcile) -> Outcome<Done> {
    let stores = if o.from_daemon { from_daemon()? } else { stores::configured(common)? };
    let insist = !o.from_daemon && !o.domains.is_empty();
    let (reports, warnings) = reconcile::run(&Request { common, stores: &stores, domains: &o.domains, insist })?;
    if common.json {
        output::print_json(&reports.iter().map(Report::json).collect::<Vec<Value>>().into());
    } else if reports.is_empty() {
        out!("there is no domain on this host");
    } else if !common.quiet {
        out!("{}", table(&reports));
    }
    warnings.iter().for_each(|w| say!("cairn: warning: {}", shown(w)));
    let named = !o.domains.is_empty() && !o.from_daemon;
    let gone = reports.iter().find(|r| named && r.done == Look::Gone);
    if let Some(gone) = gone {
        return Err(Failure::new(NOT_FOUND, format!("there is no domain '{}' on this host; 'virsh list --all' shows what there is", shown(&gone.name))));
    }
    if named && reports.iter().any(|r| matches!(r.done, Look::Busy(_))) {
        return Ok(Done::Code(BUSY));
    }
    let left = |r: &Report| matches!(r.done, Look::Failed(_)) || r.looked.found.iter().any(|f| f.gone.is_err());
    Ok(if warnings.is_empty() && !reports.iter().any(left) { Done::Clean } else { Done::WithWarnings })
}

fn from_daemon() -> Outcome<BTreeMap<String, crate::config::StoreEntry>> {
    let mut text = String::new();
    let wrong = |e: String| Failure::usage(format!("--from-daemon is for the daemon, which writes the stores to standard input: {e}"));
    std::io::stdin().take(SETTINGS_BYTES_MAX).read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?;
    Ok(stores::taken(serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?))
}

fn table(reports: &[Report]) -> String {
    let mut rows: Vec<[String; 5]> = Vec::new();
    for r in reports {
        let look = r.done.why().map_or_else(|| r.done.word().to_owned(), |why| format!("{}: {why}", r.done.word()));
        let found = r.looked.found.iter().map(|f| match &f.gone {
            Ok(()) => format!("{} (mended)", f.kind),
            Err(why) => format!("{} (STAYS: {why})", f.kind),
        });
        let mut tracked: Vec<String> = r.looked.tracked.iter().map(|t| t.disk.clone()).collect();
        tracked.dedup();
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { shown(&text) };
        rows.push([shown(&r.name), r.state.to_owned(), shown(&look), or_dash(found.collect::<Vec<_>>().join(", ")), or_dash(tracked.join(","))]);
    }
    output::simple_table(&["DOMAIN", "STATE", "LOOK", "FOUND", "TRACKED"], &[], rows)
}
