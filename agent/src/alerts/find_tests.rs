//! Which facts are causes, and when they are gone.

use super::*;
use crate::{
    alerts::book::Book,
    config::StoreEntry,
    jobs::{Order, State as JobState},
};
use serde_json::json;

const NOW: u64 = 1_767_225_600_000;
const HOUR: u64 = 3_600_000;

fn config() -> Config {
    Config { stores: [("main".to_owned(), StoreEntry::default())].into(), ..Config::default() }
}

fn job(id: JobId, kind: JobKind, name: &str, code: i32) -> Job {
    let order = Order {
        kind,
        domain: name.into(),
        uuid: (kind == JobKind::Backup).then(|| format!("u-{name}")),
        store: "main".into(),
        policies: vec!["nightly".into()],
        trigger: "schedule".into(),
        why: "nightly: scheduled".into(),
        windows: vec![],
        argv: vec![kind.word().into()],
        cancel_limit_ms: 1,
    };
    let (pid, point, started_unix_ms, again) = Default::default();
    let message = Some("the store is away\r\nBcc: x".to_owned());
    let ended_unix_ms = Some(NOW - HOUR);
    Job { id, order, state: JobState::Failed, code: Some(code), pid, cancel: false, queued_unix_ms: 1, started_unix_ms, ended_unix_ms, message, point, again }
}

fn claim(standing: &str) -> Value {
    json!({"policy": "nightly", "store": "main", "rpo_s": 93_600, "point": "p", "time": "2026-01-01T00:00:00Z", "age_s": 180_000, "standing": standing, "why": null})
}

fn status(standing: &str) -> Value {
    json!({
        "domains": [{"name": "web", "uuid": "u-web", "standing": standing, "claims": [claim(standing)]}],
        "stores": [{"name": "main", "url": "/srv", "points": 3, "damaged": 0, "free": 1u64 << 30, "size": 1u64 << 40, "space": "ok", "silent": null}],
        "unseen": [],
    })
}

/// What stands of these facts, in a book that saw others before.
struct World {
    status: Result<Value, String>,
    troubles: Troubles,
    activity: Vec<Activity>,
    overdue: Vec<Cause>,
    uptime_ms: u64,
    book: Book,
    now: u64,
}

impl World {
    fn new() -> Self {
        let (troubles, activity, overdue, book) = Default::default();
        Self { status: Ok(status("kept")), troubles, activity, overdue, uptime_ms: HOUR, book, now: NOW }
    }

    /// Keys of what stands.
    fn look(&mut self, complaints: &[(&'static str, String)]) -> Vec<String> {
        let (config, lines) = (config(), BTreeMap::from([(1, vec!["reading vda".to_owned(), "the store is away".to_owned()])]));
        self.now += 1000;
        let facts = Facts {
            config: &config,
            status: Some(&self.status),
            troubles: &self.troubles,
            lines: &lines,
            activity: &self.activity,
            stuck: Some(&[]),
            complaints,
            overdue: self.overdue.clone(),
            now: self.now,
            uptime_ms: self.uptime_ms,
        };
        self.book.see(find(&facts), |entry| is_gone(&facts, entry), self.now);
        self.book.entries.iter().filter(|(_, entry)| entry.gone_unix_ms.is_none()).map(|(key, _)| key.clone()).collect()
    }

    fn cause(&self, key: &str) -> &Cause {
        &self.book.entries[key].cause
    }
}

#[test]
fn standings_are_taken_as_status_told_them() {
    let mut world = World::new();
    assert!(world.look(&[]).is_empty());
    world.status = Ok(status("late"));
    assert_eq!(world.look(&[]), ["rpo:nightly:u-web:main"]);
    let cause = world.cause("rpo:nightly:u-web:main");
    assert!(cause.title.contains("web: the newest good point in main is 2 d 2 h old, nightly allows 1 d 2 h") && cause.hold_ms == 0, "{cause:?}");
    assert!(cause.remedy.iter().any(|line| line == "cairn job run --domain web"), "{cause:?}");
    // What could not be seen ends nothing.
    for unseen in [Ok(status("unknown")), Err("killed".into()), Ok(json!({"domains": [], "stores": [], "unseen": ["libvirt's domains: no answer"]}))] {
        world.status = unseen;
        assert!(world.look(&[]).contains(&"rpo:nightly:u-web:main".to_owned()), "{:?}", world.status);
    }
    world.status = Ok(status("never"));
    assert_eq!(world.look(&[]), ["rpo:nightly:u-web:main"]);
    assert_eq!(world.cause("rpo:nightly:u-web:main").hold_ms, 93_600_000, "a policy of today promised nothing for yesterday");
    world.status = Ok(json!({"domains": [], "stores": [], "unseen": []}));
    assert!(world.look(&[]).is_empty(), "it is undefined");
}

#[test]
fn stores_are_told_by_what_status_says_of_them() {
    let mut world = World::new();
    let mut with = |key: &str, value: Value, wanted: &[&str]| {
        let mut said = status("kept");
        said["stores"][0][key] = value;
        world.status = Ok(said);
        assert_eq!(world.look(&[]), wanted);
        world.book.entries.values().map(|entry| entry.cause.severity).max()
    };
    assert_eq!(with("space", "warning".into(), &["store-space:main"]), Some(Severity::Warning));
    assert_eq!(with("space", "failed".into(), &["store-space:main"]), Some(Severity::Critical));
    with("space", Value::Null, &["store-space:main"]);
    with("silent", "gone".into(), &["store-away:main"]);
    with("damaged", 2.into(), &["damaged:main"]);
    // Not answered: nobody knows.
    with("silent", "gone".into(), &["damaged:main", "store-away:main"]);
    with("damaged", 0.into(), &[]);
}

#[test]
fn a_failed_job_is_over_when_its_work_was_done() {
    let mut world = World::new();
    world.troubles.owed = vec![job(1, JobKind::Backup, "web", 10)];
    assert_eq!(world.look(&[]), ["job-failed:u-web:backup:main"]);
    let cause = world.cause("job-failed:u-web:backup:main").clone();
    assert!(cause.title == "backup of web in main failed" && cause.why.len() == 2 && cause.remedy[0] == "cairn job log 1", "{cause:?}");
    assert!(!cause.what.contains('\n') && cause.what.contains("the store is away\\r\\nBcc"), "{cause:?}");
    // The next one runs, and jobs of a table that was deleted are not known.
    world.troubles.owed.clear();
    assert_eq!(world.look(&[]).len(), 1);
    let done = |at| Activity { kind: JobKind::Backup, name: "web".into(), store: "main".into(), policies: vec![], is_busy: false, done_unix_ms: at };
    world.activity = vec![done(Some(NOW - 2 * HOUR))];
    assert_eq!(world.look(&[]).len(), 1, "that was before");
    world.activity = vec![done(Some(NOW))];
    assert!(world.look(&[]).is_empty());
    // Of a domain that is gone nobody owes anything.
    world.activity.clear();
    world.troubles.owed = vec![job(2, JobKind::Backup, "db", 1), job(3, JobKind::Gc, "main", 1)];
    assert_eq!(world.look(&[]), ["job-failed:main:gc:main"]);
    world.now += JOBS_KEPT_MS;
    world.troubles.owed.clear();
    assert!(world.look(&[]).is_empty(), "nobody knows any more");
}

#[test]
fn damage_is_one_cause_until_nothing_is_damaged_and_a_check_was_good() {
    let mut world = World::new();
    world.troubles.owed = vec![job(1, JobKind::Verify, "*", 14)];
    assert_eq!(world.look(&[]), ["damaged:main"]);
    let mut said = status("kept");
    said["stores"][0]["damaged"] = 1.into();
    world.status = Ok(said);
    assert_eq!(world.look(&[]), ["damaged:main"]);
    world.troubles.owed.clear();
    let done =
        Activity { kind: JobKind::Verify, name: "*".into(), store: "main".into(), policies: vec![], is_busy: false, done_unix_ms: Some(world.now + HOUR) };
    world.activity = vec![done];
    assert_eq!(world.look(&[]), ["damaged:main"], "the next check read other packs");
    world.status = Ok(status("kept"));
    assert!(world.look(&[]).is_empty());
}

#[test]
fn what_the_daemon_complains_of_is_one_cause_for_each_kind() {
    let mut world = World::new();
    let complaints = [("config", "c:1:1: x".to_owned()), ("config", "c:2:2: y".to_owned()), ("hook", "it is deaf; mend it".to_owned())];
    world.troubles.other = vec!["the disk is full; free some".into()];
    assert_eq!(world.look(&complaints), ["daemon:config", "daemon:hook", "daemon:jobs"]);
    let config = world.cause("daemon:config");
    assert!(config.what.contains("c:1:1") && config.what.contains("c:2:2"), "{config:?}");
    assert_eq!((world.cause("daemon:jobs").severity, world.cause("daemon:hook").remedy[0].as_str()), (Severity::Critical, "mend it"));
    world.troubles.other.clear();
    world.uptime_ms = 1;
    assert_eq!(world.look(&[]).len(), 3, "a daemon that has just begun may complain again");
    world.uptime_ms = HOUR;
    assert!(world.look(&[]).is_empty());
}

#[test]
fn what_fails_is_not_told_as_not_done_besides() {
    let mut world = World::new();
    let mut overdue = Cause::new(Kind::Overdue, Severity::Warning, "verify:main", "x");
    overdue.work = Some(Work { kind: "verify".into(), name: "*".into(), store: "main".into() });
    world.overdue = vec![overdue];
    assert_eq!(world.look(&[]), ["overdue:verify:main"]);
    world.troubles.owed = vec![job(1, JobKind::Verify, "*", 1)];
    assert_eq!(world.look(&[]), ["job-failed:*:verify:main"]);
}

#[test]
fn jobs_that_stand_are_told_until_they_end_or_a_daemon_of_some_age_sees_them_move() {
    let mut world = World::new();
    world.troubles = Troubles { stalled: vec![(7, "job 7 runs, and has not moved".into())], busy: vec![7], ..Troubles::default() };
    assert_eq!(world.look(&[]), ["stalled:7"]);
    world.troubles.stalled.clear();
    world.uptime_ms = 1000;
    assert_eq!(world.look(&[]), ["stalled:7"], "a daemon that has just begun does not know yet");
    world.troubles.busy.clear();
    assert!(world.look(&[]).is_empty());
}
