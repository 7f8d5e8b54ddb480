//! What was not done for twice its time, by a clock that the tests set.

use super::*;
use crate::{
    config::Config,
    daemon::schedule::tests::{config, seen},
};
use std::path::Path;

const TEXT: &str = "\
stores:
  main: { url: /srv/a, gc_every: 24h }
policies:
  a: { select: { names: [a] }, stores: [main], retention: { keep_last: 3 }, verify: { data_percent_daily: 10, boot: weekly } }
";
const NOW: u64 = 1_767_225_600_000;

fn good(kind: Kind, name: &str, at: u64) -> Activity {
    Activity { kind, name: name.into(), store: "main".into(), policies: vec!["a".into()], is_busy: false, done_unix_ms: Some(at) }
}

fn look(config: &Config, activity: &[Activity], book: &mut BTreeMap<String, Promise>, now: u64) -> Vec<String> {
    let mut one = seen("a", false);
    one.points = [("main".to_owned(), "p".to_owned())].into();
    let ordering = Ordering { config, state_dir: Path::new("/s"), connect: None };
    find(&ordering, &[one], activity, book, now).into_iter().map(|cause| cause.key).collect()
}

#[test]
fn what_did_not_run_for_twice_its_time_is_told() {
    let (config, mut book) = (config(TEXT), BTreeMap::new());
    let activity = [good(Kind::Backup, "a", NOW + 1), good(Kind::Prune, "a", NOW)];
    assert!(look(&config, &activity, &mut book, NOW).is_empty(), "nothing was promised before");
    assert!(look(&config, &activity, &mut book, NOW + 2 * DAY_MS).is_empty());
    assert_eq!(look(&config, &activity, &mut book, NOW + 2 * DAY_MS + 1), ["overdue:prune:a:main", "overdue:verify:main", "overdue:gc:main"]);
    assert_eq!(look(&config, &activity, &mut book, NOW + 14 * DAY_MS + 1).len(), 4, "and the boot proof");
    let all =
        [&activity[..1], &[good(Kind::Prune, "a", NOW + 14 * DAY_MS), good(Kind::Gc, "main", NOW + 14 * DAY_MS), good(Kind::Verify, "a", NOW + 13 * DAY_MS)]]
            .concat();
    assert_eq!(look(&config, &all, &mut book, NOW + 14 * DAY_MS + 1), ["overdue:verify:main"], "each by its own");
    // Jobs are forgotten after a month; when it was done is not.
    let later = NOW + 26 * DAY_MS;
    assert_eq!(look(&config, &all[..1], &mut book, later), ["overdue:verify:main"]);
    assert_eq!(look(&config, &all[..1], &mut book, later + 2 * DAY_MS), ["overdue:verify:main", "overdue:boot:a:u-a"]);
}

#[test]
fn nothing_is_missed_that_nobody_could_do() {
    let (config, mut book) = (config(TEXT), BTreeMap::new());
    // No backup yet: nothing to check, to forget, to free.
    look(&config, &[], &mut book, NOW);
    assert_eq!(look(&config, &[], &mut book, NOW + 9 * DAY_MS), [""; 0]);
    // A clock that was ahead.
    look(&config, &[], &mut book, NOW * 2);
    let saved = [good(Kind::Backup, "a", NOW)];
    assert_eq!(look(&config, &saved, &mut book, NOW + 3 * DAY_MS).len(), 2, "counted since it was first seen");
    let other = Config { policies: BTreeMap::new(), ..config };
    look(&other, &saved, &mut book, NOW);
    assert!(book.is_empty(), "what is promised no more is forgotten");
}
