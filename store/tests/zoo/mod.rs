//! A small store that holds every kind of object at once, made by the real code: what the damage matrix damages and what golden stores are.
//!
//! Alive: `alpha` (two points, an incremental chain of a disk of two regions, parts, logs), `beta` (many disks: their table is a frame of its
//! own), `gamma` (its frames were moved by a repack), `zeta` (shares a pack with a point that is gone; its index file was written anew),
//! `empty` (a disk of zeros). Forgotten: older points of `gamma` and `zeta`, `delta` (gone), `epsilon` (in a round that is still open).
//! Besides: fence and abort registers, three session records, a beat, reports, trash, and three rounds of garbage collection in all stages.
#![allow(dead_code, reason = "each suite uses its part")]

mod dying;

pub use dying::{Death, Dying};

use crate::common::{Mem, MemTarget};
use cairn_store::{
    BackupOutcome, Credential, DiskJob, GcOptions, InitOptions, OpenOptions, Part, Plan, Point, PointInfo, Profile, Progress, Result, Store,
    format::{SessionId, register::DiskTable},
    init,
    restore::OnDamage,
    verify::Verifier,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The passphrase of every such store.
pub const PASSPHRASE: &str = "correct horse battery staple";
/// The round that broke off: its lists are there, and nobody has done what they say.
pub const LAST_ROUND: u8 = 3;
const REGION: usize = 4 << 20;
const BLOCK: usize = 4096;
/// The points' times are fixed: 2026-11-21 and on.
const TIME_UNIX_MS: u64 = 1_795_219_200_000;

/// A disk's target and content.
pub type Disk = (String, Vec<u8>);

/// A point that is there, and what it must restore to.
#[derive(Clone)]
pub struct Living {
    pub name: String,
    pub id: SessionId,
    pub disks: Vec<Disk>,
}

/// See the module.
pub struct Zoo {
    /// Holds `store/`, `key` and `warm/`, the state of the host that made it.
    pub dir: PathBuf,
    pub encrypted: bool,
    pub recovery: String,
    pub living: Vec<Living>,
    pub forgotten: Vec<SessionId>,
}

/// Nothing waits for a day in a test, and what has no sign of life is dead at once.
pub fn at_once() -> GcOptions {
    GcOptions { wait_ms_max: 0, poll_ms: 1, dead_after_ms: 0, resume_grace_ms: 0, trash_keep_ms: u64::MAX, repack_below_percent: 0, ..GcOptions::default() }
}

impl Zoo {
    /// Makes one below `dir`; its last collection dies as told.
    pub fn make(dir: &Path, encrypted: bool, passphrase: bool, last: Death) -> Self {
        let (root, key) = (dir.join("store"), dir.join("key"));
        let options = InitOptions {
            profile: Profile::Default,
            zstd_level: 1,
            encrypted,
            key_file: encrypted.then(|| Box::new(move |_: &_| key) as _),
            passphrase: (encrypted && passphrase).then(|| PASSPHRASE.to_owned().into()),
        };
        let recovery = init(&root, options).expect("init").recovery_key.map(|k| k.to_string()).unwrap_or_default();
        let mut zoo = Self { dir: dir.to_owned(), encrypted, recovery, living: Vec::new(), forgotten: Vec::new() };
        zoo.fill(last);
        zoo
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Opens the store by a platform that dies as told.
    fn open(&self, state: &str, death: Death) -> Store {
        let options = OpenOptions { credential: credential(&self.dir), state_dir: self.dir.join(state), host: "zoo".into() };
        Store::open_on(Arc::new(Dying::open(&self.root(), death)), options).expect("opens")
    }

    pub fn point(&self, name: &str) -> &Living {
        self.living.iter().find(|l| l.name == name).expect("one of the module's")
    }

    fn save(&mut self, store: &Store, name: &str, disks: Vec<Disk>, plan: &Plan) -> BackupOutcome {
        let out = back_up(store, name, &disks, plan).expect("backs up");
        self.living.push(Living { name: name.into(), id: out.id, disks });
        out
    }

    fn forget(&mut self, store: &Store, name: &str) {
        let at = self.living.iter().position(|l| l.name == name).expect("alive");
        let gone = self.living.remove(at);
        let point = store.points().expect("lists").into_iter().find(|p| p.id == gone.id).expect("listed");
        store.forget(&point, 0, true).expect("forgets");
        self.forgotten.push(gone.id);
    }

    fn fill(&mut self, last: Death) {
        let store = self.open("warm", Death::Never);
        let one = self.save(&store, "alpha-1", vec![disk(alpha(1))], &full());
        self.save(
            &store,
            "alpha-2",
            vec![disk(alpha(2))],
            &Plan::Incremental { base: (one.id, 0), dirty: std::iter::once(REGION as u64..REGION as u64 + 8192).collect() },
        );
        let beta = self.save(&store, "beta", beta(), &Plan::Full { reason: "a reason as long as one may be ".repeat(4) });
        let table = store.points().expect("lists").into_iter().find(|p| p.id == beta.id).map(|p| p.body.disks);
        assert!(matches!(table, Some(DiskTable::Frame(_))), "{table:?}");
        self.save(&store, "empty", vec![disk(vec![0; 1 << 20])], &full());
        let (kept, gone) = (noise(9 * BLOCK, 7), noise(14 * BLOCK, 70));
        let gamma = self.save(&store, "gamma-1", vec![disk([&kept[..], &[0; BLOCK], &gone].concat())], &full());
        self.save(&store, "gamma-2", vec![disk([&kept[..], &[0; 15 * BLOCK]].concat())], &Plan::Compare { reason: "a test".into(), base: (gamma.id, 0) });
        let shared = noise(10 * BLOCK, 8);
        let zeta = self.save(&store, "zeta-1", vec![disk(shared.clone())], &full());
        let grown = [&shared[..], &[0; BLOCK], &text(9000, 9)].concat();
        self.save(&store, "zeta-2", vec![disk(grown)], &Plan::Compare { reason: "a test".into(), base: (zeta.id, 0) });
        self.save(&store, "delta", vec![disk(text(9000, 10))], &full());
        self.save(&store, "epsilon", vec![disk(text(9000, 11))], &full());
        self.write_logs(&store);
        // A session that is given up leaves an abort register, one that is silent gets a fence.
        drop(store.begin().expect("begins"));
        std::mem::forget(self.open("leaks", Death::Never).begin().expect("begins"));
        // Rounds 1 and 2: the first point of gamma goes, the rest of its pack is moved.
        self.forget(&store, "gamma-1");
        let report = store.collect(&GcOptions { repack_below_percent: 50, ..at_once() }, &Progress::default()).expect("collects");
        assert!(report.moved_frames > 0 && report.deleted_packs > 0 && report.fenced.len() == 1, "{report:?}");
        // Round 3 is done and not cleared away.
        self.forget(&store, "zeta-1");
        self.forget(&store, "delta");
        self.open("warm", Death::BeforeRetiring).collect(&at_once(), &Progress::default()).expect_err("dies");
        // Round 4 is open.
        self.forget(&store, "epsilon");
        self.open("warm", last).collect(&at_once(), &Progress::default()).expect_err("dies");
        self.register_sessions(&store);
        self.report_something();
        store.points().expect("lists, and keeps what it read");
    }

    fn write_logs(&self, store: &Store) {
        let points = store.points().expect("lists");
        let of = |name: &str| points.iter().find(|p| p.id == self.point(name).id).expect("listed");
        store.protect(of("alpha-1"), true).expect("protects");
        store.tag(of("alpha-1"), "gold", true).expect("tags");
        store.tag(of("alpha-1"), "old", true).expect("tags");
        store.tag(of("alpha-1"), "old", false).expect("untags");
        store.note(of("alpha-1"), "before the move").expect("notes");
        store.record_verdict(of("alpha-1"), None).expect("records");
        store.protect(of("alpha-2"), true).expect("protects");
        store.protect(of("alpha-2"), false).expect("unprotects");
        store.tag(of("beta"), "weekly", true).expect("tags");
        store.record_verdict(of("gamma-2"), Some("disk0: 1 range")).expect("records");
    }

    /// A backup that is under way, a reader that is, and one that said it has ended.
    fn register_sessions(&self, store: &Store) {
        let leaky = self.open("leaks", Death::Never);
        std::mem::forget(leaky.begin().expect("begins"));
        std::mem::forget(leaky.pin(&[self.point("alpha-1").id, self.point("gamma-2").id]).expect("pins"));
        drop(store.pin(&[self.point("beta").id]).expect("pins"));
    }

    /// A disk had a bad moment: there is a report, and the pack is whole.
    fn report_something(&self) {
        let pack = files(&self.root().join("d")).into_iter().find(|f| f.to_string_lossy().contains(&self.point("zeta-2").id.to_string())).expect("its pack");
        let whole = fs::read(&pack).expect("reads");
        let mut bad = whole.clone();
        bad[130] ^= 1;
        fs::write(&pack, bad).expect("damages");
        let store = self.open("reporter", Death::Never);
        for p in store.points().expect("lists") {
            store.verify_point(&p, true, &Verifier::new(&store).expect("reads reports"), &Progress::default()).expect("verifies");
        }
        fs::write(&pack, whole).expect("mends");
    }
}

/// The key file of a store in `dir/store`, if it has one.
pub fn credential(dir: &Path) -> Option<Credential> {
    let key = dir.join("key");
    key.exists().then(|| Credential::read_key_file(&key).expect("its key file"))
}

pub fn full() -> Plan {
    Plan::Full { reason: "first".into() }
}

fn disk(content: Vec<u8>) -> Disk {
    ("disk0".into(), content)
}

/// Saves disks, all by the same plan, with two parts.
pub fn back_up(store: &Store, name: &str, disks: &[Disk], plan: &Plan) -> Result<BackupOutcome> {
    let jobs: Vec<DiskJob> = disks.iter().map(|(target, d)| DiskJob { target: target.clone(), source: Arc::new(Mem(d.clone())), plan: plan.clone() }).collect();
    let part = |name: &str, bytes: &[u8], secret| Part { name: name.into(), bytes: bytes.to_vec(), secret };
    let info = || PointInfo {
        name: name.into(),
        time_unix_ms: TIME_UNIX_MS,
        quiesce: "crash".into(),
        tags: vec!["daily".into()],
        warnings: vec!["a warning".into()],
        source: serde_json::json!({ "kind": "test" }),
        parts: vec![part("domain.xml", b"<domain/>", false), part("nvram", &[0xa5; 600], true)],
        cairn_version: "test".into(),
    };
    store.begin()?.backup(&jobs, info, &Progress::default(), || Ok(()))
}

/// All disks of a point, restored over rubbish.
pub fn restore_all(store: &Store, point: &Point) -> Result<Vec<Disk>> {
    let mut out = Vec::new();
    for d in store.disks(point)? {
        let target = MemTarget::new(usize::try_from(d.size_bytes).expect("small"));
        store.restore_disk(&d, &target, OnDamage::Stop, &Progress::default())?;
        out.push((d.target, target.0.into_inner().expect("lock")));
    }
    Ok(out)
}

/// Every file below a folder, sorted.
pub fn files(below: &Path) -> Vec<PathBuf> {
    let (mut out, mut todo) = (Vec::new(), vec![below.to_owned()]);
    while let Some(dir) = todo.pop() {
        for e in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if e.file_type().expect("type").is_dir() { todo.push(e.path()) } else { out.push(e.path()) }
        }
    }
    out.sort();
    out
}

/// Bytes that do not compress, the same for a seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 24) as u8
    };
    (0..len).map(step).collect()
}

/// Bytes that do, the same for a seed.
pub fn text(len: usize, seed: u64) -> Vec<u8> {
    (0..len).map(|i| b"restore points of "[i % 18] ^ u8::try_from((i / 512 + usize::try_from(seed).expect("small") * 31) % 13).expect("below 13")).collect()
}

/// Two regions, the last one with a short last block; the second day differs in a few blocks of the second.
fn alpha(day: u64) -> Vec<u8> {
    let mut out = vec![0; REGION + 40_000 + 1000];
    out[..40_000].copy_from_slice(&noise(40_000, 1));
    out[1 << 20..(1 << 20) + 60_000].copy_from_slice(&text(60_000, 2));
    out[REGION..REGION + 40_000].copy_from_slice(&text(40_000, 3));
    out[REGION + 40_000..].fill(9);
    if day == 2 {
        out[REGION..REGION + 8192].copy_from_slice(&noise(8192, 4));
    }
    out
}

/// Disks whose table does not fit a register.
fn beta() -> Vec<Disk> {
    (0..12)
        .map(|i| (format!("a-disk-with-a-target-name-as-long-as-one-may-be-{i:02}"), text(4096 + 100 * usize::try_from(i).expect("small"), 100 + i)))
        .collect()
}
