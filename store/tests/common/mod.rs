//! What the store's suites share: a store in a folder, a disk in memory, backups in one call.
#![allow(dead_code, reason = "each suite uses its part")]

#[allow(unused_macros, reason = "few suites have a platform of their own")]
mod passes_on;
#[allow(unused_imports, reason = "few suites have a platform of their own")]
pub(crate) use passes_on::passes_on;
pub mod sleeper;

use cairn_store::{
    BackupOutcome, BlockSource, BlockTarget, Credential, DiskJob, Extent, InitOptions, OpenOptions, Plan, Point, PointInfo, Profile, Progress, Result, Store,
    init,
};
use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// A store in a temporary folder.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub key: PathBuf,
    pub recovery: String,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(true)
    }
    pub fn with(encrypted: bool) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let key = dir.path().join("key");
        let path = key.clone();
        let options = InitOptions {
            profile: Profile::Default,
            zstd_level: 1,
            encrypted,
            key_file: encrypted.then(|| Box::new(move |_: &_| path) as _),
            passphrase: encrypted.then(|| "correct horse".to_owned().into()),
        };
        let report = init(&dir.path().join("store"), options).expect("init");
        let recovery = report.recovery_key.map(|k| k.to_string()).unwrap_or_default();
        Self { dir, key, recovery }
    }
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }
    pub fn credential(&self) -> Option<Credential> {
        self.key.exists().then(|| Credential::read_key_file(&self.key).expect("own key file"))
    }
    pub fn open_with(&self, credential: Option<Credential>, state: &str) -> Result<Store> {
        Store::open(&self.root(), OpenOptions { credential, state_dir: self.dir.path().join(state), host: "host".into() })
    }
    pub fn open(&self) -> Store {
        self.open_with(self.credential(), "state").expect("opens")
    }
    /// Every file below a folder of the store.
    pub fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut out = Vec::new();
        walk(&self.root().join(below), &mut out);
        out.sort();
        out
    }
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.file_type().expect("type").is_dir() { walk(&e.path(), out) } else { out.push(e.path()) }
    }
}

/// A disk in memory.
pub struct Mem(pub Vec<u8>);

impl BlockSource for Mem {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        assert!(range.end <= self.size_bytes(), "asked for {range:?} of {}", self.0.len());
        Ok(vec![Extent { range, zero: false }])
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("fits");
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
    fn parallel(&self) -> usize {
        3
    }
}

/// A target in memory that starts with rubbish.
pub struct MemTarget(pub Mutex<Vec<u8>>);

impl MemTarget {
    pub fn new(len: usize) -> Self {
        Self(Mutex::new(vec![0xee; len]))
    }
}

impl BlockTarget for MemTarget {
    fn size_bytes(&self) -> u64 {
        self.0.lock().expect("lock").len() as u64
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("fits");
        self.0.lock().expect("lock")[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let at = |v: u64| usize::try_from(v).expect("fits");
        self.0.lock().expect("lock")[at(range.start)..at(range.end)].fill(0);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

pub fn info(name: &str) -> PointInfo {
    PointInfo {
        name: name.into(),
        time_unix_ms: 1_795_219_200_000,
        quiesce: "none".into(),
        tags: vec![],
        warnings: vec![],
        source: serde_json::json!({}),
        parts: vec![],
        cairn_version: "test".into(),
    }
}

pub fn full() -> Plan {
    Plan::Full { reason: "first".into() }
}

/// Backs up one disk.
pub fn backup(store: &Store, name: &str, content: &[u8], plan: Plan) -> Result<BackupOutcome> {
    let job = DiskJob { target: "disk0".into(), source: Arc::new(Mem(content.to_vec())), plan };
    store.begin()?.backup(&[job], || info(name), &Progress::default(), || Ok(()))
}

pub fn point(store: &Store, outcome: &BackupOutcome) -> Point {
    store.points().expect("lists").into_iter().find(|p| p.id == outcome.id).expect("the point is listed")
}

/// Restores a point's first disk over rubbish.
pub fn restore(store: &Store, p: &Point) -> Result<Vec<u8>> {
    let disk = store.disks(p)?.remove(0);
    let target = MemTarget::new(usize::try_from(disk.size_bytes).expect("fits"));
    store.restore_disk(&disk, &target, cairn_store::restore::OnDamage::Stop, &Progress::default())?;
    Ok(target.0.into_inner().expect("lock"))
}

/// Content that is part zero, part repeating, part random; the same for a seed.
pub fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut x = seed | 1;
    for (i, run) in out.chunks_mut(37_000).enumerate() {
        match (i as u64 ^ seed) % 4 {
            0 => {}
            1 => run.fill((i % 7) as u8 + 1),
            _ => run.iter_mut().for_each(|b| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                *b = (x >> 24) as u8;
            }),
        }
    }
    out
}
