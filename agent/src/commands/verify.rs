//! `cairn verify`

use super::Done;
use crate::{
    cli::{self, Common},
    context::open_store,
    failure::{DAMAGED, Outcome},
    interrupt,
    output::{self, Bar},
    points,
};
use cairn_store::{
    Point, Progress, Store, StoreError,
    verify::{Verifier, VerifyReport},
};
use std::sync::Arc;

/// Damaged ranges printed a point; JSON has them all.
const PRINTED_MAX: usize = 10;

/// Checks points; damage ends in exit code 14 and is recorded. Each is pinned while it is read, and not for longer: a verification of a whole store
/// may take days, and must not keep the space of all that is forgotten meanwhile.
pub fn run(common: &Common, o: &cli::Verify) -> Outcome<Done> {
    let store = open_store(common)?;
    let (all, unreadable) = store.points_from_storage()?;
    let chosen: Vec<&Point> = match &o.what {
        None => all.iter().collect(),
        Some(name) if !points::of_name(&all, name).is_empty() => points::of_name(&all, name),
        Some(spec) => vec![points::select(&all, spec)?],
    };
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "nothing")?;
    let bar = Bar::start(common, "verify", &progress);
    let verifier = Verifier::new(&store)?;
    let (mut reports, mut forgotten) = (Vec::new(), None);
    for p in chosen {
        let _pin = match store.pin(&[p.id]) {
            Ok(pin) => pin,
            // What was forgotten since the list was made is no damage; where nothing else was asked for, it is the answer.
            Err(e @ StoreError::NotFound(_)) => {
                forgotten = Some(e);
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let report = store.verify_point(p, o.data, &verifier, &progress)?;
        if let Err(e) = record(&store, p, o.data, &report) {
            // What was found matters more than the note about it: the store may be mounted read-only.
            eprintln!("cairn: warning: the result is not recorded in the point: {}", e.message);
        }
        reports.push((p, report));
    }
    drop(bar);
    if let (true, true, Some(e)) = (reports.is_empty(), o.what.is_some(), forgotten) {
        return Err(e.into());
    }
    if common.json {
        output::print_json(&reports.iter().map(|(p, r)| json(p, r, o.data)).collect::<Vec<_>>().into());
    } else {
        reports.iter().for_each(|(p, r)| print(common, p, r, o.data));
    }
    unreadable.iter().for_each(|d| eprintln!("cairn: {d}"));
    let damaged = !unreadable.is_empty() || reports.iter().any(|(_, r)| r.damage_count > 0);
    Ok(if damaged { Done::Code(DAMAGED) } else { Done::Clean })
}

/// Damage is always recorded; "good" only where the data was read.
fn record(store: &Store, p: &Point, data: bool, report: &VerifyReport) -> Outcome<()> {
    match report.damage.first() {
        Some(d) => store.record_verdict(p, Some(&format!("{} ranges, first {} at {}: {}", report.damage_count, d.target, d.offset, d.why)))?,
        None if data => store.record_verdict(p, None)?,
        None => {}
    }
    Ok(())
}

fn json(p: &Point, r: &VerifyReport, data: bool) -> serde_json::Value {
    let damage: Vec<_> = r.damage.iter().map(|d| serde_json::json!({"target": d.target, "offset": d.offset, "length": d.len, "why": d.why})).collect();
    serde_json::json!({
        "id": p.id.to_string(), "name": p.summary.name, "good": r.damage_count == 0, "data": data, "chunks": r.chunks, "bytes": r.bytes, "damage_count": r.damage_count, "damage": damage,
    })
}

fn print(common: &Common, p: &Point, r: &VerifyReport, data: bool) {
    let name = format!("{} {}", output::shown(&p.summary.name), p.id);
    if r.damage_count == 0 {
        if !common.quiet {
            let read = if data {
                format!("{} read and proven", output::bytes(r.bytes))
            } else {
                "all chunks are in their packs' footers; --data reads them too".into()
            };
            println!("{name}: good, {} chunks, {read}", r.chunks);
        }
        return;
    }
    println!("{name}: DAMAGED, {} ranges", r.damage_count);
    for d in r.damage.iter().take(PRINTED_MAX) {
        println!("  {} bytes {}..{}: {}", output::shown(&d.target), d.offset, d.offset + d.len, output::shown(&d.why));
    }
}
