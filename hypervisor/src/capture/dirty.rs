//! Steps 4 to 6: which bytes changed since the base.

use std::ops::Range;

use cairn_nbd::codec::transmission::STATE_DIRTY;
use cairn_nbd::{Address, ConnectOptions, Pool};
use tokio::runtime::Handle;

use super::error::CaptureError;
use super::live::Names;
use super::plan::{Base, DiskPlan, with_tail};
use super::preflight::Chosen;
use crate::domain::Domain;
use crate::qmp::bitmaps::{BitmapAction, BitmapRef, GRANULARITY_BYTES, transaction};
use crate::qmp::exports;

/// The plan of every disk. One connection per incremental disk, closed again here.
pub(super) fn plans(domain: &Domain, names: Names, chosen: &[Chosen], runtime: &Handle, address: &Address) -> Result<Vec<DiskPlan>, CaptureError> {
    freeze_copies(domain, names, chosen)?;
    chosen.iter().map(|chosen| plan(domain, names, chosen, runtime, address)).collect()
}

/// Step 4: E on each top node, disabled, and N of every node merged into it. An *enabled* bitmap cannot be exported read-only, and N must go on
/// recording. Writes since the job's start are in E as well: a superset is harmless.
fn freeze_copies(domain: &Domain, names: Names, chosen: &[Chosen]) -> Result<(), CaptureError> {
    let mut actions = Vec::new();
    for chosen in chosen {
        let Base::Bitmap { bitmap, nodes, .. } = &chosen.base else { continue };
        let top = chosen.top().name.clone();
        actions.push(BitmapAction::BlockDirtyBitmapAdd {
            node: top.clone(),
            name: names.export(),
            granularity: GRANULARITY_BYTES,
            persistent: false,
            disabled: true,
        });
        actions.push(BitmapAction::BlockDirtyBitmapMerge {
            node: top,
            target: names.export(),
            bitmaps: nodes.iter().map(|node| BitmapRef { node: node.clone(), name: bitmap.clone() }).collect(),
        });
    }
    Ok(transaction(domain, &actions)?)
}

fn plan(domain: &Domain, names: Names, chosen: &Chosen, runtime: &Handle, address: &Address) -> Result<DiskPlan, CaptureError> {
    let (base_session, base_ordinal, base_size_bytes, marked) = match &chosen.base {
        Base::Bitmap { session, ordinal, base_size_bytes, marked, .. } => (*session, *ordinal, *base_size_bytes, marked),
        Base::None { reason, compare: None } => return Ok(DiskPlan::Full { reason: reason.clone() }),
        Base::None { reason, compare } => return Ok(DiskPlan::Compare { reason: reason.clone(), base: *compare }),
    };
    let top = chosen.top();
    // Step 5: on libvirt's NBD server, there is only one in a QEMU process.
    let id = format!("{}{}", exports::ID_PREFIX, chosen.disk.target);
    let export = format!("{}live-{}", exports::ID_PREFIX, chosen.disk.target);
    let bitmap = BitmapRef { node: top.name.clone(), name: names.export() };
    exports::add(domain, &id, &top.name, &export, &bitmap)?;
    // Step 6: from the live export only the bitmap.
    let context = format!("qemu:dirty-bitmap:{}", names.export());
    let mut dirty = runtime.block_on(read_dirty(ConnectOptions::new(address.clone(), export).context(context.clone()), &context, GRANULARITY_BYTES))?;
    dirty.extend(marked.iter().cloned());
    Ok(DiskPlan::Incremental { base_session, base_ordinal, dirty: with_tail(dirty, base_size_bytes, top.size_bytes) })
}

/// What a bitmap of that granularity marks, in order.
pub(super) async fn read_dirty(options: ConnectOptions, context: &str, granularity_bytes: u32) -> Result<Vec<Range<u64>>, CaptureError> {
    let pool = Pool::connect(options, 1).await?;
    let mut cursor = pool.map(context, granularity_bytes, 0..pool.info().size_bytes);
    let mut dirty = Vec::new();
    while let Some(extent) = cursor.next().await? {
        if extent.status & STATE_DIRTY != 0 {
            dirty.push(extent.range);
        }
    }
    pool.close().await;
    Ok(dirty)
}
