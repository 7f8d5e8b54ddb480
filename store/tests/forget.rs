//! Forgets, and those who take them back, while others are at it; and a storage that fails between a forget's two objects.

mod common;

use cairn_store::{Forgotten, GcOptions, OpenOptions, Point, Progress, Store, StoreError, TakenBack, format::ObjectName};
use common::{Lab, backup, content, full, point, restore};
use std::{fs, path::PathBuf, sync::atomic::AtomicU32, sync::atomic::Ordering};

#[test]
fn several_that_take_a_forget_back_at_once_make_one_point() {
    let lab = Lab::with(false);
    let store = lab.open();
    let data = content(300_000, 4);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    store.tag(&point(&store, &a), "gold", true).expect("tags");
    store.forget(&point(&store, &a), 0, false).expect("forgets");
    let old = store.forgotten_points().expect("lists").remove(0);
    // Of another host each: the point is counted for the one that it was of.
    let open = |n: u32| {
        let options = OpenOptions { credential: None, state_dir: lab.dir.path().join(format!("state-{n}")), host: format!("other-{n}") };
        Store::open(&lab.root(), options).expect("opens")
    };
    let start = std::sync::Barrier::new(6);
    let taken: Vec<TakenBack> = std::thread::scope(|scope| {
        let each: Vec<_> = (0..6)
            .map(|n| {
                let (old, store, start) = (&old, open(n), &start);
                scope.spawn(move || {
                    start.wait();
                    store.unforget(old, &Progress::default()).expect("takes back")
                })
            })
            .collect();
        each.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let store = lab.open_with(None, "fresh").expect("opens");
    let points = store.points().expect("lists");
    assert_eq!(points.len(), 1, "{taken:?}");
    assert_eq!(points[0].summary.host, "host");
    assert_eq!(restore(&store, &points[0]).expect("restores"), data);
    assert!(taken.iter().any(|t| matches!(t, TakenBack::Now(made) if made.id == points[0].id)), "its maker knows that it stays: {taken:?}");
}

#[test]
fn a_tag_that_comes_before_the_forget_keeps_the_point() {
    let lab = Lab::with(false);
    let store = lab.open();
    let made: Vec<_> = (0..3).map(|n| backup(&store, &format!("p{n}"), &content(9000, n), full()).expect("backs up")).collect();
    let points: Vec<Point> = made.iter().map(|out| point(&store, out)).collect();
    let going: Vec<&Point> = points.iter().collect();
    let asked = AtomicU32::new(0);
    let stays = |p: &Point| {
        // Between the look at the log and the forget's own entry somebody tags it.
        if p.summary.name == "p1" && asked.fetch_add(1, Ordering::SeqCst) == 0 {
            store.tag(p, "gold", true).expect("tags");
        }
        p.tags().contains(&"gold".to_owned()).then(|| "it is gold".to_owned())
    };
    let results = store.forget_all(&going, 0, false, &stays).expect("lists");
    assert!(matches!(&results[1], Err(StoreError::Refused(why)) if why.contains("it is gold")), "{results:?}");
    assert!(matches!((&results[0], &results[2]), (Ok(_), Ok(_))), "{results:?}");
    let left: Vec<String> = store.points().expect("lists").into_iter().map(|p| p.summary.name).collect();
    assert_eq!(left, ["p1"]);
}

/// Puts a file where a tombstone's folder would be, so that none can be written.
fn block_tombstones(lab: &Lab, p: &Point) -> PathBuf {
    let folder = lab.root().join(ObjectName::tombstone(&p.id).as_str()).parent().expect("a folder").to_owned();
    fs::create_dir_all(folder.parent().expect("f")).expect("made");
    fs::write(&folder, "").expect("writes");
    folder
}

#[test]
fn a_forget_without_its_tombstone_is_no_failure_and_ends_the_batch() {
    let lab = Lab::with(false);
    let store = lab.open();
    let made: Vec<_> = (0..40).map(|n| backup(&store, "p", &content(9000, n), full()).expect("backs up")).collect();
    let points: Vec<Point> = made.iter().map(|out| point(&store, out)).collect();
    let blocked = block_tombstones(&lab, &points[0]);
    let Forgotten { lacks_tombstone } = store.forget(&points[0], 0, false).expect("it is forgotten");
    assert!(lacks_tombstone.is_some());
    let going: Vec<&Point> = points[1..].iter().collect();
    let results = store.forget_all(&going, 0, false, &|_| None).expect("lists");
    assert!(results.len() < going.len(), "after the first that lacks one nothing more begins");
    assert!(results.iter().all(|r| matches!(r, Ok(Forgotten { lacks_tombstone: Some(_) }))), "{results:?}");
    let left = store.points().expect("lists");
    assert_eq!(left.len(), points.len() - 1 - results.len(), "what was told to be forgotten is");
    fs::remove_file(blocked).expect("ours");
    let options = GcOptions { resume_grace_ms: 0, trash_keep_ms: 0, ..GcOptions::default() };
    let store = lab.open_with(None, "fresh").expect("opens");
    store.collect(&options, &Progress::default()).expect("collects");
    assert_eq!(lab.files("f").len(), 1 + results.len(), "the collection wrote the tombstones");
}
