//! Which domains have a run due, and that a table which is killed at any moment has each run once.

use super::*;
use crate::{
    config::{Subject, Word},
    daemon::orders::Ordering,
};
use std::path::Path;

const TEXT: &str = "\
stores:
  main: { url: /srv/a }
  far: { url: /srv/b }
policies:
  nightly: { select: { names: [\"web*\"] }, schedule: \"0 2 * * *\", timezone: UTC, stores: [main, far], tags: [n], quiesce: { level: require } }
  hourly: { select: { names: [web1], state: running }, schedule: \"0 * * * *\", timezone: UTC, stores: [main], window: \"01:00-05:00\" }
";
const HOUR: u64 = 3_600_000;
/// 2026-01-01T00:00Z
const BEGIN: u64 = 1_767_225_600_000;

pub fn config(text: &str) -> Config {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("c");
    std::fs::write(&path, text).expect("writes");
    crate::config::load(&path).unwrap_or_else(|e| panic!("{e}"))
}

pub fn seen(name: &str, running: bool) -> Seen {
    let subject = Subject { name: name.into(), running: Some(running), word: Word::default() };
    Seen { uuid: format!("u-{name}"), subject, is_known: true, is_away: false, points: [("main".to_owned(), "0192f3a1".to_owned())].into() }
}

#[test]
fn policies_of_one_instant_make_one_point_in_each_store() {
    let config = config(TEXT);
    let all = [seen("web1", true), seen("web2", false), Seen { is_away: true, ..seen("web3", false) }, seen("db", true)];
    let (runs, notes) = due(&config, &all, &HashMap::new(), BEGIN + HOUR / 2);
    assert!(runs.is_empty());
    let mut slots: HashMap<String, Slot> = notes.into_iter().collect();
    let mut keys: Vec<&String> = slots.keys().collect();
    keys.sort();
    assert_eq!(keys, ["backup hourly u-web1", "backup nightly u-web1", "backup nightly u-web2"]);
    let (runs, notes) = due(&config, &all, &slots, BEGIN + HOUR + 1);
    assert!(runs.len() == 1 && runs[0].policies.len() == 1 && notes.is_empty(), "the hourly one, from the beginning of its window");
    slots.extend(runs[0].slots.clone());
    let (runs, _) = due(&config, &all, &slots, BEGIN + 2 * HOUR + 1);
    assert_eq!(runs.iter().map(|r| (r.seen.subject.name.as_str(), r.policies.len())).collect::<Vec<_>>(), [("web1", 2), ("web2", 1)]);
    let ordering = Ordering { config: &config, state_dir: Path::new("/s"), connect: None };
    let orders = ordering.of_schedule(&runs[0]);
    let told: Vec<(&str, String)> = orders.iter().map(|o| (o.store.as_str(), o.policies.join(" "))).collect();
    assert_eq!(told, [("main", "hourly nightly".to_owned()), ("far", "nightly".to_owned())]);
    assert!(orders.iter().all(|o| o.trigger == "schedule" && o.windows.is_empty() && o.why.contains("scheduled for")), "{orders:?}");
    assert!(orders[0].argv.join(" ").contains("--quiesce require --tag=n -- u-web1"), "{:?}", orders[0].argv);
    // The hourly policy's own have its window.
    let (runs, _) = due(&config, &all[..1], &slots, BEGIN + 2 * HOUR - 1);
    assert!(runs.is_empty());
    slots.extend([("backup nightly u-web1".to_owned(), Slot { done: BEGIN + 2 * HOUR, ran: None })]);
    let (runs, _) = due(&config, &all[..1], &slots, BEGIN + 3 * HOUR);
    assert_eq!(ordering.of_schedule(&runs[0])[0].windows, ["01:00-05:00 UTC"]);
}

#[test]
fn a_domain_that_names_what_is_not_here_is_told_and_saved_all_the_same() {
    let config = config(TEXT);
    let mut one = seen("web2", true);
    one.subject.word.policies = vec!["gold".into()];
    let all = [one];
    let told = unknown(&config, &all);
    assert!(told.len() == 1 && told[0].contains("web2") && told[0].contains("'gold'"), "{told:?}");
    let (_, notes) = due(&config, &all, &HashMap::new(), BEGIN);
    assert_eq!(notes.len(), 1, "nightly takes it by its name");
}
