//! The keeper's other tries, and what it has no room for. Nothing is started: what would be is this very test program.

use super::*;
use crate::jobs::record::{ASKED, Kind};

fn keeper(dir: &Path) -> Keeper {
    // Nothing is started: what would be is this very test program.
    Keeper::open(dir, Limits { jobs_max: 0 }, Home { is_ours: Box::new(|| true), lost: Arc::default() }).expect("opens")
}

fn order(trigger: &str) -> Order {
    Order {
        kind: Kind::Backup,
        domain: "web".into(),
        uuid: Some("u".into()),
        store: "main".into(),
        policies: vec!["p".into()],
        trigger: trigger.into(),
        why: "w".into(),
        argv: vec!["backup".into()],
        cancel_limit_ms: 1,
    }
}

/// The job runs, and its runner writes down that it has ended.
fn end_with(keeper: &mut Keeper, id: JobId, code: i32, ended_unix_ms: u64) -> Job {
    let mut job = keeper.get(id).expect("there");
    job.state = State::Running;
    keeper.table.update(&job).expect("writes");
    let folder = JobFolder::of(&keeper.dir, id);
    folder.create(&Ticket { id, order: job.order.clone(), queued_unix_ms: 1, again: job.again.clone() }).expect("creates");
    assert!(folder.claim_start().expect("claims"));
    folder.set_exit(&Exit { code, cancelled: false, ended_unix_ms, message: Some("busy".into()), point: None }).expect("writes");
    keeper.round().expect("looks");
    keeper.get(id).expect("there")
}

#[test]
fn an_events_job_that_meets_somebody_is_tried_again_so_often() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let mut id = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
    for (n, pause) in again::PAUSES_MS.iter().enumerate() {
        let begin = now_unix_ms();
        let job = end_with(&mut keeper, id, 11, begin);
        let next = keeper.get(id + 1).expect("another try");
        let said = job.message.expect("a message");
        assert!(job.state == State::Failed && said.starts_with(&format!("busy; tried again as job {}, not before ", next.id)), "{said}");
        let again = next.again.clone().expect("says what it follows");
        assert_eq!((next.state, again.of, again.tries, &next.order), (State::Queued, id, u32::try_from(n).expect("few") + 2, &order("shutdown")));
        let wait_ms = again.not_before_unix_ms - begin;
        assert!(wait_ms >= *pause && wait_ms < *pause + 20_000, "{wait_ms} for {pause}");
        assert!(!again::is_due(&next, now_unix_ms()) && again::is_due(&next, again.not_before_unix_ms));
        assert!(again::is_due(&next, again.not_before_unix_ms - 3 * 1_920_000), "a clock that was set back by an hour and more");
        id = next.id;
    }
    let last = end_with(&mut keeper, id, 11, now_unix_ms());
    assert!(last.message.expect("a message").contains("this was try 8, and it is not tried again"));
    assert_eq!(keeper.get(id + 1).expect_err("no more").code, NOT_FOUND);
    // A table that is begun anew takes in what folders know, and tries nothing a second time.
    drop(keeper);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", table::path(dir.path()).display()));
    }
    let mut keeper = self::keeper(dir.path());
    keeper.round().expect("looks");
    assert_eq!((keeper.get(id).expect("there").tries(), keeper.counts().expect("counts")), (8, Counts::default()));
}

#[test]
fn what_may_be_over_soon_is_tried_again_and_what_stays_is_not() {
    let now = now_unix_ms();
    for (what, trigger, code, ended_unix_ms, is_tried) in [
        ("libvirt is away, a disk is full", "shutdown", 1, now, true),
        ("the store's server restarts", "started", 10, now, true),
        ("somebody is at work", "shutdown", 11, now, true),
        ("killed: memory was short", "shutdown", 137, now, true),
        ("asked for by somebody", ASKED, 11, now, false),
        ("asked for by somebody", ASKED, 10, now, false),
        ("wrong usage", "shutdown", 2, now, false),
        ("warnings", "shutdown", 3, now, false),
        ("a wrong key", "shutdown", 12, now, false),
        ("refused", "shutdown", 13, now, false),
        ("damage", "shutdown", 14, now, false),
        ("no such domain", "shutdown", 15, now, false),
        ("interrupted", "shutdown", 130, now, false),
        ("done", "shutdown", 0, now, false),
        ("long ago", "shutdown", 11, now - 2 * 3600 * 1000, false),
    ] {
        let dir = tempfile::tempdir().expect("dir");
        let mut keeper = keeper(dir.path());
        let id = keeper.add(&[order(trigger)]).expect("adds")[0].id;
        let job = end_with(&mut keeper, id, code, ended_unix_ms);
        let message = job.message.clone().unwrap_or_default();
        assert!(job.state.is_over() && message.starts_with("busy") && message.contains("tried again as job 2") == is_tried, "{what}: {job:?}");
        assert_eq!(keeper.counts().expect("counts").queued, usize::from(is_tried), "{what}");
    }
}

#[test]
fn a_new_event_and_another_try_are_one_job() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let first = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
    end_with(&mut keeper, first, 11, now_unix_ms());
    assert_eq!(keeper.add(&[order("shutdown")]).expect("joins")[0].id, first + 1, "the other try waits already");
    // And the other way round: the event came before the end.
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = self::keeper(dir.path());
    let first = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
    let mut job = keeper.get(first).expect("there");
    job.state = State::Running;
    keeper.table.update(&job).expect("writes");
    let second = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
    let job = end_with(&mut keeper, first, 11, now_unix_ms());
    assert!(job.message.expect("a message").contains(&format!("job {second}, which waits, is for the same")));
    assert_eq!(keeper.counts().expect("counts").queued, 1);
}

#[test]
fn what_cannot_be_prepared_for_want_of_room_waits_and_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let id = keeper.add(&[order("shutdown")]).expect("adds")[0].id;
    (keeper.no_room, keeper.no_room_until) = (Some("a quota".into()), Instant::now() + NO_ROOM_PAUSE);
    keeper.limits.jobs_max = 1;
    keeper.round().expect("goes round");
    assert_eq!((keeper.get(id).expect("there").state, keeper.counts().expect("counts").problems), (State::Queued, vec!["a quota".to_owned()]));
    assert_eq!(keeper.add(&[order("shutdown")]).expect("what waits already is no more")[0].id, id);
    assert!(keeper.add(&[order("started"), order(ASKED)]).expect_err("refused").message.contains("a quota"));
    keeper.limits.jobs_max = 0;
    keeper.no_room_until = Instant::now();
    keeper.add(&[order(ASKED)]).expect("there is room again");
    assert!(keeper.counts().expect("counts").problems.is_empty());
}

#[test]
fn in_a_folder_that_is_not_ours_any_more_nothing_is_begun() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let id = keeper.add(&[order(ASKED)]).expect("adds")[0].id;
    keeper.limits.jobs_max = 1;
    keeper.home.is_ours = Box::new(|| false);
    for _ in 0..2 {
        assert!(keeper.round().expect_err("it is told").message.contains("removed or replaced"));
        assert!(keeper.add(&[order(ASKED)]).is_err() && keeper.start_waiting().is_err() && keeper.home.lost.load(Ordering::Relaxed));
        // Another that is in its place by now is none of ours.
        keeper.home.is_ours = Box::new(|| true);
    }
    assert_eq!(keeper.get(id).expect("there").state, State::Queued);
    assert!(!JobFolder::of(&keeper.dir, id).path().exists());
}

#[test]
fn a_flood_of_questions_keeps_no_job_from_its_turn() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let id = keeper.add(&[order(ASKED)]).expect("adds")[0].id;
    let mut job = keeper.get(id).expect("there");
    job.state = State::Running;
    keeper.table.update(&job).expect("writes");
    let folder = JobFolder::of(&keeper.dir, id);
    folder.create(&Ticket { id, order: job.order, queued_unix_ms: 1, again: None }).expect("creates");
    assert!(folder.claim_start().expect("claims"));
    folder.set_exit(&Exit { code: 0, cancelled: false, ended_unix_ms: now_unix_ms(), message: None, point: None }).expect("writes");
    // All of them wait already: there is no moment without a question.
    let (ask, asks) = std::sync::mpsc::channel();
    for _ in 0..500 {
        let (reply, _) = oneshot::channel();
        ask.send(Ask::Counts(reply)).expect("waits");
    }
    ask.send(Ask::Stop).expect("waits");
    keeper.run(&asks, || {});
    assert_eq!(keeper.get(id).expect("there").state, State::Done, "there was a round among them");
}

#[test]
fn what_is_outdated_goes_in_portions_and_all_of_it() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let many = 2 * PRUNED_MAX + 1;
    let jobs = keeper.add(&vec![order(ASKED); many]).expect("adds");
    for mut job in jobs {
        (job.state, job.ended_unix_ms) = (State::Done, Some(1));
        keeper.table.update(&job).expect("writes");
    }
    let left = |keeper: &mut Keeper| keeper.sql(|t| t.list(Which::All)).expect("lists").len();
    keeper.round().expect("goes round");
    assert_eq!(left(&mut keeper), many - PRUNED_MAX);
    (0..2).for_each(|_| keeper.round().expect("goes round"));
    assert_eq!(left(&mut keeper), 0);
}
