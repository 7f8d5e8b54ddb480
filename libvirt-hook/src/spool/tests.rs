//! The spool from both sides: order, bounds, garbage, many hooks beside a reader.

use super::*;
use crate::event::{Event, Operation};
use crate::place::{SPOOL, open_base, open_spool};
use proptest::prelude::*;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

fn event(stamp_ns: u64) -> Event {
    Event {
        domain: format!("d{stamp_ns}"),
        uuid: None,
        operation: Operation::Started,
        sub_operation: "begin".into(),
        extra: "-".into(),
        time_unix_ms: 1,
        stamp_ns,
        boot: None,
        cut: false,
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("folder");
    let base = dir.path().join("cairn");
    open_spool(open_base(&base).expect("base")).expect("spool");
    let spool = base.join(SPOOL);
    (dir, spool)
}

fn base(spool: &Path) -> &Path {
    spool.parent().expect("the spool is in it")
}

fn drained(spool: &Path) -> (Vec<u64>, Drained) {
    let mut stamps = Vec::new();
    let done = Spool::at(base(spool)).drain(|e| {
        stamps.push(e.stamp_ns);
        Ok(())
    });
    (stamps, done.expect("drained"))
}

fn names(spool: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(spool).expect("there").map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn records_come_out_in_order_and_once() {
    let (_dir, spool) = folder();
    for stamp in [30, 9, 100_000_000_000, 10] {
        assert_eq!(put(base(&spool), stamp, &event(stamp).encode()).expect("put"), Put::Stored);
    }
    assert!(names(&spool).iter().all(|n| n.ends_with(".event")));
    assert_eq!(fs::metadata(spool.join(&names(&spool)[0])).expect("there").mode() & 0o777, 0o600);
    assert_eq!(drained(&spool), (vec![9, 10, 30, 100_000_000_000], Drained { taken: 4, ..Drained::default() }));
    assert_eq!(drained(&spool), (vec![], Drained::default()));
}

#[test]
fn a_record_that_is_not_taken_stays_and_so_do_those_behind_it() {
    let (_dir, spool) = folder();
    for stamp in 1..=3 {
        put(base(&spool), stamp, &event(stamp).encode()).expect("put");
    }
    let failed = Spool::at(base(&spool)).drain(|e| if e.stamp_ns == 2 { Err(io::ErrorKind::Other.into()) } else { Ok(()) });
    assert!(failed.is_err());
    assert_eq!(drained(&spool).0, [2, 3]);
}

#[test]
fn a_full_spool_takes_no_more_and_says_so_until_it_is_drained() {
    let (_dir, spool) = folder();
    for stamp in 0..RECORDS_MAX as u64 {
        assert_eq!(put(base(&spool), stamp, &event(stamp).encode()).expect("put"), Put::Stored);
    }
    for stamp in 0..3 {
        assert_eq!(put(base(&spool), stamp, b"x").expect("full"), Put::Full);
    }
    assert_eq!(names(&spool).len(), RECORDS_MAX + 1);
    let (stamps, done) = drained(&spool);
    assert_eq!((stamps.len(), done.overflowed, done.is_incomplete()), (RECORDS_MAX, true, true));
    assert_eq!(put(base(&spool), 1, &event(1).encode()).expect("put"), Put::Stored);
    assert_eq!(drained(&spool), (vec![1], Drained { taken: 1, ..Drained::default() }));
}

#[test]
fn garbage_is_told_and_taken_away_and_nothing_outside_is_touched() {
    let (dir, spool) = folder();
    let outside = dir.path().join("outside");
    fs::write(&outside, event(7).encode()).expect("written");
    let name = |stamp: u64| spool.join(format!("{}{RECORD_END}", stem(stamp, 1)));
    fs::write(name(1), b"").expect("written");
    fs::write(name(2), &event(2).encode()[..40]).expect("written");
    fs::write(name(3), vec![b'x'; 100_000]).expect("written");
    symlink(&outside, name(4)).expect("link");
    nix::unistd::mkfifo(&name(5), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let _socket = std::os::unix::net::UnixDatagram::bind(name(6)).expect("socket");
    fs::write(spool.join("README"), b"x").expect("written");
    fs::write(spool.join(".1-1.new"), b"x").expect("written");
    fs::create_dir(spool.join("folder")).expect("made");
    fs::write(name(8), event(8).encode()).expect("written");
    let (stamps, done) = drained(&spool);
    assert_eq!(stamps, [8]);
    assert_eq!(done.rejected.len(), 9, "{done:?}");
    assert!(done.is_incomplete() && !done.overflowed);
    assert_eq!(names(&spool), ["folder"]);
    assert!(outside.exists());
}

#[test]
fn what_a_dead_hook_did_not_finish_goes_and_what_a_living_one_writes_stays() {
    let (_dir, spool) = folder();
    let now = crate::clock::since_boot_ns();
    let unfinished = |stamp| format!(".{}{UNFINISHED_END}", stem(stamp, 1));
    for stamp in [1, now, now + 3_600_000_000_000] {
        fs::write(spool.join(unfinished(stamp)), b"x").expect("written");
    }
    let (_, done) = drained(&spool);
    assert!(done.overflowed, "something was lost");
    assert_eq!(names(&spool), [unfinished(now)]);
}

#[test]
fn one_drains_at_a_time() {
    let (_dir, spool) = folder();
    put(base(&spool), 1, &event(1).encode()).expect("put");
    let mut inner = None;
    let outer = Spool::at(base(&spool)).drain(|_| {
        inner = Some(Spool::at(base(&spool)).drain(|_| Ok(())).expect_err("one is at it").kind());
        Ok(())
    });
    assert_eq!((outer.expect("drained").taken, inner), (1, Some(io::ErrorKind::WouldBlock)));
}

#[test]
fn nothing_is_lost_or_doubled_while_many_write_and_one_reads() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 200;
    let (_dir, spool) = folder();
    // As hooks have them: what is unfinished for long is taken away.
    let origin = crate::clock::since_boot_ns() - 1_000_000;
    let done = AtomicBool::new(false);
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let spool = &spool;
                scope.spawn(move || {
                    for i in 0..EACH {
                        // Threads share a process id; processes do not.
                        let stamp = origin + i * WRITERS + w;
                        while put(base(spool), stamp, &event(stamp).encode()).expect("put") == Put::Full {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            loop {
                let last = done.load(Ordering::Acquire);
                let (stamps, drained) = drained(&spool);
                assert!(drained.rejected.is_empty(), "{drained:?}");
                assert!(stamps.is_sorted());
                seen.extend(stamps);
                if last {
                    return seen;
                }
            }
        });
        writers.into_iter().for_each(|w| w.join().expect("writer"));
        done.store(true, Ordering::Release);
        seen = reader.join().expect("reader");
    });
    // What one writer writes is read in its order, as what libvirt says of one domain is.
    for w in 0..WRITERS {
        assert!(seen.iter().filter(|s| (*s - origin) % WRITERS == w).is_sorted());
    }
    seen.sort_unstable();
    assert_eq!(seen, (origin..origin + WRITERS * EACH).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn names_sort_as_their_stamps(a in any::<u64>(), b in any::<u64>(), pids in any::<(u32, u32)>()) {
        prop_assert_eq!(stem(a, pids.0).cmp(&stem(b, pids.1)), (a, pids.0).cmp(&(b, pids.1)));
        prop_assert_eq!(stamp_of(&stem(a, pids.0)), Some(a));
    }
}
