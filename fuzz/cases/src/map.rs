//! Map nodes, in both directions: what is accepted has one encoding, and what keeps the rules is accepted, nothing else.

use cairn_store_format::{
    Id, Location, PackId, PackKind, SessionId,
    limits::{BRANCH_FANOUT, CHUNK_BLOCKS_MAX, REGION_BLOCKS},
    map::{Branch, Ref, Region, Run, branch_canonical, region_canonical, root_level, span_bytes, split_node},
};

/// Most runs of a made-up region: one more than fit.
const RUNS_MAX: usize = REGION_BLOCKS + 1;

/// Bytes as a region, as a branch, and as the plan of a made-up one.
pub fn store_map(data: &[u8]) -> bool {
    made_branch(data);
    levels(data);
    region(data) | branch(data) | made_region(data)
}

fn region(plain: &[u8]) -> bool {
    let Ok(found) = Region::decode(plain) else { return false };
    let (canonical, hints) = split_node(plain).expect("the region was decoded from it");
    assert_eq!(region_canonical(&found), canonical, "a region has one encoding");
    assert!(keeps_rules(&found), "{found:?}");
    let again = found.encode();
    assert_eq!(Region::decode(&again).as_ref(), Ok(&found));
    // A list of packs may name some that no hint uses; ours never does.
    assert!(again.len() - canonical.len() <= hints.len() + 4);
    true
}

fn branch(plain: &[u8]) -> bool {
    let Ok(found) = Branch::decode(plain) else { return false };
    let (canonical, _) = split_node(plain).expect("the branch was decoded from it");
    assert_eq!(branch_canonical(&found), canonical, "a branch has one encoding");
    assert!(found.refs().next().is_some(), "an all-zero branch has no node");
    assert_eq!(Branch::decode(&found.encode()).as_ref(), Ok(&found));
    true
}

/// The rules of docs/format.md, said a second time.
fn keeps_rules(region: &Region) -> bool {
    let runs = &region.0;
    let is_zero = |run: &Run| matches!(run, Run::Zero(_));
    runs.iter().map(Run::blocks).sum::<usize>() <= REGION_BLOCKS
        && runs.iter().all(|run| run.blocks() > 0 && (is_zero(run) || run.blocks() <= CHUNK_BLOCKS_MAX))
        && runs.last().is_some_and(|run| !is_zero(run))
        && runs.windows(2).all(|pair| !(is_zero(&pair[0]) && is_zero(&pair[1])))
}

fn reference(seed: u8) -> Ref {
    let kind = if seed & 1 == 0 { PackKind::Data } else { PackKind::Meta };
    let pack = PackId { session: SessionId([seed >> 5; 16]), seq: u32::from(seed >> 2), kind };
    Ref { id: Id([seed; 32]), at: Location { pack, offset: u32::from(seed) << 16, stored_len: u32::from(seed) + 1 } }
}

/// Three bytes a run: length u16 (its highest bit: zeros), seed of the reference.
fn made_region(data: &[u8]) -> bool {
    let run = |plan: &[u8]| {
        let word = u16::from_le_bytes([plan[0], plan[1]]);
        if word >> 15 == 1 { Run::Zero(word & 0x7fff) } else { Run::Chunk(word, reference(plan[2])) }
    };
    let made = Region(data.chunks_exact(3).take(RUNS_MAX).map(run).collect());
    let found = Region::decode(&made.encode());
    match &found {
        Ok(found) => assert!(*found == made && keeps_rules(&made), "{made:?}"),
        Err(error) => assert!(!keeps_rules(&made), "{error}: {made:?}"),
    }
    found.is_ok()
}

/// One byte a child; 0 is none.
fn made_branch(data: &[u8]) {
    let mut children = [None; BRANCH_FANOUT];
    for (child, seed) in children.iter_mut().zip(data) {
        *child = (*seed != 0).then(|| reference(*seed));
    }
    let made = Branch(children);
    match Branch::decode(&made.encode()) {
        Ok(found) => assert_eq!(found, made),
        Err(error) => assert!(made.refs().next().is_none(), "{error}: {made:?}"),
    }
}

fn levels(data: &[u8]) {
    let Some(size) = data.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else { return };
    if let Ok(level) = root_level(size) {
        assert!(size <= span_bytes(level) && (level == 0 || size > span_bytes(level - 1)), "level {level} for {size}");
    }
}
