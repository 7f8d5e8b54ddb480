//! Garbage collection on a real directory: what is freed, what is kept, and what happens to those that were away meanwhile.

mod common;

use cairn_store::{DiskJob, GcOptions, GcReport, Plan, Progress, Store, StoreError, TakenBack, verify::Verifier};
use common::{Lab, Mem, backup, content, full, info, point, restore, sleeper};
use std::{fs, sync::Arc};

const REGION: usize = 4 << 20;

/// Nothing waits for a day in a test.
fn at_once() -> GcOptions {
    GcOptions { wait_ms_max: 2000, poll_ms: 20, resume_grace_ms: 0, trash_keep_ms: 0, repack_below_percent: 0, ..GcOptions::default() }
}

fn collect(store: &Store, options: &GcOptions) -> GcReport {
    store.collect(options, &Progress::default()).expect("collects")
}

fn forget(store: &Store, p: &cairn_store::BackupOutcome) {
    store.forget(&point(store, p), 0, false).expect("forgets");
}

fn packs(lab: &Lab) -> usize {
    lab.files("d").len() + lab.files("m").len()
}

#[test]
fn what_only_a_forgotten_point_used_is_freed_and_nothing_else() {
    let lab = Lab::new();
    let store = lab.open();
    let (first, second) = (content(3 * REGION, 1), content(3 * REGION, 2));
    let a = backup(&store, "a", &first, full()).expect("backs up");
    let b = backup(&store, "b", &second, full()).expect("backs up");
    assert_eq!(collect(&store, &at_once()).deleted_packs, 0, "everything is in use");
    let before = packs(&lab);
    forget(&store, &a);
    let dry = collect(&store, &GcOptions { dry_run: true, ..at_once() });
    assert!(dry.condemned > 0 && dry.would_free_bytes > 0 && packs(&lab) == before, "{dry:?}");
    let report = collect(&store, &at_once());
    assert!(report.deleted_packs == dry.condemned && report.freed_bytes == dry.would_free_bytes, "{report:?}");
    assert!(packs(&lab) < before);
    assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), second);
    // Nothing of the round is left but its register; no index file names what is gone; the trash is empty.
    let left: Vec<String> = lab.files("gc").iter().map(|f| f.file_name().expect("name").to_string_lossy().into_owned()).collect();
    assert_eq!(left, ["pardon-00000001"]);
    assert!(lab.files("trash").is_empty() && lab.files("x").len() == 1, "{:?}", lab.files("x"));
    // Another host's cache still names the packs that are gone: it finds out and stores anew.
    let again = backup(&store, "a", &first, full()).expect("backs up");
    assert!(again.stored_bytes > 2 << 20);
    assert_eq!(restore(&store, &point(&store, &again)).expect("restores"), first);
}

#[test]
fn shared_chunks_stay_until_their_last_point_goes() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 3);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let b = backup(&store, "b", &data, full()).expect("backs up");
    forget(&store, &a);
    collect(&store, &at_once());
    assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), data);
    forget(&store, &b);
    collect(&store, &at_once());
    assert_eq!(packs(&lab), 0);
    assert!(store.points().expect("lists").is_empty());
}

#[test]
fn a_session_that_began_before_is_waited_for_and_its_packs_are_spared() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 4);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    // It has chosen its parent; now the parent is forgotten and a collection runs while it works.
    let session = store.begin().expect("begins");
    forget(&store, &a);
    let other = lab.open_with(lab.credential(), "other").expect("opens");
    let collector = std::thread::spawn(move || collect(&other, &GcOptions { wait_ms_max: 60_000, ..at_once() }));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(Mem(data.clone())), plan: Plan::Compare { reason: "t".into(), base: (a.id, 0) } }];
    let b = session.backup(&job, || info("b"), &Progress::default(), || Ok(())).expect("commits");
    let report = collector.join().expect("ends");
    assert!(report.pardoned > 0 && report.fenced.is_empty(), "{report:?}");
    assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), data);
}

#[test]
fn a_session_that_does_not_end_makes_the_collection_give_up() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(REGION, 5), full()).expect("backs up");
    let session = store.begin().expect("begins");
    forget(&store, &a);
    let before = packs(&lab);
    let out = store.collect(&GcOptions { wait_ms_max: 200, ..at_once() }, &Progress::default());
    assert!(matches!(&out, Err(StoreError::Busy(why)) if why.contains("host")), "{out:?}");
    assert_eq!(packs(&lab), before);
    drop(session);
    assert!(collect(&store, &at_once()).deleted_packs > 0, "the next one does it");
}

#[test]
fn a_dead_session_is_fenced_and_cannot_commit_when_it_wakes() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(REGION, 6);
    let session = store.begin().expect("begins");
    // Silent for too long, by the observations of the collecting host.
    let report = collect(&store, &GcOptions { dead_after_ms: 0, ..at_once() });
    assert_eq!(report.fenced.len(), 1, "{report:?}");
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(Mem(data)), plan: full() }];
    let out = session.backup(&job, || info("a"), &Progress::default(), || Ok(()));
    assert!(matches!(out, Err(StoreError::Fenced { .. })), "{out:?}");
    collect(&store, &at_once());
    assert_eq!(packs(&lab), 0, "what the zombie wrote is gone too");
}

#[test]
fn an_interrupted_backup_finds_its_packs_again() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(3 * REGION, 7);
    let job = |d: &[u8]| [DiskJob { target: "disk0".into(), source: Arc::new(Mem(d.to_vec())), plan: full() }];
    let stopped = store.begin().expect("begins").backup(&job(&data), || info("a"), &Progress::default(), || Err(StoreError::Interrupted));
    assert!(matches!(stopped, Err(StoreError::Interrupted)));
    let kept = collect(&store, &GcOptions { resume_grace_ms: 60_000, ..at_once() });
    assert!(kept.kept_for_resume > 0 && kept.deleted_packs == 0, "{kept:?}");
    let again = backup(&store, "a", &data, full()).expect("backs up");
    assert!(again.stored_bytes < 1 << 20, "{} bytes stored again", again.stored_bytes);
    assert_eq!(restore(&store, &point(&store, &again)).expect("restores"), data);
}

#[test]
fn a_pinned_point_outlives_its_forgetting() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 8);
    let a = point(&store, &backup(&store, "a", &data, full()).expect("backs up"));
    let pin = store.pin(&[a.id]).expect("pins");
    store.forget(&a, 0, false).expect("forgets");
    assert_eq!(collect(&store, &at_once()).deleted_packs, 0);
    assert_eq!(restore(&store, &a).expect("restores"), data);
    assert!(matches!(store.pin(&[a.id]).map(drop), Err(StoreError::NotFound(_))), "what is forgotten cannot be pinned");
    drop(pin);
    assert!(collect(&store, &at_once()).deleted_packs > 0);
    assert!(lab.files("gc").iter().all(|f| f.to_string_lossy().contains("pardon-")), "{:?}", lab.files("gc"));
}

#[test]
fn thin_packs_are_moved_together_and_old_hints_still_lead_there() {
    for encrypted in [true, false] {
        let lab = Lab::with(encrypted);
        let store = lab.open();
        let mut data = content(6 * REGION, 9);
        let a = backup(&store, "a", &data, full()).expect("backs up");
        // Most of it changes; a little of the first point's packs stays in use.
        let fresh = content(5 * REGION, 10);
        data[..5 * REGION].copy_from_slice(&fresh);
        let base = Plan::Compare { reason: "t".into(), base: (a.id, 0) };
        let b = backup(&store, "a", &data, base).expect("backs up");
        forget(&store, &a);
        let report = collect(&store, &GcOptions { repack_below_percent: 50, ..at_once() });
        assert!(report.moved_frames > 0 && report.deleted_packs > 0, "{report:?}");
        let a_packs = lab.files("d").iter().filter(|f| f.to_string_lossy().contains(&a.id.to_string())).count();
        assert_eq!(a_packs, 0, "the thin pack is gone");
        for host in ["state", "another"] {
            let open = lab.open_with(lab.credential(), host).expect("opens");
            let b = point(&open, &b);
            assert_eq!(restore(&open, &b).expect("restores"), data);
            let verified = open.verify_point(&b, true, &Verifier::new(&open).expect("reads reports"), &Progress::default()).expect("verifies");
            assert!(verified.damage.is_empty(), "what was moved is no damage: {:?}", verified.damage);
        }
        assert!(lab.files("b").is_empty(), "and nobody reported any");
        // The next point inherits nodes whose hints lead to the old place.
        let c = backup(&store, "a", &data, Plan::Compare { reason: "t".into(), base: (b.id, 0) }).expect("backs up");
        assert!(c.stored_bytes < 100_000, "{} stored", c.stored_bytes);
        forget(&store, &b);
        collect(&store, &GcOptions { repack_below_percent: 50, ..at_once() });
        assert_eq!(restore(&store, &point(&store, &c)).expect("restores"), data);
        // When nothing uses the moved frames any more, the list goes with them.
        forget(&store, &c);
        collect(&store, &at_once());
        assert_eq!(packs(&lab), 0, "{:?} {:?}", lab.files("d"), lab.files("m"));
    }
}

#[test]
fn repacking_ends_and_its_lists_stay_in_reach() {
    let lab = Lab::new();
    let store = lab.open();
    let mut data = content(6 * REGION, 9);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let fresh = content(5 * REGION, 10);
    data[..5 * REGION].copy_from_slice(&fresh);
    let b = backup(&store, "a", &data, Plan::Compare { reason: "t".into(), base: (a.id, 0) }).expect("backs up");
    // A point of little but its manifest: its pack is small, and mostly not frames.
    let c = backup(&store, "a", &data, Plan::Compare { reason: "t".into(), base: (b.id, 0) }).expect("backs up");
    forget(&store, &a);
    let all: Vec<GcReport> = (0..4).map(|_| collect(&store, &GcOptions { repack_below_percent: 90, ..at_once() })).collect();
    assert!(all[0].moved_frames > 0, "{:?}", all[0]);
    assert!(all.iter().all(|r| r.healed_frames == 0), "the lists say where everything is: {all:?}");
    assert_eq!(all[3].moved_frames, 0, "nothing is thin any more: {:?}", all[3]);
    for p in [&b, &c] {
        assert_eq!(restore(&store, &point(&store, p)).expect("restores"), data);
    }
}

#[test]
fn a_round_that_broke_off_is_closed_by_the_next_collection() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(REGION, 11);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    forget(&store, &a);
    let blocker = store.begin().expect("begins");
    // It dies while it waits: condemned-1 is published, nothing is decided. Its process is this one, so only silence tells.
    let (dead, falls_asleep) = sleeper::open(&lab, "dead");
    std::thread::spawn(move || {
        dead.collect(&GcOptions { wait_ms_max: 2 * sleeper::FOR_GOOD_MS, poll_ms: sleeper::FOR_GOOD_MS, ..at_once() }, &Progress::default())
    });
    falls_asleep.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for the backup");
    assert!(lab.root().join("gc/condemned-00000001").exists());
    drop(blocker);
    let busy = store.collect(&at_once(), &Progress::default());
    assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
    // A backup meanwhile avoids what is condemned.
    let b = backup(&store, "b", &data, full()).expect("backs up");
    let report = collect(&store, &GcOptions { dead_after_ms: 0, ..at_once() });
    assert_eq!(report.settled_rounds, 1, "{report:?}");
    assert_eq!(restore(&store, &point(&store, &b)).expect("restores"), data);
    forget(&store, &b);
    collect(&store, &at_once());
    assert_eq!(packs(&lab), 0);
}

#[test]
fn what_is_missing_stops_the_collection_until_it_is_accepted() {
    let lab = Lab::new();
    let store = lab.open();
    let kept = backup(&store, "kept", &content(REGION, 12), full()).expect("backs up");
    let hurt = backup(&store, "hurt", &content(REGION, 13), full()).expect("backs up");
    let gone = backup(&store, "gone", &content(REGION, 14), full()).expect("backs up");
    forget(&store, &gone);
    let lost = lab.files("d").into_iter().find(|f| f.to_string_lossy().contains(&hurt.id.to_string())).expect("its pack");
    fs::remove_file(&lost).expect("loses it");
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    let before = packs(&lab);
    let out = fresh.collect(&at_once(), &Progress::default());
    assert!(matches!(&out, Err(StoreError::Damaged { what, .. }) if what.contains(&hurt.id.to_string())), "{out:?}");
    assert_eq!(packs(&lab), before, "nothing was deleted");
    let report = collect(&fresh, &GcOptions { accept_loss: true, ..at_once() });
    assert!(report.deleted_packs > 0 && report.damaged_points == [hurt.id], "{report:?}");
    assert_eq!(restore(&fresh, &point(&fresh, &kept)).expect("restores"), content(REGION, 12));
}

#[test]
fn forgetting_respects_protection_and_youth_and_can_be_taken_back() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(2 * REGION, 15);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let p = || point(&store, &a);
    store.protect(&p(), true).expect("protects");
    assert!(matches!(store.forget(&p(), 0, true), Err(StoreError::Refused(why)) if why.contains("unprotect")));
    store.protect(&p(), false).expect("unprotects");
    assert!(matches!(store.forget(&p(), u64::MAX, false), Err(StoreError::Refused(why)) if why.contains("--force")));
    store.forget(&p(), u64::MAX, true).expect("forgets");
    assert!(store.points().expect("lists").is_empty());
    let old = store.forgotten_points().expect("lists");
    assert_eq!(old.iter().map(|p| p.id).collect::<Vec<_>>(), [a.id]);
    let TakenBack::Now(back) = store.unforget(&old[0], &Progress::default()).expect("takes back") else { panic!("nobody else is there") };
    assert!(back.stored_bytes < 100_000, "{} stored again", back.stored_bytes);
    assert_eq!(restore(&store, &point(&store, &back)).expect("restores"), data);
    collect(&store, &at_once());
    assert_eq!(restore(&store, &point(&store, &back)).expect("restores"), data);
    // Once a collection took it, it cannot be taken back, and nothing is committed.
    store.forget(&point(&store, &back), 0, false).expect("forgets");
    collect(&store, &at_once());
    let out = store.unforget(&store.forgotten_points().expect("lists")[1], &Progress::default());
    assert!(out.is_err() && store.points().expect("lists").is_empty(), "{out:?}");
}

#[test]
fn a_collection_that_slept_since_it_chose_its_number_deletes_nothing() {
    let lab = Lab::with(false);
    let store = lab.open();
    let data = content(REGION, 16);
    let a = backup(&store, "a", &data, full()).expect("backs up");
    let b = backup(&store, "b", &content(REGION, 17), full()).expect("backs up");
    forget(&store, &b);
    let sleeper = |packs: Vec<cairn_store::format::PackId>| {
        use cairn_store::format::{ObjectName, gc::Condemned, header::ObjectKind, small};
        use sha2::{Digest, Sha256};
        let plain = Condemned { host: "h".into(), process: String::new(), time_unix_ms: 1, packs }.encode();
        let aad = small::aad(ObjectKind::Condemned, &[0; 16], 1);
        let sum = Sha256::digest([&(aad.len() as u64).to_le_bytes()[..], &aad, &plain].concat());
        let sealed = [&[0, 0, 0, 0, 0][..], &plain, &sum[..16]].concat();
        let object = small::encode(ObjectKind::Condemned, &[0; 16], 1, &sealed).expect("small");
        fs::write(lab.root().join(ObjectName::condemned(1).as_str()), object).expect("publishes");
    };
    assert!(collect(&store, &at_once()).deleted_packs > 0, "round 1 is run and retired");
    assert!(!lab.root().join("gc/condemned-00000001").exists());
    // Only now does it publish, under the same number, what it once found: packs that are in use today.
    let kinds = [cairn_store::format::PackKind::Data, cairn_store::format::PackKind::Meta];
    sleeper(kinds.iter().flat_map(|k| (0..4).map(move |seq| (seq, *k))).map(|(seq, kind)| cairn_store::format::PackId { session: a.id, seq, kind }).collect());
    let report = collect(&store, &at_once());
    assert_eq!(report.deleted_packs, 0, "{report:?}");
    assert_eq!(restore(&store, &point(&store, &a)).expect("restores"), data);
    assert!(!lab.root().join("gc/condemned-00000001").exists(), "and the list is cleared away");
}

#[test]
fn an_unreadable_list_is_given_up() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(REGION, 18);
    backup(&store, "a", &data, full()).expect("backs up");
    fs::write(lab.root().join("gc/condemned-00000007"), b"rubbish").expect("writes");
    let again = backup(&store, "b", &data, full()).expect("backs up");
    assert!(again.stored_bytes > 1 << 20, "anything may be in that list: nothing is referred to");
    collect(&store, &at_once());
    assert!(!lab.root().join("gc/condemned-00000007").exists());
    let third = backup(&store, "c", &data, full()).expect("backs up");
    assert!(third.stored_bytes < 100_000);
}

#[test]
fn a_reader_that_comes_too_late_raises_no_alarm() {
    let lab = Lab::new();
    let store = lab.open();
    let a = point(&store, &backup(&store, "a", &content(REGION, 19), full()).expect("backs up"));
    let kept = backup(&store, "b", &content(REGION, 20), full()).expect("backs up");
    let late = store.pin(&[a.id]).expect("pins");
    // As if the pin had been made after the data went: the packs go behind the store's back.
    store.forget(&a, 0, false).expect("forgets");
    for f in lab.files("d").into_iter().chain(lab.files("m")).filter(|f| f.to_string_lossy().contains(&a.id.to_string())) {
        fs::remove_file(f).expect("removes");
    }
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    collect(&fresh, &at_once());
    drop(late);
    assert!(restore(&fresh, &point(&fresh, &kept)).is_ok());
}

#[test]
fn a_damaged_register_stops_collections_until_it_is_forgotten() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(REGION, 21);
    let kept = backup(&store, "kept", &data, full()).expect("backs up");
    let hurt = backup(&store, "hurt", &content(REGION, 22), full()).expect("backs up");
    let register = lab.files("c").into_iter().find(|f| f.to_string_lossy().contains(&hurt.id.to_string())).expect("its register");
    fs::write(&register, b"rubbish").expect("damages");
    lab.files("r").iter().for_each(|f| fs::remove_file(f).expect("removes"));
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    assert!(matches!(fresh.collect(&at_once(), &Progress::default()), Err(StoreError::Damaged { .. } | StoreError::Format(_))));
    assert!(matches!(fresh.forget_unreadable(&kept.id), Err(StoreError::Refused(_))));
    assert!(matches!(fresh.forget_unreadable(&cairn_store::format::SessionId([7; 16])), Err(StoreError::NotFound(_))));
    fresh.forget_unreadable(&hurt.id).expect("forgets");
    assert!(collect(&fresh, &at_once()).deleted_packs > 0);
    assert_eq!(restore(&fresh, &point(&fresh, &kept)).expect("restores"), data);
}

#[test]
fn a_forget_that_broke_off_is_finished_by_the_next_collection() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(REGION, 23), full()).expect("backs up");
    forget(&store, &a);
    // It died after the log and before the tombstone.
    lab.files("f").iter().for_each(|f| fs::remove_file(f).expect("removes"));
    assert!(store.points().expect("lists").is_empty());
    assert!(collect(&store, &at_once()).deleted_packs > 0);
    assert_eq!((lab.files("f").len(), packs(&lab)), (1, 0));
}

#[test]
fn packs_of_a_session_whose_record_was_removed_are_not_kept_for_ever() {
    let lab = Lab::new();
    let store = lab.open();
    let session = store.begin().expect("begins");
    let id = session.id();
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(Mem(content(REGION, 24))), plan: full() }];
    session.backup(&job, || info("a"), &Progress::default(), || Ok(())).expect("backs up");
    for f in lab.files("gc").into_iter().chain(lab.files("c")).chain(lab.files("r")) {
        fs::remove_file(f).expect("removes");
    }
    let other = backup(&store, "b", &content(REGION, 25), full()).expect("backs up");
    forget(&store, &other);
    let report = collect(&store, &at_once());
    assert!(report.fenced.iter().any(|f| f.contains(&id.to_string())), "{report:?}");
    collect(&store, &at_once());
    assert_eq!(packs(&lab), 0);
}

#[test]
fn a_pin_does_not_silence_the_alarm_for_living_points() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(3 * REGION, 26);
    let a = point(&store, &backup(&store, "a", &data, full()).expect("backs up"));
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(Mem(data.clone())), plan: Plan::Incremental { base: (a.id, 0), dirty: vec![] } }];
    let b = store.begin().expect("begins").backup(&job, || info("a"), &Progress::default(), || Ok(())).expect("backs up");
    let _pin = store.pin(&[a.id]).expect("pins");
    store.forget(&a, 0, false).expect("forgets");
    // The nodes that both share, in both copies.
    for f in lab.files("m").into_iter().filter(|f| f.to_string_lossy().contains(&a.id.to_string())) {
        let mut bytes = fs::read(&f).expect("reads");
        (150..3000).step_by(400).for_each(|at| bytes[at] ^= 1);
        fs::write(&f, bytes).expect("damages");
    }
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    let before = packs(&lab);
    let out = fresh.collect(&at_once(), &Progress::default());
    assert!(matches!(&out, Err(StoreError::Damaged { what, .. }) if what.contains(&b.id.to_string())), "{out:?}");
    assert_eq!(packs(&lab), before);
}

#[test]
fn index_files_of_a_backup_that_ran_beside_a_collection_stay() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(REGION, 27), full()).expect("backs up");
    forget(&store, &a);
    let session = store.begin().expect("begins");
    let id = session.id().to_string();
    let other = lab.open_with(lab.credential(), "other").expect("opens");
    let collector = std::thread::spawn(move || collect(&other, &GcOptions { wait_ms_max: 60_000, ..at_once() }));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let job = [DiskJob { target: "disk0".into(), source: Arc::new(Mem(content(REGION, 28))), plan: full() }];
    session.backup(&job, || info("b"), &Progress::default(), || Ok(())).expect("commits");
    assert!(collector.join().expect("ends").deleted_packs > 0);
    assert!(lab.files("x").iter().any(|f| f.to_string_lossy().contains(&id)), "{:?}", lab.files("x"));
}

#[test]
fn probes_of_killed_listings_go_wherever_they_lie() {
    let lab = Lab::new();
    let store = lab.open();
    let p = backup(&store, "a", &content(1 << 20, 1), full()).expect("backs up");
    forget(&store, &p);
    collect(&store, &at_once());
    let left: Vec<_> = ["c", "r", "d", "gc", "trash"].iter().map(|folder| lab.root().join(folder).join(".tmp-0123456789abcdef")).collect();
    for probe in &left {
        fs::create_dir_all(probe.parent().expect("a folder")).expect("makes");
        fs::write(probe, "").expect("writes");
    }
    collect(&store, &at_once());
    assert!(left.iter().all(|probe| probe.exists()), "a living process may be using them");
    collect(&store, &GcOptions { dead_after_ms: 0, ..at_once() });
    assert_eq!(left.iter().filter(|probe| probe.exists()).count(), 0, "{left:?}");
}
