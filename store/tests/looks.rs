//! How often a command looks at the store: what it needs twice it lists once.

mod common;

use cairn_store::{
    AllPoints, Forgotten, OpenOptions, Point, Result, Store, StoreError, TakeBack,
    format::ObjectName,
    platform::{Created, Durability, LocalPlatform, Platform},
};
use common::{Lab, backup, content, full, passes_on, point};
use std::sync::{Arc, Mutex};

/// What another host does at a certain moment.
type Other = Box<dyn FnOnce() + Send>;

/// The local platform, with the folders that were listed.
struct Listed {
    inner: LocalPlatform,
    lists: Mutex<Vec<String>>,
    /// Done right before the next object is made; then this process works on one thread, so that it is known which that is.
    before_create: Mutex<Option<Other>>,
    single_threaded: bool,
}

impl Listed {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lists.lock().expect("lock"))
    }
}

impl Platform for Listed {
    passes_on!(inner: location cover barrier read read_at size now_unix_ms monotonic_ms boot sleep_ms random process is_gone deleting);

    fn create(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> Result<Created> {
        let other = self.before_create.lock().expect("lock").take();
        if let Some(other) = other {
            other();
        }
        self.inner.create(name, bytes, durability)
    }
    fn list(&self, dir: &str) -> Result<Vec<ObjectName>> {
        self.lists.lock().expect("lock").push(dir.to_owned());
        self.inner.list(dir)
    }
    fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        self.lists.lock().expect("lock").push(dir.to_owned());
        self.inner.list_dirs(dir)
    }
    fn single_threaded(&self) -> bool {
        self.single_threaded
    }
}

fn open(lab: &Lab, single_threaded: bool) -> (Arc<Listed>, Store) {
    let inner = LocalPlatform::open(&lab.root()).expect("platform");
    let platform = Arc::new(Listed { inner, lists: Mutex::default(), before_create: Mutex::default(), single_threaded });
    let options = OpenOptions { credential: lab.credential(), state_dir: lab.dir.path().join("state"), host: "host".into() };
    let store = Store::open_on(platform.clone(), options).expect("opens");
    platform.take();
    (platform, store)
}

#[test]
fn what_can_be_taken_back_is_found_by_one_look_at_all_points() {
    let lab = Lab::new();
    let store = lab.open();
    let made: Vec<_> = (1..4).map(|seed| backup(&store, "vm", &content(300_000, seed), full()).expect("backs up")).collect();
    made[..2].iter().for_each(|p| drop(store.forget(&point(&store, p), 0, true).expect("forgets")));
    // A forget that broke off after its first half is known by its log alone.
    let half = lab.files("f").into_iter().find(|f| f.ends_with(made[1].id.to_string())).expect("its tombstone");
    std::fs::remove_file(half).expect("removes");

    let (platform, store) = open(&lab, false);
    let AllPoints { live, forgotten, damaged } = store.all_points().expect("lists");
    let mut take_back = TakeBack::new(&store, &live).expect("looks");
    for p in &forgotten {
        assert!(take_back.done_before(p).expect("looks").is_none() && take_back.is_possible(p).expect("looks"));
    }
    let lists = platform.take();
    assert_eq!(live.iter().map(|p| p.id).collect::<Vec<_>>(), [made[2].id]);
    let mut ids: Vec<_> = forgotten.iter().map(|p| p.id).collect();
    ids.sort_unstable();
    let mut expected = [made[0].id, made[1].id];
    expected.sort_unstable();
    assert!(ids == expected && damaged.is_empty() && forgotten.iter().all(|p| p.log.len() == 1), "{ids:?} {damaged:?}");
    for folder in ["f", "p"] {
        assert_eq!(lists.iter().filter(|l| *l == folder).count(), 1, "{folder} in {lists:?}");
    }
    // Lists of moves are looked for among the registers once more.
    assert!(["c", "r"].iter().all(|folder| lists.iter().filter(|l| l == folder).count() <= 2), "{lists:?}");
}

fn points(store: &Store, count: u64) -> Vec<Point> {
    (1..=count).for_each(|seed| drop(backup(store, "vm", &content(50_000, seed), full()).expect("backs up")));
    store.points().expect("lists")
}

#[test]
fn many_are_forgotten_by_one_list_of_their_logs_and_each_by_its_own_objects() {
    let lab = Lab::new();
    let all = points(&lab.open(), 12);
    let (platform, store) = open(&lab, false);
    let results = store.forget_all(&all[..10].iter().collect::<Vec<_>>(), 0, true, &|_| None).expect("lists");
    assert!(results.len() == 10 && results.iter().all(Result::is_ok), "{results:?}");
    let lists = platform.take();
    // The folder of logs and its one month, if it was there before; one by one it was a list for each.
    assert!(lists.iter().filter(|l| l.starts_with('p')).count() <= 2, "{lists:?}");
    assert_eq!((lab.files("p").len(), lab.files("f").len()), (10, 10));
    let left: Vec<_> = lab.open().points().expect("lists").iter().map(|p| p.id).collect();
    assert_eq!(left, all[10..].iter().map(|p| p.id).collect::<Vec<_>>());
}

#[test]
fn what_is_protected_after_the_logs_were_listed_stays() {
    for victim in [0, 1, 2] {
        let lab = Lab::new();
        let all = points(&lab.open(), 3);
        let other = lab.open_with(lab.credential(), "other").expect("opens");
        let (platform, store) = open(&lab, true);
        let late = all[victim].clone();
        *platform.before_create.lock().expect("lock") = Some(Box::new(move || other.protect(&late, true).expect("protects")));
        let results = store.forget_all(&all.iter().collect::<Vec<_>>(), 0, true, &|_| None).expect("lists");
        for (n, result) in results.iter().enumerate() {
            let refused = matches!(result, Err(StoreError::Refused(why)) if why.contains("protected"));
            assert_eq!((refused, result.is_ok()), (n == victim, n != victim), "{n}: {result:?}");
        }
        let left: Vec<_> = lab.open().points().expect("lists").iter().map(|p| (p.id, p.is_protected())).collect();
        assert_eq!(left, [(all[victim].id, true)]);
    }
}

#[test]
fn a_store_that_fails_in_mid_way_ends_a_batch_and_what_went_is_told() {
    let lab = Lab::new();
    let all = points(&lab.open(), 3);
    let (_, store) = open(&lab, true);
    // A file where the folder of tombstones would be.
    let tombstones = lab.root().join("f");
    let _ = std::fs::remove_dir_all(&tombstones);
    std::fs::write(&tombstones, b"").expect("writes");
    let results = store.forget_all(&all.iter().collect::<Vec<_>>(), 0, true, &|_| None).expect("lists");
    assert!(matches!(&results[..], [Ok(Forgotten { lacks_tombstone: Some(_) })]), "nothing more began: {results:?}");
    std::fs::remove_file(&tombstones).expect("removes");
    assert_eq!(lab.open().points().expect("lists").len(), 2);
}
