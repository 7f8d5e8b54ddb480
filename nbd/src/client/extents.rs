//! A map of an export, one context, bounded in memory: runs come one by one, neighbours of equal status joined across replies.

use std::ops::Range;

use super::error::NbdError;
use super::pool::Pool;
use crate::codec::limits::{ALLOCATION_GRANULARITY_BYTES, DESCRIPTOR_BYTES, REPLY_BYTES_MAX};

/// A run of equal status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of the export.
    pub range: Range<u64>,
    /// Meaning depends on the context: [`crate::codec::transmission::STATE_ZERO`] and kin.
    pub status: u32,
}

/// How many bytes one block status request may span, so that even one descriptor for each granule stays below the reply limit.
#[must_use]
pub fn span_bytes(granularity_bytes: u32, contexts: usize) -> u32 {
    let contexts = u32::try_from(contexts.max(1)).unwrap_or(u32::MAX);
    let descriptors = (REPLY_BYTES_MAX / DESCRIPTOR_BYTES / contexts).max(1) - 1;
    let granularity = granularity_bytes.max(ALLOCATION_GRANULARITY_BYTES);
    // Never more than 1 GiB: lengths are 32 bits and servers walk their tables within one request.
    let span = u64::from(descriptors.max(1)) * u64::from(granularity);
    u32::try_from(span.min(1 << 30)).expect("at most 1 GiB")
}

/// Walks a range of an export; holds one reply and one extent.
#[derive(Debug)]
pub struct MapCursor<'a> {
    pool: &'a Pool,
    context: String,
    granularity_bytes: u32,
    at: u64,
    end: u64,
    ready: std::collections::VecDeque<Extent>,
    pending: Option<Extent>,
}

impl<'a> MapCursor<'a> {
    /// Starts at the range's start, rounded out to the export's minimum block size. `granularity_bytes`: of the bitmap, or 0 if unknown.
    pub(super) fn new(pool: &'a Pool, context: &str, granularity_bytes: u32, range: Range<u64>) -> Self {
        Self { pool, context: context.to_owned(), granularity_bytes, at: range.start, end: range.end, ready: std::collections::VecDeque::new(), pending: None }
    }

    /// The next run; `None` at the end of the range.
    ///
    /// # Errors
    /// Those of [`super::connection::Connection::block_status`]. The cursor is then of no more use.
    pub async fn next(&mut self) -> Result<Option<Extent>, NbdError> {
        loop {
            while let Some(extent) = self.ready.pop_front() {
                match &mut self.pending {
                    Some(last) if last.status == extent.status => last.range.end = extent.range.end,
                    Some(_) => return Ok(self.pending.replace(extent)),
                    None => self.pending = Some(extent),
                }
            }
            if self.at >= self.end {
                return Ok(self.pending.take());
            }
            self.fetch().await?;
        }
    }

    async fn fetch(&mut self) -> Result<(), NbdError> {
        let runs = self.pool.status_once(&self.context, self.granularity_bytes, self.at..self.end).await?;
        for (length, status) in runs {
            self.ready.push_back(Extent { range: self.at..self.at + length, status });
            self.at += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_reply_stays_below_the_limit() {
        for granularity in [0, 4096, 65536, 1 << 20] {
            for contexts in 1..4 {
                let span = span_bytes(granularity, contexts);
                let granule = granularity.max(4096);
                let descriptors = u64::from(span / granule) + 1;
                let bytes = descriptors * 8 * contexts as u64;
                assert!(bytes <= u64::from(REPLY_BYTES_MAX), "{granularity} {contexts}: {bytes}");
                assert_eq!(span % 4096, 0);
            }
        }
    }
}
