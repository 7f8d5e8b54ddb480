//! One disk at its point in time, readable from any thread.
//!
//! Data and allocation come from libvirt's scratch export only: that is the point in time. (Allocation of the live node would store zeroes over
//! data that the guest zeroed later.)

use std::ops::Range;

use cairn_nbd::codec::transmission::STATE_ZERO;
use cairn_nbd::{ConnectOptions, NbdError, Pool};
use tokio::runtime::Handle;

const ALLOCATION: &str = "base:allocation";

/// A part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskExtent {
    /// Bytes.
    pub range: Range<u64>,
    /// Reads as zero. A mere hole does not count: it need not be zero and must be read.
    pub zero: bool,
}

/// A disk over NBD. Calls block the calling thread, which must not be one of the runtime's.
#[derive(Debug)]
pub struct NbdDisk {
    pool: Pool,
    runtime: Handle,
}

impl NbdDisk {
    pub(crate) fn connect(runtime: &Handle, options: ConnectOptions, connections: usize) -> Result<Self, NbdError> {
        let pool = runtime.block_on(async {
            let pool = Pool::connect(options.context(ALLOCATION), connections).await?;
            pool.open_all().await?;
            Ok::<_, NbdError>(pool)
        })?;
        Ok(Self { pool, runtime: runtime.clone() })
    }

    /// Bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.pool.info().size_bytes
    }

    /// How many threads can read at the same time without waiting for each other.
    #[must_use]
    pub fn parallel(&self) -> usize {
        self.pool.size()
    }

    /// Zero and other parts of `range`, in order, without gaps. Memory grows with the number of parts: ask for a few GiB at a time.
    ///
    /// # Errors
    /// [`NbdError`].
    pub fn extents(&self, range: Range<u64>) -> Result<Vec<DiskExtent>, NbdError> {
        self.runtime.block_on(async {
            let mut cursor = self.pool.map(ALLOCATION, 0, range);
            let mut out: Vec<DiskExtent> = Vec::new();
            while let Some(extent) = cursor.next().await? {
                let zero = extent.status & STATE_ZERO != 0;
                match out.last_mut() {
                    Some(last) if last.zero == zero => last.range.end = extent.range.end,
                    _ => out.push(DiskExtent { range: extent.range, zero }),
                }
            }
            Ok(out)
        })
    }

    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// [`NbdError`]; `into` is then undefined.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), NbdError> {
        self.runtime.block_on(self.pool.read_at(offset, into))
    }

    pub(crate) fn close(&self) {
        self.runtime.block_on(self.pool.close());
    }
}
