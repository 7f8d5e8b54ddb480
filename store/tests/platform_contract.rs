//! The promises of `Platform` and `Deleting`, held by a real directory and by the simulated storage alike.

use cairn_store::{
    StoreError,
    format::{ObjectName, PackId, PackKind, SessionId},
    platform::{
        Created, Deleting, Durability, LocalPlatform, Platform,
        simulated::{Fault, StorageKind, World},
    },
};

fn sid(n: u8) -> SessionId {
    SessionId::new(1_795_219_200_000, [n; 10])
}

fn pack(n: u8) -> ObjectName {
    ObjectName::pack(&PackId { session: sid(n), seq: 0, kind: PackKind::Data }).remove(0)
}

/// Runs a promise on each kind of storage.
fn on_each(promise: impl Fn(&dyn Platform)) {
    let dir = tempfile::tempdir().expect("temp dir");
    promise(&LocalPlatform::open(dir.path()).expect("opens"));
    for kind in [StorageKind::Local, StorageKind::Nfs] {
        let world = World::new(kind, 1);
        let host = world.host(0);
        promise(&*world.process(host));
    }
}

fn deleting(p: &dyn Platform) -> &dyn Deleting {
    p.deleting().expect("these may delete")
}

#[test]
fn create_is_if_absent_and_our_own_echo_is_new() {
    on_each(|p| {
        let name = ObjectName::register(&sid(1));
        assert_eq!(p.create(&name, b"one", Durability::Now).expect("creates"), Created::New);
        assert_eq!(p.create(&name, b"two", Durability::Now).expect("answers"), Created::Exists);
        assert_eq!(p.create(&name, b"one", Durability::Now).expect("answers"), Created::New);
        assert_eq!(p.read(&name, 3).expect("reads").expect("there"), b"one");
        assert_eq!(p.create(&ObjectName::tombstone(&sid(1)), b"", Durability::Now).expect("an empty object"), Created::New);
        assert_eq!(p.read(&ObjectName::tombstone(&sid(1)), 0).expect("reads").expect("there"), b"");
    });
}

#[test]
fn deferred_is_seen_at_once_and_a_barrier_is_always_allowed() {
    on_each(|p| {
        p.barrier().expect("nothing to do");
        assert_eq!(p.create(&pack(1), b"pack", Durability::Deferred).expect("creates"), Created::New);
        assert_eq!(p.size(&pack(1)).expect("asks"), Some(4));
        assert_eq!(p.list(pack(1).dir()).expect("lists"), [pack(1)]);
        p.cover(&pack(1));
        p.barrier().expect("syncs");
        p.barrier().expect("again");
    });
}

#[test]
fn lists_show_what_is_there_sorted_and_nothing_else() {
    on_each(|p| {
        assert_eq!(p.list("c").expect("lists"), []);
        assert!(p.list_dirs("c").expect("lists").is_empty());
        let names: Vec<ObjectName> = (1..5).map(|n| ObjectName::register(&sid(n))).collect();
        for n in names.iter().rev() {
            p.create(n, b"x", Durability::Now).expect("creates");
        }
        assert_eq!(p.list(names[0].dir()).expect("lists"), names);
        assert_eq!(p.list("c").expect("a folder is no object"), []);
        assert_eq!(p.list_dirs("c").expect("lists"), ["2026-11"]);
        assert_eq!(p.list_dirs("").expect("lists"), ["c"]);
        assert!(p.list_dirs(names[0].dir()).expect("objects are no folders").is_empty());
    });
}

#[test]
fn reads_keep_to_their_limits() {
    on_each(|p| {
        let name = pack(2);
        assert_eq!(p.read(&name, 10).expect("asks"), None);
        assert_eq!(p.read_at(&name, 0, 1).expect("asks"), None);
        assert_eq!(p.size(&name).expect("asks"), None);
        p.create(&name, b"0123456789", Durability::Now).expect("creates");
        assert_eq!(p.read(&name, 10).expect("reads").expect("there"), b"0123456789");
        assert!(matches!(p.read(&name, 9), Err(StoreError::Damaged { .. })), "one more than allowed: that is the object's fault, not the storage's");
        assert_eq!(p.read_at(&name, 3, 4).expect("reads").expect("there"), b"3456");
        assert_eq!(p.read_at(&name, 10, 0).expect("reads").expect("there"), b"");
        for (offset, len) in [(7, 4), (10, 1), (11, 1), (u64::from(u32::MAX), 5)] {
            assert_eq!(p.read_at(&name, offset, len).expect("asks"), None, "{len} at {offset}");
        }
    });
}

#[test]
fn discarded_packs_lie_in_the_trash_and_deleted_objects_nowhere() {
    on_each(|p| {
        let d = deleting(p);
        p.create(&pack(3), b"pack", Durability::Now).expect("creates");
        assert_eq!(p.read_at(&pack(3), 0, 4).expect("reads").expect("there"), b"pack");
        assert!(d.discard(&pack(3), 7).expect("discards"));
        assert!(!d.discard(&pack(3), 7).expect("it is gone"));
        assert_eq!(p.read(&pack(3), 10).expect("asks"), None);
        assert_eq!(p.read_at(&pack(3), 0, 4).expect("an open file is no way round"), None);
        let trashed = ObjectName::trashed("00000007", &pack(3)).expect("name");
        assert_eq!(p.list_dirs("trash").expect("lists"), ["00000007"]);
        assert_eq!(p.list(trashed.dir()).expect("lists"), std::slice::from_ref(&trashed));
        assert_eq!(p.read_at(&trashed, 1, 2).expect("reads").expect("there"), b"ac");
        d.delete_empty_dir(trashed.dir()).expect("not empty: stays");
        assert_eq!(p.list(trashed.dir()).expect("lists").len(), 1);
        assert!(d.delete(&trashed).expect("deletes"));
        assert!(!d.delete(&trashed).expect("it is gone"));
        d.delete_empty_dir(trashed.dir()).expect("deletes");
        d.delete_empty_dir(trashed.dir()).expect("it is gone already");
        assert!(p.list_dirs("trash").expect("lists").is_empty());
    });
}

#[test]
fn a_folder_that_was_deleted_is_made_again() {
    on_each(|p| {
        let d = deleting(p);
        for (n, round) in [(4, 1), (5, 1)] {
            p.create(&pack(n), b"pack", Durability::Now).expect("creates");
            assert!(d.discard(&pack(n), round).expect("discards"));
            assert!(d.delete(&ObjectName::trashed("00000001", &pack(n)).expect("name")).expect("deletes"));
            d.delete_empty_dir("trash/00000001").expect("deletes");
        }
    });
}

#[test]
fn a_folder_tells_when_it_was_last_changed() {
    on_each(|p| {
        let d = deleting(p);
        assert_eq!(d.dir_modified_unix_ms("gc").expect("asks"), None);
        p.create(&ObjectName::session(&sid(6)), b"x", Durability::Now).expect("creates");
        let first = d.dir_modified_unix_ms("gc").expect("asks").expect("there");
        assert!(first > 1_700_000_000_000, "{first} is no Unix time in milliseconds");
        p.sleep_ms(20);
        p.create(&ObjectName::session(&sid(7)), b"x", Durability::Now).expect("creates");
        let second = d.dir_modified_unix_ms("gc").expect("asks").expect("there");
        assert!(second > first, "a create is a change");
        p.sleep_ms(20);
        assert!(d.delete(&ObjectName::session(&sid(7))).expect("deletes"));
        assert!(d.dir_modified_unix_ms("gc").expect("asks").expect("there") > second, "a delete is one too");
    });
}

#[test]
fn clocks_go_on_and_this_process_is_not_gone() {
    on_each(|p| {
        let before = (p.now_unix_ms(), p.monotonic_ms());
        p.sleep_ms(10);
        assert!(p.now_unix_ms() >= before.0 + 10 && p.monotonic_ms() >= before.1 + 10);
        assert_eq!(p.boot(), p.boot());
        assert!(!p.is_gone(&p.process()));
        for odd in ["", "x", "a b", "a b c d"] {
            assert!(!p.is_gone(odd), "{odd:?}");
        }
        let (mut a, mut b) = ([0; 32], [0; 32]);
        p.random(&mut a);
        p.random(&mut b);
        assert_ne!(a, b);
    });
}

#[test]
fn a_temporary_file_that_a_crash_left_is_no_object_and_goes_by_age() {
    // On a directory: a file of that name, made by hand.
    let dir = tempfile::tempdir().expect("temp dir");
    let local = LocalPlatform::open(dir.path()).expect("opens");
    local.create(&ObjectName::session(&sid(1)), b"x", Durability::Now).expect("creates");
    std::fs::write(dir.path().join("gc/.tmp-0011223344556677"), b"half").expect("writes");
    // In the simulation: the process died before the link, operation 4 there (folder, sync of the one above, write, fdatasync, link).
    let world = World::new(StorageKind::Local, 1);
    let host = world.host(0);
    let simulated = world.process(host);
    simulated.create(&ObjectName::session(&sid(1)), b"x", Durability::Now).expect("creates");
    let dying = world.process(host);
    world.place(&dying, 4, Fault::Crash);
    let outcome = cairn_store::platform::simulated::survive(|| dying.create(&ObjectName::session(&sid(2)), b"y", Durability::Now));
    assert!(outcome.is_none() && !world.has_unused_faults(&dying), "it died there");
    assert!(simulated.is_gone(&dying.process()));
    for p in [&local as &dyn Platform, &*simulated] {
        assert_eq!(p.list("gc").expect("lists").len(), 1, "no listing shows it");
        assert_eq!(deleting(p).delete_temporaries("gc", 3_600_000).expect("looks"), 0, "too young");
        assert_eq!(deleting(p).delete_temporaries("nowhere", 0).expect("looks"), 0);
        p.sleep_ms(2);
        assert_eq!(deleting(p).delete_temporaries("gc", 1).expect("deletes"), 1);
        assert_eq!(deleting(p).delete_temporaries("gc", 0).expect("looks"), 0);
        assert_eq!(p.list("gc").expect("lists").len(), 1);
    }
}
