//! What is due of retention, collections and checks, and that nothing goes which any policy keeps.

use super::*;
use crate::{
    cli::Cli,
    config::Config,
    daemon::schedule::tests::{config, seen},
};
use clap::Parser;
use std::path::Path;

const TEXT: &str = "\
stores:
  main: { url: /srv/a, gc_every: 12h }
  far: { url: /srv/b, gc_every: never }
policies:
  a: { select: { names: [\"a*\", both] }, stores: [main, far], retention: { keep_last: 3, keep_within: 3d, min_age: 1d }, window: \"22:00-06:00\", timezone: UTC }
  b: { select: { names: [b, both] }, stores: [main], retention: { keep_daily: 7, keep_last: 1, keep_within: 1mo, keep_tags: [x] }, verify: { data_percent_daily: 10, boot: weekly } }
  keeps: { select: { names: [b-kept, \"a-kept\"] }, stores: [main], verify: { data_percent_daily: 20, rate: 1MiB } }
";
/// 2026-01-01T00:00Z
const NOW: u64 = 1_767_225_600_000;

fn backed_up(store: &str, policies: &[&str], is_busy: bool, done_unix_ms: Option<u64>) -> Activity {
    let policies = policies.iter().map(|p| (*p).to_owned()).collect();
    Activity { kind: Kind::Backup, name: "d".into(), store: store.into(), policies, is_busy, done_unix_ms }
}

fn pruned(store: &str, done: u64) -> Activity {
    Activity { kind: Kind::Prune, name: "a".into(), ..backed_up(store, &["a"], false, Some(done)) }
}

/// Orders as lines of the command line, which takes them.
fn lines(config: &Config, slots: &HashMap<String, Slot>, activity: &[Activity], now: u64) -> (Vec<String>, Vec<Order>) {
    let all: Vec<Seen> = ["a1", "a2", "b", "both", "b-kept", "a-kept", "other"].map(|name| seen(name, false)).into();
    let ordering = Ordering { config, state_dir: Path::new("/s"), connect: Some("test:///default") };
    let mut orders: Vec<Order> = due(&ordering, &Facts { seen: &all, slots, activity, now }).into_iter().flat_map(|(orders, _)| orders).collect();
    orders.sort_by_key(|o| (o.kind.word(), o.domain.clone(), o.store.clone()));
    for order in &orders {
        assert!(order.is_ours() && order.trigger == "policy");
        Cli::try_parse_from(std::iter::once("cairn".to_owned()).chain(order.argv.clone())).unwrap_or_else(|e| panic!("{:?}: {e}", order.argv));
    }
    let host = format!("--host={} ", host_name());
    // A prune of a domain's points is of that domain, whoever had the name.
    for order in orders.iter().filter(|o| o.kind == Kind::Prune) {
        let (_, names) = order.argv.split_at(order.argv.iter().position(|arg| arg == "--").expect("names") + 1);
        let uuids: Vec<&str> = order.argv.iter().filter_map(|arg| arg.strip_prefix("--uuid=u-")).collect();
        assert_eq!(uuids, names);
    }
    let told = |o: &Order| o.argv.iter().filter(|arg| !arg.starts_with("--uuid=")).cloned().collect::<Vec<_>>();
    (orders.iter().map(|o| told(o).join(" ").replace("--json ", "").replace("--state-dir=/s", "").replace(&host, "").replace("  ", " ")).collect(), orders)
}

#[test]
fn what_no_policy_keeps_goes_after_backups() {
    let config = config(TEXT);
    let (told, _) = lines(&config, &HashMap::new(), &[], NOW);
    assert!(told.is_empty(), "nothing was saved yet: {told:?}");
    let saved =
        [backed_up("main", &["a"], false, Some(NOW - 9)), backed_up("main", &["a", "b"], false, Some(NOW - 5)), backed_up("far", &["a"], false, Some(NOW - 5))];
    let (told, orders) = lines(&config, &HashMap::new(), &saved, NOW);
    assert_eq!(
        told,
        [
            // Nothing of those that a policy without rules takes, too.
            "prune --store=/srv/b --ignore-missing --keep-last=3 --keep-within=3d --min-age=1d -- a1 a2 both a-kept",
            "prune --store=/srv/a --ignore-missing --keep-last=3 --keep-within=3d --min-age=1d -- a1 a2",
            "prune --store=/srv/a --ignore-missing --keep-last=3 --keep-daily=7 --keep-within=1mo --keep-tag=x --min-age=1d -- both",
            "prune --store=/srv/a --ignore-missing --keep-last=1 --keep-daily=7 --keep-within=1mo --keep-tag=x -- b",
            "verify --store=/srv/a --percent=20 --rate=1MiB",
        ]
    );
    let windows: Vec<(&str, &[String])> = orders.iter().map(|o| (o.domain.as_str(), &o.windows[..])).collect();
    let night = ["22:00-06:00 UTC".to_owned()];
    assert_eq!(windows, [("a", &night[..]), ("a", &night[..]), ("a,b", &[]), ("b", &[]), ("*", &[])]);
    let busy = [saved[0].clone(), backed_up("main", &["a"], true, None)];
    assert!(!lines(&config, &HashMap::new(), &busy, NOW).0.iter().any(|line| line.contains("prune --store=/srv/a")), "after all backups of it");
}

/// Prunes of policy `a` in `far`, of these domains.
fn forgets(seen: &[Seen], activity: &[Activity], slots: &HashMap<String, Slot>, now: u64) -> Vec<String> {
    let config = config(TEXT);
    let ordering = Ordering { config: &config, state_dir: Path::new("/s"), connect: None };
    let due = due(&ordering, &Facts { seen, slots, activity, now });
    let of = |order: &Order| order.argv.iter().skip_while(|arg| *arg != "--").skip(1).cloned().collect::<Vec<_>>().join(" ");
    due.iter().flat_map(|(orders, _)| orders).filter(|o| o.kind == Kind::Prune && o.store == "far").map(of).collect()
}

#[test]
fn nothing_is_forgotten_by_rules_that_may_be_others() {
    let saved = [backed_up("far", &["a"], false, Some(NOW - 5))];
    let of = |seen: &[Seen]| forgets(seen, &saved, &HashMap::new(), NOW);
    let (one, two) = (seen("a1", true), seen("a2", true));
    assert_eq!(of(&[one.clone(), two.clone()]), ["a1 a2"]);
    assert_eq!(of(&[one.clone(), Seen { is_known: false, ..two.clone() }]), ["a1"], "its metadata was not read");
    assert_eq!(of(&[one.clone(), Seen { is_away: true, ..two.clone() }]), ["a1"], "it is elsewhere");
    let mut misspelt = two.clone();
    misspelt.subject.word.policies = vec!["a".into(), "glod".into()];
    assert_eq!(of(&[one.clone(), misspelt]), ["a1"], "it is to have rules that are not here");
    let namesake = Seen { uuid: "another".into(), ..two.clone() };
    assert_eq!(of(&[one, two, namesake]), ["a1"], "whose points they are cannot be told by name");
}

#[test]
fn a_prune_has_the_rules_of_the_moment_and_does_not_starve() {
    let all = [seen("a1", true)];
    let saved = [backed_up("far", &["a"], false, Some(NOW - 5))];
    assert!(forgets(&all, &saved, &HashMap::new(), NOW + 7 * HOUR_MS).is_empty(), "its window is closed");
    assert_eq!(forgets(&all, &saved, &HashMap::new(), NOW + 22 * HOUR_MS).len(), 1);
    let busy = [saved[0].clone(), backed_up("far", &["a"], true, None)];
    let slots = HashMap::from([("prune a far".to_owned(), Slot { done: NOW - 10, ran: None })]);
    assert!(forgets(&all, &busy, &slots, NOW + 5 * HOUR_MS).is_empty());
    assert_eq!(forgets(&all, &busy, &slots, NOW + 24 * HOUR_MS).len(), 1, "some backup is always under way");
}

#[test]
fn each_is_done_in_its_time() {
    let config = config(TEXT);
    let (hour, saved) = (HOUR_MS, [backed_up("far", &["a"], false, Some(NOW))]);
    let slots = |at: u64| HashMap::from([("prune a far".to_owned(), Slot { done: at, ran: None })]);
    for (ordered, now, is_due) in [
        (NOW + 1, NOW + 9 * hour, false),
        (NOW - 1, NOW + hour - 2, false),
        (NOW - 1, NOW + hour, true),
        // By a clock that was ahead.
        (NOW + 99 * hour, NOW + 1, true),
    ] {
        assert_eq!(lines(&config, &slots(ordered), &saved, now).0.len(), usize::from(is_due), "{ordered} {now}");
    }
    // Collections: never where that was said, and not while a prune is due.
    let pruned = [pruned("main", NOW), pruned("far", NOW)];
    let gc = |at: Option<u64>, now| {
        let slots: HashMap<String, Slot> = at.map(|at| ("gc main".to_owned(), Slot { done: at, ran: None })).into_iter().collect();
        lines(&config, &slots, &pruned, now).0
    };
    assert_eq!(gc(None, NOW + 1), ["gc --store=/srv/a "]);
    assert!(gc(Some(NOW + 1), NOW + 20 * hour).is_empty(), "nothing was forgotten since");
    assert!(gc(Some(NOW - 1), NOW + 11 * hour).is_empty() && gc(Some(NOW - 1), NOW + 12 * hour).len() == 1);
    let verified = HashMap::from([("verify main".to_owned(), Slot { done: NOW, ran: None })]);
    let saved = [backed_up("main", &["keeps"], false, Some(NOW))];
    assert!(lines(&config, &verified, &saved, NOW + 23 * hour).0.is_empty());
    assert_eq!(lines(&config, &verified, &saved, NOW + 24 * hour).0.len(), 1);
}

#[test]
fn boots_are_spread_over_their_time() {
    let config = config(TEXT);
    let ordering = Ordering { config: &config, state_dir: Path::new("/s"), connect: None };
    let all = [seen("b", true)];
    let week = 7 * 24 * HOUR_MS;
    let of = |slots: &HashMap<String, Slot>, now| due(&ordering, &Facts { seen: &all, slots, activity: &[], now });
    let (orders, (key, slot)) = of(&HashMap::new(), NOW).remove(0);
    assert!(orders.is_empty() && slot.done > NOW - week && slot.done <= NOW, "{slot:?}");
    let slots = HashMap::from([(key, slot)]);
    assert!(of(&slots, slot.done + week - 1).is_empty());
    let (orders, (_, then)) = of(&slots, slot.done + week).remove(0);
    assert_eq!((orders[0].argv.last().map(String::as_str), then.done), (Some("0192f3a1"), slot.done + week));
    assert!(orders[0].argv.contains(&"--boot".to_owned()) && orders[0].domain == "b" && orders[0].kind == Kind::Verify);
}

#[test]
fn what_was_done_is_not_done_again_because_the_clock_is_set_back() {
    let config = config(TEXT);
    let saved = [backed_up("main", &["b"], false, Some(NOW - 10)), pruned("main", NOW - 5)];
    let keys = ["prune b main", "gc main", "verify main", "boot b u-b", "boot b u-both"];
    let slots: HashMap<String, Slot> = keys.iter().map(|key| ((*key).to_owned(), Slot { done: NOW, ran: None })).collect();
    let told = |now: u64| lines(&config, &slots, &saved, now).0.into_iter().filter(|line| !line.contains("both")).collect::<Vec<_>>();
    assert!(told(NOW + 1).is_empty(), "{:?}", told(NOW + 1));
    assert!(told(NOW - 3 * HOUR_MS).is_empty(), "{:?}", told(NOW - 3 * HOUR_MS));
    let words: Vec<String> = told(NOW - 4 * HOUR_MS).iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(words, ["gc", "prune", "verify"], "by a clock that was wrong");
}
