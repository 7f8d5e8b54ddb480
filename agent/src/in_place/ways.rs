//! Where a disk may differ from the point: by the dirty bitmap that the disk's image carries, or not known at all.
//!
//! The bitmap began at some point of this store, the base. What it has not marked is today as it was then; where base and wanted point are equal as
//! well (their trees tell), today's disk is what is wanted. Which bitmap may be believed is decided by the rule that a backup uses
//! (`cairn_hypervisor::capture::plan::decide`): consistent, recording, on every image down to the one that carried it.

use crate::{
    domain::PointsCatalog,
    failure::{FAILED, Failure, Outcome},
};
use cairn_hypervisor::{
    capture::plan::{Base, decide},
    image_tools::{
        chain::{Chain, Look, chain},
        daemon::Layer,
    },
};
use cairn_store::{
    Point, Store,
    format::{SessionId, register::DiskEntry},
};
use std::{ops::Range, path::Path};

/// How it is found out where a disk differs.
#[derive(Debug)]
pub enum Way {
    /// What the bitmap marks, and where base and wanted point differ.
    Bitmap {
        /// The point at which the bitmap began.
        base: SessionId,
        /// The disk in it.
        entry: Box<DiskEntry>,
        /// What the bitmap had marked at that point already, where it began at an earlier one: may differ whatever the bitmap says now.
        marked: Vec<Range<u64>>,
    },
    /// All of the disk is read and compared by ids.
    Compare {
        /// Why.
        reason: String,
    },
}

/// A qcow2 image: its size, its chain with the bitmaps that count, and the way.
pub fn of_qcow2(store: &Store, points: &[Point], image: &Path, look: Look) -> Outcome<(u64, Vec<Layer>, Way)> {
    let Chain { nodes, data_file } =
        chain(image, "qcow2", look).map_err(|e| Failure { message: format!("{}; nothing was written", crate::domain::chain(&e)), ..e.into() })?;
    if let Some((image, data)) = data_file {
        let why =
            format!("{image} keeps its data in another file ({data}), and is not restored in place; nothing was written. Restore to another image, by --disk");
        return Err(Failure::new(FAILED, why));
    }
    let id = store.id().0;
    let base = decide(&nodes, [id[0], id[1], id[2], id[3]], &PointsCatalog { store, points }, &file_id);
    let mut layers: Vec<Layer> = nodes.iter().map(|n| Layer { path: n.filename.clone().into(), format: n.driver.clone(), bitmap: None }).collect();
    let size_bytes = nodes.first().map_or(0, |n| n.size_bytes);
    let (session, ordinal, name, carriers, marked) = match base {
        Base::Bitmap { session, ordinal, bitmap, nodes, marked, .. } => (session, ordinal, bitmap, nodes, marked),
        Base::None { reason, .. } => return Ok((size_bytes, layers, Way::Compare { reason: reason.to_string() })),
    };
    let entry = points.iter().find(|p| p.id == SessionId(session)).map(|p| store.disks(p)).transpose()?.and_then(|d| d.into_iter().nth(ordinal as usize));
    let Some(entry) = entry else { return Ok((size_bytes, layers, Way::Compare { reason: "the bitmap's point has no such disk".into() })) };
    for layer in layers.iter_mut().take(carriers.len()) {
        layer.bitmap = Some(name.clone());
    }
    Ok((size_bytes, layers, Way::Bitmap { base: SessionId(session), entry: Box::new(entry), marked }))
}

fn file_id(path: &str) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    meta.is_file().then(|| (meta.dev(), meta.ino()))
}

/// For people.
pub fn describe(way: &Way) -> String {
    match way {
        Way::Bitmap { base, .. } => format!("dirty bitmap since point {}", &base.to_string()[..crate::points::SHOWN_ID_DIGITS]),
        Way::Compare { reason } => format!("compared: {reason}"),
    }
}

/// Dirty ranges, what lies behind the base's end, and where base and wanted point differ; up to `end`, in order, joined.
pub fn united(mut dirty: Vec<Range<u64>>, base_size_bytes: u64, differing: impl IntoIterator<Item = Range<u64>>, end: u64) -> Vec<Range<u64>> {
    dirty.push(base_size_bytes..end.max(base_size_bytes));
    dirty.extend(differing);
    dirty.iter_mut().for_each(|r| r.end = r.end.min(end));
    dirty.retain(|r| r.start < r.end);
    dirty.sort_by_key(|r| r.start);
    dirty.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        last.end = if joins { last.end.max(next.end) } else { last.end };
        joins
    });
    dirty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_united_up_to_the_end() {
        let m = 1u64 << 20;
        assert_eq!(united(vec![5 * m..6 * m, 0..m], 8 * m, [m..2 * m, 7 * m..9 * m], 10 * m), [0..2 * m, 5 * m..6 * m, 7 * m..10 * m]);
        assert_eq!(united(vec![5 * m..9 * m], 8 * m, [], 6 * m), [5 * m..6 * m]);
        assert_eq!(united(vec![], 6 * m, [], 6 * m), []);
    }
}
