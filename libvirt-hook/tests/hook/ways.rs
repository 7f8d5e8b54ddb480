//! Where a record goes: to a listener, into the spool, and how it looks there.

use crate::runner::{Feed, UUID, assert_harmless, at_least, hook, program, run, spooled, xml};
use cairn_hook::{Operation, channel::Inbox, clock, spool::RECORDS_MAX};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

#[test]
fn with_nobody_listening_it_is_in_the_spool() {
    let dir = tempfile::tempdir().expect("folder");
    let before = clock::since_boot_ns();
    assert_harmless("nobody listens", || (hook(dir.path()), Feed::Bytes(xml())));
    let events = at_least(dir.path(), 1);
    let event = events.first().expect("one record");
    assert_eq!((event.domain.as_str(), event.sub_operation.as_str(), event.extra.as_str()), ("web1", "begin", "-"));
    assert_eq!((&event.operation, event.uuid.map(|u| u.to_string()).as_deref()), (&Operation::Started, Some(UUID)));
    assert_eq!((event.boot, event.cut), (clock::boot_id(), false));
    assert!((before..clock::since_boot_ns()).contains(&event.stamp_ns));
    assert!(clock::unix_ms().abs_diff(event.time_unix_ms) < 60_000);
}

#[test]
fn a_listener_gets_it_and_the_spool_stays_empty() {
    let dir = tempfile::tempdir().expect("folder");
    let inbox = Inbox::bind(dir.path()).expect("bound");
    let mut command = hook(dir.path());
    command.args(["more", "than", "libvirt", "gives"]);
    assert_eq!(run(command, Feed::Bytes(xml())).status.code(), Some(0));
    let arrived = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(5));
        inbox.next().expect("read")
    });
    let event = arrived.expect("there").expect("a record");
    assert_eq!(event.uuid.map(|u| u.to_string()).as_deref(), Some(UUID));
    assert!(inbox.next().expect("read").is_none());
    assert!(spooled(dir.path()).is_empty());
}

#[test]
fn a_listener_that_died_or_does_not_read_loses_nothing_to_come() {
    let dir = tempfile::tempdir().expect("folder");
    drop(Inbox::bind(dir.path()).expect("bound"));
    assert_harmless("the listener died", || (hook(dir.path()), Feed::Bytes(xml())));
    assert!(!at_least(dir.path(), 1).is_empty());

    // As one that is stopped: its socket fills, and what does not fit in is spooled.
    let inbox = Inbox::bind(dir.path()).expect("bound");
    let filler = fill(dir.path());
    assert_harmless("the listener hangs", || (hook(dir.path()), Feed::Bytes(xml())));
    assert!(!at_least(dir.path(), 1).is_empty());
    assert_eq!(std::iter::from_fn(|| inbox.next().expect("read")).count(), filler, "what was sent is still there");
}

/// Sends until the socket takes no more.
fn fill(base: &std::path::Path) -> usize {
    (0..1_000_000).take_while(|_| cairn_hook::channel::send(base, b"filler").is_ok()).count()
}

#[test]
fn names_that_look_like_options_or_no_text_are_names() {
    let dir = tempfile::tempdir().expect("folder");
    for name in [&b"--help"[..], b"-V", b"a b\n\"'%=", "\u{e4}\u{20ac}".as_bytes(), b"\xff\xfe", &[b'x'; 20_000]] {
        let mut command = std::process::Command::new(program());
        command.arg(OsStr::from_bytes(name)).args(["melt", "end", "why"]).env(cairn_hook::place::DIR_VARIABLE, dir.path());
        let ended = run(command, Feed::Bytes(Vec::new()));
        assert_eq!((ended.status.code(), ended.said.len()), (Some(0), 0), "{name:?}");
        let events = at_least(dir.path(), 1);
        let event = events.first().expect("a record");
        assert!(String::from_utf8_lossy(name).starts_with(&event.domain), "{event:?}");
        assert_eq!((event.cut, event.uuid), (name.len() > 1024, None));
        assert_eq!(event.operation, Operation::Other("melt".into()));
    }
}

#[test]
fn without_arguments_it_does_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    for count in 0..2 {
        let mut command = std::process::Command::new(program());
        command.args(&["web1", "start"][..count]).env(cairn_hook::place::DIR_VARIABLE, dir.path());
        assert_eq!(run(command, Feed::Bytes(xml())).status.code(), Some(0));
    }
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
}

#[test]
fn many_at_once_lose_and_double_nothing_beside_a_reader() {
    const HOOKS: usize = 200;
    let dir = tempfile::tempdir().expect("folder");
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let base = dir.path();
                scope.spawn(move || (0..HOOKS / 8).for_each(|_| assert_eq!(run(hook(base), Feed::Bytes(xml())).status.code(), Some(0))))
            })
            .collect();
        while threads.iter().any(|t| !t.is_finished()) {
            seen.extend(spooled(dir.path()));
        }
    });
    // A child that had no processor while its parent waited comes later.
    let end = Instant::now() + Duration::from_secs(2);
    while seen.len() < HOOKS && Instant::now() < end {
        seen.extend(spooled(dir.path()));
    }
    assert_eq!(seen.len(), HOOKS);
    let stamps: HashSet<_> = seen.iter().map(|e| e.stamp_ns).collect();
    assert!(stamps.len() * 100 >= seen.len() * 99, "stamps are of nanoseconds");
}

#[test]
fn a_full_spool_is_quick_and_bounded() {
    let dir = tempfile::tempdir().expect("folder");
    let record = b"x";
    for stamp in 0..RECORDS_MAX as u64 {
        cairn_hook::spool::put(dir.path(), stamp, record).expect("put");
    }
    assert_harmless("full spool", || (hook(dir.path()), Feed::Bytes(xml())));
    std::thread::sleep(Duration::from_millis(100));
    let names: Vec<_> = fs::read_dir(dir.path().join(cairn_hook::place::SPOOL)).expect("there").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(names.len(), RECORDS_MAX + 1);
    assert!(names.iter().any(|n| n == "overflow"));
}

#[test]
fn a_slow_listener_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("folder");
    let inbox = Inbox::bind(dir.path()).expect("bound");
    let end = Instant::now() + Duration::from_secs(1);
    let mut sent = 0;
    while Instant::now() < end && sent < 40 {
        assert_harmless("the listener is slow", || {
            sent += 1;
            (hook(dir.path()), Feed::Bytes(xml()))
        });
    }
    let mut taken = 0;
    let end = Instant::now() + Duration::from_secs(3);
    while taken < sent && Instant::now() < end {
        taken += std::iter::from_fn(|| inbox.next().expect("read")).count() + spooled(dir.path()).len();
    }
    assert_eq!(taken, sent, "each is in one of the two");
}
