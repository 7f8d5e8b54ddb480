//! The keeper's other tries, and what it has no room for. Nothing is started: what would be is this very test program.

use super::*;
use crate::{
    commands::now_unix_ms,
    jobs::record::{ASKED, Exit, Kind},
};

fn keeper(dir: &Path) -> Keeper {
    hearing(dir).0
}

/// With what it tells of domains whose backups ended badly.
fn hearing(dir: &Path) -> (Keeper, mpsc::Receiver<String>) {
    let (broken, heard) = mpsc::channel(super::super::BROKEN_MAX);
    // Nothing is started: what would be is this very test program.
    let home = Home { is_ours: Box::new(|| true), lost: Arc::default() };
    (Keeper::open(dir, Limits::default(), home, broken, Around::default()).expect("opens"), heard)
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
        windows: vec![],
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
    let mut id = keeper.add(&[order("shutdown")], &[]).expect("adds")[0].id;
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
    let owed = keeper.counts().expect("counts").problems;
    assert!(owed.len() == 1 && owed[0].starts_with(&format!("job {id} (backup of web to main) failed: busy; this was try 8")), "{owed:?}");
    assert_eq!(keeper.get(id + 1).expect_err("no more").code, NOT_FOUND);
    // A table that is begun anew takes in what folders know, and tries nothing a second time.
    drop(keeper);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", table::path(dir.path()).display()));
    }
    let mut keeper = self::keeper(dir.path());
    keeper.round().expect("looks");
    let counts = keeper.counts().expect("counts");
    assert_eq!((keeper.get(id).expect("there").tries(), counts.queued, counts.running), (8, 0, 0));
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
        ("the host shuts down", "shutdown", 130, now, true),
        ("the host shuts down", ASKED, 130, now, false),
        ("done", "shutdown", 0, now, false),
        ("long ago", "shutdown", 11, now - 25 * 3600 * 1000, false),
    ] {
        let dir = tempfile::tempdir().expect("dir");
        let mut keeper = keeper(dir.path());
        let id = keeper.add(&[order(trigger)], &[]).expect("adds")[0].id;
        let job = end_with(&mut keeper, id, code, ended_unix_ms);
        let message = job.message.clone().unwrap_or_default();
        assert!(job.state.is_over() && message.contains("busy") && message.contains("tried again as job 2") == is_tried, "{what}: {job:?}");
        let counts = keeper.counts().expect("counts");
        assert_eq!(counts.queued, usize::from(is_tried), "{what}");
        // What a person asked for was told to that person, and a domain that is gone owes no point.
        let is_owed = !is_tried && trigger != ASKED && ![0, 3, 15].contains(&code) && ended_unix_ms == now;
        assert_eq!(counts.problems.len(), usize::from(is_owed), "{what}: {:?}", counts.problems);
    }
}

#[test]
fn a_job_that_the_hosts_shutdown_ends_is_tried_again_however_long_the_host_was_off() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let id = keeper.add(&[order("shutdown")], &[]).expect("adds")[0].id;
    let mut job = keeper.get(id).expect("there");
    // As the rounds of the daemon before have it.
    job.started_unix_ms = Some(1);
    keeper.table.update(&job).expect("writes");
    let job = end_with(&mut keeper, id, 130, now_unix_ms() - 12 * 3600 * 1000);
    let said = job.message.clone().expect("a message");
    assert!(job.state == State::Failed && said.starts_with("interrupted, and nobody had cancelled it"), "{job:?}");
    assert!(said.contains("tried again as job 2"), "{said}");
    assert_eq!(keeper.get(id + 1).expect("another try").again.expect("says what it follows").of, id);
}

#[test]
fn a_backup_that_ended_badly_calls_for_a_look_at_its_domain() {
    for (code, is_called) in [(0, false), (3, false), (1, true), (13, true), (130, true), (137, true)] {
        let dir = tempfile::tempdir().expect("dir");
        let (mut keeper, mut heard) = hearing(dir.path());
        let id = keeper.add(&[order("shutdown")], &[]).expect("adds")[0].id;
        end_with(&mut keeper, id, code, now_unix_ms());
        assert_eq!(heard.try_recv().ok().as_deref(), is_called.then_some("u"), "{code}");
        keeper.round().expect("goes round");
        assert!(heard.try_recv().is_err(), "{code}: once");
    }
    let dir = tempfile::tempdir().expect("dir");
    let (mut keeper, mut heard) = hearing(dir.path());
    let image = Order { kind: Kind::BackupImage, ..order("shutdown") };
    let nameless = Order { uuid: None, ..order(ASKED) };
    for order in [image, nameless] {
        let mut job = keeper.add(&[order], &[]).expect("adds").remove(0);
        // Its folder is gone, and with it whoever could tell how it ended.
        (job.state, job.started_unix_ms) = (State::Running, Some(1));
        keeper.table.update(&job).expect("writes");
    }
    keeper.round().expect("goes round");
    assert_eq!(keeper.sql(|t| t.count(State::Lost)).expect("counts"), 2);
    assert_eq!((heard.try_recv().ok().as_deref(), heard.try_recv().ok()), (Some("web"), None), "an image has no guest");
}

#[test]
fn a_job_whose_turn_does_not_come_is_told() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    keeper.table.add(&[order(ASKED)], &[], now_unix_ms() - 7 * 3600 * 1000).expect("adds");
    keeper.round().expect("goes round");
    let told = keeper.counts().expect("counts").problems;
    assert!(told.len() == 1 && told[0].starts_with("job 1 (backup of web to main) has waited for its turn for 7 hours"), "{told:?}");
}

#[test]
fn a_new_event_and_another_try_are_one_job() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let first = keeper.add(&[order("shutdown")], &[]).expect("adds")[0].id;
    end_with(&mut keeper, first, 11, now_unix_ms());
    assert_eq!(keeper.add(&[order("shutdown")], &[]).expect("joins")[0].id, first + 1, "the other try waits already");
    // And the other way round: the event came before the end.
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = self::keeper(dir.path());
    let first = keeper.add(&[order("shutdown")], &[]).expect("adds")[0].id;
    let mut job = keeper.get(first).expect("there");
    job.state = State::Running;
    keeper.table.update(&job).expect("writes");
    let second = keeper.add(&[order("shutdown")], &[]).expect("adds")[0].id;
    let job = end_with(&mut keeper, first, 11, now_unix_ms());
    assert!(job.message.expect("a message").contains(&format!("job {second}, which waits, is for the same")));
    assert_eq!(keeper.counts().expect("counts").queued, 1);
}

#[test]
fn what_cannot_be_prepared_for_want_of_room_waits_and_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let id = keeper.add(&[order("shutdown")], &[]).expect("adds")[0].id;
    (keeper.no_room, keeper.no_room_until) = (Some("a quota".into()), Instant::now() + NO_ROOM_PAUSE);
    keeper.limits.jobs_max = 1;
    keeper.round().expect("goes round");
    assert_eq!((keeper.get(id).expect("there").state, keeper.counts().expect("counts").problems), (State::Queued, vec!["a quota".to_owned()]));
    assert_eq!(keeper.add(&[order("shutdown")], &[]).expect("what waits already is no more")[0].id, id);
    assert!(keeper.add(&[order("started"), order(ASKED)], &[]).expect_err("refused").message.contains("a quota"));
    keeper.limits.jobs_max = 0;
    keeper.no_room_until = Instant::now();
    keeper.add(&[order(ASKED)], &[]).expect("there is room again");
    assert!(keeper.counts().expect("counts").problems.is_empty());
}

#[test]
fn in_a_folder_that_is_not_ours_any_more_nothing_is_begun() {
    let dir = tempfile::tempdir().expect("dir");
    let mut keeper = keeper(dir.path());
    let id = keeper.add(&[order(ASKED)], &[]).expect("adds")[0].id;
    keeper.limits.jobs_max = 1;
    keeper.home.is_ours = Box::new(|| false);
    for _ in 0..2 {
        assert!(keeper.round().expect_err("it is told").message.contains("removed or replaced"));
        assert!(keeper.add(&[order(ASKED)], &[]).is_err() && keeper.start_waiting().is_err() && keeper.home.lost.load(Ordering::Relaxed));
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
    let id = keeper.add(&[order(ASKED)], &[]).expect("adds")[0].id;
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
    let jobs = keeper.add(&vec![order(ASKED); many], &[]).expect("adds");
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
