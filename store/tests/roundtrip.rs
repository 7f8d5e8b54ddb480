//! What goes in comes out: full, incremental, compared, resized; equal content has an equal root, whatever its history.

mod common;

use cairn_store::{DiskJob, Part, Plan, Progress, StoreError, verify::Verifier};
use common::{Lab, Mem, backup, content, full, info, point, restore};
use proptest::prelude::*;
use std::{ops::Range, sync::Arc};

const REGION: usize = 4 << 20;

#[test]
fn full_backup_restores_identically_and_again_stores_nothing() {
    for encrypted in [true, false] {
        let lab = Lab::with(encrypted);
        let store = lab.open();
        let data = content(3 * REGION + 12_345, 1);
        let first = backup(&store, "a", &data, full()).expect("backs up");
        assert_eq!(restore(&store, &point(&store, &first)).expect("restores"), data);
        let second = backup(&store, "b", &data, full()).expect("backs up");
        assert_eq!(first.disks[0].entry.root.map(|r| r.id), second.disks[0].entry.root.map(|r| r.id));
        assert!(second.stored_bytes < 20_000, "{} bytes stored for known content", second.stored_bytes);
        assert_eq!(restore(&store, &point(&store, &second)).expect("restores"), data);
        let other_host = lab.open_with(lab.credential(), "other-state").expect("opens");
        let third = backup(&other_host, "c", &data, full()).expect("backs up");
        assert!(third.stored_bytes < 20_000, "a second host learns of chunks by index files");
        let report =
            store.verify_point(&point(&store, &third), true, &Verifier::new(&store).expect("reads the reports"), &Progress::default()).expect("verifies");
        assert!(report.damage.is_empty() && report.bytes > 0);
    }
}

#[test]
fn nothing_of_the_content_or_names_lies_in_the_clear() {
    let lab = Lab::new();
    let store = lab.open();
    let data = b"a very secret sentence that must not be seen. ".repeat(3000);
    backup(&store, "secret-domain-name", &data, full()).expect("backs up");
    for file in lab.files("") {
        let bytes = std::fs::read(&file).expect("reads");
        for needle in [&b"secret sentence"[..], b"secret-domain-name"] {
            assert!(!bytes.windows(needle.len()).any(|w| w == needle), "{} in {}", needle.escape_ascii(), file.display());
        }
    }
}

#[test]
fn parts_and_several_disks_come_back() {
    let lab = Lab::new();
    let store = lab.open();
    let disks: Vec<DiskJob> = (0u64..40)
        .map(|i| DiskJob {
            target: format!("vd{i}"),
            source: Arc::new(Mem(content(100_000 + i as usize, i))),
            plan: Plan::Full { reason: "a reason that makes the disk table long ".repeat(3) },
        })
        .collect();
    let xml = Part { name: "domain.xml".into(), bytes: b"<domain/>".to_vec(), secret: true };
    let session = store.begin().expect("begins");
    let out = session.backup(&disks, || cairn_store::PointInfo { parts: vec![xml], ..info("many") }, &Progress::default(), || Ok(())).expect("backs up");
    let p = point(&store, &out);
    let entries = store.disks(&p).expect("disk table in a frame of its own");
    assert_eq!(entries.len(), 40);
    assert_eq!(entries[39].target, "vd39");
    let m = store.manifest(&p).expect("manifest");
    assert_eq!(store.part(&m, "domain.xml").expect("reads").expect("there"), b"<domain/>");
    assert!(store.part(&m, "nothing").expect("reads").is_none());
}

#[test]
fn an_all_zero_and_an_empty_disk() {
    let lab = Lab::new();
    let store = lab.open();
    for size in [0, 1, 4096, 5 * REGION] {
        let out = backup(&store, "z", &vec![0; size], full()).expect("backs up");
        assert!(out.disks[0].entry.root.is_none());
        assert_eq!(restore(&store, &point(&store, &out)).expect("restores"), vec![0; size]);
    }
}

#[test]
fn a_huge_sparse_disk_with_one_change_writes_next_to_nothing() {
    struct Sparse(Vec<u8>);
    impl cairn_store::BlockSource for Sparse {
        fn size_bytes(&self) -> u64 {
            1 << 40
        }
        fn extents(&self, range: Range<u64>) -> std::io::Result<Vec<cairn_store::Extent>> {
            let zero = range.start >= self.0.len() as u64;
            Ok(vec![cairn_store::Extent { range, zero }])
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            let at = usize::try_from(offset).expect("fits");
            let n = buf.len().min(self.0.len().saturating_sub(at));
            buf[..n].copy_from_slice(&self.0[at..at + n]);
            buf[n..].fill(0);
            Ok(())
        }
    }
    let lab = Lab::new();
    let store = lab.open();
    let run = |data: &[u8], plan| {
        let job = DiskJob { target: "disk0".into(), source: Arc::new(Sparse(data.to_vec())), plan };
        store.begin().expect("begins").backup(&[job], || info("huge"), &Progress::default(), || Ok(())).expect("backs up")
    };
    let mut data = content(REGION, 3);
    let one = run(&data, full());
    data[100_000] ^= 0xff;
    let dirty = vec![65_536..131_072];
    let two = run(&data, Plan::Incremental { base: (one.id, 0), dirty });
    // One chunk of at most 128 KiB, four nodes and the manifest.
    assert!(two.stored_bytes <= (128 + 16) << 10, "{} bytes", two.stored_bytes);
    assert!(two.disks[0].entry.read_bytes < 512 << 10);
    let three = run(&data, full());
    assert_eq!(two.disks[0].entry.root.map(|r| r.id), three.disks[0].entry.root.map(|r| r.id));
}

#[test]
fn a_failed_or_cancelled_backup_lists_nothing_and_is_continued() {
    let lab = Lab::new();
    let store = lab.open();
    let data = content(40 * REGION, 9);
    let job = || [DiskJob { target: "disk0".into(), source: Arc::new(Mem(data.clone())), plan: full() }];
    let refused = store.begin().expect("begins").backup(&job(), || info("x"), &Progress::default(), || Err(StoreError::Refused("capture did not hold".into())));
    assert!(matches!(refused, Err(StoreError::Refused(_))));
    assert!(store.points().expect("lists").is_empty());
    let fresh = lab.open_with(lab.credential(), "fresh").expect("opens");
    let again = backup(&fresh, "x", &data, full()).expect("backs up");
    assert!(again.stored_bytes < 1 << 20, "what the failed session stored is found again, {} new bytes", again.stored_bytes);
    assert_eq!(restore(&fresh, &point(&fresh, &again)).expect("restores"), data);
    let cancelled = Progress::default();
    cancelled.cancel.store(true, std::sync::atomic::Ordering::SeqCst);
    let out = fresh.begin().expect("begins").backup(&job(), || info("x"), &cancelled, || Ok(()));
    assert!(matches!(out, Err(StoreError::Interrupted)));
    assert_eq!(fresh.points().expect("lists").len(), 1);
}

fn write_strategy() -> impl Strategy<Value = Vec<(usize, usize, u8, u64)>> {
    prop::collection::vec((0usize..10 << 20, 1usize..300_000, 0u8..4, any::<u64>()), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    /// store.md section 3: the map depends on content alone. Random disks, dirty sets, zero runs, resizes, several generations.
    #[test]
    fn incremental_root_equals_full_root(
        size in 1usize..9 << 20,
        seed in any::<u64>(),
        generations in prop::collection::vec((write_strategy(), prop::option::of(1usize..10 << 20)), 1..5),
    ) {
        let lab = Lab::with(false);
        let store = lab.open();
        let mut data = content(size, seed);
        let mut base = backup(&store, "p", &data, full()).expect("backs up");
        for (writes, resize) in generations {
            if let Some(n) = resize {
                data.resize(n, 0);
            }
            let mut dirty: Vec<Range<u64>> = Vec::new();
            for (at, len, what, seed) in writes {
                let (start, end) = (at.min(data.len()), (at + len).min(data.len()));
                match what {
                    0 => data[start..end].fill(0),
                    1 => data[start..end].fill(seed as u8 | 1),
                    2 => data[start..end].copy_from_slice(&content(end - start, seed)),
                    _ => {}
                }
                dirty.push(start as u64..end as u64);
            }
            dirty.sort_by_key(|r| r.start);
            dirty.dedup_by(|next, last| if next.start <= last.end { last.end = last.end.max(next.end); true } else { false });
            let inc = backup(&store, "p", &data, Plan::Incremental { base: (base.id, 0), dirty }).expect("increment");
            let compared = backup(&store, "p", &data, Plan::Compare { base: (base.id, 0), reason: "test".into() }).expect("compare");
            let fresh = backup(&store, "q", &data, full()).expect("full");
            let root = |o: &cairn_store::BackupOutcome| o.disks[0].entry.root.map(|r| r.id);
            prop_assert_eq!(root(&inc), root(&fresh));
            prop_assert_eq!(root(&compared), root(&fresh));
            prop_assert_eq!(&restore(&store, &point(&store, &inc)).expect("restores"), &data);
            base = inc;
        }
    }
}
