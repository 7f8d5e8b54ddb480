//! Healing puts a node in another one's stead that has the same id and leads elsewhere: steps of collections that whole runs cannot be stopped between.

use super::{
    GcOptions, GcReport,
    mark::{Marker, Spare},
    repack, round,
    rounds::Doomed,
};
use crate::{
    DiskJob, InitOptions, OpenOptions, Plan, Profile, Progress, Store,
    damage::Bad,
    init, point,
    session::Registered,
    testing::{Disk, info},
};
use cairn_store_format::{
    Location, ObjectName, PackId, SessionId,
    gc::{SessionKind, Spared},
    map::Ref,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
    sync::Arc,
};

fn open(dir: &Path, state: &str) -> Store {
    Store::open(&dir.join("store"), OpenOptions { credential: None, state_dir: dir.join(state), host: "host".into() }).expect("opens")
}

/// Two points of equal content of which neither knew of the other: equal ids, other places.
fn twins(dir: &Path) -> (Store, [SessionId; 2]) {
    init(&dir.join("store"), InitOptions { profile: Profile::Default, zstd_level: 1, encrypted: false, key_file: None, passphrase: None }).expect("init");
    let content: Vec<u8> = (0..9 * 65_536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let sessions = ["one", "two"].map(|state| open(dir, state).begin().expect("begins"));
    let ids = sessions.map(|session| {
        let job = DiskJob { target: "vda".into(), source: Arc::new(Disk(content.clone())), plan: Plan::Full { reason: "first".into() } };
        session.backup(&[job], || info("a", 1), &Progress::default(), || Ok(())).expect("backs up").id
    });
    (open(dir, "three"), ids)
}

fn root(store: &Store, id: &SessionId) -> Ref {
    let point = store.points().expect("lists").into_iter().find(|p| p.id == *id).expect("listed");
    point::disks(&store.inner, &point).expect("reads").remove(0).root.expect("not zero")
}

fn data_packs(store: &Store, id: &SessionId) -> BTreeSet<PackId> {
    round::list_packs(&store.inner).expect("lists").into_iter().filter(|p| p.session == *id && ObjectName::pack(p).len() == 1).collect()
}

#[test]
fn a_node_stands_in_only_where_all_it_leads_to_stays() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, [one, two]) = twins(dir.path());
    let (bad, copy) = (root(&store, &one), root(&store, &two));
    assert!(bad.id == copy.id && bad.at.pack != copy.at.pack);
    let displaced: HashMap<Location, Spare> = HashMap::from([(bad.at, copy.into())]);
    let stand_ins = |doomed: &Doomed| repack::stand_ins(&store.inner, doomed, &displaced, &mut || Ok(())).expect("looks").len();
    assert_eq!(stand_ins(&Doomed::default()), 1);
    let packs = data_packs(&store, &two);
    assert!(!packs.is_empty());
    assert_eq!(stand_ins(&Doomed::these(packs.iter().copied())), 0, "its chunks are condemned");
    assert_eq!(stand_ins(&Doomed::these([copy.at.pack])), 0, "it is condemned itself");
    for pack in &packs {
        fs::remove_file(dir.path().join("store").join(ObjectName::pack(pack)[0].as_str())).expect("removes");
    }
    assert_eq!(stand_ins(&Doomed::default()), 0, "its chunks are gone");
}

#[test]
fn a_round_spares_what_a_node_leads_to_that_was_put_in_anothers_stead_meanwhile() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, [one, two]) = twins(dir.path());
    let (inner, options, no_bad) = (&store.inner, GcOptions::default(), Bad::default());
    let (bad, copy) = (root(&store, &one), root(&store, &two));
    // G1 to G4: the second point is forgotten, all of it is a candidate.
    let forgotten = HashSet::from([two]);
    let packs = round::list_packs(inner).expect("lists");
    let committed = round::committed(inner, &HashSet::new(), &forgotten, &options).expect("reads");
    let mut marker = Marker::new(inner, packs.iter().copied(), &no_bad, HashSet::new());
    round::mark(&mut marker, &committed, &|m, p| m.marks(p), &mut || Ok(())).expect("marks");
    let candidates: HashSet<PackId> = packs.iter().filter(|p| !marker.marks(p)).copied().collect();
    let condemned = data_packs(&store, &two);
    assert!(condemned.iter().all(|p| candidates.contains(p)));
    // Another collection finds the first point's root damaged, and the second one's in its stead; it has begun before anything was published.
    let session = Registered::new(inner, SessionKind::Repack, Vec::new()).expect("begins");
    assert!(repack::move_frames(inner, &session, &[], &[(bad.at, copy.into())], &mut GcReport::default(), &mut || Ok(())).expect("heals"));
    // G7.
    let (spared, _) = round::look_again(inner, &mut marker, committed, &forgotten, &candidates, &options, &mut || Ok(())).expect("looks again");
    let Spared::Packs(spared) = spared else { panic!("a list") };
    assert!(condemned.iter().all(|p| spared.contains(p)), "the first point's map leads there now");
}

#[test]
fn a_stray_file_with_the_last_number_of_all_does_not_end_the_rounds() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, [_, two]) = twins(dir.path());
    fs::write(dir.path().join("store").join(ObjectName::pardon(u64::MAX).as_str()), b"rubbish").expect("writes");
    let forgotten = store.points().expect("lists").into_iter().find(|p| p.id == two).expect("listed");
    store.forget(&forgotten, 0, true).expect("forgets");
    let options = GcOptions { wait_ms_max: 1000, poll_ms: 10, ..GcOptions::default() };
    assert!(store.collect(&options, &Progress::default()).expect("collects").deleted_packs > 0);
}
