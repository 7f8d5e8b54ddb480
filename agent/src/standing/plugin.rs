//! What a Nagios plugin says (Monitoring Plugins' guidelines): one line with the state, performance data behind a bar, a line for each thing below it. Pure.
//!
//! Invariant: 0 is for a host of which all was seen and all is well. What could not be looked at is UNKNOWN, unless something worse was seen.

use super::{
    DomainStanding, Report,
    judge::{Found, Standing},
};
use crate::{
    doctor::finding::Status,
    output::{bytes, duration, shown},
};
use std::collections::BTreeMap;

/// Exit codes of plugins, the better before the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// All is well.
    Ok,
    /// Something wants a look.
    Warning,
    /// It cannot be told.
    Unknown,
    /// A promise is broken.
    Critical,
}

impl State {
    /// As plugins end.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// What counts.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only these policies; empty for all, and for domains that none takes.
    pub policies: Vec<String>,
    /// Domains that no policy takes are well.
    pub unprotected_ok: bool,
}

/// What it says, and its state.
pub struct Said {
    /// The state.
    pub state: State,
    /// All lines.
    pub text: String,
}

/// Where nothing could be looked at.
pub fn unknown(why: &str) -> Said {
    Said { state: State::Unknown, text: format!("CAIRN UNKNOWN - {}", one_line(why)) }
}

/// Judges a report.
pub fn judge(report: &Report, wanted: &Wanted) -> Said {
    let is_all = wanted.policies.is_empty();
    if let Some(missing) = wanted.policies.iter().find(|name| !report.policies.contains_key(*name)) {
        let there: Vec<&str> = report.policies.keys().map(String::as_str).collect();
        return unknown(&format!("there is no policy {missing:?} in the configuration; there are: {}", there.join(", ")));
    }
    let mut found: Vec<(State, String)> = report.unseen.iter().map(|why| (State::Unknown, why.clone())).collect();
    let of_policy = |name: &str| is_all || wanted.policies.iter().any(|wanted| wanted == name);
    if !report.policies.iter().any(|(name, rpo)| of_policy(name) && rpo.is_some()) {
        found.push((State::Unknown, "nothing is promised: no policy has an rpo in /etc/cairn/cairn.yaml (docs/policies.md)".into()));
    }
    let mut counts: BTreeMap<Standing, usize> = BTreeMap::new();
    for domain in &report.domains {
        let lines = of_domain(report, domain, &of_policy, wanted);
        if let Some(standing) = domain.claims.iter().filter(|j| of_policy(&j.claim.policy)).map(|j| j.standing).max() {
            *counts.entry(standing).or_default() += 1;
        } else if domain.claims.is_empty() && is_all {
            *counts.entry(domain.standing()).or_default() += 1;
        }
        found.extend(lines);
    }
    found.extend(of_stores(report, &of_policy));
    found.extend(of_daemon(report));
    // Nothing is wrong, and nothing was looked at.
    let is_promised = |domain: &DomainStanding| domain.claims.iter().any(|j| of_policy(&j.claim.policy) && j.claim.rpo.is_some());
    if found.is_empty() && !report.domains.iter().any(is_promised) {
        found.push((State::Unknown, "no domain of this host is promised anything: 'cairn policy check' says which policy takes what".into()));
    }
    found.sort_by_key(|(state, _)| std::cmp::Reverse(*state));
    let state = found.first().map_or(State::Ok, |(state, _)| *state);
    let count = |standing| counts.get(&standing).copied().unwrap_or_default();
    let first = match found.first() {
        None => format!("{} domains within their RPO", count(Standing::Kept)),
        Some((_, line)) if found.len() == 1 => line.clone(),
        Some((_, line)) => format!("{line} (and {} more)", found.len() - 1),
    };
    let mut text = format!("CAIRN {} - {} | {}", state.word(), one_line(&first), performance(report, &counts, &of_policy));
    for (state, line) in &found {
        text.push_str(&format!("\n{}: {}", state.word(), one_line(line)));
    }
    Said { state, text }
}

fn of_domain(report: &Report, domain: &DomainStanding, of_policy: &impl Fn(&str) -> bool, wanted: &Wanted) -> Vec<(State, String)> {
    let name = shown(&domain.name);
    if domain.claims.is_empty() {
        let counts = wanted.policies.is_empty() && !wanted.unprotected_ok && !domain.excluded;
        return counts.then(|| (State::Warning, format!("{name} is unprotected: no policy takes it"))).into_iter().collect();
    }
    let line = |judged: &super::Judged| {
        let (policy, store) = (&judged.claim.policy, &judged.claim.store);
        let rpo = judged.claim.rpo.map_or_else(String::new, |rpo| duration(u64::try_from(rpo.as_millis()).unwrap_or(u64::MAX)));
        let why = judged.why.clone().unwrap_or_default();
        Some(match (judged.standing, &judged.found) {
            (Standing::Late, Found::Point { time_unix_ms, .. }) => {
                let age = duration(report.now_unix_ms.saturating_sub(*time_unix_ms));
                (
                    State::Critical,
                    format!("{name}: the newest good point in {store} is {age} old, policy {policy} allows {rpo}; 'cairn jobs --all' says what failed"),
                )
            }
            (Standing::Late | Standing::Never, _) => {
                (State::Critical, format!("{name}: no good point in {store}, policy {policy} promises one of {rpo}; 'cairn job run --domain {name}' makes one"))
            }
            (Standing::Unknown, _) => (State::Unknown, format!("{name}: {why} (policy {policy})")),
            (Standing::NoRpo, Found::Nothing) => {
                (State::Warning, format!("{name}: no good point in {store}, and policy {policy} has no rpo that would promise one"))
            }
            (Standing::Kept | Standing::Excluded | Standing::NoRpo | Standing::Unprotected, _) => return None,
        })
    };
    domain.claims.iter().filter(|judged| of_policy(&judged.claim.policy)).filter_map(line).collect()
}

/// Stores of the policies that count.
fn of_stores(report: &Report, of_policy: &impl Fn(&str) -> bool) -> Vec<(State, String)> {
    let claims = || report.domains.iter().flat_map(|d| &d.claims).filter(|j| of_policy(&j.claim.policy));
    let mut found = Vec::new();
    for store in report.stores.iter().filter(|s| claims().any(|j| j.claim.store == s.name)) {
        if let Some(why) = &store.silent {
            found.push((State::Unknown, format!("store {}: {why}", store.name)));
        }
        if let Some(n @ 1..) = store.damaged {
            found.push((
                State::Critical,
                format!("store {}: {n} points are damaged; 'cairn list' marks them, docs/operations.md says what can be done", store.name),
            ));
        }
        let state = match store.space.as_ref().map(|space| space.status) {
            Some(Status::Failed) => State::Critical,
            Some(Status::Warning) => State::Warning,
            Some(Status::Ok) | None => continue,
        };
        let room = store.room.map_or_else(String::new, |(free, size)| format!("{} of {} are free", bytes(free), bytes(size)));
        found.push((state, format!("store {}: {room}; 'cairn prune' and 'cairn gc' free what no rule keeps", store.name)));
    }
    found
}

fn of_daemon(report: &Report) -> Vec<(State, String)> {
    let Some(health) = &report.health else {
        let why = report.daemon_silent.as_deref().unwrap_or("it does not answer");
        return report.is_daemon_missed().then(|| (State::Critical, format!("policies make no points: {why}"))).into_iter().collect();
    };
    let reasons = health["reasons"].as_array().into_iter().flatten().filter_map(|reason| reason.as_str());
    reasons.map(|reason| (State::Warning, format!("the daemon: {reason}"))).collect()
}

/// Counts of domains, the oldest newest point of each policy beside its RPO, free space.
fn performance(report: &Report, counts: &BTreeMap<Standing, usize>, of_policy: &impl Fn(&str) -> bool) -> String {
    let count = |standing| counts.get(&standing).copied().unwrap_or_default();
    let mut out = vec![
        format!("domains={}", counts.values().sum::<usize>()),
        format!("kept={}", count(Standing::Kept)),
        format!("late={};;0", count(Standing::Late) + count(Standing::Never)),
        format!("unprotected={};0", count(Standing::Unprotected)),
        format!("unknown={}", count(Standing::Unknown)),
    ];
    let mut oldest: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for judged in report.domains.iter().flat_map(|d| &d.claims).filter(|j| of_policy(&j.claim.policy)) {
        if let (Found::Point { time_unix_ms, .. }, Some(rpo)) = (&judged.found, judged.claim.rpo) {
            let age_s = report.now_unix_ms.saturating_sub(*time_unix_ms) / 1000;
            let entry = oldest.entry(&judged.claim.policy).or_insert((age_s, rpo.as_secs()));
            entry.0 = entry.0.max(age_s);
        }
    }
    out.extend(oldest.into_iter().map(|(policy, (age_s, rpo_s))| format!("'age_{policy}'={age_s}s;;{rpo_s};0")));
    let rooms = report.stores.iter().filter_map(|s| Some((&s.name, s.room?)));
    out.extend(rooms.map(|(name, (free, size))| format!("'free_{}'={free}B;;;0;{size}", label(name))));
    out.join(" ")
}

/// A store that was named on the command line has a path for a name; '=' and quotes end a label.
fn label(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-/".contains(c) { c } else { '_' }).collect()
}

/// A bar begins the performance data, a line's end the next line.
fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join("; ").replace('|', "/").chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::{
        Judged, StoreStanding,
        judge::{self, Claim},
    };
    use serde_json::json;
    use std::time::Duration;

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = 1_000 * HOUR;

    /// A domain whose policy wants a point of 26 h, and what store `main` has.
    fn domain(name: &str, policy: &str, found: Found) -> DomainStanding {
        let claim = Claim { policy: policy.into(), store: "main".into(), rpo: Some(Duration::from_secs(26 * 3600)) };
        let (standing, why) = judge::claim(claim.rpo, &found, NOW, None);
        DomainStanding { name: name.into(), uuid: name.into(), running: true, excluded: false, claims: vec![Judged { claim, found, standing, why }] }
    }

    fn hours(hours: u64) -> Found {
        Found::Point { id: "p".into(), time_unix_ms: NOW - hours * HOUR }
    }

    fn report(domains: Vec<DomainStanding>) -> Report {
        let room = (50 << 30, 100 << 30);
        let space = Some(crate::doctor::store::space_of(room.0, room.1, None));
        let store = StoreStanding { name: "main".into(), url: "/srv".into(), points: Some(1), damaged: Some(0), room: Some(room), space, silent: None };
        let health = Some(json!({"status": "ok", "reasons": []}));
        Report {
            now_unix_ms: NOW,
            domains,
            stores: vec![store],
            policies: ["gold", "nightly"].map(|name| (name.to_owned(), Some(Duration::from_secs(26 * 3600)))).into(),
            health,
            ..Report::default()
        }
    }

    #[test]
    fn all_is_well_only_where_all_was_seen() {
        let said = judge(&report(vec![domain("a", "nightly", hours(3)), domain("b", "nightly", hours(20))]), &Wanted::default());
        assert_eq!(said.state, State::Ok, "{}", said.text);
        let free = 50u64 << 30;
        let expected = format!(
            "CAIRN OK - 2 domains within their RPO | domains=2 kept=2 late=0;;0 unprotected=0;0 unknown=0 'age_nightly'=72000s;;93600;0 'free_main'={free}B;;;0;{}",
            100u64 << 30
        );
        assert_eq!(said.text, expected);
        assert_eq!(unknown("x | y\nz").text, "CAIRN UNKNOWN - x / y; z");
    }

    #[test]
    fn the_worst_decides_and_every_cause_has_a_line() {
        let unprotected = DomainStanding { name: "free".into(), uuid: "u".into(), running: false, excluded: false, claims: Vec::new() };
        let silent = domain("c", "gold", Found::Silent("store main: no answer within 30 s".into()));
        for (domains, code, words) in [
            (vec![unprotected.clone()], 1, vec!["free is unprotected"]),
            (vec![unprotected.clone(), silent.clone()], 3, vec!["no answer within 30 s", "free is unprotected"]),
            (
                vec![silent.clone(), domain("a", "nightly", hours(27))],
                2,
                vec!["a: the newest good point in main is 1 d 3 h old, policy nightly allows 1 d 2 h"],
            ),
            (vec![domain("a", "nightly", Found::Nothing)], 2, vec!["no good point in main", "cairn job run --domain a"]),
        ] {
            let said = judge(&report(domains), &Wanted::default());
            assert_eq!(said.state.code(), code, "{}", said.text);
            assert!(words.iter().all(|word| said.text.contains(word)), "{}", said.text);
        }
        let only = Wanted { policies: vec!["nightly".into()], unprotected_ok: false };
        let said = judge(&report(vec![silent, unprotected.clone(), domain("a", "nightly", hours(1))]), &only);
        assert_eq!((said.state, said.text.contains("domains=1 ")), (State::Ok, true), "{}", said.text);
        let excluded = DomainStanding { excluded: true, ..unprotected.clone() };
        assert_eq!(judge(&report(vec![excluded, domain("a", "nightly", hours(1))]), &Wanted::default()).state, State::Ok);
        let lenient = Wanted { unprotected_ok: true, ..Wanted::default() };
        assert_eq!(judge(&report(vec![unprotected, domain("a", "nightly", hours(1))]), &lenient).state, State::Ok);
    }

    #[test]
    fn what_could_not_be_looked_at_is_never_well() {
        let good = || vec![domain("a", "nightly", hours(1))];
        let unseen = Report { unseen: vec!["libvirt's domains: no answer".into()], ..report(Vec::new()) };
        assert_eq!(judge(&unseen, &Wanted::default()).state, State::Unknown);
        let gone = Report { health: None, daemon_silent: Some("no daemon answers".into()), ..report(good()) };
        assert_eq!(judge(&gone, &Wanted::default()).state, State::Critical);
        let degraded = Report { health: Some(json!({"reasons": ["the disk is full"]})), ..report(good()) };
        assert_eq!(judge(&degraded, &Wanted::default()).state, State::Warning);
        for policies in [BTreeMap::new(), BTreeMap::from([("nightly".to_owned(), None)])] {
            let none = Report { policies, ..report(Vec::new()) };
            assert_eq!(judge(&none, &Wanted::default()).state, State::Unknown);
        }
        let unknown = Wanted { policies: vec!["typo".into()], unprotected_ok: false };
        let said = judge(&report(good()), &unknown);
        assert!(said.state == State::Unknown && said.text.contains("gold, nightly"), "{}", said.text);
        let mut full = report(good());
        full.stores[0].space = Some(crate::doctor::store::space_of(1 << 20, 100 << 30, None));
        assert_eq!(judge(&full, &Wanted::default()).state, State::Critical);
        full.stores[0].space = None;
        full.stores[0].damaged = Some(1);
        let said = judge(&full, &Wanted::default());
        assert!(said.state == State::Critical && said.text.contains("1 points are damaged"), "{}", said.text);
        full.stores[0].damaged = Some(0);
        full.stores[0].silent = Some("gone".into());
        full.stores[0].space = None;
        assert_eq!(judge(&full, &Wanted::default()).state, State::Unknown);
    }
}
