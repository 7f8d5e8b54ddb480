//! `cairn forget`, `prune`, `gc`: what goes, why, and when its space is free again.

use super::Done;
use crate::{
    cli::{self, Common},
    context::{host_name, open_store},
    domain::SavedDomain,
    failure::{DAMAGED, Failure, Outcome},
    interrupt, output, points,
    retention::{Candidate, Rules, candidates, reasons, simulate, times},
};
use cairn_store::{BEAT_PERIOD_MS, Forgotten, GcOptions, GcReport, Point, Progress, Store, StoreError, TakeBack, TakenBack, format::SessionId};
use jiff::{Span, Timestamp, Unit, tz::TimeZone};
use serde_json::json;
use std::{collections::HashSet, sync::Arc};

use super::now_unix_ms;

/// One sign of life may be late, or lost.
const DEAD_AFTER_MS_MIN: u64 = 2 * BEAT_PERIOD_MS;

/// A length of time such as `36h`, `30d`, `1y 6mo`; counted from now where its length depends on the calendar.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no length of time; write 90s, 36h, 30d, 8w, 6mo or 1y");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let ms = span.total((Unit::Millisecond, &now)).map_err(|_| format!("'{text}' leads beyond the year 9999, where the calendar ends"))?;
    if ms.is_finite() && (0.0..1e15).contains(&ms) { Ok(ms as u64) } else { Err(wrong()) }
}

/// The same, kept as it was said: a month before the 31st is a day of the calendar.
pub fn parse_span(text: &str) -> Result<Span, String> {
    parse_ms(text)?;
    text.parse().map_err(|e| format!("'{text}': {e}"))
}

/// Forgets points, or takes a forget back.
pub fn forget(common: &Common, o: &cli::Forget) -> Outcome<Done> {
    let store = open_store(common)?;
    if let Some(spec) = &o.undo {
        return undo(common, &store, spec);
    }
    let all = store.points()?;
    let (mut chosen, mut unreadable): (Vec<&Point>, Vec<SessionId>) = (Vec::new(), Vec::new());
    for spec in &o.points {
        let p = match (points::select(&all, spec), spec.parse()) {
            (Ok(p), _) => p,
            // Its register is damaged: no list has it, and collections stop at it.
            (Err(_), Ok(id)) if o.force => {
                unreadable.push(id);
                continue;
            }
            (Err(f), _) => return Err(f),
        };
        if !chosen.iter().any(|c| c.id == p.id) {
            chosen.push(p);
        }
    }
    // All or none as far as rules go: what is refused is known before anything is forgotten.
    chosen.iter().try_for_each(|p| store.may_forget(p, o.min_age, o.force))?;
    for id in &unreadable {
        store.forget_unreadable(id)?;
        say!("cairn: {id}: its register could not be read; it is forgotten");
    }
    let mut done = Done::Clean;
    for (n, p) in chosen.iter().enumerate() {
        let forgotten = store.forget(p, o.min_age, o.force).map_err(|e| forgot_some(&chosen[..n], e))?;
        if lacks_tombstone(p, &forgotten) {
            done = Done::WithWarnings;
        }
        if let Some(d) = p.log_damage.as_ref() {
            let entries = output::shown(&d.entries.join("; "));
            say!("cairn: warning: the log of {} {} could not be read whole ({entries}); it is forgotten all the same", output::shown(&p.summary.name), p.id);
        }
        if !common.json && !common.quiet {
            out!("{} {}: forgotten; 'cairn forget --undo {}' takes it back until its data is collected", output::shown(&p.summary.name), p.id, p.id);
        }
    }
    if common.json {
        output::print_json(&json!({"forgotten": chosen.iter().map(|p| p.id.to_string()).collect::<Vec<_>>()}));
    }
    Ok(done)
}

/// Says that a forget took effect without its tombstone, so that nobody repeats it and takes the next point.
fn lacks_tombstone(p: &Point, forgotten: &Forgotten) -> bool {
    if let Some(e) = &forgotten.lacks_tombstone {
        let name = output::shown(&p.summary.name);
        say!("cairn: warning: {name} {} IS forgotten, do not repeat that; its tombstone could not be written ({e}), the next 'cairn gc' writes it", p.id);
    }
    forgotten.lacks_tombstone.is_some()
}

/// Refused or failed after others had gone: they are named.
fn forgot_some(gone: &[&Point], e: StoreError) -> Failure {
    let failure = Failure::from(e);
    if gone.is_empty() {
        return failure;
    }
    let ids: Vec<String> = gone.iter().map(|p| p.id.to_string()).collect();
    Failure::new(failure.code, format!("{}; forgotten before that: {}", failure.message, ids.join(", ")))
}

fn undo(common: &Common, store: &Store, spec: &str) -> Outcome<Done> {
    let all = store.all_points()?;
    all.damaged.iter().for_each(|d| tracing::warn!("{d}; 'cairn verify --all' tells more"));
    let p = points::select(&all.forgotten, spec)
        .map_err(|f| Failure::new(f.code, format!("among the forgotten points: {}; see 'cairn list --forgotten'", f.message)))?;
    if let Some(id) = TakeBack::new(store, &all.live)?.done_before(p)? {
        say!("cairn: {} {} is there again already, as point {id}; nothing was done", output::shown(&p.summary.name), p.id);
        return super::backup_image::print_point(common, store, &id);
    }
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "packs that a garbage collection removes")?;
    match store.unforget(p, &progress).map_err(|e| taken(store, &all.live, p, e))? {
        TakenBack::Now(outcome) => super::backup_image::print_outcome(common, store, &outcome)?,
        TakenBack::ByAnother(id) => {
            say!("cairn: another command took {} {} back at the same moment, as point {id}", output::shown(&p.summary.name), p.id);
            return super::backup_image::print_point(common, store, &id);
        }
    }
    Ok(Done::Clean)
}

/// A forgotten point that cannot be read any more is what a collection leaves, and no damage, unless all of it is still in its place.
fn taken(store: &Store, live: &[Point], p: &Point, e: StoreError) -> Failure {
    let gone = match &e {
        e if e.is_damage() => true,
        // The forgotten point is what the new one is read from.
        StoreError::Block { source, .. } => matches!(source.get_ref().and_then(|inner| inner.downcast_ref()), Some(e) if StoreError::is_damage(e)),
        _ => false,
    };
    if !gone {
        return e.into();
    }
    if TakeBack::new(store, live).and_then(|mut back| back.is_possible(p)).unwrap_or(false) {
        return Failure::new(
            DAMAGED,
            format!(
                "point {} of {} cannot be taken back as it was: nothing of it was collected, but some of it is damaged ({e}); nothing was committed; a backup of \
                 the same disks stores anew what they still hold, after which this may be tried again",
                p.id,
                output::shown(&p.summary.name)
            ),
        );
    }
    Failure::not_found(format!(
        "point {} of {} cannot be taken back: its data is not all there any more, a garbage collection has taken it; nothing was committed ({e})",
        p.id,
        output::shown(&p.summary.name)
    ))
}

/// Applies retention rules.
pub fn prune(common: &Common, o: &cli::Prune) -> Outcome<Done> {
    let rules = rules(o);
    if rules.is_empty() {
        return Err(Failure::usage(
            "no rule says what to keep, and nothing is forgotten without one: give --keep-last, --keep-daily, --keep-within or the like",
        ));
    }
    refuse_nonsense(o)?;
    let at = At { now_unix_ms: now_unix_ms(), zone: TimeZone::system() };
    prune_at(common, o, &open_store(common)?, &at)
}

/// When retention looks at points, and by whose days.
pub struct At {
    /// Now.
    pub now_unix_ms: u64,
    /// Of days, weeks and months.
    pub zone: TimeZone,
}

/// The same with a store that is open, at any time.
pub fn prune_at(common: &Common, o: &cli::Prune, store: &Store, at: &At) -> Outcome<Done> {
    let (rules, now_unix_ms) = (rules(o), at.now_unix_ms);
    // A hidden point takes no place of those that can be seen: what goes would go as well if all could be seen (retention's tests show it for all
    // rules). What its own log cannot tell keeps a point.
    let (all, damaged) = store.points_for_retention()?;
    let hidden = super::unreadable(&damaged);
    if let Some(name) = o.names.iter().find(|n| !o.ignore_missing && points::of_name(&all, n).is_empty()) {
        return Err(Failure::not_found(format!("no restore point of '{}' in {}", output::shown(name), store.location())));
    }
    let among = |list: &[String], word: &String| list.is_empty() || list.contains(word);
    let chosen: Vec<&Point> = all.iter().filter(|p| among(&o.names, &p.summary.name) && among(&o.hosts, &p.summary.host)).collect();
    let candidates = candidates(&chosen, &all, now_unix_ms);
    times::warn_ahead(&chosen, now_unix_ms);
    if let Some(span_ms) = o.simulate {
        simulation(common, &candidates, &rules, (o.every, span_ms), at);
        return Ok(hidden);
    }
    let mut why = reasons(&candidates, &rules, &at.zone, now_unix_ms);
    spare_others(store, &chosen, &o.uuids, &mut why);
    let going: Vec<&Point> = chosen.iter().zip(&why).filter(|(_, why)| why.is_empty()).map(|(p, _)| *p).collect();
    let Pruned { staying, warned } = if o.dry_run { Pruned::default() } else { forget_all(store, &going, &rules)? };
    let warned = warned || !staying.is_empty();
    let mut rows: Vec<(&Point, &str, &Vec<String>)> = Vec::with_capacity(chosen.len());
    for (p, why) in chosen.iter().zip(&why) {
        rows.push((*p, if why.is_empty() && !staying.contains(&p.id) { "forget" } else { "keep" }, why));
    }
    if common.json {
        let value = |(p, action, why): &(&Point, &str, &Vec<String>)| json!({"id": p.id.to_string(), "name": p.summary.name, "host": p.summary.host, "time": output::rfc3339(p.summary.time_unix_ms), "action": action, "reasons": why});
        output::print_json(&rows.iter().map(value).collect::<Vec<_>>().into());
    } else if !common.quiet {
        out!("{}", output::prune_table(&rows));
        let gone = rows.iter().filter(|r| r.1 == "forget").count();
        let (said, next) = if o.dry_run { ("would be forgotten", "") } else { ("forgotten", "; 'cairn gc' frees their space") };
        out!("{} kept, {gone} {said}{next}", rows.len() - gone);
    }
    Ok(if hidden == Done::Clean && warned { Done::WithWarnings } else { hidden })
}

/// What would go and is not of one of these domains stays: a name may have been another machine's before. Only that is asked, since it takes a manifest each.
fn spare_others(store: &Store, chosen: &[&Point], uuids: &[String], why: &mut [Vec<String>]) {
    if uuids.is_empty() {
        return;
    }
    for (point, why) in chosen.iter().zip(why).filter(|(_, why)| why.is_empty()) {
        match store.manifest(point).map(|manifest| SavedDomain::of(&manifest)) {
            Ok(Some(saved)) if uuids.contains(&saved.uuid) => {}
            Ok(_) => why.push("of another domain that had this name".into()),
            Err(_) => why.push("whose it is cannot be read".into()),
        }
    }
}

/// A future of the rules is looked at in so many steps at most.
const SIMULATED_STEPS_MAX: u64 = 100_000;

/// Lengths of time that are well written and ask for nothing, or for what nobody can mean.
fn refuse_nonsense(o: &cli::Prune) -> Outcome<()> {
    if o.keep_within.is_some_and(|span| span.is_zero()) {
        return Err(Failure::usage("--keep-within 0 keeps the newest point of each name and no other; leave it out, or say --keep-last 1 if that is meant"));
    }
    let Some(span_ms) = o.simulate else { return Ok(()) };
    if o.every == 0 {
        return Err(Failure::usage("--every 0: points must come at a pace"));
    }
    if span_ms == 0 {
        return Err(Failure::usage("--simulate 0: that is no future to look at; give a time such as 400d, or --dry-run for what the rules say today"));
    }
    if span_ms < o.every {
        return Err(Failure::usage(
            "--simulate is shorter than --every (1d unless given): no point would come in that time; give a longer one, or a shorter --every",
        ));
    }
    if span_ms / o.every > SIMULATED_STEPS_MAX {
        return Err(Failure::usage(format!("--simulate with --every makes {} points, more than {SIMULATED_STEPS_MAX}", span_ms / o.every)));
    }
    if i64::try_from(now_unix_ms().saturating_add(span_ms)).map_or(true, |ms| Timestamp::from_millisecond(ms).is_err()) {
        return Err(Failure::usage("--simulate goes beyond the year 9999, where the calendar ends; give a shorter time"));
    }
    Ok(())
}

/// What became of the points that no rule keeps.
#[derive(Default)]
struct Pruned {
    /// They stay all the same, which was told.
    staying: HashSet<SessionId>,
    /// Something was told of one that went.
    warned: bool,
}

/// Forgets what no rule keeps. Where the store fails in mid-way that ends the command, and what is forgotten already is told.
fn forget_all(store: &Store, going: &[&Point], rules: &Rules) -> Outcome<Pruned> {
    let (mut pruned, mut gone, mut failed) = (Pruned::default(), 0, None);
    // Asked with the log as it is when the point's turn comes: who tags a point meanwhile was told that it has the tag.
    let stays = |p: &Point| p.tags().into_iter().find(|t| rules.tags.contains(t)).map(|t| format!("it has the tag {} by now", output::shown(&t)));
    let results = store.forget_all(going, rules.min_age_ms, false, &stays)?;
    let all_begun = results.len() == going.len();
    for (p, result) in going.iter().zip(results) {
        match result {
            Ok(forgotten) => {
                gone += 1;
                pruned.warned |= lacks_tombstone(p, &forgotten);
                // The storage failed, so the rest was not begun.
                failed = failed.or(forgotten.lacks_tombstone.filter(|_| !all_begun));
            }
            // Protected or tagged meanwhile: it stays, and the others still go.
            Err(e @ StoreError::Refused(_)) => {
                say!("cairn: warning: {e}");
                pruned.staying.insert(p.id);
            }
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    let Some(e) = failed else { return Ok(pruned) };
    let failure = Failure::from(e);
    Err(Failure::new(failure.code, format!("{}; {gone} points had been forgotten by then, the others stay: run it again", failure.message)))
}

/// What the options keep.
fn rules(o: &cli::Prune) -> Rules {
    Rules {
        last: o.keep_last,
        hourly: o.keep_hourly,
        daily: o.keep_daily,
        weekly: o.keep_weekly,
        monthly: o.keep_monthly,
        yearly: o.keep_yearly,
        within: o.keep_within,
        tags: o.keep_tag.clone(),
        min_age_ms: o.min_age,
    }
}

fn simulation(common: &Common, candidates: &[Candidate], rules: &Rules, (every_ms, span_ms): (u64, u64), at: &At) {
    let mut groups: Vec<(String, String)> = candidates.iter().map(|c| (c.name.clone(), c.host.clone())).collect();
    groups.sort();
    groups.dedup();
    let mut out = Vec::new();
    for (name, host) in groups {
        let mine: Vec<Candidate> = candidates.iter().filter(|c| c.name == name && c.host == host).cloned().collect();
        let steps = simulate(&mine, rules, &at.zone, at.now_unix_ms, every_ms, span_ms);
        out.push((name, host, steps));
    }
    if common.json {
        let value = |(name, host, steps): &(String, String, Vec<crate::retention::Simulated>)| {
            let steps: Vec<_> = steps.iter().map(|s| json!({"time": output::rfc3339(s.time_unix_ms), "kept": s.kept})).collect();
            json!({"name": name, "host": host, "steps": steps})
        };
        output::print_json(&out.iter().map(value).collect::<Vec<_>>().into());
        return;
    }
    for (name, host, steps) in &out {
        out!("{} of host {}, one point every {}:", output::shown(name), output::shown(host), output::duration(every_ms));
        out!("{}", output::simulation_table(steps));
    }
    out!("simulated: nothing was forgotten");
}

/// Frees what no point uses.
pub fn gc(common: &Common, o: &cli::Gc) -> Outcome<Done> {
    if o.dead_after < DEAD_AFTER_MS_MIN && !o.even_if_alive {
        return Err(Failure::refused(format!(
            "--dead-after {} is shorter than {}: backups and restores of other hosts give a sign of life every {}, so living ones would be taken for \
             dead and lose their work; nothing was done",
            output::duration(o.dead_after),
            output::duration(DEAD_AFTER_MS_MIN),
            output::duration(BEAT_PERIOD_MS)
        )));
    }
    let store = open_store(common)?;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "a round that the next collection closes")?;
    let report = store.collect(&gc_options(o), &progress)?;
    if common.json {
        output::print_json(&gc_json(&report, o.dry_run));
    } else if !common.quiet {
        print_gc(&report, o.dry_run, &store);
    }
    for s in &report.fenced {
        say!("cairn: session {} had died and was shut out", output::shown(s));
    }
    if report.damaged_points.is_empty() {
        return Ok(Done::Clean);
    }
    report.damaged_points.iter().for_each(|p| say!("cairn: warning: point {p} refers to what is lost"));
    Ok(Done::WithWarnings)
}

/// What the options ask for.
pub fn gc_options(o: &cli::Gc) -> GcOptions {
    GcOptions {
        dry_run: o.dry_run,
        wait_ms_max: o.wait,
        dead_after_ms: o.dead_after,
        resume_grace_ms: o.keep_interrupted,
        trash_keep_ms: o.keep_trash,
        repack_below_percent: o.repack_below.into(),
        accept_loss: o.accept_loss,
        ..GcOptions::default()
    }
}

fn gc_json(r: &GcReport, dry_run: bool) -> serde_json::Value {
    json!({
        "host": host_name(), "dry_run": dry_run, "packs": r.packs, "condemned": r.condemned, "pardoned": r.pardoned, "deleted_packs": r.deleted_packs,
        "freed": r.freed_bytes, "would_free": r.would_free_bytes, "would_repack": r.would_repack, "moved_frames": r.moved_frames, "moved": r.moved_bytes, "healed_frames": r.healed_frames,
        "registers_put_back": r.registers_put_back,
        "kept_interrupted": r.kept_for_resume, "fenced": r.fenced, "settled_rounds": r.settled_rounds, "tidied": r.tidied, "purged_files": r.purged_files,
        "purged": r.purged_bytes, "damaged_points": r.damaged_points.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn print_gc(r: &GcReport, dry_run: bool, store: &Store) {
    if dry_run {
        out!(
            "{}: {} of {} packs would go, {}; {} more are so empty that they would be rewritten",
            store.location(),
            r.condemned,
            r.packs,
            output::bytes(r.would_free_bytes),
            r.would_repack
        );
        if r.kept_for_resume > 0 {
            out!("  {} packs of interrupted backups would be kept for a while (--keep-interrupted 0s takes them)", r.kept_for_resume);
        }
        return;
    }
    out!("{}: {} packs discarded, {}", store.location(), r.deleted_packs, output::bytes(r.freed_bytes));
    if r.moved_frames > 0 {
        out!("  {} frames of nearly empty packs moved together, {}", r.moved_frames, output::bytes(r.moved_bytes));
    }
    if r.healed_frames > 0 {
        out!("  {} damaged frames have a good copy at their place again", r.healed_frames);
    }
    if r.registers_put_back > 0 {
        out!("  {} lost registers of points are back, from their copies", r.registers_put_back);
    }
    if r.pardoned > 0 {
        out!("  {} packs were needed again by backups that ran meanwhile", r.pardoned);
    }
    if r.kept_for_resume > 0 {
        out!("  {} packs of interrupted backups kept for a while (--keep-interrupted 0s takes them)", r.kept_for_resume);
    }
    if r.purged_files > 0 {
        out!("  trash: {} files removed, {}", r.purged_files, output::bytes(r.purged_bytes));
    }
    if r.freed_bytes > r.purged_bytes {
        out!("  discarded packs stay in trash/ for a while; --keep-trash 0s frees their space at once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_parse_or_are_refused() {
        assert_eq!((parse_ms("90s"), parse_ms("36h"), parse_ms("400d"), parse_ms("0s")), (Ok(90_000), Ok(129_600_000), Ok(34_560_000_000), Ok(0)));
        for wrong in ["", "x", "5", "-3d", "1e99y"] {
            assert!(parse_ms(wrong).is_err(), "{wrong}");
        }
        assert!(parse_span("1y 6mo").is_ok());
    }
}
