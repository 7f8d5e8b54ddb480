//! Keys, commit, garbage-collector objects, damage: what the protocol promises, shown on a real directory.

mod common;

use cairn_store::{
    Credential, Plan, PointState, Progress, SecretKey, StoreError,
    format::{
        ObjectName, PackKind, SessionId,
        register::{self, RegisterKind},
    },
    verify::Verifier,
};
use common::{Lab, backup, content, full, info, point, restore};
use std::fs;

const REGION: usize = 4 << 20;

#[test]
fn every_key_opens_and_no_other_does() {
    let lab = Lab::new();
    for good in [
        Credential::Passphrase("correct horse".to_owned().into()),
        Credential::Recovery(SecretKey::from_recovery_text(&lab.recovery).expect("printed")),
        lab.credential().expect("key file"),
    ] {
        lab.open_with(Some(good), "state").expect("opens");
    }
    let other = Lab::new();
    for bad in [
        Some(Credential::Passphrase("wrong".to_owned().into())),
        other.credential(),
        Some(Credential::Recovery(SecretKey::from_recovery_text(&other.recovery).expect("text"))),
        None,
    ] {
        assert!(matches!(lab.open_with(bad, "state2").map(drop), Err(StoreError::Key(_))));
    }
    let clear = Lab::with(false);
    assert!(matches!(clear.open_with(other.credential(), "s").map(drop), Err(StoreError::Key(_))), "a key for a cleartext store is refused");
    assert!(matches!(other.open_with(lab.credential(), "s").map(drop), Err(StoreError::Key(_))));
}

#[test]
fn a_swapped_configuration_is_refused() {
    let lab = Lab::with(false);
    let id = lab.open().id();
    let other = Lab::with(false);
    let configs = |l: &Lab| ObjectName::config(1).map(|name| l.root().join(name.as_str()));
    let mut forged = fs::read(&configs(&other)[0]).expect("reads");
    assert!(lab.open_with(None, "state").is_ok());
    configs(&lab).iter().for_each(|c| fs::write(c, &forged).expect("swaps"));
    // Another store's valid configuration is another store, never this one under a new key.
    assert!(lab.open_with(None, "state").is_err() || lab.open_with(None, "state").is_ok_and(|s| s.id() != id));
    forged[30] ^= 1;
    configs(&lab).iter().for_each(|c| fs::write(c, &forged).expect("damages"));
    assert!(matches!(lab.open_with(None, "state").map(drop), Err(StoreError::Damaged { .. } | StoreError::Format(_))));
}

#[test]
fn a_fenced_session_cannot_commit_and_leaves_nothing_listed() {
    let lab = Lab::new();
    let store = lab.open();
    let session = store.begin().expect("begins");
    let fence = register::encode(&session.id(), RegisterKind::Fence, &[], &[]).expect("small");
    let path = lab.root().join(ObjectName::register(&session.id()).as_str());
    fs::create_dir_all(path.parent().expect("dir")).expect("dirs");
    fs::write(&path, fence).expect("fences");
    let job = [cairn_store::DiskJob { target: "d".into(), source: std::sync::Arc::new(common::Mem(content(9000, 1))), plan: full() }];
    let out = session.backup(&job, || info("x"), &Progress::default(), || Ok(()));
    assert!(matches!(out, Err(StoreError::Fenced { .. })));
    assert!(store.points().expect("lists").is_empty());
    let good = backup(&store, "x", &content(9000, 1), full()).expect("backs up");
    let committed = |id| store.has_committed(id).expect("reads");
    let fenced = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).expect("a session id");
    assert!(committed(&good.id) && !committed(&fenced) && !committed(&SessionId([9; 16])));
}

#[test]
fn a_pack_that_vanished_after_it_was_indexed_is_caught_before_the_commit() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 5);
    backup(&store, "a", &data, full()).expect("backs up");
    let session = store.begin().expect("begins");
    let packs = lab.files("d");
    let job = [cairn_store::DiskJob { target: "d".into(), source: std::sync::Arc::new(common::Mem(data.clone())), plan: full() }];
    // A GC on another host removes it while this session still trusts its footer cache: B5a looks again.
    let out = session.backup(
        &job,
        || {
            packs.iter().for_each(|p| fs::rename(p, p.with_extension("away")).expect("moves away"));
            info("b")
        },
        &Progress::default(),
        || Ok(()),
    );
    assert!(matches!(out, Err(StoreError::Damaged { .. })), "{out:?}");
    assert_eq!(store.points().expect("lists").len(), 1);
    // The next session finds that the pack is gone and stores everything anew.
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    let again = backup(&fresh, "c", &data, full()).expect("backs up");
    assert_eq!(restore(&fresh, &point(&fresh, &again)).expect("restores"), data);
}

#[test]
fn damage_is_found_reported_and_never_restored() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 6);
    let out = backup(&store, "a", &data, full()).expect("backs up");
    let pack = lab.files("d").remove(0);
    let good = fs::read(&pack).expect("reads");
    for at in [70, good.len() / 2, good.len() - 3000] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&pack, &bad).expect("damages");
        let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
        let p = point(&fresh, &out);
        let report = fresh.verify_point(&p, true, &Verifier::new(&store).expect("reads the reports"), &Progress::default()).expect("verifies");
        let restored = restore(&fresh, &p);
        if report.damage.is_empty() {
            assert_eq!(restored.expect("an unused byte"), data, "byte {at}");
        } else {
            assert!(matches!(restored, Err(StoreError::Damaged { .. })), "byte {at}");
            assert!(!lab.files("b").is_empty(), "a report is left");
        }
    }
    // Truncated to nothing, and gone.
    fs::write(&pack, b"").expect("truncates");
    let fresh = lab.open_with(lab.credential(), "fresh2").expect("opens");
    for data in [true, false] {
        let p = point(&fresh, &out);
        assert!(!fresh.verify_point(&p, data, &Verifier::new(&store).expect("reads the reports"), &Progress::default()).expect("verifies").damage.is_empty());
    }
}

#[test]
fn the_next_backup_stores_again_what_is_gone_or_reported() {
    let lab = Lab::new();
    let data = content(3 * REGION, 11);
    let first = backup(&lab.open(), "a", &data, full()).expect("backs up");
    // Gone: a compare with that very point must not trust its places.
    for pack in lab.files("d") {
        fs::rename(&pack, lab.dir.path().join(pack.file_name().expect("name"))).expect("moves away");
    }
    let store = lab.open_with(lab.credential(), "s2").expect("opens");
    let second = backup(&store, "a", &data, Plan::Compare { reason: "t".into(), base: (first.id, 0) }).expect("backs up");
    assert_eq!(restore(&store, &point(&store, &second)).expect("all of it is there again"), data);
    // Damaged and reported by a reader: neither the parent's place nor the index's is used again.
    let pack = lab.files("d").remove(0);
    let mut bytes = fs::read(&pack).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).expect("damages");
    let store = lab.open_with(lab.credential(), "s3").expect("opens");
    assert!(restore(&store, &point(&store, &second)).is_err());
    for plan in [Plan::Compare { reason: "t".into(), base: (second.id, 0) }, full()] {
        let healed = backup(&store, "b", &data, plan).expect("backs up");
        assert_eq!(restore(&store, &point(&store, &healed)).expect("restores"), data);
    }
}

#[test]
fn metadata_has_a_second_copy() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(REGION, 7);
    let out = backup(&store, "a", &data, full()).expect("backs up");
    let copies = lab.files("m");
    assert_eq!(fs::read(&copies[0]).expect("a"), fs::read(&copies[1]).expect("b"));
    let mut bad = fs::read(&copies[0]).expect("reads");
    let middle = bad.len() / 2;
    bad[64..middle].fill(0x55);
    fs::write(&copies[0], bad).expect("damages");
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    assert_eq!(restore(&fresh, &point(&fresh, &out)).expect("restores from the other copy"), data);
}

#[test]
fn condemned_packs_are_not_used_and_trash_is_still_readable() {
    let lab = Lab::with(false);
    let store = lab.open();
    let data = content(2 * REGION, 8);
    let first = backup(&store, "a", &data, full()).expect("backs up");
    let packs: Vec<_> = [PackKind::Data, PackKind::Meta]
        .into_iter()
        .flat_map(|kind| (0..4).map(move |seq| cairn_store::format::PackId { session: first.id, seq, kind }))
        .collect();
    let payload = cairn_store::format::gc::Condemned { host: "h".into(), process: String::new(), time_unix_ms: 1, packs }.encode();
    write_condemned(&lab, 1, &payload);
    let second = backup(&store, "b", &data, full()).expect("backs up");
    assert!(second.stored_bytes > 2 << 20, "condemned packs were deduplicated into: {} bytes stored", second.stored_bytes);
    // Deletion on local storage is a rename into trash/: readers that are late still find everything.
    let trash = lab.root().join("trash/1");
    fs::create_dir_all(&trash).expect("dir");
    for f in lab.files("d").into_iter().chain(lab.files("m")) {
        let name = f.file_name().expect("name").to_str().expect("ascii").to_owned();
        if name.starts_with(&first.id.to_string()) {
            fs::rename(&f, trash.join(name)).expect("moves");
        }
    }
    let late = lab.open_with(None, "late").expect("opens");
    assert_eq!(restore(&late, &point(&late, &first)).expect("from the trash"), data);
    assert_eq!(restore(&late, &point(&late, &second)).expect("restores"), data);
}

/// A GC's list as a store without encryption holds it: payload and its checksum.
fn write_condemned(lab: &Lab, round: u64, payload: &[u8]) {
    use cairn_store::format::{header::ObjectKind, small};
    use sha2::{Digest, Sha256};
    let aad = small::aad(ObjectKind::Condemned, &[0; 16], round);
    let mut hash = Sha256::new();
    hash.update((aad.len() as u64).to_le_bytes());
    hash.update(&aad);
    hash.update(payload);
    let sealed = [&[0u8; 5][..], payload, &hash.finalize()[..16]].concat();
    let object = small::encode(ObjectKind::Condemned, &[0; 16], round, &sealed).expect("small");
    fs::write(lab.root().join(ObjectName::condemned(round).as_str()), object).expect("writes");
}

#[test]
fn logs_tags_protection_and_forgotten_points() {
    let lab = Lab::new();
    let store = lab.open();
    let out = backup(&store, "a", &content(9000, 2), full()).expect("backs up");
    let p = point(&store, &out);
    store.tag(&p, "gold", true).expect("tags");
    store.tag(&p, "old", true).expect("tags");
    store.tag(&p, "old", false).expect("untags");
    store.protect(&p, true).expect("protects");
    store.record_verdict(&p, Some("vda: 3 chunks")).expect("records");
    assert!(store.tag(&p, "two words", true).is_err());
    let p = point(&lab.open_with(lab.credential(), "other").expect("opens"), &out);
    assert_eq!((p.tags(), p.is_protected(), p.state()), (vec!["gold".to_owned()], true, PointState::Damaged));
    store.protect(&p, false).expect("unprotects");
    store.record_verdict(&p, None).expect("records");
    let p = point(&store, &out);
    assert_eq!((p.is_protected(), p.state()), (false, PointState::Good));
    // A tombstone hides the point, and it cannot be a parent any more.
    let f = lab.root().join(ObjectName::tombstone(&out.id).as_str());
    fs::create_dir_all(f.parent().expect("dir")).expect("dirs");
    fs::write(&f, b"").expect("forgets");
    assert!(store.points().expect("lists").is_empty());
    let session = store.begin().expect("begins");
    assert!(session.is_forgotten(&out.id) && session.points().is_empty());
    drop(session);
    let child = backup(&store, "a", &content(9000, 3), Plan::Compare { reason: "test".into(), base: (out.id, 0) });
    assert!(matches!(child, Err(StoreError::NotFound(_))));
}

#[test]
fn a_register_under_another_name_or_of_another_store_is_refused() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(9000, 2), full()).expect("backs up");
    let from = lab.root().join(ObjectName::register(&a.id).as_str());
    let mut other = a.id;
    other.0[15] ^= 1;
    fs::copy(&from, lab.root().join(ObjectName::register(&other).as_str())).expect("replays");
    let (points, damaged) = store.points_from_storage().expect("lists");
    assert_eq!((points.len(), damaged.len()), (1, 1), "the replayed one is refused, the good one is still there");
    assert_eq!(store.points().expect("lists").len(), 1);
    let second = Lab::new();
    let to = second.root().join(ObjectName::register(&a.id).as_str());
    fs::create_dir_all(to.parent().expect("dir")).expect("dirs");
    fs::copy(&from, to).expect("copies");
    assert!(second.open().points().expect("lists").is_empty());
}

#[test]
fn what_a_store_hangs_on_lies_there_twice() {
    for copy in [0, 1] {
        let lab = Lab::new();
        for name in [&ObjectName::config(1)[copy], &ObjectName::key_ring(1)[copy]] {
            let path = lab.root().join(name.as_str());
            let mut bytes = fs::read(&path).expect("reads");
            bytes[40] ^= 1;
            fs::write(&path, bytes).expect("damages");
        }
        let store = lab.open();
        let out = backup(&store, "a", &content(9000, 1), full()).expect("backs up");
        assert_eq!(restore(&store, &point(&store, &out)).expect("restores"), content(9000, 1));
    }
}

#[test]
fn one_bad_register_or_log_entry_hides_nothing_else() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(100_000, 2);
    let (a, b) = (backup(&store, "a", &data, full()).expect("backs up"), backup(&store, "b", &data, full()).expect("backs up"));
    store.tag(&point(&store, &b), "gold", true).expect("tags");
    let register = lab.root().join(ObjectName::register(&a.id).as_str());
    let mut bytes = fs::read(&register).expect("reads");
    bytes[100] ^= 1;
    fs::write(&register, bytes).expect("damages");
    fs::remove_file(lab.root().join(ObjectName::register_copy(&a.id).as_str())).expect("a store of an older version has no copies");
    fs::write(lab.root().join(ObjectName::point_log(&b.id, 1).as_str()), b"").expect("an empty entry");
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    let points = fresh.points().expect("lists");
    assert_eq!(points.len(), 1);
    assert_eq!(points[0].tags(), ["gold"]);
    assert_eq!(restore(&fresh, &points[0]).expect("restores"), data);
    assert_eq!(store.points().expect("from the cache").len(), 2, "this host still knows it");
    assert_eq!(store.points_from_storage().expect("lists").1.len(), 2, "and verify sees the damage");
}

#[test]
fn the_cache_may_vanish_be_damaged_or_rolled_back() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(3 * REGION, 4);
    let one = backup(&store, "a", &data, full()).expect("backs up");
    let cache = lab.dir.path().join("state/index").join(format!("{}.sqlite", store.id()));
    drop(store);
    let old = fs::read(&cache).expect("reads");
    let mut newer = data.clone();
    newer[..100_000].fill(9);
    let two = backup(&lab.open(), "a", &newer, Plan::Compare { reason: "t".into(), base: (one.id, 0) }).expect("backs up");
    for spoiled in [old, vec![1; 50_000], vec![]] {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", cache.display()));
        }
        fs::write(&cache, spoiled).expect("spoils");
        let store = lab.open();
        assert_eq!(restore(&store, &point(&store, &two)).expect("restores"), newer);
        let again = backup(&store, "b", &newer, full()).expect("backs up");
        assert!(again.stored_bytes < 30_000, "{}", again.stored_bytes);
    }
}

#[test]
fn a_cache_that_breaks_while_it_is_used_keeps_nobody_from_restoring() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(REGION, 40);
    let points: Vec<_> = (0..30).map(|i| backup(&store, &format!("n{i}"), &data, full()).expect("backs up")).collect();
    store.points().expect("fills the cache");
    drop(store);
    let index = fs::read_dir(lab.dir.path().join("state/index")).expect("lists").flatten().map(|e| e.path());
    for file in index.filter(|p| p.extension().is_some_and(|e| e == "sqlite")) {
        // The first pages tell the tables, so that opening finds nothing wrong.
        let mut bytes = fs::read(&file).expect("reads");
        assert!(bytes.len() > 45_000, "{} bytes", bytes.len());
        bytes[28_672..].fill(0x5a);
        fs::write(&file, bytes).expect("damages");
    }
    let store = lab.open();
    assert_eq!(store.points().expect("lists").len(), points.len());
    assert_eq!(restore(&store, &point(&store, &points[29])).expect("restores"), data);
}
