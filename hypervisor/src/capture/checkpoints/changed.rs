//! What changed since the base, as libvirt's job exports it beside the data: the bitmap of the checkpoint as it was at the point in time.

use cairn_nbd::{Address, ConnectOptions};
use tokio::runtime::Handle;

use super::super::dirty::read_dirty;
use super::super::error::CaptureError;
use super::super::plan::{Base, DiskPlan, with_tail};
use super::super::preflight::Chosen;

/// QEMU takes an image's cluster size for bitmaps whose granularity nobody says, and 4 KiB at least.
const GRANULARITY_BYTES_MIN: u32 = 4096;

/// The plan of every disk. One connection per incremental disk, closed again here.
pub(in crate::capture) fn plans(chosen: &[Chosen], runtime: &Handle, address: &Address) -> Result<Vec<DiskPlan>, CaptureError> {
    chosen.iter().map(|chosen| plan(chosen, runtime, address)).collect()
}

fn plan(chosen: &Chosen, runtime: &Handle, address: &Address) -> Result<DiskPlan, CaptureError> {
    let (base_session, base_ordinal, base_size_bytes) = match &chosen.base {
        Base::Bitmap { session, ordinal, base_size_bytes, .. } => (*session, *ordinal, *base_size_bytes),
        Base::None { reason, compare: None } => return Ok(DiskPlan::Full { reason: reason.clone() }),
        Base::None { reason, compare } => return Ok(DiskPlan::Compare { reason: reason.clone(), base: *compare }),
    };
    let target = &chosen.disk.target;
    // libvirt's own name for it.
    let context = format!("qemu:dirty-bitmap:backup-{target}");
    let options = ConnectOptions::new(address.clone(), target.clone()).context(context.clone());
    let dirty = runtime.block_on(read_dirty(options, &context, GRANULARITY_BYTES_MIN))?;
    Ok(DiskPlan::Incremental { base_session, base_ordinal, dirty: with_tail(dirty, base_size_bytes, chosen.top().size_bytes) })
}
