//! The table of jobs: what is kept, found and owed; what is no good is set aside.

use super::*;

fn order(domain: &str) -> Order {
    Order {
        kind: Kind::Backup,
        domain: domain.into(),
        uuid: Some("u".into()),
        store: "main".into(),
        policies: vec!["a".into(), "b".into()],
        trigger: "asked".into(),
        why: "by hand".into(),
        windows: vec![],
        argv: vec!["backup".into(), "--".into(), domain.into()],
        cancel_limit_ms: 60_000,
    }
}

fn opened(dir: &tempfile::TempDir) -> Table {
    let (table, word) = open(&path(dir.path())).expect("opens");
    assert_eq!(word, None);
    table
}

fn ended(table: &Table, id: JobId, at: u64) {
    let mut job = table.get(id).expect("reads").expect("there");
    (job.state, job.code, job.started_unix_ms, job.ended_unix_ms) = (State::Done, Some(0), Some(at - 1), Some(at));
    table.update(&job).expect("writes");
    assert_eq!(table.get(id).expect("reads"), Some(job));
}

#[test]
fn rows_are_kept_and_found() {
    let dir = tempfile::tempdir().expect("dir");
    let mut table = opened(&dir);
    let ids = table.add(&[order("a"), order("b"), order("c")], &[], 5).expect("adds");
    assert_eq!(ids, [1, 2, 3]);
    ended(&table, 2, 100);
    drop(table);
    let table = opened(&dir);
    let found = |which| table.list(which).expect("lists").into_iter().map(|j| j.id).collect::<Vec<_>>();
    assert_eq!((found(Which::All), found(Which::In(State::Queued)), found(Which::Since(101))), (vec![1, 2, 3], vec![1, 3], vec![1, 3]));
    assert_eq!(found(Which::Since(100)), [1, 2, 3]);
    assert_eq!((table.count(State::Done).expect("counts"), table.count(State::Lost).expect("counts")), (1, 0));
    assert_eq!(table.get(1).expect("reads").expect("there").order, order("a"));
    assert_eq!(table.get(9).expect("reads"), None);
}

#[test]
fn a_lost_job_is_told_until_a_later_one_has_done_its_work() {
    let dir = tempfile::tempdir().expect("dir");
    let mut table = opened(&dir);
    table.add(&[order("a"), order("b"), order("a"), order("a")], &[], 5).expect("adds");
    let ends = |table: &Table, id: JobId, state: State, at: u64| {
        let mut job = table.get(id).expect("reads").expect("there");
        (job.state, job.ended_unix_ms) = (state, Some(at));
        table.update(&job).expect("writes");
    };
    let lost = |table: &Table, since, max| table.owed(since, max).expect("asks").into_iter().map(|j| j.id).collect::<Vec<_>>();
    ends(&table, 1, State::Lost, 100);
    ends(&table, 2, State::Lost, 200);
    assert_eq!((lost(&table, 100, 9), lost(&table, 101, 9), lost(&table, 0, 1)), (vec![2, 1], vec![2], vec![2]));
    ends(&table, 3, State::Failed, 300);
    assert_eq!(lost(&table, 0, 9), [2, 1], "what failed has done nothing");
    ends(&table, 4, State::Warnings, 400);
    assert_eq!(lost(&table, 0, 9), [2], "the other domain's is still owed");
}

#[test]
fn an_events_job_that_failed_for_good_is_told_until_its_work_is_done() {
    let event = || Order { trigger: "shutdown".into(), ..order("a") };
    let dir = tempfile::tempdir().expect("dir");
    let mut table = opened(&dir);
    table.add(&[event(), order("a"), event(), event()], &[], 5).expect("adds");
    let ends = |table: &Table, id: JobId, state: State, code: u8| {
        let mut job = table.get(id).expect("reads").expect("there");
        (job.state, job.code, job.ended_unix_ms) = (state, Some(code.into()), Some(100));
        table.update(&job).expect("writes");
    };
    let owed = |table: &Table| table.owed(100, 9).expect("asks").into_iter().map(|j| j.id).collect::<Vec<_>>();
    for id in [3, 4] {
        ends(&table, id, State::Cancelled, 130);
    }
    for code in [2, 11, 12, 13, 14] {
        ends(&table, 1, State::Failed, code);
        assert_eq!(owed(&table), [1], "{code}");
    }
    assert!(table.owed(101, 9).expect("asks").is_empty(), "long ago");
    ends(&table, 1, State::Failed, NOT_FOUND);
    assert!(owed(&table).is_empty(), "there is nothing to save");
    ends(&table, 1, State::Failed, 12);
    ends(&table, 2, State::Failed, 12);
    assert_eq!(owed(&table), [1], "what was asked for by hand was told to whoever asked, and has done nothing");
    ends(&table, 3, State::Failed, 12);
    assert_eq!(owed(&table), [3], "once for the same work");
    // Another try of it.
    let mut third = table.get(3).expect("reads").expect("there");
    table.end_and_retry(&mut third, &Again { of: 3, tries: 2, not_before_unix_ms: 8 }, 10, |_| "again".into()).expect("writes");
    assert!(owed(&table).is_empty(), "it may be done yet");
    ends(&table, 5, State::Cancelled, 130);
    assert!(owed(&table).is_empty(), "somebody has decided");
    ends(&table, 5, State::Failed, 11);
    assert_eq!(owed(&table), [5]);
    table.add(&[order("a")], &[], 5).expect("adds");
    assert_eq!(owed(&table), [5]);
    ends(&table, 6, State::Warnings, 3);
    assert!(owed(&table).is_empty(), "by hand is as good");
}

#[test]
fn old_rows_go_and_their_numbers_stay_theirs() {
    let dir = tempfile::tempdir().expect("dir");
    let mut table = opened(&dir);
    table.add(&vec![order("a"); 6], &[], 0).expect("adds");
    (1..=5).for_each(|id| ended(&table, id, 100 * id.unsigned_abs()));
    assert_eq!(table.outdated(200, 10).expect("asks"), [1], "by age");
    assert_eq!(table.outdated(0, 3).expect("asks"), [1, 2], "by number; what waits does not count");
    table.remove(5).expect("removes");
    table.remove(6).expect("removes");
    assert_eq!(table.add(&[order("b")], &[], 0).expect("adds"), [7]);
    table.reserve(20).expect("reserves");
    table.reserve(3).expect("takes nothing back");
    assert_eq!(table.add(&[order("b")], &[], 0).expect("adds"), [21]);
}

#[test]
fn a_new_table_begins_behind_what_folders_have() {
    let dir = tempfile::tempdir().expect("dir");
    let mut table = opened(&dir);
    table.reserve(41).expect("reserves");
    let ticket = Ticket { id: 17, order: order("a"), queued_unix_ms: 9, again: Some(Again { of: 3, tries: 2, not_before_unix_ms: 8 }) };
    table.take_in(&ticket).expect("takes in");
    assert!(table.take_in(&ticket).is_err(), "once");
    let job = table.get(17).expect("reads").expect("there");
    assert_eq!((job.queued_unix_ms, job.again), (9, ticket.again));
    assert!(table.has_retry(3).expect("asks") && !table.has_retry(17).expect("asks"));
    assert_eq!(table.add(&[order("b")], &[], 0).expect("adds"), [42]);
}

#[test]
fn what_is_noted_with_orders_is_noted_with_them_or_not_at_all() {
    let dir = tempfile::tempdir().expect("dir");
    let mut table = opened(&dir);
    let slot = |done, ran| Slot { done, ran };
    let key = |text: &str| text.to_owned();
    table.add(&[order("a")], &[(key("x"), slot(5, None)), (key("y"), slot(7, Some(7)))], 5).expect("adds");
    table.add(&[], &[(key("x"), slot(9, Some(8)))], 6).expect("notes");
    // The second slot cannot be written: neither is the job.
    table.db.execute_batch("CREATE TRIGGER no BEFORE INSERT ON slots WHEN new.work = 'bad' BEGIN SELECT raise(ABORT, 'no'); END").expect("makes");
    table.add(&[order("b")], &[(key("x"), slot(99, None)), (key("bad"), slot(1, None))], 7).expect_err("is refused");
    assert_eq!(table.list(Which::All).expect("lists").len(), 1);
    drop(table);
    let table = opened(&dir);
    let slots = table.slots().expect("reads");
    assert_eq!((slots.len(), slots["x"], slots["y"]), (2, slot(9, Some(8)), slot(7, Some(7))));
    table.forget_slots(8).expect("forgets");
    assert_eq!(table.slots().expect("reads").into_keys().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn activity_is_told_by_kind_and_thing() {
    let dir = tempfile::tempdir().expect("dir");
    let mut table = opened(&dir);
    let prune = Order { kind: Kind::Prune, domain: "a,b".into(), ..order("x") };
    table.add(&[order("a"), order("a"), order("b"), prune], &[], 5).expect("adds");
    ended(&table, 1, 100);
    ended(&table, 4, 120);
    let told: Vec<_> = table.activity(1000).expect("asks").into_iter().map(|a| (a.kind, a.name, a.is_busy, a.done_unix_ms)).collect();
    let wanted = [(Kind::Backup, "a", true, Some(100)), (Kind::Backup, "b", true, None), (Kind::Prune, "a,b", false, Some(120))];
    assert_eq!(told, wanted.map(|(kind, name, busy, done)| (kind, name.to_owned(), busy, done)));
    // By a clock that was a year ahead: the last that is not counts.
    ended(&table, 2, 365 * 86_400_000);
    let done = |now| table.activity(now).expect("asks")[0].done_unix_ms;
    assert_eq!((done(1000), done(365 * 86_400_000)), (Some(100), Some(365 * 86_400_000)));
}

#[test]
fn a_table_of_an_earlier_layout_is_carried_on() {
    let dir = tempfile::tempdir().expect("dir");
    let mut table = opened(&dir);
    table.add(&[order("a")], &[], 5).expect("adds");
    drop(table);
    let second = "ALTER TABLE jobs DROP COLUMN windows; DROP TABLE slots; PRAGMA user_version = 2";
    Connection::open(path(dir.path())).and_then(|db| db.execute_batch(second)).expect("as it was");
    assert_eq!(opened(&dir).slots().expect("reads").len(), 0);
    let first =
        "ALTER TABLE jobs DROP COLUMN retry_of; ALTER TABLE jobs DROP COLUMN tries; ALTER TABLE jobs DROP COLUMN not_before_unix_ms; PRAGMA user_version = 1";
    Connection::open(path(dir.path())).and_then(|db| db.execute_batch(&format!("{second};{first}"))).expect("as it was");
    let mut table = opened(&dir);
    let mut job = table.get(1).expect("reads").expect("there");
    assert_eq!((&job.order, &job.again), (&order("a"), &None));
    let again = Again { of: 1, tries: 2, not_before_unix_ms: 77 };
    (job.state, job.code, job.ended_unix_ms) = (State::Failed, Some(11), Some(9));
    table.end_and_retry(&mut job, &again, 10, |id| format!("again as {id}")).expect("writes");
    assert_eq!(table.get(1).expect("reads"), Some(job.clone()));
    let next = table.get(2).expect("reads").expect("there");
    assert_eq!((job.message.as_deref(), next.order, next.again, next.state), (Some("again as 2"), order("a"), Some(again), State::Queued));
}

#[test]
fn what_is_no_good_is_set_aside_with_a_word() {
    type Hurt = fn(&Path);
    let hurts: [(&str, Hurt); 4] = [
        ("no database", |path| fs::write(path, vec![b'x'; 5000]).expect("writes")),
        ("a page is zeros", |path| {
            let mut bytes = fs::read(path).expect("reads");
            let page = bytes.len() / 2 / 4096 * 4096;
            bytes[page..page + 4096].fill(0);
            fs::write(path, bytes).expect("writes");
        }),
        ("cut off", |path| fs::OpenOptions::new().write(true).open(path).and_then(|f| f.set_len(4096)).expect("cuts")),
        ("newer", |path| Connection::open(path).and_then(|db| db.execute_batch("PRAGMA user_version = 99")).expect("writes")),
    ];
    for (what, hurt) in hurts {
        let dir = tempfile::tempdir().expect("dir");
        let mut table = opened(&dir);
        table.add(&vec![order("a"); 200], &[], 0).expect("adds");
        drop(table);
        let file = path(dir.path());
        assert!(!file.with_extension("sqlite-wal").exists(), "all is in the file");
        hurt(&file);
        let (mut table, word) = open(&file).unwrap_or_else(|f| panic!("{what}: {f:?}"));
        let word = word.unwrap_or_else(|| panic!("{what}: no word"));
        assert!(word.contains("set aside") && file.with_extension("sqlite.aside").exists(), "{what}: {word}");
        assert!(table.list(Which::All).expect("lists").is_empty(), "{what}");
        table.add(&[order("b")], &[], 0).expect("adds");
        drop(table);
        assert_eq!(opened(&dir).list(Which::All).expect("lists").len(), 1, "{what}");
    }
}
