//! `cairn verify`

use super::{Done, boot, now_unix_ms, scrub};
use crate::{
    cli::{self, Common},
    context::open_store,
    failure::{DAMAGED, Failure, Outcome},
    interrupt,
    output::{self, Bar},
    points,
};
use cairn_store::{
    Pin, Point, PointState, Progress, Store, StoreError,
    format::point_log::Action,
    verify::{Verifier, VerifyReport},
};
use std::sync::Arc;

/// A good verdict is not repeated within this time.
const VERDICT_FRESH_MS: u64 = 7 * 24 * 3_600_000;
/// Damaged ranges printed a point; JSON has them all.
const PRINTED_MAX: usize = 10;

/// Points pinned at once: a verification of a whole store may take days, and must not keep the space of all that is forgotten meanwhile; but each
/// pin costs two objects.
const PINNED_MAX: usize = 64;

/// Checks points; damage ends in exit code 14 and is recorded.
pub fn run(common: &Common, o: &cli::Verify) -> Outcome<Done> {
    if o.packs || o.percent.is_some() {
        return scrub::packs(common, o);
    }
    if !o.against_disk.is_empty() {
        return scrub::against_disk(common, o);
    }
    if o.boot.boot {
        return boot::run(common, o);
    }
    if o.rate.is_some() {
        return Err(Failure::usage("--rate goes with --packs or --percent"));
    }
    let store = open_store(common)?;
    let (all, unreadable) = store.points_from_storage()?;
    let chosen = choose(&all, &o.what)?;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "nothing")?;
    let bar = Bar::start(common, "verify", &progress);
    let verifier = Verifier::new(&store)?;
    let (mut reports, mut gone) = (Vec::new(), None);
    for batch in chosen.chunks(PINNED_MAX) {
        let (_pin, held) = pin(&store, batch, &mut gone)?;
        for p in held {
            let report = store.verify_point(p, o.data, &verifier, &progress)?;
            if let Err(e) = record(&store, p, o.data, &report) {
                // What was found matters more than the note about it: the store may be mounted read-only.
                say!("cairn: warning: the result is not recorded in the point: {}", e.message);
            }
            reports.push((p, report));
        }
    }
    drop(bar);
    if let (Some(e), true, false) = (gone, reports.is_empty(), o.what.is_empty()) {
        return Err(e.into());
    }
    if common.json {
        output::print_json(&reports.iter().map(|(p, r)| json(p, r, o.data)).collect::<Vec<_>>().into());
    } else {
        reports.iter().for_each(|(p, r)| print(common, p, r, o.data));
    }
    unreadable.iter().for_each(|d| say!("cairn: warning: {d}"));
    let damaged = !unreadable.is_empty() || reports.iter().any(|(_, r)| r.damage_count > 0);
    Ok(if damaged { Done::Code(DAMAGED) } else { Done::Clean })
}

/// All points, or those that are named, each once.
fn choose<'a>(all: &'a [Point], what: &[String]) -> Outcome<Vec<&'a Point>> {
    if what.is_empty() {
        return Ok(all.iter().collect());
    }
    let mut chosen: Vec<&Point> = Vec::new();
    for spec in what {
        let named = points::of_name(all, spec);
        let more = if named.is_empty() { vec![points::select(all, spec)?] } else { named };
        chosen.extend(more.into_iter().filter(|p| !chosen.iter().any(|c| c.id == p.id)).collect::<Vec<_>>());
    }
    Ok(chosen)
}

/// Points stay while they are read, whoever forgets them. Those that were forgotten since they were listed are no longer asked for: that they are
/// gone is no damage.
fn pin<'a>(store: &Store, points: &[&'a Point], gone: &mut Option<StoreError>) -> Outcome<(Option<Pin>, Vec<&'a Point>)> {
    let mut held = points.to_vec();
    while !held.is_empty() {
        let e = match store.pin(&held.iter().map(|p| p.id).collect::<Vec<_>>()) {
            Ok(pin) => return Ok((Some(pin), held)),
            Err(e @ StoreError::NotFound(_)) => e,
            Err(e) => return Err(e.into()),
        };
        let (live, before) = (store.points_from_storage()?.0, held.len());
        held.retain(|p| live.iter().any(|l| l.id == p.id));
        if held.len() == before {
            return Err(e.into());
        }
        *gone = Some(e);
    }
    Ok((None, held))
}

/// Damage is always recorded; "good" only where the data was read.
pub(super) fn record(store: &Store, p: &Point, data: bool, report: &VerifyReport) -> Outcome<()> {
    match report.damage.first() {
        Some(d) => store.record_verdict(p, Some(&format!("{} ranges, first {} at {}: {}", report.damage_count, d.target, d.offset, d.why)))?,
        None if data && !is_news_to_nobody(p) => store.record_verdict(p, None)?,
        None => {}
    }
    Ok(())
}

/// A good verdict over a recent good one adds nothing but a file that every listing reads.
fn is_news_to_nobody(p: &Point) -> bool {
    let last = p.log.iter().rev().find(|e| e.action == Action::Verified);
    p.state() == PointState::Good && last.is_some_and(|e| now_unix_ms().saturating_sub(e.time_unix_ms) < VERDICT_FRESH_MS)
}

fn json(p: &Point, r: &VerifyReport, data: bool) -> serde_json::Value {
    serde_json::json!({
        "id": p.id.to_string(), "name": p.summary.name, "good": r.damage_count == 0, "data": data, "chunks": r.chunks, "bytes": r.bytes,
        "damage_count": r.damage_count, "damage": output::damage_json(&r.damage),
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
            out!("{name}: good, {} chunks, {read}", r.chunks);
        }
        return;
    }
    out!("{name}: DAMAGED, {} ranges", r.damage_count);
    for d in r.damage.iter().take(PRINTED_MAX) {
        out!("  {}", output::damage_line(d));
    }
}
