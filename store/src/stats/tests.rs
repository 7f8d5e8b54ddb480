//! The kept counts against a count from scratch, over random histories: backups, forgets, collections that repack, caches that are lost, old or
//! another host's.

use super::*;
use crate::{
    DiskJob, GcOptions, InitOptions, OpenOptions, Plan, PointInfo, Profile, init,
    resolve::decompressor,
    testing::{Disk, info},
};
use cairn_store_format::{
    Location, ObjectName,
    manifest::Manifest,
    map::{Branch, Ref, Region, Run, root_level},
    pack::{FRAME_HEADER_BYTES, FrameKind},
    register::DiskTable,
};
use proptest::prelude::*;
use std::{ops::Range, sync::Arc};

const DISK_BYTES: usize = 9 << 20;
const PIECE_BYTES: usize = 48 << 10;
const HOSTS: [&str; 2] = ["one", "two"];

#[derive(Clone, Debug)]
enum Step {
    /// A name's disk gets pieces (place, content; content 0 is zero) and is saved, incrementally where it can be.
    Backup {
        name: usize,
        pieces: Vec<(usize, u8)>,
        full: bool,
    },
    /// The point at this share of the list goes.
    Forget(u8),
    /// Repacks what is used less than so many percent.
    Collect(u64),
    /// Statistics are asked for on this host, and must be right.
    Ask(usize),
    /// This host's counts are lost.
    Lose(usize),
    /// They are what they were at the last `Keep`.
    RollBack(usize),
    Keep(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let pieces = prop::collection::vec((0..DISK_BYTES / PIECE_BYTES, 0u8..6), 1..8);
    prop_oneof![
        5 => (0usize..3, pieces, prop::bool::weighted(0.2)).prop_map(|(name, pieces, full)| Step::Backup { name, pieces, full }),
        3 => any::<u8>().prop_map(Step::Forget),
        2 => (0u64..=100).prop_map(Step::Collect),
        3 => (0usize..2).prop_map(Step::Ask),
        1 => (0usize..2).prop_map(Step::Lose),
        1 => (0usize..2).prop_map(Step::RollBack),
        1 => (0usize..2).prop_map(Step::Keep),
    ]
}

struct World {
    dir: tempfile::TempDir,
    hosts: Vec<Store>,
    disks: Vec<Vec<u8>>,
    kept: [Option<Vec<u8>>; 2],
}

fn at_once(percent: u64) -> GcOptions {
    GcOptions { wait_ms_max: 2000, poll_ms: 5, resume_grace_ms: 0, trash_keep_ms: 0, repack_below_percent: percent, ..GcOptions::default() }
}

fn open(dir: &tempfile::TempDir, host: &str) -> Store {
    let options = OpenOptions { credential: None, state_dir: dir.path().join(host), host: host.into() };
    Store::open(&dir.path().join("store"), options).expect("opens")
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let options = InitOptions { profile: Profile::Small, zstd_level: 1, encrypted: false, key_file: None, passphrase: None };
        init(&dir.path().join("store"), options).expect("init");
        let hosts = HOSTS.iter().map(|host| open(&dir, host)).collect();
        Self { dir, hosts, disks: vec![vec![0; DISK_BYTES]; 3], kept: [None, None] }
    }

    fn run(&mut self, step: &Step) {
        let store = self.hosts[0].clone();
        match step {
            Step::Backup { name, pieces, full } => self.backup(*name, pieces, *full),
            Step::Forget(share) => {
                let points = store.points().expect("lists");
                if let Some(p) = points.get(points.len() * usize::from(*share) / 256) {
                    store.forget(p, 0, true).expect("forgets");
                }
            }
            Step::Collect(percent) => drop(store.collect(&at_once(*percent), &Progress::default()).expect("collects")),
            Step::Ask(host) => check(&self.hosts[*host]),
            Step::Lose(host) => remove_database(&self.hosts[*host].inner.index.beside("stats")),
            Step::Keep(host) => self.kept[*host] = std::fs::read(self.hosts[*host].inner.index.beside("stats")).ok(),
            Step::RollBack(host) => {
                if let Some(bytes) = &self.kept[*host] {
                    let path = self.hosts[*host].inner.index.beside("stats");
                    remove_database(&path);
                    std::fs::write(path, bytes).expect("writes");
                }
            }
        }
    }

    fn backup(&mut self, name: usize, pieces: &[(usize, u8)], full: bool) {
        let disk = &mut self.disks[name];
        let mut dirty: Vec<Range<u64>> = Vec::new();
        for (at, content) in pieces {
            let range = at * PIECE_BYTES..(at + 1) * PIECE_BYTES;
            dirty.push(range.start as u64..range.end as u64);
            // The same content anywhere and under any name is the same chunk, more or less.
            disk[range].iter_mut().enumerate().for_each(|(i, b)| *b = if *content == 0 { 0 } else { (i / 7 * usize::from(*content) + i) as u8 });
        }
        dirty.sort_by_key(|r| r.start);
        dirty.dedup();
        let domain = format!("domain-{name}");
        // A process of its own: footers that an older one holds in memory may be of packs that a collection took since.
        self.hosts[0] = open(&self.dir, HOSTS[0]);
        let session = self.hosts[0].begin().expect("begins");
        let base = session.points().iter().rev().find(|p| p.summary.name == domain).map(|p| p.id);
        // Whether the base is the newest state of the disk is not known here: it is compared, which reads all.
        let plan = match base {
            Some(base) if !full => Plan::Compare { reason: "test".into(), base: (base, 0) },
            _ => Plan::Full { reason: "test".into() },
        };
        let job = DiskJob { target: "disk0".into(), source: Arc::new(Disk(disk.clone())), plan };
        let info = || PointInfo {
            parts: vec![crate::Part { name: "xml".into(), bytes: domain.clone().into_bytes(), secret: true }],
            ..info(&domain, self.hosts[0].inner.platform.now_unix_ms())
        };
        session.backup(&[job], info, &Progress::default(), || Ok(())).expect("backs up");
    }
}

/// Places of frames and the blocks of chunks.
type Places = HashMap<Location, u64>;

/// A point's places where they are now, and its blocks that are not zero; nothing is remembered between points.
struct Scratch<'a> {
    store: &'a Inner,
    out: Places,
    blocks: u64,
    moves_used: HashSet<Location>,
}

impl Scratch<'_> {
    fn place(&mut self, r: &Ref, blocks: u64) {
        let moves = self.store.relocations.known();
        let (mut todo, mut ends, mut seen) = (vec![r.at], Vec::new(), HashSet::new());
        while let Some(at) = todo.pop().filter(|at| seen.insert(*at)) {
            match moves.get(&at) {
                Some(to) => {
                    self.moves_used.insert(at);
                    todo.extend(to);
                }
                None => ends.extend(self.store.pack_exists(&at.pack).expect("asks").then_some(at)),
            }
        }
        assert!(!ends.is_empty(), "nothing is lost here");
        self.out.extend(ends.into_iter().map(|at| (at, blocks)));
        self.blocks += blocks;
    }

    fn node(&mut self, level: u8, r: &Ref) {
        self.place(r, 0);
        let plain = self.store.fetch(&mut decompressor(), r, FrameKind::Node, level).expect("reads");
        if level > 0 {
            let branch = Branch::decode(&plain).expect("own");
            branch.refs().for_each(|c| self.node(level - 1, c));
            return;
        }
        for run in Region::decode(&plain).expect("own").0 {
            if let Run::Chunk(n, r) = run {
                self.place(&r, n.into());
            }
        }
    }

    fn point(&mut self, p: &Point) {
        let manifest = p.body.manifest.expect("has one");
        self.place(&manifest, 0);
        let plain = self.store.fetch(&mut decompressor(), &manifest, FrameKind::Manifest, 0).expect("reads");
        for part in Manifest::decode(&plain).expect("own").parts.values() {
            self.place(&part.to_ref().expect("own"), 0);
        }
        let DiskTable::Inline(disks) = &p.body.disks else { panic!("one disk") };
        for d in disks {
            d.root.iter().for_each(|root| self.node(root_level(d.size_bytes).expect("small"), root));
        }
    }
}

fn bytes(at: &Location) -> u64 {
    FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len)
}

fn only<'p>(mine: impl Iterator<Item = &'p Places>, others: &[&Places]) -> u64 {
    let mine: HashSet<&Location> = mine.flat_map(HashMap::keys).collect();
    mine.into_iter().filter(|at| !others.iter().any(|o| o.contains_key(at))).map(bytes).sum()
}

/// All figures, from scratch, against those that were kept.
fn check(store: &Store) {
    // What an older process knows must not be more than the store itself says.
    let fresh = Store::open(Path::new(&store.location()), OpenOptions { credential: None, state_dir: store.inner.index.beside("fresh"), host: "fresh".into() });
    let fresh = fresh.expect("opens");
    let inner = &*fresh.inner;
    inner.refresh_relocations().expect("reads");
    let set = PointSet::load(inner).expect("lists");
    let (mut points, mut moves_used) = (Vec::new(), HashSet::new());
    for p in set.live() {
        let mut s = Scratch { store: inner, out: Places::new(), blocks: 0, moves_used: HashSet::new() };
        s.point(p);
        points.push((p, s.out, s.blocks * BLOCK_BYTES as u64));
        moves_used.extend(s.moves_used);
    }
    let mut all: Places = points.iter().flat_map(|p| p.1.clone()).collect();
    let got = store.statistics(&Progress::default()).expect("counts");
    let sizes = store.point_sizes(&points.iter().map(|p| p.0.id).collect::<Vec<_>>(), &Progress::default()).expect("counts");
    for (i, (p, places, _)) in points.iter().enumerate() {
        let others: Vec<&Places> = points.iter().enumerate().filter(|o| o.0 != i).map(|o| &o.1.1).collect();
        assert_eq!(sizes.points[&p.id], only([places].into_iter(), &others), "point {}", p.id);
    }
    for n in &got.names {
        let (mine, others): (Vec<_>, Vec<_>) = points.iter().partition(|p| p.0.summary.name == n.name);
        let expected = only(mine.iter().map(|p| &p.1), &others.iter().map(|p| &p.1).collect::<Vec<_>>());
        assert_eq!((n.unique_bytes, sizes.names[&n.name]), (expected, expected), "name {}", n.name);
        assert_eq!((n.points, n.data_bytes), (mine.len() as u64, mine.iter().map(|p| p.2).sum()));
    }
    assert_eq!((got.points, got.data_bytes), (points.len() as u64, points.iter().map(|p| p.2).sum()));
    let chunks = || all.iter().filter(|(at, _)| at.pack.kind == PackKind::Data);
    assert_eq!(
        (got.chunks, got.chunk_plain_bytes, got.chunk_stored_bytes),
        (chunks().count() as u64, chunks().map(|c| c.1 * BLOCK_BYTES as u64).sum(), chunks().map(|c| bytes(c.0)).sum())
    );
    // Oldest first: a list that is needed needs those that moved its own frame, which are newer.
    for list in set.lists() {
        let moves = inner.relocation_list(list).expect("reads").unwrap_or_default();
        if moves.iter().any(|m| moves_used.contains(&m.0)) {
            let mut s = Scratch { store: inner, out: Places::new(), blocks: 0, moves_used: HashSet::new() };
            s.place(list, 0);
            all.extend(s.out);
            moves_used.extend(s.moves_used);
        }
    }
    let (mut stored, mut unused, mut dead) = (0, 0, 0);
    for pack in stock::list(inner).expect("lists").into_keys() {
        let copies: Vec<u64> = ObjectName::pack(&pack).iter().map(|n| inner.platform.size(n).expect("asks").expect("is there")).collect();
        stored += copies.iter().sum::<u64>();
        let used: u64 = all.keys().filter(|at| at.pack == pack).map(bytes).sum();
        let slots = &inner.packs.info(&pack).expect("reads").footer.slots;
        match used {
            0 => unused += copies.iter().sum::<u64>(),
            _ => dead += copies.len() as u64 * (slots.iter().map(|s| FRAME_HEADER_BYTES as u64 + u64::from(s.stored_len)).sum::<u64>() - used),
        }
    }
    assert_eq!((got.stored_bytes(), got.waste.unused_bytes, got.waste.dead_bytes), (stored, unused, dead));
    // And what a collection finds by its own walk.
    let dry = store.collect(&GcOptions { dry_run: true, ..at_once(50) }, &Progress::default()).expect("looks");
    assert_eq!(got.waste.unused_bytes, dry.would_free_bytes);
    assert!(got.waste.thin_packs >= dry.would_repack, "{} thin packs, a collection would rewrite {}", got.waste.thin_packs, dry.would_repack);
    assert!(got.damage.is_empty() && sizes.damage.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn kept_counts_equal_a_count_from_scratch(steps in prop::collection::vec(step(), 4..28)) {
        let mut world = World::new();
        steps.iter().for_each(|s| world.run(s));
        HOSTS.iter().for_each(|host| check(&open(&world.dir, host)));
    }
}

#[test]
fn a_cache_that_is_damaged_or_contradicts_itself_is_made_anew() {
    let mut world = World::new();
    world.backup(0, &[(1, 1), (5, 2), (90, 3)], true);
    world.backup(0, &[(2, 4)], false);
    let store = world.hosts[0].clone();
    check(&store);
    let path = store.inner.index.beside("stats");
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.execute_batch("DELETE FROM shelves").expect("spoils it");
    drop(db);
    check(&store);
    remove_database(&path);
    std::fs::write(&path, [7; 5000]).expect("spoils it");
    check(&store);
}

#[test]
fn damage_is_named_and_what_lacks_something_is_not_kept() {
    let mut world = World::new();
    world.backup(0, &[(1, 1), (100, 2)], true);
    world.backup(1, &[(7, 3)], true);
    let store = world.hosts[0].clone();
    let id = store.points().expect("lists")[0].id;
    let below = |dir: &str| {
        store
            .inner
            .platform
            .list_dirs(dir)
            .expect("lists")
            .into_iter()
            .flat_map(|d| store.inner.platform.list(&format!("m/{d}")).expect("lists"))
            .collect::<Vec<_>>()
    };
    let copies: Vec<_> =
        below("m").into_iter().filter(|n| n.file().contains(&id.to_string())).map(|n| world.dir.path().join("store").join(n.as_str())).collect();
    assert_eq!(copies.len(), 2);
    for c in &copies {
        std::fs::rename(c, c.with_extension(format!("{}.away", c.extension().expect("has one").display()))).expect("renames");
    }
    let hurt = world.hosts[1].statistics(&Progress::default()).expect("counts");
    assert!(!hurt.damage.is_empty() && hurt.points == 2, "{hurt:?}");
    for c in &copies {
        std::fs::rename(c.with_extension(format!("{}.away", c.extension().expect("has one").display())), c).expect("renames");
    }
    // The reports that reading left are no part of this.
    std::fs::remove_dir_all(world.dir.path().join("store/b")).expect("removes");
    check(&open(&world.dir, "two"));
}

#[test]
fn several_processes_of_a_host_count_at_once() {
    let mut world = World::new();
    for i in 0..6 {
        world.backup(i % 3, &[(i * 3, 1), (i * 20, i as u8)], i < 3);
    }
    let stores: Vec<Store> = (0..4).map(|_| open(&world.dir, "one")).collect();
    let counts: Vec<Statistics> = std::thread::scope(|s| {
        let threads: Vec<_> = stores.iter().map(|store| s.spawn(|| store.statistics(&Progress::default()).expect("counts"))).collect();
        threads.into_iter().map(|t| t.join().expect("ends")).collect()
    });
    assert!(
        counts
            .iter()
            .all(|c| c.points == 6 && c.chunks == counts[0].chunks && c.names.iter().zip(&counts[0].names).all(|(a, b)| a.unique_bytes == b.unique_bytes))
    );
    check(&stores[0]);
}

/// The second collection rewrites the pack that the first one's list lies in; a process that begins after that must find the list all the same.
#[test]
fn a_list_of_moves_that_was_moved_itself_is_found() {
    let mut world = World::new();
    for _ in 0..4 {
        world.backup(0, &[(0, 0)], false);
    }
    world.run(&Step::Collect(62));
    world.run(&Step::Collect(96));
    assert!(!open(&world.dir, "new").points().expect("lists").is_empty());
    check(&open(&world.dir, "new"));
}
