//! A point's disk against a source, by roots: each region of the source is cut and hashed as a backup would, and only ids are compared. Nothing is
//! stored, and no chunk of the store is read.

use crate::{
    BlockSource, Progress, Result, StoreError,
    chunk::{Cutter, Dirty, NewRun, RegionReader},
    parallel,
    resolve::decompressor,
    store::{Inner, Store},
    tree::{TreeReader, regions_of},
};
use cairn_store_format::{
    Location, PackId, PackKind, SessionId,
    limits::REGION_BYTES,
    map::{Ref, Region, Run, region_canonical},
    pack::FrameKind,
    register::DiskEntry,
};
use std::{ops::Range, sync::atomic::Ordering};

const WORKERS_MAX: usize = 8;

/// What a comparison saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Size of the source where it is not the disk's.
    pub other_size: Option<u64>,
    /// Ranges that differ, in whole regions of 4 MiB, joined where they touch.
    pub ranges: Vec<Range<u64>>,
}

impl Comparison {
    /// Whether content and size are the same.
    pub fn is_equal(&self) -> bool {
        self.other_size.is_none() && self.ranges.is_empty()
    }
}

impl Store {
    /// Compares a point's disk with what a source holds now.
    pub fn compare(&self, disk: &DiskEntry, source: &dyn BlockSource, progress: &Progress) -> Result<Comparison> {
        let store = &*self.inner;
        let size = source.size_bytes();
        let tree = TreeReader::new(self.inner.clone(), disk.root, disk.size_bytes)?;
        let mut out = Comparison { other_size: (size != disk.size_bytes).then_some(size), ranges: Vec::new() };
        progress.total_bytes.fetch_add(size, Ordering::Relaxed);
        let make_worker = || (RegionReader::new(Cutter::new(store.keys.cut_key(), store.config.chunks)), decompressor());
        let end = size.max(disk.size_bytes);
        parallel::ordered(
            (0..regions_of(end)).map(Ok),
            parallel::workers(&*store.platform, source.parallel(), WORKERS_MAX),
            WORKERS_MAX,
            make_worker,
            |(reader, zstd), region| {
                progress.check()?;
                let ours = tree.region_ref(zstd, region)?.map(|r| r.id);
                let theirs = if region * REGION_BYTES < size { region_id(store, reader, source, region)? } else { None };
                Ok((region, ours == theirs))
            },
            |(region, same)| {
                progress.done_bytes.fetch_add(REGION_BYTES.min(end - region * REGION_BYTES), Ordering::Relaxed);
                let range = region * REGION_BYTES..((region + 1) * REGION_BYTES).min(end);
                match out.ranges.last_mut() {
                    _ if same => {}
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => out.ranges.push(range),
                }
                Ok(())
            },
        )?;
        Ok(out)
    }
}

/// Id that the region's node would have; `None` where all is zero.
fn region_id(store: &Inner, reader: &mut RegionReader, source: &dyn BlockSource, region: u64) -> Result<Option<cairn_store_format::Id>> {
    // The place of a chunk is no part of a node's id.
    let nowhere = Location { pack: PackId { session: SessionId([0; 16]), seq: 0, kind: PackKind::Data }, offset: 0, stored_len: 0 };
    let (runs, _) = reader.walk(source, region * REGION_BYTES, &[], &Dirty::All)?;
    let mut node = Region::default();
    for run in runs {
        node.0.push(match run {
            NewRun::Zero(n) => Run::Zero(blocks(n)?),
            NewRun::New(range) => {
                let id = store.keys.content_id(FrameKind::Chunk, 0, reader.content(&range));
                Run::Chunk(blocks(range.len())?, Ref { id, at: nowhere })
            }
            NewRun::Kept(_) => return Err(StoreError::damaged("walk", "it kept a run of nothing")),
        });
    }
    Ok((!node.0.is_empty()).then(|| store.keys.content_id(FrameKind::Node, 0, &region_canonical(&node))))
}

fn blocks(n: usize) -> Result<u16> {
    u16::try_from(n).map_err(|_| StoreError::damaged("walk", "a region has 1024 blocks"))
}
