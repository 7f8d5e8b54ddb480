//! A point's disk as a source: any range, proven chunk by chunk, with the last regions kept in memory.

use crate::{BlockSource, Extent, Result, StoreError, resolve::decompressor, store::Store, tree::TreeReader};
use cairn_store_format::{
    limits::{BLOCK_BYTES, REGION_BYTES},
    map::{Ref, Run},
    register::DiskEntry,
};
use std::{
    collections::VecDeque,
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Regions kept: 4 MiB each.
const CACHED_REGIONS_MAX: usize = 12;

/// See the module.
pub struct PointSource {
    store: Store,
    tree: TreeReader,
    size_bytes: u64,
    cache: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl PointSource {
    /// A disk of a point of this store.
    pub fn new(store: &Store, disk: &DiskEntry) -> Result<Self> {
        let tree = TreeReader::new(store.inner.clone(), disk.root, disk.size_bytes)?;
        Ok(Self { store: store.clone(), tree, size_bytes: disk.size_bytes, cache: Mutex::default() })
    }

    fn region(&self, index: u64) -> Result<Arc<Vec<u8>>> {
        if let Some((_, hit)) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|c| c.0 == index) {
            return Ok(hit.clone());
        }
        let plain = Arc::new(self.load(index)?);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_REGIONS_MAX {
            cache.pop_front();
        }
        cache.push_back((index, plain.clone()));
        Ok(plain)
    }

    fn load(&self, index: u64) -> Result<Vec<u8>> {
        let mut zstd = decompressor();
        let mut out = vec![0; usize::try_from(REGION_BYTES).expect("4 MiB")];
        let Some(node) = self.tree.region_ref(&mut zstd, index)? else { return Ok(out) };
        let mut block = 0;
        let mut chunks: Vec<(usize, Ref)> = Vec::new();
        for run in self.tree.region(&mut zstd, &node)?.0 {
            if let Run::Chunk(_, r) = &run {
                chunks.push((block * BLOCK_BYTES, *r));
            }
            block += run.blocks();
        }
        self.store.inner.fetch_chunks(&mut zstd, &chunks, |at, plain| {
            let plain = plain?;
            let place =
                out.get_mut(at..at + plain.len()).ok_or_else(|| StoreError::damaged(format_args!("region {index}"), "a chunk is longer than its place"))?;
            place.copy_from_slice(&plain);
            Ok(())
        })?;
        Ok(out)
    }
}

impl BlockSource for PointSource {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (index, end) = (at / REGION_BYTES, ((at / REGION_BYTES + 1) * REGION_BYTES).min(range.end));
            let zero = self.tree.region_ref(&mut decompressor(), index).map_err(io::Error::other)?.is_none();
            out.push(Extent { range: at..end, zero });
            at = end;
        }
        Ok(out)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let region = self.region(at / REGION_BYTES).map_err(io::Error::other)?;
            let from = usize::try_from(at % REGION_BYTES).expect("inside 4 MiB");
            let len = (region.len() - from).min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&region[from..from + len]);
            done += len;
        }
        Ok(())
    }
}
