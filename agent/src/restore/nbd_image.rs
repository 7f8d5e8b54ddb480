//! An image behind a storage daemon, for plain threads: read, written, and asked what is zero and what is dirty.

use crate::failure::{FAILED, Failure, Outcome};
use cairn_hypervisor::image_tools::{
    child::DISK_WAIT_MS_MAX,
    daemon::{Access, Daemon, End, Layer, TARGET, layer_export},
};
use cairn_nbd::{Address, ConnectOptions, NbdError, Pool, codec::transmission::STATE_DIRTY, codec::transmission::STATE_ZERO};
use cairn_store::{BlockSource, BlockTarget, Extent};
use std::{io, ops::Range, path::Path, time::Duration};
use tokio::runtime::{Handle, Runtime};

const CONNECTIONS: usize = 4;
const ALLOCATION: &str = "base:allocation";
/// Granularity that is assumed of bitmaps: the finest that QEMU makes would be 512 bytes; ours have 64 KiB.
const GRANULARITY_BYTES_MIN: u32 = 4096;

/// An open image.
pub struct NbdImage {
    daemon: Daemon,
    pool: Pool,
    runtime: Handle,
    fresh: bool,
}

impl NbdImage {
    /// Opens a chain of images. A fresh one reads as zero and is thrown away if it is not finished.
    pub fn open(layers: &[Layer], writable: bool, fresh: bool, runtime: &Runtime) -> Outcome<Self> {
        let end = if fresh { End::Kill } else { End::Orderly };
        let daemon = Daemon::start(layers, if writable { Access::Write } else { Access::Read }, end)?;
        let options = options(&daemon, TARGET).context(ALLOCATION);
        let pool = runtime.block_on(async {
            let pool = Pool::connect(options, CONNECTIONS).await?;
            // None may still negotiate when the daemon ends.
            pool.open_all().await?;
            Ok(pool)
        });
        let pool = pool.map_err(|e: NbdError| through(layers.first().map(|l| l.path.as_path()), &e))?;
        Ok(Self { daemon, pool, runtime: runtime.handle().clone(), fresh })
    }

    /// Process and mark of the daemon.
    pub fn daemon(&self) -> (u32, String) {
        self.daemon.identity()
    }

    /// What the bitmaps of the layers say, united: bytes of the top image, joined, in order.
    pub fn dirty(&self, layers: &[Layer]) -> Outcome<Vec<Range<u64>>> {
        let mut out = Vec::new();
        for (depth, layer) in layers.iter().enumerate() {
            let Some(bitmap) = &layer.bitmap else { continue };
            let context = format!("qemu:dirty-bitmap:{bitmap}");
            let read = async {
                let pool = Pool::connect(options(&self.daemon, &layer_export(depth)).context(&context), 1).await?;
                let mut cursor = pool.map(&context, GRANULARITY_BYTES_MIN, 0..pool.info().size_bytes);
                while let Some(extent) = cursor.next().await? {
                    if extent.status & STATE_DIRTY != 0 {
                        out.push(extent.range);
                    }
                }
                pool.close().await;
                Ok(())
            };
            self.runtime.block_on(read).map_err(|e: NbdError| through(Some(&layer.path), &e))?;
        }
        Ok(out)
    }

    /// Closes our connections, then the daemon; the image is complete.
    pub fn close(self) -> Outcome<()> {
        self.runtime.block_on(self.pool.close());
        Ok(self.daemon.stop()?)
    }
}

fn options(daemon: &Daemon, export: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(Address::Unix(daemon.socket()), export);
    options.limits.reply = Duration::from_millis(DISK_WAIT_MS_MAX);
    options
}

fn through(path: Option<&Path>, e: &NbdError) -> Failure {
    let path = path.map(|p| p.display().to_string()).unwrap_or_default();
    Failure::new(FAILED, format!("{path} through qemu-storage-daemon: {}", crate::domain::chain(e)))
}

impl BlockSource for NbdImage {
    fn size_bytes(&self) -> u64 {
        self.pool.info().size_bytes
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        self.runtime.block_on(async {
            let mut cursor = self.pool.map(ALLOCATION, 0, range.clone());
            let mut out: Vec<Extent> = Vec::new();
            while let Some(e) = cursor.next().await.map_err(io::Error::other)? {
                let (found, zero) = (e.range.start.max(range.start)..e.range.end.min(range.end), e.status & STATE_ZERO != 0);
                match out.last_mut() {
                    Some(last) if last.zero == zero => last.range.end = found.end,
                    _ => out.push(Extent { range: found, zero }),
                }
            }
            Ok(out)
        })
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.runtime.block_on(self.pool.read_at(offset, buf)).map_err(io::Error::other)
    }
    fn parallel(&self) -> usize {
        self.pool.size()
    }
}

impl BlockTarget for NbdImage {
    fn size_bytes(&self) -> u64 {
        self.pool.info().size_bytes
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.runtime.block_on(self.pool.write_at(offset, buf)).map_err(io::Error::other)
    }
    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.runtime.block_on(self.pool.write_zeroes(range)).map_err(io::Error::other)
    }
    fn flush(&self) -> io::Result<()> {
        self.runtime.block_on(self.pool.flush()).map_err(io::Error::other)
    }
    fn starts_zeroed(&self) -> bool {
        self.fresh
    }
}
