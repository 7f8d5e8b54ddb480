//! Who is told what, when; by a clock that the tests set.

use super::{super::Kind, *};
use crate::config::Way;
use std::time::Duration;

const MIN: u64 = 60_000;
const NOW: u64 = 1_000_000 * MIN;

fn target() -> AlertTarget {
    AlertTarget { way: Way::Command(vec!["/x".into()]), wanted: Default::default(), repeat: None, resolved: true, pause: Duration::from_secs(3600) }
}

fn cause(name: &str) -> Cause {
    Cause::new(Kind::Rpo, Severity::Warning, name, name)
}

/// What the target is told at this time: it takes it.
fn told(book: &mut Book, target: &AlertTarget, now: u64) -> Vec<(State, String)> {
    let due = book.due("ops", target, now);
    book.delivered("ops", &due, now);
    due.into_iter().map(|due| (due.state, due.entry.cause.title)).collect()
}

fn news(name: &str) -> (State, String) {
    (State::Open, name.to_owned())
}

#[test]
fn a_cause_is_told_once_and_so_is_its_end() {
    let (mut book, target) = (Book::default(), target());
    book.see(vec![cause("a")], |_| true, NOW);
    assert!(told(&mut book, &target, NOW).is_empty(), "what begins together is told together");
    book.see(vec![cause("a"), cause("b")], |_| true, NOW + 2000);
    assert_eq!(told(&mut book, &target, NOW + 3000), [news("a"), news("b")]);
    for minutes in 1..200 {
        book.see(vec![cause("a"), cause("b")], |_| true, NOW + minutes * MIN);
        assert!(told(&mut book, &target, NOW + minutes * MIN).is_empty(), "{minutes}");
    }
    let later = NOW + 300 * MIN;
    book.see(vec![cause("b")], |_| false, later);
    assert!(told(&mut book, &target, later + MIN).is_empty(), "what was not looked at is not gone");
    book.see(vec![cause("b")], |_| true, later + MIN);
    assert_eq!(told(&mut book, &target, later + 2 * MIN), [(State::Resolved, "a".to_owned())]);
    assert!(told(&mut book, &target, later + 3 * MIN).is_empty());
    book.see(vec![cause("b")], |_| true, later + 8 * 24 * 60 * MIN);
    assert_eq!(book.entries.len(), 1, "it is forgotten in time");
}

#[test]
fn what_comes_and_goes_is_told_at_a_pace() {
    let (mut book, target) = (Book::default(), target());
    let (mut opened, mut closed) = (0, 0);
    // There for one minute of two, for six hours.
    for minutes in 0..360 {
        let now = NOW + minutes * MIN;
        book.see(if minutes % 2 == 0 { vec![cause("a")] } else { vec![] }, |_| true, now);
        for (state, _) in told(&mut book, &target, now + 10_000) {
            if state == State::Open { opened += 1 } else { closed += 1 }
        }
    }
    assert_eq!((opened, closed), (6, 6), "once in the pause of an hour");
    let quiet = AlertTarget { resolved: false, ..target };
    book.see(vec![], |_| true, NOW + 400 * MIN);
    assert!(told(&mut book, &quiet, NOW + 401 * MIN).is_empty());
}

#[test]
fn what_grows_worse_is_told_at_once_and_what_lasts_is_repeated() {
    let (mut book, target) = (Book::default(), AlertTarget { repeat: Some(Duration::from_secs(86_400)), ..target() });
    book.see(vec![cause("a")], |_| true, NOW);
    assert_eq!(told(&mut book, &target, NOW + MIN), [news("a")]);
    let worse = Cause { severity: Severity::Critical, ..cause("a") };
    book.see(vec![worse], |_| true, NOW + 2 * MIN);
    assert_eq!(told(&mut book, &target, NOW + 2 * MIN), [news("a")]);
    book.see(vec![cause("a")], |_| true, NOW + 3 * MIN);
    assert!(told(&mut book, &target, NOW + 4 * MIN).is_empty());
    let day = NOW + 2 * MIN + 24 * 60 * MIN;
    assert!(told(&mut book, &target, day - 1).is_empty());
    assert_eq!(told(&mut book, &target, day), [(State::Reminder, "a".to_owned())]);
    assert!(told(&mut book, &target, day + MIN).is_empty());
}

#[test]
fn a_cause_may_wait_and_may_be_silent() {
    let (mut book, target) = (Book::default(), target());
    book.see(vec![cause("a").hold_ms(10 * MIN), cause("b")], |_| true, NOW);
    book.entries.get_mut("rpo:b").expect("there").silent_until_unix_ms = Some(NOW + 30 * MIN);
    assert!(told(&mut book, &target, NOW + 9 * MIN).is_empty());
    assert_eq!(told(&mut book, &target, NOW + 10 * MIN), [news("a")]);
    assert_eq!(told(&mut book, &target, NOW + 30 * MIN), [news("b")]);
    // By a clock that was years ahead.
    book.entries.get_mut("rpo:b").expect("there").silent_until_unix_ms = Some(NOW * 2);
    book.entries.get_mut("rpo:b").expect("there").told.clear();
    assert_eq!(told(&mut book, &target, NOW + 31 * MIN), [news("b")]);
}

#[test]
fn a_target_that_fails_rests_longer_each_time_and_gets_all_of_it() {
    let (mut book, target) = (Book::default(), target());
    book.see(vec![cause("a")], |_| true, NOW);
    let (mut now, mut pauses) = (NOW + MIN, Vec::new());
    for _ in 0..8 {
        assert_eq!(book.due("ops", &target, now).len(), 1);
        book.failed("ops", "away", now);
        let next = book.failing["ops"].next_unix_ms;
        assert!(book.due("ops", &target, next - 1).is_empty());
        pauses.push((next - now) / 1000);
        now = next;
    }
    assert_eq!(pauses, [5, 15, 60, 300, 900, 1800, 1800, 1800]);
    assert_eq!(book.failing["ops"].since_unix_ms, NOW + MIN);
    book.see(vec![cause("a"), cause("b")], |_| true, now);
    assert_eq!(told(&mut book, &target, now), [news("a"), news("b")], "b is not waited for: a is old enough");
    assert!(book.failing.is_empty());
    // By a clock that was years ahead.
    book.failed("ops", "away", NOW * 2);
    book.see(vec![cause("c")], |_| true, now);
    assert!(!book.due("ops", &target, now + MIN).is_empty());
}

#[test]
fn a_clock_that_was_ahead_keeps_nobody_from_being_told() {
    let (mut book, target) = (Book::default(), target());
    book.see(vec![cause("a").hold_ms(10 * MIN)], |_| true, NOW * 2);
    assert_eq!(told(&mut book, &target, NOW), [news("a")]);
    assert!(told(&mut book, &target, NOW + 1).is_empty(), "and once only");
}

#[test]
fn a_new_target_is_told_what_stands_and_one_that_is_gone_is_forgotten() {
    let (mut book, target) = (Book::default(), target());
    book.see(vec![cause("a")], |_| true, NOW);
    told(&mut book, &target, NOW + MIN);
    assert_eq!(book.due("other", &target, NOW + 2 * MIN).len(), 1);
    book.failed("ops", "away", NOW);
    book.keep_targets(&BTreeMap::from([("other".to_owned(), target)]));
    assert!(book.failing.is_empty() && book.entries["rpo:a"].told.is_empty());
}
