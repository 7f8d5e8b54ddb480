//! How the index serves ten million chunks. Run by hand; the figures and their conditions stand in docs/index.md:
//! `cargo test -p cairn-store --lib index::scale -- --ignored --nocapture`
//!
//! Chunks come as they do in life: packs of sorted random ids through [`Index::add`], one call for each pack, as backups do it. Asked is through
//! [`IndexReader::find`], as a backup's workers do it.

use super::*;
use cairn_store_format::pack::{Footer, FrameKind, Slot};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

/// Chunks of a 32 MiB pack at a mean of 64 KiB.
const CHUNKS_PER_PACK: u64 = 500;
const LOOKUPS: u64 = 200_000;

/// The same ids for the same number.
fn id(n: u64) -> Id {
    Id(Sha256::digest(n.to_le_bytes()).into())
}

fn pack_of(n: u64) -> PackId {
    let mut session = [0; 16];
    session[..8].copy_from_slice(&(n / 100_000).to_be_bytes());
    PackId { session: SessionId(session), seq: u32::try_from(n % 100_000).expect("small"), kind: PackKind::Data }
}

fn pack(n: u64) -> IndexedPack {
    let slot = |i| Slot { id: id(n * CHUNKS_PER_PACK + i), offset: 64, stored_len: 1, kind: FrameKind::Chunk, level: 0 };
    let mut slots: Vec<Slot> = (0..CHUNKS_PER_PACK).map(slot).collect();
    slots.sort_unstable_by_key(|s| s.id);
    IndexedPack { pack: pack_of(n), size_bytes: 1, sha256: [0; 32], footer: Footer { slots, key_rows: vec![] } }
}

fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn file_bytes(dir: &Path) -> u64 {
    std::fs::read_dir(dir).expect("lists").map(|e| e.expect("entry").metadata().expect("stat").len()).sum()
}

#[test]
#[ignore = "takes minutes; prints figures"]
fn ten_million_chunks() {
    let chunks: u64 = std::env::var("CAIRN_SCALE_CHUNKS").map_or(10_000_000, |v| v.parse().expect("CAIRN_SCALE_CHUNKS is a number"));
    let dir = tempfile::tempdir().expect("temp dir");
    let store = StoreId([1; 16]);
    let index = Index::open(dir.path(), &store).expect("opens");
    let (mut inside, mut last) = (Duration::ZERO, Duration::ZERO);
    for n in 0..chunks / CHUNKS_PER_PACK {
        let packs = [pack(n)];
        let started = Instant::now();
        index.add(&packs, None).expect("adds");
        inside += started.elapsed();
        let done = (n + 1) * CHUNKS_PER_PACK;
        if done.is_multiple_of(1_000_000) {
            let (took, mib) = ((inside - last).as_secs_f64(), file_bytes(dir.path()) >> 20);
            println!("{done} chunks: the last million at {:.0} a second, files {mib} MiB, peak memory {} KiB", 1e6 / took, peak_rss_kib());
            last = inside;
        }
    }
    println!("inserted in {:.1} s, {:.1} B a chunk", inside.as_secs_f64(), file_bytes(dir.path()) as f64 / chunks as f64);
    drop(index);
    let started = Instant::now();
    let index = Index::open(dir.path(), &store).expect("opens");
    println!("opened in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let reader = index.reader().expect("reads");
    for (what, from) in [("hits", 0), ("misses", chunks)] {
        let step = (chunks / LOOKUPS).max(1);
        // Spread over all packs, in no order of ids.
        let ids: Vec<u64> = (0..LOOKUPS.min(chunks)).map(|i| from + i * step).collect();
        let started = Instant::now();
        let found = ids.iter().filter(|n| reader.find(&id(**n)).expect("asks").is_some()).count();
        let rate = ids.len() as f64 / started.elapsed().as_secs_f64();
        println!("{what}: {rate:.0} look-ups a second, {found} of {} found", ids.len());
        assert_eq!(found, if from == 0 { ids.len() } else { 0 }, "every chunk is found, and no other");
    }
    println!("peak memory {} KiB", peak_rss_kib());
}
