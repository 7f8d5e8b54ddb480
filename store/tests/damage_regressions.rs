//! What the damage matrix found, each told on its own: the cases that its questions cannot put in a row.

mod common;
mod zoo;

use cairn_store::{Credential, Plan, Progress, SecretKey, Store, StoreError, format::ObjectName, scrub::ScrubOptions, verify::Verifier};
use common::{Lab, backup, content, full, point};
use std::fs;

fn flip(lab: &Lab, path: &str, at: usize) {
    let path = lab.root().join(path);
    let mut bytes = fs::read(&path).expect("reads");
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("damages");
}

fn slots(lab: &Lab) -> Vec<String> {
    let names = lab.files("keys").into_iter().map(|f| format!("keys/{}", f.file_name().expect("a name").to_string_lossy()));
    names.filter(|n| n.contains("slot-")).collect()
}

#[test]
fn a_damaged_key_slot_shuts_out_its_holder_alone() {
    let lab = Lab::new();
    for slot in slots(&lab) {
        flip(&lab, &slot, 30);
        let opened = [
            Credential::Passphrase("correct horse".to_owned().into()),
            Credential::Recovery(SecretKey::from_recovery_text(&lab.recovery).expect("printed")),
            lab.credential().expect("key file"),
        ]
        .map(|c| lab.open_with(Some(c), "state").map(drop));
        assert_eq!(opened.iter().filter(|o| o.is_ok()).count(), 2, "{slot}: {opened:?}");
        let refusal = opened.into_iter().find_map(Result::err).expect("one is shut out");
        assert!(matches!(&refusal, StoreError::Key(why) if why.contains(&slot)), "{refusal}");
        flip(&lab, &slot, 30);
    }
}

#[test]
fn a_host_that_read_damage_once_reads_again() {
    let lab = Lab::new();
    let a = backup(&lab.open(), "a", &content(9000, 1), full()).expect("backs up");
    let store = lab.open_with(lab.credential(), "other").expect("opens");
    let register = ObjectName::register(&a.id);
    fs::remove_file(lab.root().join(ObjectName::register_copy(&a.id).as_str())).expect("a store of an older version has no copies");
    flip(&lab, register.as_str(), 100);
    assert!(store.points().expect("lists").is_empty());
    // The disk had a bad moment, or the file came back from a copy.
    flip(&lab, register.as_str(), 100);
    assert_eq!(store.points().expect("lists").len(), 1);
}

#[test]
fn the_newest_entries_of_a_log_are_missed_by_the_host_that_wrote_them() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(9000, 2), full()).expect("backs up");
    store.tag(&point(&store, &a), "gold", true).expect("tags");
    store.protect(&point(&store, &a), true).expect("protects");
    store.note(&point(&store, &a), "before the upgrade").expect("notes");
    assert!(store.points_and_damage().expect("lists").1.is_empty());
    let entry = |n| ObjectName::point_log(&a.id, n);
    for n in [1, 2] {
        fs::remove_file(lab.root().join(entry(n).as_str())).expect("loses it");
    }

    let store = lab.open();
    let (points, damaged) = store.points_from_storage().expect("lists");
    assert!(damaged.len() == 1 && damaged[0].contains(entry(1).as_str()) && damaged[0].contains("this host has written it"), "{damaged:?}");
    assert_eq!(points[0].tags(), ["gold"], "the rest is there");
    let report = store.verify_point(&points[0], false, &Verifier::new(&store).expect("reads"), &Progress::default()).expect("verifies");
    assert_eq!(report.damage_count, 0, "no byte of its disks is lost");
    let refused = |store: &Store| {
        let p = store.points_and_damage().expect("lists").0.remove(0);
        let batch = store.forget_all(&[&p, &p], 0, false, &|_| None).expect("lists").remove(0);
        for out in [store.forget(&p, 0, false).map(drop), store.may_forget(&p, 0, false), batch.map(drop)] {
            assert!(matches!(&out, Err(StoreError::Refused(why)) if why.contains(entry(1).as_str()) && why.contains("cairn unprotect")), "{out:?}");
        }
    };
    refused(&store);
    // What is written next does not take the place of what is lost: now every host sees the gap.
    store.tag(&points[0], "silver", true).expect("tags");
    assert!(lab.root().join(entry(3).as_str()).exists() && !lab.root().join(entry(1).as_str()).exists());
    for state in ["state", "another"] {
        refused(&lab.open_with(lab.credential(), state).expect("opens"));
    }
    store.protect(&points[0], false).expect("settles it");
    store.forget(&point(&store, &a), 0, false).expect("forgets");
}

#[test]
fn a_lost_protect_does_not_unprotect() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(9000, 2), full()).expect("backs up");
    store.protect(&point(&store, &a), true).expect("protects");
    store.tag(&point(&store, &a), "gold", true).expect("tags");
    let entry = ObjectName::point_log(&a.id, 0);
    fs::remove_file(lab.root().join(entry.as_str())).expect("loses it");
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    let (points, damaged) = fresh.points_and_damage().expect("lists");
    assert!(damaged.len() == 1 && damaged[0].contains(entry.as_str()), "{damaged:?}");
    let refusal = fresh.forget(&points[0], 0, false);
    assert!(matches!(&refusal, Err(StoreError::Refused(why)) if why.contains(entry.as_str()) && why.contains("--force")), "{refusal:?}");
    let report = fresh.scrub(&ScrubOptions { percent: 100, rate_bytes_max: None }, &Progress::default()).expect("scrubs");
    assert!(report.findings.iter().any(|f| f.object == entry.to_string()), "{report:?}");
    fresh.forget(&points[0], 0, true).expect("forced, by one who knows");
}

#[test]
fn nothing_is_deleted_on_the_word_of_a_file_name() {
    let lab = Lab::new();
    let store = lab.open();
    let (hidden, gone) =
        (backup(&store, "a", &content(90_000, 3), full()).expect("backs up"), backup(&store, "b", &content(90_000, 4), full()).expect("backs up"));
    store.forget(&point(&store, &gone), 0, true).expect("forgets");
    let stone = |id| lab.root().join(ObjectName::tombstone(id).as_str());
    // Its own tombstone is damaged, but its log forgets it; another's under a living point's name forgets nothing.
    fs::copy(stone(&gone.id), stone(&hidden.id)).expect("copies");
    fs::write(stone(&gone.id), b"").expect("damages");
    let report = store.collect(&zoo::at_once(), &Progress::default()).expect("collects");
    assert!(report.deleted_packs > 0, "{report:?}");
    fs::remove_file(stone(&hidden.id)).expect("takes it away again");
    assert_eq!(common::restore(&store, &point(&store, &hidden)).expect("restores"), content(90_000, 3));
    assert!(lab.files("d").iter().all(|f| !f.to_string_lossy().contains(&gone.id.to_string())), "the forgotten one is gone");
}

#[test]
fn a_configuration_of_another_store_in_one_copy_changes_nothing() {
    for encrypted in [true, false] {
        for copy in [0, 1] {
            let (lab, other) = (Lab::with(encrypted), Lab::with(encrypted));
            let id = lab.open().id();
            let name = &ObjectName::config(1)[copy];
            fs::copy(other.root().join(name.as_str()), lab.root().join(name.as_str())).expect("copies");
            assert_eq!(Store::identify(&lab.root()).expect("identifies"), (id, encrypted));
            let passphrase = encrypted.then(|| Credential::Passphrase("correct horse".to_owned().into()));
            assert_eq!(lab.open_with(passphrase, "fresh").expect("opens").id(), id);
        }
    }
}

/// What a power loss or a full disk behind the storage's back leaves of a pack; it is all the same to those who have not read it yet.
fn lose_the_second_half(pack: &std::path::Path, zeroed: bool) {
    let mut bytes = fs::read(pack).expect("reads");
    let half = bytes.len() / 2;
    if zeroed {
        bytes[half..].fill(0);
    } else {
        bytes.truncate(half);
    }
    fs::write(pack, bytes).expect("damages");
}

#[test]
fn nothing_new_comes_to_depend_on_a_pack_that_is_half_lost() {
    let data = content(9 << 20, 5);
    let everything = || std::iter::once(0..data.len() as u64).collect();
    for zeroed in [false, true] {
        // Before anybody has read the pack, so that no report tells of it; by the host that wrote it and by a new one.
        for (plan, state) in [("full", "state"), ("full", "fresh"), ("compare", "state"), ("incremental", "fresh")] {
            let lab = Lab::new();
            let first = backup(&lab.open(), "h", &data, full()).expect("backs up");
            let pack = lab.files("d").into_iter().next().expect("a data pack");
            lose_the_second_half(&pack, zeroed);
            let store = lab.open_with(lab.credential(), state).expect("opens");
            let plan_of = match plan {
                "compare" => Plan::Compare { reason: "a test".into(), base: (first.id, 0) },
                "incremental" => Plan::Incremental { base: (first.id, 0), dirty: everything() },
                _ => full(),
            };
            let again = backup(&store, "k", &data, plan_of).expect("backs up");
            let lost = fs::metadata(&pack).expect("stat").len().min(2 << 20);
            assert!(again.stored_bytes > lost, "{plan}, zeroed {zeroed}: {} bytes stored", again.stored_bytes);
            let fresh = lab.open_with(lab.credential(), "another").expect("opens");
            assert!(common::restore(&fresh, &point(&fresh, &again)).is_ok_and(|d| d == data), "{plan}, zeroed {zeroed}");
        }
    }
}

#[test]
fn new_content_is_not_looked_for_in_a_pack_of_which_something_is_lost() {
    let lab = Lab::new();
    let data = content(5 << 20, 6);
    backup(&lab.open(), "h", &data, full()).expect("backs up");
    let pack = lab.files("d").remove(0).strip_prefix(lab.root()).expect("below it").to_str().expect("ascii").to_owned();
    flip(&lab, &pack, 500);
    let store = lab.open();
    let found = store.scrub(&ScrubOptions { percent: 100, rate_bytes_max: None }, &Progress::default()).expect("scrubs");
    assert_eq!(found.finding_count, 1, "{found:?}");
    // The disk goes on failing after the report.
    flip(&lab, &pack, 2_000_000);
    let again = backup(&store, "k", &data, full()).expect("backs up");
    let fresh = lab.open_with(lab.credential(), "another").expect("opens");
    assert_eq!(common::restore(&fresh, &point(&fresh, &again)).expect("restores"), data);
}

/// A store with a done round that was not cleared away, and the content of the point that stays.
fn with_a_done_round() -> (Lab, cairn_store::BackupOutcome, Vec<u8>) {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 << 20, 7);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let b = backup(&store, "b", &content(1 << 20, 8), full()).expect("backs up");
    store.forget(&point(&store, &b), 0, true).expect("forgets");
    let dying = zoo::Dying::open(&lab.root(), zoo::Death::BeforeRetiring);
    let options = cairn_store::OpenOptions { credential: lab.credential(), state_dir: lab.dir.path().join("dying"), host: "host".into() };
    let dies = Store::open_on(std::sync::Arc::new(dying), options).expect("opens").collect(&zoo::at_once(), &Progress::default());
    dies.expect_err("it dies before it clears away");
    (lab, a, data)
}

fn findings(lab: &Lab, state: &str) -> Vec<String> {
    let store = lab.open_with(lab.credential(), state).expect("opens");
    let report = store.scrub(&ScrubOptions { percent: 100, rate_bytes_max: None }, &Progress::default()).expect("scrubs");
    report.findings.into_iter().map(|f| f.object).collect()
}

#[test]
fn a_done_round_whose_list_is_damaged_is_cleared_away() {
    for damaged in ["gc/condemned-00000001", "gc/pardon-00000001"] {
        let (lab, a, data) = with_a_done_round();
        flip(&lab, damaged, 60);
        let store = lab.open_with(lab.credential(), "fresh").expect("opens");
        store.collect(&zoo::at_once(), &Progress::default()).expect("collects");
        let left: Vec<String> = lab.files("gc").iter().map(|f| f.file_name().expect("a name").to_string_lossy().into_owned()).collect();
        assert_eq!(left, ["pardon-00000001"], "{damaged}");
        let expected: &[&str] = if damaged.contains("pardon") { &[damaged] } else { &[] };
        assert_eq!(findings(&lab, "scrub"), expected, "no index file names what is gone");
        let again = backup(&store, "a", &data, full()).expect("backs up");
        assert!(again.stored_bytes < 100_000, "known chunks are known again: {} bytes stored", again.stored_bytes);
        for p in [&a, &again] {
            assert_eq!(common::restore(&store, &point(&store, p)).expect("restores"), data);
        }
    }
}

#[test]
fn a_list_is_not_cleared_away_on_the_word_of_a_file_name() {
    let (lab, ..) = with_a_done_round();
    flip(&lab, "gc/condemned-00000001", 60);
    fs::write(lab.root().join("gc/done-00000001"), b"").expect("damages");
    lab.open().collect(&zoo::at_once(), &Progress::default()).expect("collects");
    assert!(lab.root().join("gc/condemned-00000001").exists(), "nobody knows whether its deletes are finished");
}

#[test]
fn a_round_that_nobody_can_read_does_not_stop_collections() {
    let (lab, a, data) = with_a_done_round();
    fs::remove_file(lab.root().join("gc/done-00000001")).expect("the round is open");
    flip(&lab, "gc/condemned-00000001", 60);
    flip(&lab, "gc/pardon-00000001", 60);
    let store = lab.open();
    store.collect(&zoo::at_once(), &Progress::default()).expect("collects");
    assert!(lab.root().join("gc/condemned-00000001").exists(), "its collection may still delete by it");
    assert_eq!(common::restore(&store, &point(&store, &a)).expect("restores"), data);
}

#[test]
fn copies_of_what_lies_there_twice_are_made_anew() {
    for encrypted in [true, false] {
        let lab = Lab::with(encrypted);
        let a = backup(&lab.open(), "a", &content(90_000, 9), full()).expect("backs up");
        let copy = ObjectName::register_copy(&a.id);
        let all = ["config/00000001.a", "config/00000001.b", "keys/ring-00000001.a", "keys/ring-00000001.b", copy.as_str()];
        for (i, name) in all.iter().enumerate() {
            let path = lab.root().join(name);
            let whole = fs::read(&path).expect("reads");
            for damage in ["flipped", "cut", "deleted"] {
                match damage {
                    "flipped" => flip(&lab, name, 70),
                    "cut" => fs::write(&path, &whole[..40]).expect("damages"),
                    _ => fs::remove_file(&path).expect("deletes"),
                }
                if damage != "deleted" || *name != copy.as_str() {
                    assert!(!findings(&lab, &format!("scrub-{i}-{damage}")).is_empty(), "{name} {damage}");
                }
                let store = lab.open_with(lab.credential(), &format!("gc-{i}-{damage}")).expect("opens");
                store.collect(&zoo::at_once(), &Progress::default()).expect("collects");
                assert_eq!(fs::read(&path).expect("it is there"), whole, "{name} {damage}");
                assert!(findings(&lab, &format!("again-{i}-{damage}")).is_empty());
            }
        }
        // The host that found the copy whole once looks again after its own scrub.
        let store = lab.open();
        let collect = || store.collect(&zoo::at_once(), &Progress::default()).expect("collects");
        collect();
        flip(&lab, copy.as_str(), 70);
        assert!(!findings(&lab, "state").is_empty());
        collect();
        assert!(findings(&lab, "state").is_empty());
    }
}
