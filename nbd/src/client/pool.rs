//! Several connections to one export: parallel reads, each connection with at most 64 KiB of reply outstanding.
//!
//! Invariants: never more connections than the pool's size (servers count them, and one too many hangs without a greeting); a closed
//! connection is replaced at its next use; a dropped read closes the connections that were in mid-reply.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::connection::{Connection, ExportInfo};
use super::error::NbdError;
use super::extents::{MapCursor, span_bytes};
use super::options::ConnectOptions;

/// Connections of a pool unless told otherwise: 4 x 64 KiB read 916 MiB/s where one reads 362 (docs/capture.md).
pub const CONNECTIONS_DEFAULT: usize = 4;
/// Most connections of a pool.
pub const CONNECTIONS_MAX: usize = 16;

/// A bounded set of connections to one export.
#[derive(Debug)]
pub struct Pool {
    options: ConnectOptions,
    info: ExportInfo,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    size: usize,
}

/// A connection on loan. Goes back to the pool when dropped, if it is still usable.
struct Loan<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        // A connection whose request was dropped in mid-reply has lost its stream already (`is_usable` is false), so it ends here.
        if let Some(connection) = self.connection.take().filter(Connection::is_usable) {
            self.pool.idle().push(connection);
        }
    }
}

impl Pool {
    /// Opens the first connection; the others follow when there is work for them. `connections` is cut to 1..=16.
    ///
    /// # Errors
    /// Those of [`Connection::connect`].
    pub async fn connect(options: ConnectOptions, connections: usize) -> Result<Self, NbdError> {
        let size = connections.clamp(1, CONNECTIONS_MAX);
        let first = Connection::connect(&options).await?;
        let info = *first.info();
        Ok(Self { options, info, idle: Mutex::new(vec![first]), permits: Semaphore::new(size), size })
    }

    /// Opens what is missing up to the pool's size, now. A QEMU whose NBD server is stopped while a client still negotiates hangs for good
    /// (docs/capture.md), so a backup negotiates all at once, in its first milliseconds.
    ///
    /// # Errors
    /// Those of [`Connection::connect`].
    pub async fn open_all(&self) -> Result<(), NbdError> {
        let mut loans = Vec::with_capacity(self.size);
        for _ in 0..self.size {
            loans.push(self.loan().await?);
        }
        Ok(())
    }

    /// What the server told of the export.
    #[must_use]
    pub fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// Connections at most.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Fills `into` from `offset` on; pieces of 64 KiB are spread over the connections.
    ///
    /// # Errors
    /// The first error of any piece; the others are given up, their connections closed. `into` is then undefined.
    pub async fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), NbdError> {
        let most = self.info.read_bytes_max() as usize;
        if into.len() <= most {
            return self.loan().await?.connection().read_at(offset, into).await;
        }
        let lanes = into.len().div_ceil(most).min(self.size);
        let mut work = VecDeque::new();
        let mut at = offset;
        for piece in into.chunks_mut(most) {
            let length = piece.len() as u64;
            work.push_back((at, piece));
            at += length;
        }
        let work = Mutex::new(work);
        let lanes: Vec<_> = (0..lanes).map(|_| self.lane(&work)).collect();
        join_all(lanes).await
    }

    /// Writes `data` at `offset` on one connection; callers write from several tasks for parallelism.
    ///
    /// # Errors
    /// Those of [`Connection::write_at`].
    pub async fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        self.loan().await?.connection().write_at(offset, data).await
    }

    /// Makes a range read as zero; the server may free its space.
    ///
    /// # Errors
    /// Those of [`Connection::write_zeroes`].
    pub async fn write_zeroes(&self, range: Range<u64>) -> Result<(), NbdError> {
        self.loan().await?.connection().write_zeroes(range.start, range.end - range.start, true).await
    }

    /// Makes all completed writes durable, those of other connections too (QEMU flushes the node, whichever connection asks).
    ///
    /// # Errors
    /// Those of [`Connection::flush`].
    pub async fn flush(&self) -> Result<(), NbdError> {
        self.loan().await?.connection().flush().await
    }

    /// Walks the map of one context over `range`, bounded in memory. `granularity_bytes`: of the bitmap, or 0 if unknown.
    #[must_use]
    pub fn map(&self, context: &str, granularity_bytes: u32, range: Range<u64>) -> MapCursor<'_> {
        MapCursor::new(self, context, granularity_bytes, range)
    }

    /// One block status request at the front of `range`: runs of one context, at least one.
    pub(super) async fn status_once(&self, context: &str, granularity_bytes: u32, range: Range<u64>) -> Result<Vec<(u64, u32)>, NbdError> {
        let mut loan = self.loan().await?;
        let connection = loan.connection();
        let block = u64::from(self.info.block_sizes.minimum);
        let start = range.start - range.start % block;
        let end = range.end.next_multiple_of(block);
        let span = u64::from(span_bytes(granularity_bytes, connection.contexts.len()));
        let length = u32::try_from((end - start).min(span - span % block)).expect("a span is at most 1 GiB");
        let statuses = connection.block_status(start, length).await?;
        let Some(found) = statuses.into_iter().find(|status| status.context == context) else {
            let server = format!("{} export {:?}", self.options.address, self.options.export);
            return Err(NbdError::UnknownContext { server, context: context.to_owned() });
        };
        let runs = trim(found.runs, range.start - start, range.end - range.start);
        if runs.is_empty() {
            // Without this the cursor would ask for the same place for ever.
            return Err(NbdError::Violation {
                server: format!("{} export {:?}", self.options.address, self.options.export),
                what: format!("block status at {}", range.start),
                problem: "an extent smaller than the block size".to_owned(),
            });
        }
        Ok(runs)
    }

    /// Says goodbye on all idle connections. Connections on loan close when they come back broken or with the pool.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        for connection in idle {
            connection.close().await;
        }
    }

    async fn lane(&self, work: &Mutex<VecDeque<(u64, &mut [u8])>>) -> Result<(), NbdError> {
        let mut loan = self.loan().await?;
        loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((offset, piece)) = next else {
                return Ok(());
            };
            loan.connection().read_at(offset, piece).await?;
        }
    }

    async fn loan(&self) -> Result<Loan<'_>, NbdError> {
        let permit = self.permits.acquire().await.expect("the pool never closes its semaphore");
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => Connection::connect(&self.options).await?,
        };
        if connection.info().size_bytes != self.info.size_bytes {
            return Err(NbdError::Violation {
                server: format!("{} export {:?}", self.options.address, self.options.export),
                what: "reconnect".to_owned(),
                problem: format!("the export had {} bytes and has {} now", self.info.size_bytes, connection.info().size_bytes),
            });
        }
        Ok(Loan { pool: self, connection: Some(connection), _permit: permit })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // A panic elsewhere leaves a vector of whole connections at worst one short.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loan<'_> {
    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a loan holds its connection until it is dropped")
    }
}

/// Cuts `skip` bytes off the front and everything behind `length`.
fn trim(runs: Vec<(u64, u32)>, skip: u64, length: u64) -> Vec<(u64, u32)> {
    let (mut skip, mut left) = (skip, length);
    let mut out = Vec::with_capacity(runs.len());
    for (run, status) in runs {
        let cut = run.min(skip);
        skip -= cut;
        let kept = (run - cut).min(left);
        left -= kept;
        if kept > 0 {
            out.push((kept, status));
        }
    }
    out
}

/// Polls all lanes until all are done or one fails; dropping the rest closes what was in mid-reply. A handful of futures at most.
async fn join_all<F: Future<Output = Result<(), NbdError>>>(lanes: Vec<F>) -> Result<(), NbdError> {
    let mut lanes: Vec<Option<Pin<Box<F>>>> = lanes.into_iter().map(|lane| Some(Box::pin(lane))).collect();
    poll_fn(move |context| {
        let mut open = false;
        for slot in &mut lanes {
            let Some(lane) = slot else { continue };
            match lane.as_mut().poll(context) {
                Poll::Pending => open = true,
                Poll::Ready(Ok(())) => *slot = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        if open { Poll::Pending } else { Poll::Ready(Ok(())) }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::trim;

    #[test]
    fn runs_are_cut_to_the_range() {
        assert_eq!(trim(vec![(10, 1), (10, 2)], 4, 8), vec![(6, 1), (2, 2)]);
        assert_eq!(trim(vec![(4, 1), (10, 2)], 4, 100), vec![(10, 2)]);
    }
}
