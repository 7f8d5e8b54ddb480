//! A month of operation in fast time (docs/simulation.md): the daemon's own code under a simulated clock, with all that goes wrong in a month put into it, beside a
//! model of what the policies promise. What was promised is true in the end, or `cairn status` says so, in each hour of it.
//!
//! - [`sky`]: time, randomness, history; [`trouble`]: what goes wrong when; [`host`]: the daemon and the processes of jobs; [`work`]: what jobs do;
//!   [`storage`]: the stores' disks
//! - [`promises`], [`slow`]: the model; [`look`]: what is said each hour beside what is so

mod host;
mod look;
mod memory;
mod promises;
mod sky;
mod slow;
mod storage;
mod trouble;
mod work;

use super::schedule::tests::config;
use crate::schedule::calendar;
use cairn_store::{InitOptions, Profile, init_on};
use host::Host;
use jiff::tz::TimeZone;
use promises::{IsMeant, Promise, Promises};
use sky::{DAY, HOUR, Rng, Sky};
use std::{path::Path, sync::Arc};
use storage::Storage;
use trouble::Timetable;
use work::{Machine, Works};

const ZONE: &str = "Europe/Berlin";
/// Clocks are set forward on 29 March 2026, and back on 25 October.
const BEGINS: [&str; 2] = ["2026-03-08T12:00:00Z", "2026-10-04T12:00:00Z"];
const DAYS: u64 = 31;
/// One with each change of the clocks.
const SEEDS: u64 = 2;
/// More than a month has: something goes round in circles.
const STEPS_MAX: u64 = 60_000;

fn text(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "\
stores:
  main: {{ url: {dir}/main, jobs_max: 2, gc_every: 24h }}
  far: {{ url: {dir}/far, gc_every: 3d }}
daemon: {{ jobs_max: 3 }}
policies:
  nightly:
    select: {{ names: [\"prod-*\"] }}
    schedule: \"30 2 * * *\"
    timezone: {ZONE}
    jitter: 40m
    rpo: 26h
    stores: [main, far]
    retention: {{ keep_last: 2, keep_daily: 5, keep_weekly: 3 }}
    verify: {{ data_percent_daily: 20, boot: weekly }}
  often:
    select: {{ tags: [gold] }}
    schedule: \"0 2,6,22 * * *\"
    timezone: {ZONE}
    window: 20:00-08:00
    rpo: 17h
    stores: [main]
    retention: {{ keep_hourly: 8, keep_daily: 3, min_age: 6h }}
  weekly:
    select: {{ names: [lab] }}
    schedule: \"15 3 * * 0\"
    timezone: {ZONE}
    rpo: 8d
    stores: [far]
    retention: {{ keep_last: 2 }}
    verify: {{ data_percent_daily: 10 }}
"
    )
}

fn machines() -> Vec<Machine> {
    let all = [("prod-db", &["gold"][..]), ("prod-web", &[][..]), ("prod-app", &[][..]), ("prod-late", &[][..]), ("lab", &[][..]), ("batch", &["gold"][..])];
    (0..).zip(all).map(|(number, (name, tags))| Machine::new(number, name, tags)).collect()
}

/// The same policies, as a reader of docs/policies.md has them.
fn promises() -> Vec<Promise> {
    let (nightly, often, weekly): (IsMeant, IsMeant, IsMeant) = (
        |t| t.hour() == 2 && t.minute() == 30,
        |t| [2, 6, 22].contains(&t.hour()) && t.minute() == 0,
        |t| t.weekday() == jiff::civil::Weekday::Sunday && t.hour() == 3 && t.minute() == 15,
    );
    vec![
        Promise {
            policy: "nightly",
            is_meant: nightly,
            jitter_ms: 40 * sky::MINUTE,
            window: None,
            stores: &["main", "far"],
            machines: &[0, 1, 2, 3],
            boots: true,
        },
        Promise { policy: "often", is_meant: often, jitter_ms: 0, window: Some((20, 8)), stores: &["main"], machines: &[0, 5], boots: false },
        Promise { policy: "weekly", is_meant: weekly, jitter_ms: 0, window: None, stores: &["far"], machines: &[4], boots: false },
    ]
}

fn month(seed: u64, sky: &Arc<Sky>, begin: u64, dir: &Path, look_every: u64) {
    let mut rng = Rng::new(seed);
    let roots = ["main", "far"].map(|name| dir.join(name)).to_vec();
    for (number, root) in roots.iter().enumerate() {
        std::fs::create_dir(root).expect("makes a folder");
        let storage = Storage::open(root, sky, number, "init".into()).expect("opens");
        let options = InitOptions { profile: Profile::Small, zstd_level: 1, encrypted: false, key_file: None, passphrase: None };
        init_on(&storage, options).expect("makes a store");
    }
    let state_dir = dir.join("state");
    std::fs::create_dir(&state_dir).expect("makes a folder");
    let zone = TimeZone::get(ZONE).expect("a zone");
    let timetable = Timetable::draw(begin, roots.len(), &mut rng);
    let works = Works::new(sky.clone(), roots, vec!["main".into(), "far".into()], state_dir, zone.clone(), machines());
    let end = begin + DAYS * DAY;
    let promises = Promises::new(promises(), zone, timetable.stretches.clone(), (begin, end));
    let mut host = Host::new(sky.clone(), config(&text(dir)), works, promises, look_every);
    let mut events = timetable.events.into_iter().peekable();
    for _ in 0..STEPS_MAX {
        let now = sky.true_ms();
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= now) {
            host.happen(event);
        }
        host.step();
        if now >= end && host.is_idle() {
            host.promises.check(&host.works);
            host.works.read_all();
            assert_eq!(sky.violations(), 0, "violations");
            return;
        }
        let step = host.step_ms();
        let next = events.peek().map_or(u64::MAX, |(at, _)| *at).max(now + 1).min(now + step);
        sky.state().true_ms = next;
    }
    panic!("the month does not end");
}

fn run(seed: u64, look_every: u64) {
    // Memory, where there is such a folder: nothing here is about power that is cut.
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a folder");
    let begin = BEGINS[usize::from(seed % 2 == 1)].parse::<jiff::Timestamp>().expect("a time");
    let begin = u64::try_from(begin.as_millisecond()).expect("after 1970");
    let sky = Arc::new(Sky::new(begin, seed));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| month(seed, &sky, begin, dir.path(), look_every)));
    if let Err(panic) = outcome {
        println!("{}\nCAIRN_MONTH_SEED={seed} CAIRN_MONTH_SEEDS=1 at {}", sky.history(), sky::shown(sky.true_ms()));
        std::panic::resume_unwind(panic);
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn what_policies_promise_is_true_after_a_month_of_failures_or_is_said_not_to_be() {
    let (first, count) = (number("CAIRN_MONTH_SEED", 1), number("CAIRN_MONTH_SEEDS", SEEDS));
    // Who takes more time has it looked at each hour.
    let look_every = if count == SEEDS { 4 * HOUR } else { HOUR };
    (first..first + count).for_each(|seed| run(seed, look_every));
}

/// The model's own calendar and that of the schedules agree about a year with both changes of the clocks.
#[test]
fn the_slow_calendar_is_that_of_schedules() {
    let zone = TimeZone::get(ZONE).expect("a zone");
    let begin = u64::try_from("2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().expect("a time").as_millisecond()).expect("after 1970");
    for (promise, cron) in promises().iter().zip(["30 2 * * *", "0 2,6,22 * * *", "15 3 * * 0"]) {
        let schedule = calendar::Schedule { crons: vec![crate::schedule::Cron::parse(cron).expect("a schedule")], zone: zone.clone() };
        let slow = slow::instants(&promise.is_meant, &zone, begin + HOUR, begin + 365 * DAY);
        let (mut quick, mut at) = (Vec::new(), begin + HOUR);
        while let Some(next) = schedule.next(at).filter(|next| *next < begin + 365 * DAY) {
            quick.push(next);
            at = next;
        }
        assert_eq!(slow, quick, "{cron}");
    }
}
