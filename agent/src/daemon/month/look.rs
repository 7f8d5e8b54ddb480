//! Each hour: what `cairn status` and `cairn check` would say of each domain, by the stores themselves, beside what the model knows.

use super::{
    promises::Promises,
    sky::{HOUR, shown},
    trouble::Kind,
    work::{Taken, Works},
};
use crate::{
    cli::Common,
    config::{Config, Subject},
    standing::{
        gather::{Daemon, Seen as Domain, standing},
        judge::Standing,
    },
    watch::{
        Seen,
        stores::{self, AnsweringStore},
    },
};
use serde_json::{Value, json};
use std::time::Instant;

/// Later than now by more is no proof of anything.
const AHEAD_MS_MAX: u64 = 60_000;
/// The most by which a clock of the month is wrong, but for the year.
const WRONG_MS_MAX: u64 = 3 * HOUR;

pub fn look(config: &Config, works: &Works, seen: &mut [Seen], promises: &Promises) {
    let common = Common { state_dir: Some(works.state_dir.clone()), quiet: true, ..bare() };
    let (answering, silent) = stores::ask(&common, &config.stores);
    for (number, name) in works.names.iter().enumerate() {
        assert_eq!(works.roots[number].exists(), answering.iter().any(|s| s.name == *name), "{name} answers if it is there: {silent:?}");
    }
    let now = works.sky.clock();
    for one in seen {
        remember(one, &answering, now);
        let record = json!({"uuid": one.uuid, "points": one.points.iter().map(|(store, id)| json!({"store": store, "id": id})).collect::<Vec<Value>>()});
        let domain = Domain { uuid: one.uuid.clone(), running: true, quiet_since_unix_ms: None, subject: Subject { running: None, ..one.subject.clone() } };
        let daemon = Daemon { domains: vec![record], ..Daemon::default() };
        let judged = standing(domain, config, &answering, &|_: &str| "it is away".to_owned(), &daemon, (Instant::now(), now));
        for j in judged.claims {
            let store = works.names.iter().position(|name| *name == j.claim.store).expect("a store of ours");
            let rpo = u64::try_from(j.claim.rpo.expect("all promise").as_millis()).expect("fits");
            let mine: Vec<&Taken> = works.taken.iter().filter(|t| t.store == store && t.uuid == one.uuid && !t.is_gone).collect();
            let expected = expected(&mine, works.roots[store].exists(), (now, rpo));
            let whose = format!("{} in {} by {}", one.subject.name, j.claim.store, j.claim.policy);
            // One that is dated ahead and has a name of before is known to nobody: what is said is worse, and as true.
            let is_worse = expected == Standing::Unknown && works.roots[store].exists() && j.standing >= Standing::Late;
            works.sky.hold(j.standing == expected || is_worse, || {
                format!("standing of {whose}: {:?} {:?} {:?}, not {expected:?}; the model has {}", j.standing, j.found, j.why, dates(&mine))
            });
            hold_truth(&whose, (j.standing, rpo), &mine, works, promises);
        }
    }
}

fn bare() -> Common {
    Common { store: None, key_file: None, passphrase_file: None, connect: None, state_dir: None, config: None, json: false, quiet: false, verbose: 0 }
}

/// As a look of the watch's.
fn remember(one: &mut Seen, answering: &[AnsweringStore], now: u64) {
    for store in answering {
        let known: Vec<String> = one.points.get(&store.name).cloned().into_iter().collect();
        if let Some((id, _)) = store.newest(&one.uuid, &one.subject.name, &known, now) {
            one.points.insert(store.name.clone(), id);
        }
    }
}

/// What the clock on the wall makes of it.
fn expected(mine: &[&Taken], is_there: bool, (now, rpo): (u64, u64)) -> Standing {
    if !is_there {
        return Standing::Unknown;
    }
    let is_ahead = |t: &&&Taken| t.date > now + AHEAD_MS_MAX;
    let newest = mine.iter().filter(|t| !is_ahead(t)).map(|t| t.date).max();
    match newest {
        Some(date) if now.saturating_sub(date) <= rpo => Standing::Kept,
        _ if mine.iter().any(|t| is_ahead(&t)) => Standing::Unknown,
        Some(_) => Standing::Late,
        None => Standing::Never,
    }
}

/// What is so, whatever the clock said: no false green by more than the clock was ever wrong, and no false red once it is right.
fn hold_truth(whose: &str, (standing, rpo): (Standing, u64), mine: &[&Taken], works: &Works, promises: &Promises) {
    let now = works.sky.true_ms();
    let newest = mine.iter().filter(|t| t.at <= now).max_by_key(|t| t.at);
    let age = newest.map_or(u64::MAX, |t| now - t.at);
    let is_right = !promises.is_within(now, &[Kind::Clock, Kind::Year]);
    if standing == Standing::Kept && is_right {
        works.sky.hold(age <= rpo + WRONG_MS_MAX, || format!("{whose} is said to be kept, and its newest point is {} h old", age / HOUR));
    }
    let was_right = newest.is_some_and(|t| !promises.is_within(t.at, &[Kind::Clock, Kind::Year]));
    if is_right && was_right && age <= rpo && works.roots[newest.expect("one").store].exists() {
        works.sky.hold(standing == Standing::Kept, || format!("{whose} is {standing:?}, and its newest point is {} h old, of {} h", age / HOUR, rpo / HOUR));
    }
}

fn dates(mine: &[&Taken]) -> String {
    mine.iter().rev().take(6).map(|t| shown(t.date)).collect::<Vec<_>>().join(" ")
}
