//! One change on a 1 TiB disk with a dirty bitmap: what a backup of it writes and how long it takes (`cargo xtask bench` runs this).
//!
//! `one_change DIR`: makes a sparse disk and a store below DIR, saves the disk, changes one chunk, saves it again with the bitmap's one range and
//! compares that chunk in both points. Prints `KEY VALUE` lines. A figure beside a budget, so nothing here asserts how large or quick it is.

use cairn_store::{
    BackupOutcome, BlockSource, Credential, DiskJob, FileSource, InitOptions, OpenOptions, Plan, PointInfo, PointSource, Profile, Progress, Store, init,
};
use std::{
    error::Error,
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const DISK_BYTES: u64 = 1 << 40;
/// The smallest chunk that is cut by content: 8 blocks.
const CHUNK_BYTES: usize = 32 << 10;
/// The disk has one chunk in every 256 MiB, so that every branch of its tree exists.
const STEP_BYTES: u64 = 256 << 20;
const CHANGED_AT: u64 = 2048 * STEP_BYTES;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..CHUNK_BYTES / 8).flat_map(word).collect()
}

/// Bytes of all files below a folder.
fn file_bytes(dir: &Path) -> Outcome<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { file_bytes(&entry.path())? } else { meta.size() };
    }
    Ok(sum)
}

fn save(store: &Store, disk: &Path, plan: impl FnOnce(&cairn_store::Session) -> Plan) -> Outcome<(BackupOutcome, Duration)> {
    let start = Instant::now();
    let session = store.begin()?;
    let plan = plan(&session);
    let job = DiskJob { target: "disk0".into(), source: Arc::new(FileSource::open(disk)?), plan };
    let info = || PointInfo {
        name: "one-change".into(),
        time_unix_ms: 0,
        quiesce: "none".into(),
        tags: vec![],
        warnings: vec![],
        source: serde_json::Value::Null,
        parts: vec![],
        cairn_version: env!("CARGO_PKG_VERSION").into(),
    };
    let outcome = session.backup(&[job], info, &Progress::default(), || Ok(()))?;
    Ok((outcome, start.elapsed()))
}

/// The chunk that changes, as a point has it.
fn chunk_of(store: &Store, outcome: &BackupOutcome) -> Outcome<Vec<u8>> {
    let source = PointSource::new(store, &outcome.disks[0].entry)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    source.read_at(CHANGED_AT, &mut chunk)?;
    Ok(chunk)
}

fn main() -> Outcome<()> {
    let dir = std::env::args().nth(1).ok_or("usage: one_change DIR")?;
    let dir = Path::new(&dir);
    let (disk, root, key) = (dir.join("disk.raw"), dir.join("store"), dir.join("key"));
    let file = fs::File::create_new(&disk)?;
    file.set_len(DISK_BYTES)?;
    for at in (0..DISK_BYTES).step_by(usize::try_from(STEP_BYTES)?) {
        file.write_all_at(&noise(at + 1), at)?;
    }
    file.sync_all()?;
    let path = key.clone();
    init(&root, InitOptions { profile: Profile::Default, zstd_level: 1, encrypted: true, key_file: Some(Box::new(move |_| path)), passphrase: None })?;
    let open = || {
        let credential = Some(Credential::read_key_file(&key)?);
        Store::open(&root, OpenOptions { credential, state_dir: dir.join("state"), host: "bench".into() })
    };
    let (first, first_time) = save(&open()?, &disk, |_| Plan::Full { reason: "first".into() })?;
    file.write_all_at(&noise(7), CHANGED_AT)?;
    file.sync_all()?;
    let before = file_bytes(&root)?;
    let store = open()?;
    let dirty = CHANGED_AT..CHANGED_AT + CHUNK_BYTES as u64;
    let (second, time) = save(&store, &disk, |_| Plan::Incremental { base: (first.id, 0), dirty: vec![dirty] })?;
    let written = file_bytes(&root)? - before;
    if chunk_of(&store, &first)? != noise(CHANGED_AT + 1) || chunk_of(&store, &second)? != noise(7) {
        return Err("a point does not hold what was saved".into());
    }
    println!("first_ms {}", first_time.as_millis());
    println!("increment_ms {}", time.as_millis());
    println!("increment_written_bytes {written}");
    println!("increment_read_bytes {}", second.disks[0].entry.read_bytes);
    println!("chunk_bytes {CHUNK_BYTES}");
    Ok(())
}
