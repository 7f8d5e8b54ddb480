//! `cairn untrack`: no dirty bitmap of ours is left on a domain.

use super::Done;
use crate::{
    cli::{self, Common},
    failure::{Failure, Outcome},
    output::{self, shown},
};
use cairn_hypervisor::{
    Host,
    capture::untrack::{self, Tracking, UntrackOptions},
};
use serde_json::{Value, json};

/// One domain after the other; what is wrong with one is said, and the others have their turn.
pub fn run(common: &Common, o: &cli::Untrack) -> Outcome<Done> {
    let host = Host::open(common.connect.as_deref())?;
    let options = UntrackOptions { dry_run: o.dry_run, ..UntrackOptions::default() };
    let (mut all, mut failed) = (Vec::new(), None);
    for name in &o.domains {
        match host.domain(name).map_err(Failure::from).and_then(|domain| untrack::run(&domain, &options).map_err(Failure::from)) {
            Ok(tracking) => all.extend(tracking.into_iter().map(|one| (name.as_str(), one))),
            Err(failure) if o.domains.len() == 1 => return Err(failure),
            Err(failure) => {
                failure.print(common.json);
                failed = Some(failure);
            }
        }
    }
    if common.json {
        output::print_json(&all.iter().map(|(name, one)| value(name, one)).collect::<Vec<Value>>().into());
    } else if !common.quiet {
        tell(&all, o.dry_run);
    }
    match failed {
        Some(failure) => Err(Failure::new(failure.code, format!("not all of {} domains were untracked: see above", o.domains.len()))),
        None if all.iter().any(|(_, one)| one.gone.is_err()) => Ok(Done::WithWarnings),
        None => Ok(Done::Clean),
    }
}

fn value(domain: &str, one: &Tracking) -> Value {
    json!({"domain": domain, "disk": one.disk, "image": one.image, "bitmap": one.bitmap, "removed": one.gone.is_ok(), "problem": one.gone.as_ref().err()})
}

fn tell(all: &[(&str, Tracking)], dry_run: bool) {
    if all.is_empty() {
        return out!("nothing is tracked");
    }
    let done = if dry_run { "would go" } else { "removed" };
    let row = |(domain, one): &(&str, Tracking)| {
        let what = one.gone.as_ref().map_or_else(|why| format!("STAYS: {why}"), |()| done.to_owned());
        [shown(domain), shown(&one.disk), shown(&one.image), shown(&one.bitmap), shown(&what)]
    };
    out!("{}", output::simple_table(&["DOMAIN", "DISK", "IMAGE", "BITMAP", ""], &[], all.iter().map(row)));
}
