//! The simulated storage itself: it must be able to do all the harm that docs/simulation.md claims, or the other suites prove nothing.

use cairn_store::{
    format::{ObjectName, PackId, PackKind, SessionId},
    platform::{
        Created, Durability, Platform,
        simulated::{Fault, StorageKind, Survival, World, survive},
    },
};
use std::sync::{Arc, Mutex};

fn session(n: u8) -> ObjectName {
    ObjectName::session(&SessionId([n; 16]))
}

fn pack(n: u8) -> ObjectName {
    ObjectName::pack(&PackId { session: SessionId([n; 16]), seq: 0, kind: PackKind::Data }).remove(0)
}

#[test]
fn a_power_loss_takes_what_no_barrier_covered() {
    for (kind, survival, left) in
        [(StorageKind::Local, Survival::None, false), (StorageKind::Local, Survival::All, true), (StorageKind::Nfs, Survival::None, true)]
    {
        let world = World::new(kind, 1);
        let host = world.host(0);
        let p = world.process(host);
        p.create(&pack(1), b"before the barrier", Durability::Deferred).expect("creates");
        p.barrier().expect("syncs");
        p.create(&pack(2), b"after it", Durability::Deferred).expect("creates");
        p.create(&session(3), b"at once", Durability::Now).expect("creates");
        let before = (p.boot(), p.process());
        world.power_loss(host, survival);
        let again = world.process(host);
        assert_eq!(again.read(&pack(1), 100).expect("reads").expect("durable"), b"before the barrier");
        assert_eq!(again.read(&session(3), 100).expect("reads").expect("durable"), b"at once");
        assert_eq!(again.size(&pack(2)).expect("asks").is_some(), left, "{kind:?} {survival:?}");
        assert_ne!(again.boot(), before.0);
        assert!(again.monotonic_ms() < 100 && !again.is_gone(&before.1), "processes of another boot are never certain");
        assert!(survive(|| p.size(&pack(1))).is_none(), "the old process has ended");
    }
}

#[test]
fn a_random_power_loss_keeps_some_and_a_folder_takes_all_below_it_along() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..64 {
        let world = World::new(StorageKind::Local, seed);
        let host = world.host(0);
        let p = world.process(host);
        // Operations of the create: mkdir d, sync of the root, mkdir d/xx, sync of d.
        world.place(&p, 3, Fault::PowerLoss(Survival::Random));
        assert!(survive(|| p.create(&pack(1), b"x", Durability::Now)).is_none());
        match world.process(host).list_dirs("d").expect("lists").len() {
            0 => lost += 1,
            _ => kept += 1,
        }
    }
    assert!(kept > 8 && lost > 8, "{kept} kept, {lost} lost");
}

#[test]
fn a_failed_sync_of_a_folder_is_owed_until_one_succeeds() {
    for (again, kept) in [(false, None), (true, Some(1))] {
        let world = World::new(StorageKind::Local, 1);
        let host = world.host(0);
        let p = world.process(host);
        p.create(&pack(1), b"x", Durability::Deferred).expect("creates");
        world.place(&p, 0, Fault::FailBefore(libc::EIO));
        assert!(p.barrier().is_err());
        if again {
            p.barrier().expect("the journal takes it");
        }
        world.power_loss(host, Survival::None);
        assert_eq!(world.process(host).size(&pack(1)).expect("asks"), kept);
    }
}

#[test]
fn a_failed_sync_of_a_file_is_never_made_good() {
    let world = World::new(StorageKind::Local, 1);
    let host = world.host(0);
    let p = world.process(host);
    p.create(&session(9), b"folders are there", Durability::Now).expect("creates");
    // write, fdatasync
    world.place(&p, 1, Fault::FailBefore(libc::EIO));
    assert!(p.create(&session(1), b"ours", Durability::Now).is_err());
    p.barrier().expect("nothing is owed");
    assert_eq!(p.size(&session(1)).expect("asks"), None);
    assert_eq!(p.create(&session(1), b"ours", Durability::Now).expect("anew"), Created::New);
}

#[test]
fn lost_replies_are_told_from_failures_by_the_bytes() {
    let world = World::new(StorageKind::Nfs, 1);
    let host = world.host(0);
    let p = world.process(host);
    p.create(&session(9), b"folders are there", Durability::Now).expect("creates");
    // write, fdatasync, link, unlink, sync of the folder
    world.place(&p, 2, Fault::FailAfter(libc::EIO));
    assert_eq!(p.create(&session(1), b"ours", Durability::Now).expect("our own echo"), Created::New);
    world.place(&p, 2, Fault::FailBefore(libc::EIO));
    assert!(p.create(&session(2), b"never", Durability::Now).is_err());
    assert_eq!(p.size(&session(2)).expect("asks"), None);
    world.place(&p, 4, Fault::FailAfter(libc::EIO));
    assert!(p.create(&session(3), b"there all the same", Durability::Now).is_err());
    assert_eq!(p.size(&session(3)).expect("asks"), Some(18));
    // Another's object is there and the read that would tell fails: the error of the link.
    world.place(&p, 3, Fault::FailBefore(libc::EIO));
    assert!(p.create(&session(1), b"other", Durability::Now).is_err());
}

#[test]
fn a_create_that_has_not_returned_may_or_may_not_be_listed_until_somebody_saw_it() {
    let (mut shown_at_once, mut shown_later) = (0, 0);
    for seed in 0..32 {
        let world = World::new(StorageKind::Nfs, seed);
        let host = world.host(0);
        let (creator, reader) = (world.process(host), world.process(host));
        creator.create(&session(9), b"folder", Durability::Now).expect("creates");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let meanwhile = {
            let (seen, reader) = (seen.clone(), reader.clone());
            move || (0..32).for_each(|_| seen.lock().expect("lock").push(reader.list("gc").expect("lists").len()))
        };
        // Between its link and its sync.
        world.place(&creator, 4, Fault::Pause(Box::new(meanwhile)));
        creator.create(&session(1), b"x", Durability::Now).expect("creates");
        let seen = seen.lock().expect("lock");
        assert!(seen.is_sorted() && seen.ends_with(&[2]), "seed {seed}: {seen:?}");
        if seen[0] == 2 {
            shown_at_once += 1;
        } else {
            shown_later += 1;
        }
        assert_eq!(reader.list("gc").expect("lists").len(), 2, "it has returned");
    }
    assert!(shown_at_once > 4 && shown_later > 4, "{shown_at_once} at once, {shown_later} later");
}

#[test]
fn a_link_on_its_way_arrives_after_its_sender_died() {
    let mut late = 0;
    for seed in 0..16 {
        let world = World::new(StorageKind::Nfs, seed);
        let host = world.host(0);
        let (dying, other) = (world.process(host), world.process(host));
        other.create(&session(9), b"folder", Durability::Now).expect("creates");
        // mkdir, sync above, write, fdatasync, link
        world.place(&dying, 4, Fault::CrashInFlight);
        assert!(survive(|| dying.create(&session(1), b"x", Durability::Now)).is_none());
        assert!(other.is_gone(&dying.process()));
        late += u32::from(other.size(&session(1)).expect("asks").is_none());
        for _ in 0..300 {
            assert!(other.size(&session(9)).expect("asks").is_some());
        }
        assert_eq!(other.list("gc").expect("lists").len(), 2, "seed {seed}");
    }
    assert!(late > 8, "{late} of 16 were late");
}

#[test]
fn clocks_of_hosts_differ() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let world = World::new(StorageKind::Nfs, 1);
    let clocks: Vec<u64> = [-YEAR_MS, 0, YEAR_MS].iter().map(|&skew| world.process(world.host(skew)).now_unix_ms()).collect();
    assert!(clocks[0] + YEAR_MS as u64 == clocks[1] && clocks[1] + YEAR_MS as u64 == clocks[2]);
    world.advance_ms(5000);
    assert!(world.process(world.host(0)).now_unix_ms() >= clocks[1] + 5000);
}

#[test]
fn an_nfs_host_may_go_on_missing_what_it_missed_until_it_lists() {
    let world = World::new(StorageKind::Nfs, 1);
    let (here, there) = (world.process(world.host(0)), world.process(world.host(0)));
    there.create(&session(9), b"folder", Durability::Now).expect("creates");
    assert_eq!(here.size(&session(1)).expect("asks"), None);
    there.create(&session(1), b"x", Durability::Now).expect("creates");
    let seen: Vec<bool> = (0..32).map(|_| here.size(&session(1)).expect("asks").is_some()).collect();
    assert!(seen.contains(&true) && seen.contains(&false), "{seen:?}");
    assert_eq!(here.list("gc").expect("lists").len(), 2);
    assert!((0..32).all(|_| here.read(&session(1), 1).expect("reads").is_some()));
}
