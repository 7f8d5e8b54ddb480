//! What counting costs. Run by hand; figures and conditions stand in docs/statistics.md:
//! `cargo test -p cairn-store --lib stats::scale -- --ignored --nocapture`

use super::*;
use crate::{BlockSource, DiskJob, Extent, InitOptions, OpenOptions, Plan, Profile, init, testing::info};
use std::{io, ops::Range, sync::Arc, time::Instant};

const GENERATIONS: u64 = 40;
const CHANGES: u64 = 300;
const CHANGE_BYTES: u64 = 65_536;

/// Incompressible content that is nowhere kept: each 64 KiB are made from their place and from the generation that wrote them last.
struct Made {
    size_bytes: u64,
    written: Vec<u64>,
}

impl BlockSource for Made {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { range, zero: false }])
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        for (i, word) in buf.chunks_mut(8).enumerate() {
            let at = offset + 8 * i as u64;
            let seed = at ^ self.written[usize::try_from(at / CHANGE_BYTES).expect("fits")] << 48;
            let v = (seed ^ seed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&(v ^ v >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()[..word.len()]);
        }
        Ok(())
    }
    fn parallel(&self) -> usize {
        2
    }
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let out = work();
    println!("  {what}: {:.3} s", started.elapsed().as_secs_f64());
    out
}

#[test]
#[ignore = "writes gigabytes; prints figures"]
fn forty_generations() {
    let gib: u64 = std::env::var("CAIRN_SCALE_GIB").map_or(4, |v| v.parse().expect("CAIRN_SCALE_GIB is a number"));
    let dir = tempfile::tempdir().expect("temp dir");
    let options = InitOptions { profile: Profile::Default, zstd_level: 1, encrypted: false, key_file: None, passphrase: None };
    init(&dir.path().join("store"), options).expect("init");
    let open = || {
        let options = OpenOptions { credential: None, state_dir: dir.path().join("state"), host: "host".into() };
        Store::open(&dir.path().join("store"), options).expect("opens")
    };
    let size_bytes = gib << 30;
    let mut written = vec![0; usize::try_from(size_bytes / CHANGE_BYTES).expect("fits")];
    let mut last = None;
    let mut random = 1_u64;
    let mut backup = |generation: u64| {
        let mut dirty = Vec::new();
        for _ in 0..CHANGES {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 20) % (size_bytes / CHANGE_BYTES);
            written[usize::try_from(at).expect("fits")] = generation;
            dirty.push(at * CHANGE_BYTES..(at + 1) * CHANGE_BYTES);
        }
        dirty.sort_by_key(|r| r.start);
        dirty.dedup();
        let plan = last.map_or(Plan::Full { reason: "first".into() }, |id| Plan::Incremental { base: (id, 0), dirty });
        let job = DiskJob { target: "vda".into(), source: Arc::new(Made { size_bytes, written: written.clone() }), plan };
        last = Some(
            open()
                .begin()
                .expect("begins")
                .backup(&[job], || info("big", 1_795_219_200_000 + generation), &Progress::default(), || Ok(()))
                .expect("backs up")
                .id,
        );
    };
    let count = || open().statistics(&Progress::default()).expect("counts");
    (0..GENERATIONS).for_each(&mut backup);
    println!("{gib} GiB, {GENERATIONS} points, {CHANGES} changes of 64 KiB each");
    let first = timed("first count", count);
    println!("  {} chunks in use, file {} KiB", first.chunks, std::fs::metadata(open().inner.index.beside("stats")).expect("stat").len() >> 10);
    assert_eq!(timed("again, nothing new", count), first);
    backup(GENERATIONS);
    assert_eq!(timed("a new point", count).points, GENERATIONS + 1);
    let store = open();
    let points = store.points().expect("lists");
    store.forget(&points[3], 0, true).expect("forgets");
    assert_eq!(timed("a point forgotten", count).points, GENERATIONS);
    let ids: Vec<_> = points.iter().map(|p| p.id).collect();
    timed("sizes of all points", || open().point_sizes(&ids, &Progress::default()).expect("counts"));
    timed("the same, only points and packs listed", || (open().points().expect("lists"), stock::list(&open().inner).expect("lists")));
}
