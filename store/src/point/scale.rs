//! How long a store with very many points takes to open, list and forget in. Run by hand; figures and conditions stand in docs/index.md:
//! `cargo test -p cairn-store --lib point::scale -- --ignored --nocapture`
//!
//! Registers are sealed and committed by the code that backups use; only the disks are left out, since no listing looks at them.

use crate::{InitOptions, OpenOptions, PointInfo, Profile, Store, init, session::commit};
use cairn_store_format::{
    Location, PackId, PackKind, SessionId,
    map::Ref,
    register::{self, Body, DiskEntry, DiskMode, DiskTable, RegisterKind, Seen, Summary},
};
use sha2::{Digest, Sha256};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const START_UNIX_MS: u64 = 1_700_000_000_000;
/// 100,000 points are some 100 names over three years.
const STEP_MS: u64 = 900_000;

/// A folder with an empty store and its key.
fn empty() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    let key = dir.path().join("key");
    let options = InitOptions { profile: Profile::Default, zstd_level: 1, encrypted: true, key_file: Some(Box::new(move |_| key)), passphrase: None };
    init(&dir.path().join("store"), options).expect("init");
    dir
}

fn open(dir: &Path) -> Store {
    let key = crate::Credential::read_key_file(&dir.join("key")).expect("own key");
    let options = OpenOptions { credential: Some(key), state_dir: dir.join("state"), host: "host".into() };
    Store::open(&dir.join("store"), options).expect("opens")
}

/// A point as a nightly backup of one disk leaves it.
fn write_point(store: &Store, n: u64) {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_le_bytes());
    let time_unix_ms = START_UNIX_MS + n * STEP_MS;
    let id = SessionId::new(time_unix_ms, random);
    let pack = PackId { session: id, seq: 1, kind: PackKind::Meta };
    let place = |offset| Ref { id: cairn_store_format::Id(Sha256::digest(id.0).into()), at: Location { pack, offset, stored_len: 700 } };
    let info = PointInfo {
        name: format!("domain-{}", n % 100),
        time_unix_ms,
        quiesce: "filesystem".into(),
        tags: vec!["daily".into()],
        warnings: vec![],
        source: serde_json::Value::Null,
        parts: vec![],
        cairn_version: String::new(),
    };
    let disk = DiskEntry {
        target: "vda".into(),
        size_bytes: 1 << 36,
        root: Some(place(64)),
        read_bytes: 1 << 30,
        changed_bytes: 1 << 29,
        stored_bytes: 1 << 28,
        mode: DiskMode::Incremental,
        reason: String::new(),
    };
    let summary = Summary {
        name: info.name,
        time_unix_ms,
        quiesce: info.quiesce,
        tags: info.tags,
        disks: 1,
        stored_bytes: 1 << 28,
        host: "host".into(),
        ..Summary::default()
    };
    let body = Body { parents: vec![], seen: Seen { count: n, hash: [0; 32] }, disks: DiskTable::Inline(vec![disk]), manifest: Some(place(900)) };
    let kind = RegisterKind::Manifest;
    let inner = &*store.inner;
    let seal = |part: u8, plain: &[u8]| inner.keys.seal_small(&*inner.platform, &register::aad(&id, kind, part), plain);
    let bytes = register::encode(&id, kind, &seal(1, &summary.encode().expect("fits")), &seal(2, &body.encode().expect("fits"))).expect("fits");
    commit(inner, &id, &bytes).expect("commits");
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let out = work();
    let took = started.elapsed();
    println!("  {what}: {:.3} s", took.as_secs_f64());
    (out, took)
}

#[test]
#[ignore = "writes 100,000 files; prints figures"]
fn very_many_points() {
    let dir = empty();
    let mut written = 0;
    for count in [10_000, 100_000] {
        timed(&format!("writing {} points", count - written), || {
            let store = open(dir.path());
            (written..count).for_each(|n| write_point(&store, n));
        });
        written = count;
        println!("{count} points");
        // The storage's own page cache stays warm: this is the cost of the host that has never seen the store.
        let _ = std::fs::remove_dir_all(dir.path().join("state"));
        let list = || open(dir.path()).points().expect("lists").len() as u64;
        assert_eq!(timed("open and list without the local cache", list).0, count);
        let (found, warm) = timed("open and list with it", list);
        assert_eq!(found, count);
        assert!(warm < Duration::from_secs(20), "ten times the budget even on a busy machine");
        let store = open(dir.path());
        let victim = store.points().expect("lists").swap_remove(usize::try_from(count / 2).expect("fits"));
        timed("forget of one point, without listing", || store.forget(&victim, 0, false).expect("forgets"));
        timed("open, list and forget one point", || {
            let store = open(dir.path());
            let victim = store.points().expect("lists").swap_remove(7);
            store.forget(&victim, 0, false).expect("forgets");
        });
        for n in [count / 2, 7] {
            // Two more, so that the next round counts the same.
            write_point(&store, 1_000_000 + count + n);
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn very_many_forgotten_points() {
    let dir = empty();
    let mut written = 0;
    for count in [500, 1000, 2000] {
        let store = open(dir.path());
        (written..count).for_each(|n| write_point(&store, n));
        for p in store.points().expect("lists") {
            store.forget(&p, 0, true).expect("forgets");
        }
        written = count;
        let store = open(dir.path());
        let (found, took) = timed(&format!("which of {count} forgotten points can be taken back"), || {
            let crate::AllPoints { live, forgotten, .. } = store.all_points().expect("lists");
            assert_eq!(forgotten.len() as u64, count);
            let mut take_back = crate::TakeBack::new(&store, &live).expect("looks");
            forgotten.iter().filter(|p| take_back.done_before(p).expect("looks").is_none() && take_back.is_possible(p).expect("looks")).count()
        });
        assert_eq!(found, 0, "their packs are gone");
        assert!(took < Duration::from_secs(20), "ten times what it takes, even on a busy machine");
    }
}
