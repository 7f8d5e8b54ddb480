//! The page of `cairn status` and `cairn watch`: what is not as it should be stands first in its line, and in capitals.

use super::{
    DomainStanding, Judged, Report,
    judge::{Found, Standing},
};
use crate::{
    doctor::finding::Status,
    output::{bytes, duration, shown, simple_table, time},
};
use serde_json::Value;

/// Of a job's name for its domain.
const NAME_CHARS: usize = 40;

/// All of it.
pub fn page(report: &Report) -> String {
    let mut parts = vec![head(report)];
    if !report.domains.is_empty() {
        parts.push(domains(report));
    }
    if !report.running.is_empty() {
        parts.push(jobs(report));
    }
    if !report.stores.is_empty() {
        parts.push(stores(report));
    }
    let notes = notes(report);
    if !notes.is_empty() {
        parts.push(notes.join("\n"));
    }
    parts.join("\n\n")
}

/// Whether something wants a look.
pub fn is_well(report: &Report) -> bool {
    let is_fine = |standing| matches!(standing, Standing::Kept | Standing::Excluded | Standing::NoRpo);
    let has_room = |s: &super::StoreStanding| s.silent.is_none() && s.space.as_ref().is_none_or(|space| space.status == Status::Ok);
    let is_content = report.health.as_ref().map_or(!report.is_daemon_missed(), |health| health["status"] == "ok");
    let is_whole = |s: &super::StoreStanding| s.damaged.is_none_or(|n| n == 0);
    report.unseen.is_empty()
        && report.stores.iter().all(is_whole)
        && is_content
        && report.domains.iter().all(|d| is_fine(d.standing()))
        && report.stores.iter().all(has_room)
}

fn head(report: &Report) -> String {
    let count = |wanted: &[Standing]| report.domains.iter().filter(|d| wanted.contains(&d.standing())).count();
    let daemon = match &report.health {
        Some(health) => format!("daemon {}, jobs: {} running, {} waiting", text(&health["status"]), health["jobs"]["running"], health["jobs"]["queued"]),
        None => "no daemon".to_owned(),
    };
    format!(
        "{} · {} · {} domains: {} kept, {} late, {} unprotected · {daemon}",
        shown(&report.host),
        time(report.now_unix_ms),
        report.domains.len(),
        count(&[Standing::Kept]),
        count(&[Standing::Late, Standing::Never]),
        count(&[Standing::Unprotected])
    )
}

/// A line for each promise; a domain's name stands in its first.
fn domains(report: &Report) -> String {
    let lines = |domain: &DomainStanding| {
        let state = if domain.running { "running" } else { "off" };
        let first = [shown(&domain.name), state.to_owned()];
        if domain.claims.is_empty() {
            let [name, state] = first;
            let standing = if domain.excluded { "excluded by its metadata" } else { "UNPROTECTED: no policy takes it" };
            return vec![[name, state, "-".into(), "-".into(), "-".into(), "-".into(), "-".into(), standing.into()]];
        }
        let rows = domain.claims.iter().enumerate().map(|(n, judged)| {
            let [name, state] = if n == 0 { first.clone() } else { [String::new(), String::new()] };
            let [point, age, rpo, standing] = of_claim(report, judged);
            [name, state, judged.claim.policy.clone(), judged.claim.store.clone(), point, age, rpo, standing]
        });
        rows.collect()
    };
    let rows = report.domains.iter().flat_map(lines);
    simple_table(&["DOMAIN", "STATE", "POLICY", "STORE", "LAST GOOD POINT", "AGE", "RPO", "STANDING"], &[5, 6], rows)
}

/// Point, age, RPO, how it stands.
fn of_claim(report: &Report, judged: &Judged) -> [String; 4] {
    let rpo = judged.claim.rpo.map_or_else(|| "-".into(), |rpo| duration(u64::try_from(rpo.as_millis()).unwrap_or(u64::MAX)));
    let (point, age) = match &judged.found {
        Found::Point { time_unix_ms, .. } => (time(*time_unix_ms), duration(report.now_unix_ms.saturating_sub(*time_unix_ms))),
        Found::Nothing | Found::Silent(_) => ("-".into(), "-".into()),
    };
    let word = match judged.standing {
        Standing::Kept => "kept",
        Standing::Excluded => "excluded",
        Standing::NoRpo => "no RPO is set",
        Standing::Unprotected => "UNPROTECTED",
        Standing::Unknown => "UNKNOWN",
        Standing::Late => "LATE",
        Standing::Never => "NO POINT",
    };
    let standing = judged.why.as_ref().map_or_else(|| word.to_owned(), |why| format!("{word}: {}", shown(why)));
    [point, age, rpo, standing]
}

fn jobs(report: &Report) -> String {
    let row = |job: &Value| {
        let done = match (job["progress"]["done"].as_u64(), job["progress"]["total"].as_u64()) {
            (Some(done), Some(total)) if total > 0 => format!("{} %", done.saturating_mul(100) / total),
            _ => String::new(),
        };
        let name: String = shown(text(&job["domain"])).chars().take(NAME_CHARS).collect();
        let since = text(&job["started"]).parse::<jiff::Timestamp>().ok().and_then(|t| u64::try_from(t.as_millisecond()).ok());
        let took = since.map(|since| duration(report.now_unix_ms.saturating_sub(since))).unwrap_or_default();
        [job["id"].to_string(), text(&job["kind"]).to_owned(), name, text(&job["store"]).to_owned(), done, took]
    };
    simple_table(&["JOB", "KIND", "NAME", "STORE", "DONE", "FOR"], &[0, 4, 5], report.running.iter().map(row))
}

fn stores(report: &Report) -> String {
    let row = |store: &super::StoreStanding| {
        let room = store.room.map_or_else(|| "-".into(), |(free, size)| format!("{} of {}", bytes(free), bytes(size)));
        let little = store.space.as_ref().is_some_and(|space| space.status != Status::Ok);
        let state = match &store.silent {
            Some(why) => format!("DOES NOT ANSWER: {}", shown(why)),
            None if store.damaged.is_some_and(|n| n > 0) => format!("DAMAGED POINTS: {}, 'cairn list' marks them", store.damaged.unwrap_or(0)),
            None if little => "LITTLE SPACE: 'cairn prune' and 'cairn gc' free what no rule keeps".to_owned(),
            None => "ok".to_owned(),
        };
        [shown(&store.name), shown(&store.url), store.points.map_or_else(|| "-".into(), |n| n.to_string()), room, state]
    };
    simple_table(&["STORE", "PLACE", "POINTS", "FREE", "STATE"], &[2], report.stores.iter().map(row))
}

/// What stands in no table.
fn notes(report: &Report) -> Vec<String> {
    let mut notes: Vec<String> = report.unseen.iter().map(|why| format!("NOT SEEN: {}", shown(why))).collect();
    if report.is_daemon_missed() {
        notes.push(format!("POLICIES MAKE NO POINTS: {}", shown(report.daemon_silent.as_deref().unwrap_or("no daemon answers"))));
    }
    let reasons = report.health.iter().flat_map(|health| health["reasons"].as_array().into_iter().flatten());
    notes.extend(reasons.map(|reason| format!("DAEMON: {}", shown(text(reason)))));
    notes
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::{StoreStanding, judge::Claim};
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn what_is_not_well_is_in_capitals_and_makes_the_page_so() {
        let claim = |store: &str, rpo| Claim { policy: "nightly".into(), store: store.into(), rpo };
        let judged = |store: &str, found, standing| Judged { claim: claim(store, Some(Duration::from_secs(93_600))), found, standing, why: None };
        let point = Found::Point { id: "p".into(), time_unix_ms: 1_000_000 };
        let domain = |claims| DomainStanding { name: "web\u{1b}1".into(), uuid: "u".into(), running: true, excluded: false, claims };
        let store = StoreStanding {
            name: "main".into(),
            url: "/srv".into(),
            points: Some(3),
            damaged: Some(0),
            room: Some((1 << 40, 1 << 41)),
            space: None,
            silent: None,
        };
        let good = Report {
            now_unix_ms: 5_000_000,
            host: "h".into(),
            domains: vec![domain(vec![judged("main", point.clone(), Standing::Kept)])],
            stores: vec![store.clone()],
            policies: [("nightly".to_owned(), None)].into(),
            running: vec![json!({"id": 7, "kind": "backup", "domain": "web1", "store": "main", "progress": {"done": 1, "total": 4}})],
            health: Some(json!({"status": "ok", "reasons": [], "jobs": {"running": 1, "queued": 0}})),
            ..Report::default()
        };
        let text = page(&good);
        assert!(is_well(&good) && text.contains("1 kept, 0 late") && text.contains("1 h 6 min") && text.contains("25 %"), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("1.0 TiB of 2.0 TiB"), "{text}");
        for (report, word) in [
            (Report { domains: vec![domain(Vec::new())], ..good.clone() }, "UNPROTECTED"),
            (
                Report { domains: vec![domain(vec![judged("main", point, Standing::Kept), judged("far", Found::Nothing, Standing::Never)])], ..good.clone() },
                "NO POINT",
            ),
            (Report { stores: vec![StoreStanding { damaged: Some(2), ..store.clone() }], ..good.clone() }, "DAMAGED POINTS: 2"),
            (Report { stores: vec![StoreStanding { silent: Some("gone".into()), ..store }], ..good.clone() }, "DOES NOT ANSWER"),
            (Report { unseen: vec!["libvirt".into()], ..good.clone() }, "NOT SEEN"),
            (Report { health: None, ..good.clone() }, "POLICIES MAKE NO POINTS"),
            (Report { health: Some(json!({"status": "degraded", "reasons": ["disk full"]})), ..good.clone() }, "DAEMON: disk full"),
        ] {
            assert!(!is_well(&report) && page(&report).contains(word), "{word}: {}", page(&report));
        }
    }
}
