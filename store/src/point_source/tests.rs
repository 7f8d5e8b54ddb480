//! Maps that nobody's backup makes: a member of the trust group may write any.

use super::PointSource;
use crate::{
    BlockSource, DiskJob, InitOptions, OpenOptions, Plan, Profile, Progress, Store,
    crypto::Sealer,
    init,
    pack::{META_ZSTD_LEVEL, PackStream},
    resolve::decompressor,
    testing::{Disk, info},
    tree::load_region,
};
use cairn_store_format::{
    SessionId,
    map::{Ref, Region, Run, region_canonical},
    pack::FrameKind,
};
use std::sync::Arc;

#[test]
fn a_chunk_that_a_map_has_in_two_lengths_is_damage() {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = dir.path().join("store");
    init(&root, InitOptions { profile: Profile::Default, zstd_level: 1, encrypted: false, key_file: None, passphrase: None }).expect("init");
    let store = Store::open(&root, OpenOptions { credential: None, state_dir: dir.path().join("state"), host: "host".into() }).expect("opens");
    let content: Vec<u8> = (0..1 << 20u32).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let job = DiskJob { target: "vda".into(), source: Arc::new(Disk(content)), plan: Plan::Full { reason: "first".into() } };
    let outcome = store.begin().expect("begins").backup(&[job], || info("a", 1), &Progress::default(), || Ok(())).expect("backs up");
    let mut disk = outcome.disks[0].entry.clone();
    let node = load_region(&store.inner, &mut decompressor(), &disk.root.expect("not zero")).expect("reads");
    let Run::Chunk(blocks, chunk) = node.0[0] else { panic!("the content begins with a chunk") };
    for other in [blocks - 1, blocks + 1] {
        let region = Region(vec![Run::Chunk(blocks, chunk), Run::Chunk(other, chunk)]);
        let id = store.inner.keys.content_id(FrameKind::Node, 0, &region_canonical(&region));
        let session = SessionId::new(1, [u8::try_from(other).expect("at most 33"); 10]);
        let mut stream = PackStream::new(store.inner.platform.clone(), store.inner.keys.clone(), session, Box::new(|_| Ok(())));
        let frame = Sealer::new(store.inner.keys.family(), META_ZSTD_LEVEL).seal(id, FrameKind::Node, 0, &region.encode(), None);
        let at = stream.put_meta(&frame).expect("puts");
        stream.finish().expect("stores");
        disk.root = Some(Ref { id, at });
        let source = PointSource::new(&store, &disk).expect("opens");
        let good = usize::from(blocks) * 4096;
        let mut buf = vec![0; good + usize::from(other) * 4096];
        source.read_at(0, &mut buf[..good]).expect("the first place is right");
        let error = source.read_at(0, &mut buf).expect_err("the second one is not");
        assert!(error.to_string().contains("not as long as the map says"), "{error}");
        assert!(!source.read_cached(0, &mut buf), "nor from memory");
    }
}
