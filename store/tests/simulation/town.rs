//! A store in a simulated world, with a ledger of what was put into it: what must be listed, what may be, and what each point holds.

use crate::common::{self, Mem, info, restore};
use cairn_store::{
    Credential, DiskJob, GcOptions, GcReport, InitOptions, OpenOptions, Plan, Point, Profile, Progress, Result, Store, StoreError,
    format::{ObjectName, SessionId},
    init_on,
    platform::{
        Platform,
        simulated::{Rates, Rng, SimulatedPlatform, Snapshot, StorageKind, Survival, World},
    },
};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;

/// An empty encrypted store that all cases start from.
pub struct Origin {
    dir: TempDir,
    snapshot: Snapshot,
}

/// State of hosts is a cache: memory is as good as a disk for it, and syncs cost nothing there.
fn temp_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("temp dir")
}

impl Origin {
    pub fn get() -> &'static Self {
        static ORIGIN: OnceLock<Origin> = OnceLock::new();
        ORIGIN.get_or_init(|| {
            let dir = temp_dir();
            let world = World::new(StorageKind::Nfs, 1);
            let host = world.host(0);
            let key = dir.path().join("key");
            let options = InitOptions { profile: Profile::Small, zstd_level: 1, encrypted: true, key_file: Some(Box::new(move |_: &_| key)), passphrase: None };
            init_on(&*world.process(host), options).expect("init");
            Self { dir, snapshot: world.snapshot() }
        })
    }
}

/// What the ledger knows of a session that may have committed.
#[derive(Clone)]
pub struct Entry {
    pub content: Arc<Vec<u8>>,
    /// The backup returned with success: the point must be listed until it is forgotten.
    pub acknowledged: bool,
    /// Somebody began to forget it: it may be listed or not.
    pub forget_begun: bool,
    /// A forget returned with success: it must not be listed.
    pub forgotten: bool,
}

/// A world with a store.
pub struct Town {
    pub world: Arc<World>,
    pub kind: StorageKind,
    pub seed: u64,
    state: TempDir,
    states: AtomicU64,
    ledger: Mutex<BTreeMap<SessionId, Entry>>,
}

/// A town that can be set up again.
pub struct Saved {
    snapshot: Snapshot,
    ledger: BTreeMap<SessionId, Entry>,
}

impl Drop for Town {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?} storage, seed {}; the last operations:\n{}", self.kind, self.seed, self.world.trace());
        }
    }
}

impl Town {
    pub fn new(kind: StorageKind, seed: u64) -> Self {
        Self::from_saved(kind, seed, &Saved { snapshot: Origin::get().snapshot.clone(), ledger: BTreeMap::new() })
    }

    pub fn from_saved(kind: StorageKind, seed: u64, saved: &Saved) -> Self {
        let world = World::from_snapshot(kind, seed, &saved.snapshot);
        if let Some(lines) = env_number("CAIRN_SIM_TRACE") {
            world.set_trace_lines(usize::try_from(lines).expect("fits"));
        }
        Self { world, kind, seed, state: temp_dir(), states: AtomicU64::new(0), ledger: Mutex::new(saved.ledger.clone()) }
    }

    pub fn save(&self) -> Saved {
        Saved { snapshot: self.world.snapshot(), ledger: self.ledger().clone() }
    }

    fn ledger(&self) -> MutexGuard<'_, BTreeMap<SessionId, Entry>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A state folder's name that was not used yet: a host that lost its cache.
    pub fn fresh_state(&self) -> String {
        format!("state-{}", self.states.fetch_add(1, Ordering::SeqCst))
    }

    /// Opens the store in a process, with the state folder of that name.
    pub fn open(&self, process: &Arc<SimulatedPlatform>, state: &str) -> Result<Store> {
        let credential = Some(Credential::read_key_file(&Origin::get().dir.path().join("key")).expect("own key file"));
        Store::open_on(process.clone(), OpenOptions { credential, state_dir: self.state.path().join(state), host: "host".into() })
    }

    /// A process on a host and the store opened in it, where nothing goes wrong.
    pub fn store(&self, host: usize) -> Store {
        self.open(&self.world.process(host), &self.fresh_state()).expect("opens")
    }

    pub fn content_of(&self, id: &SessionId) -> Arc<Vec<u8>> {
        self.ledger()[id].content.clone()
    }

    /// The first point that was made.
    pub fn oldest(&self) -> SessionId {
        *self.ledger().keys().next().expect("there is one")
    }

    /// Points that a backup acknowledged and nobody began to forget.
    pub fn safe_points(&self) -> Vec<SessionId> {
        self.ledger().iter().filter(|(_, e)| e.acknowledged && !e.forget_begun).map(|(id, _)| *id).collect()
    }

    /// Backs a domain's only disk up, as an increment where there is a point of it, and enters it into the ledger.
    pub fn backup(&self, store: &Store, domain: &str, content: &[u8]) -> Result<SessionId> {
        self.backup_with(store, domain, content, |base, dirty| Plan::Incremental { base: (base, 0), dirty })
    }

    /// The same with the plan of one's own for the case that there is a point of the domain.
    pub fn backup_with(&self, store: &Store, domain: &str, content: &[u8], plan: impl FnOnce(SessionId, Vec<Range<u64>>) -> Plan) -> Result<SessionId> {
        let session = store.begin()?;
        let id = session.id();
        let content = Arc::new(content.to_vec());
        self.ledger().insert(id, Entry { content: content.clone(), acknowledged: false, forget_begun: false, forgotten: false });
        let base = session.points().iter().rev().find(|p| p.summary.name == domain).map(|p| p.id);
        let plan = match base {
            Some(base) => plan(base, dirty(&self.content_of(&base), &content)),
            None => common::full(),
        };
        let job = DiskJob { target: "vda".into(), source: Arc::new(Mem(content.to_vec())), plan };
        let out = session.backup(&[job], || info(domain), &Progress::default(), || Ok(()))?;
        assert_eq!(out.id, id);
        self.ledger().get_mut(&id).expect("entered above").acknowledged = true;
        Ok(id)
    }

    /// Whether somebody began to forget it.
    pub fn may_be_forgotten(&self, id: &SessionId) -> bool {
        self.ledger()[id].forget_begun
    }

    /// Whether a text names points, and somebody began to forget each of them.
    pub fn names_forgotten_points_only(&self, text: &str) -> bool {
        let ledger = self.ledger();
        let mut named = ledger.iter().filter(|(id, _)| text.contains(&id.to_string())).peekable();
        named.peek().is_some() && named.all(|(_, entry)| entry.forget_begun)
    }

    /// Restores what a reader finds; a point that somebody forgets meanwhile may fail.
    pub fn check_point(&self, store: &Store, point: &Point) {
        let entry = self.ledger().get(&point.id).cloned().unwrap_or_else(|| panic!("point {} was made by nobody", point.id));
        match restore(store, point) {
            Ok(data) => assert!(data == **entry.content, "point {} restores to something else", point.id),
            Err(e) => panic!("point {} is listed and does not restore: {e}", point.id),
        }
    }

    /// Deletes all index files: nobody needs them to find what points refer to.
    pub fn forget_index_files(&self) {
        let process = self.world.process(self.world.host(0));
        let names = self.world.names();
        for name in names.iter().filter(|n| n.starts_with("x/")) {
            let (dir, file) = name.rsplit_once('/').expect("below x/");
            let deleting = process.deleting().expect("it may");
            assert!(deleting.delete(&ObjectName::listed(dir, file).expect("an object")).expect("deletes"));
        }
    }

    /// All that must hold when nothing goes wrong any more: each listed point restores, none is lost, none is back.
    pub fn audit(&self, store: &Store) {
        let (points, damaged) = store.points_from_storage().expect("lists");
        // After a failed sync a register may be seen and still not survive a power loss: nobody was told that its point exists, and its copy says so.
        let unacknowledged: Vec<String> = self.ledger().iter().filter(|(_, e)| !e.acknowledged).map(|(id, _)| id.to_string()).collect();
        let is_excused = |d: &String| d.contains("its copy r/") && unacknowledged.iter().any(|id| d.contains(id));
        assert!(damaged.iter().all(is_excused), "{damaged:?}");
        points.iter().for_each(|p| self.check_point(store, p));
        for (id, entry) in &*self.ledger() {
            let listed = points.iter().any(|p| p.id == *id);
            assert!(listed || !entry.acknowledged || entry.forget_begun, "point {id} is lost");
            assert!(!listed || !entry.forgotten, "point {id} was forgotten and is back");
        }
    }

    /// A backup that gives up right before it commits: its packs and its index file stay.
    pub fn give_up(&self, store: &Store, content: &[u8]) {
        let job = DiskJob { target: "vda".into(), source: Arc::new(Mem(content.to_vec())), plan: common::full() };
        let refused = || Err(StoreError::Refused("the capture did not hold".into()));
        let out = store.begin().and_then(|session| session.backup(&[job], || info("given up"), &Progress::default(), refused));
        assert!(matches!(out, Err(StoreError::Refused(_))), "{out:?}");
    }

    /// Forgets a point and enters that into the ledger; one that is not listed any more is forgotten already.
    pub fn forget(&self, store: &Store, id: &SessionId) -> Result<()> {
        let Some(point) = store.points()?.into_iter().find(|p| p.id == *id) else { return Ok(()) };
        self.ledger().get_mut(id).expect("made here").forget_begun = true;
        store.forget(&point, 0, true)?;
        self.ledger().get_mut(id).expect("made here").forgotten = true;
        Ok(())
    }

    /// Collects until no other collection is in the way: one that died counts as alive until it was silent for long enough.
    pub fn collect(&self, store: &Store, options: &GcOptions) -> GcReport {
        for _ in 0..COLLECT_TRIES_MAX {
            match store.collect(options, &Progress::default()) {
                Ok(report) => return report,
                Err(StoreError::Busy(_)) => self.world.advance_ms(options.dead_after_ms + 1),
                Err(e) => panic!("nothing goes wrong, and a collection fails: {e}"),
            }
        }
        panic!("{COLLECT_TRIES_MAX} collections were busy one after the other");
    }

    /// After [`Town::recover_and_audit`]: a collection takes nothing that is needed, and once all is forgotten nothing stays behind.
    pub fn collect_and_audit(&self, host: usize, options: &GcOptions) {
        let store = self.store(host);
        self.collect(&store, options);
        self.audit(&store);
        let content = noise(90_000, 98);
        self.backup(&store, "after", &content).expect("a backup after a collection");
        drop(store);
        self.world.power_loss(host, Survival::Random);
        let store = self.store(host);
        self.audit(&store);
        for p in store.points().expect("lists") {
            self.forget(&store, &p.id).expect("forgets");
        }
        // The first one may find packs whose session it has to fence first, or that it moves.
        (0..3).for_each(|_| drop(self.collect(&store, options)));
        let left: Vec<String> = self.world.names().into_iter().filter(|n| ["d/", "m/", "x/", "trash/"].iter().any(|root| n.starts_with(root))).collect();
        assert!(left.is_empty(), "garbage that no collection takes: {left:?}");
    }

    /// After a case: all goes well again, a new process finds all in order and backs up, even a power loss then takes nothing.
    pub fn recover_and_audit(&self, host: usize) {
        self.world.set_rates(Rates::default());
        self.world.set_free_bytes(None);
        let store = self.store(host);
        self.audit(&store);
        let content = noise(70_000, 99);
        let id = self.backup(&store, "after", &content).expect("a new backup succeeds");
        let point = store.points().expect("lists").into_iter().find(|p| p.id == id).expect("it is listed");
        self.check_point(&store, &point);
        drop(store);
        self.world.power_loss(host, Survival::None);
        self.audit(&self.store(host));
        // One that was shut out may have found its parent's packs gone.
        let may_miss = self.ledger().values().any(|e| e.forget_begun);
        assert!(may_miss || !self.world.names().iter().any(|n| n.starts_with("b/")), "somebody reported damage");
    }
}

/// Collections that may be in the way one after the other.
const COLLECT_TRIES_MAX: usize = 5;

/// What was forgotten is gone at once and for good, so that nothing that is needed could still be had from the trash.
pub fn ruthless() -> GcOptions {
    GcOptions {
        dead_after_ms: 10_000,
        wait_ms_max: 60_000,
        poll_ms: 1000,
        resume_grace_ms: 0,
        trash_keep_ms: 0,
        repack_below_percent: 0,
        ..GcOptions::default()
    }
}

/// The same, and thinly used packs are rewritten.
pub fn repacking() -> GcOptions {
    // Beyond 100: every pack that is used is rewritten by each collection, however full it is.
    GcOptions { repack_below_percent: 101, ..ruthless() }
}

/// Content that does not shrink and that no other seed has a chunk of.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    Rng::new(!seed).fill(&mut out);
    out
}

/// Where two contents differ, in blocks; a resize is the store's to find.
pub fn dirty(old: &[u8], new: &[u8]) -> Vec<Range<u64>> {
    const BLOCK: usize = 4096;
    let both = old.len().min(new.len());
    let changed = (0..both.div_ceil(BLOCK)).filter(|b| {
        let range = b * BLOCK..((b + 1) * BLOCK).min(both);
        old[range.clone()] != new[range]
    });
    changed.map(|b| (b * BLOCK) as u64..((b + 1) * BLOCK).min(both) as u64).collect()
}

/// The seed of a run: from the environment to replay one, else the given one.
pub fn seed_or(default: u64) -> u64 {
    env_number("CAIRN_SIM_SEED").unwrap_or(default)
}

/// A number from the environment.
pub fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|s| s.parse().unwrap_or_else(|_| panic!("{name} is '{s}' and shall be a number")))
}
