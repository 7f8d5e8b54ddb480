//! What each disk gets: incremental, full compare, or full. Per disk, never per domain; pure.

use std::fmt;
use std::ops::Range;

use super::names::{BitmapName, Role};
use crate::qmp::nodes::ChainNode;

/// What the store knows of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointStatus {
    /// Committed, not forgotten, undamaged. Higher order = newer.
    Usable {
        /// Commit order within the store.
        order: u64,
    },
    /// Never committed.
    NotCommitted,
    /// Forgotten.
    Forgotten,
    /// Data of it is damaged.
    Damaged,
    /// The store does not answer: nothing may be concluded.
    Unreachable,
}

/// What a point recorded of one disk's image, to be found again by the next backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierRecord {
    /// Virtual size at that point.
    pub size_bytes: u64,
    /// Path of the top image as libvirt named it.
    pub image_path: String,
    /// Device and inode of the top image; `None` for what is no file.
    pub device_inode: Option<(u64, u64)>,
    /// Name of the bitmap that began there.
    pub bitmap_name: String,
}

/// The store's side of the door.
pub trait PointCatalog {
    /// State of a point.
    fn status(&self, session: [u8; 16]) -> PointStatus;
    /// What a point recorded of one disk.
    fn carrier(&self, session: [u8; 16], ordinal: u32) -> Option<CarrierRecord>;
}

/// Why a disk is read in full. A disk that another point knows can be compared with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FullReason {
    /// No bitmap of this store on it: first backup, new disk, replaced disk, or a bitmap that died with QEMU.
    NoBitmap,
    /// The point that the bitmap belongs to was forgotten, is damaged, or was never committed.
    BaseGone,
    /// The store does not answer for the point.
    BaseUnknown,
    /// QEMU died while the bitmap was in use.
    Inconsistent,
    /// The bitmap does not record.
    NotRecording,
    /// An image between the top and the carrier has no bitmap (snapshot, then offline rebase).
    Gap,
    /// The image that carried the bitmap is no longer in the chain.
    CarrierGone,
    /// The disk is smaller than at the base.
    Shrunk,
    /// Images of the chain have different sizes.
    ChainSizes,
}

impl fmt::Display for FullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBitmap => "no dirty bitmap of this store on the disk",
            Self::BaseGone => "the point that the bitmap belongs to is forgotten, damaged or was never committed",
            Self::BaseUnknown => "the store does not answer for the point that the bitmap belongs to",
            Self::Inconsistent => "the bitmap is inconsistent: QEMU ended without storing it",
            Self::NotRecording => "the bitmap was disabled",
            Self::Gap => "an image of the chain has no bitmap",
            Self::CarrierGone => "the image that carried the bitmap left the chain",
            Self::Shrunk => "the disk shrank",
            Self::ChainSizes => "images of the chain differ in size",
        })
    }
}

/// What to read of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskPlan {
    /// `dirty` differs from the base, everything else is equal. Sorted, disjoint, clipped to the disk.
    Incremental {
        /// Point.
        base_session: [u8; 16],
        /// Disk of that point.
        base_ordinal: u32,
        /// Bytes that may differ.
        dirty: Vec<Range<u64>>,
    },
    /// Read everything, store what is new.
    Compare {
        /// Why.
        reason: FullReason,
        /// Point and disk to compare with, if one is known.
        base: Option<([u8; 16], u32)>,
    },
    /// Read everything: nothing of this disk is known.
    Full {
        /// Why.
        reason: FullReason,
    },
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Merge the named bitmap of these nodes.
    Bitmap {
        /// Point.
        session: [u8; 16],
        /// Disk of that point.
        ordinal: u32,
        /// Nodes that have it, top first.
        nodes: Vec<String>,
        /// Size at the base; what lies behind it is dirty.
        base_size_bytes: u64,
    },
    /// Full compare or full.
    None {
        /// Why.
        reason: FullReason,
        /// Point to compare with.
        compare: Option<([u8; 16], u32)>,
    },
}

/// Decides for one disk. `chain` is top first; `file_id` tells device and inode of an image path.
pub fn decide(chain: &[ChainNode], store8: [u8; 4], catalog: &dyn PointCatalog, file_id: &dyn Fn(&str) -> Option<(u64, u64)>) -> Base {
    let mut newest: Option<(u64, BitmapName, u32)> = None;
    let mut reason = FullReason::NoBitmap;
    for name in names_on(chain, store8) {
        let Role::Disk(ordinal) = name.role else { continue };
        match catalog.status(name.session) {
            PointStatus::Usable { order } if newest.is_none_or(|(best, ..)| order > best) => newest = Some((order, name, ordinal)),
            PointStatus::Usable { .. } => {}
            PointStatus::Unreachable => reason = FullReason::BaseUnknown,
            PointStatus::NotCommitted | PointStatus::Forgotten | PointStatus::Damaged => reason = FullReason::BaseGone,
        }
    }
    let Some((_, name, ordinal)) = newest else { return Base::None { reason, compare: None } };
    let compare = Some((name.session, ordinal));
    let Some(carrier) = catalog.carrier(name.session, ordinal) else {
        return Base::None { reason: FullReason::BaseGone, compare };
    };
    match covering(chain, &name.to_string(), &carrier, file_id) {
        Ok(nodes) => Base::Bitmap { session: name.session, ordinal, nodes, base_size_bytes: carrier.size_bytes },
        Err(reason) => Base::None { reason, compare },
    }
}

/// Names of this store's bitmaps on any node of the chain.
pub fn names_on(chain: &[ChainNode], store8: [u8; 4]) -> Vec<BitmapName> {
    let all = chain.iter().flat_map(|node| node.bitmaps.iter()).filter_map(|bitmap| bitmap.name.as_deref()?.parse::<BitmapName>().ok());
    let mut names: Vec<BitmapName> = Vec::new();
    for name in all.filter(|name| name.store8 == store8) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Nodes from the top to the image that carried the bitmap, if every one of them has it, recording and consistent.
fn covering(chain: &[ChainNode], name: &str, carrier: &CarrierRecord, file_id: &dyn Fn(&str) -> Option<(u64, u64)>) -> Result<Vec<String>, FullReason> {
    let size_bytes = chain.first().map_or(0, |top| top.size_bytes);
    if size_bytes < carrier.size_bytes {
        return Err(FullReason::Shrunk);
    }
    let is_carrier = |node: &ChainNode| match carrier.device_inode {
        Some(id) => file_id(&node.filename) == Some(id),
        None => node.filename == carrier.image_path,
    };
    let depth = chain.iter().position(is_carrier).ok_or(FullReason::CarrierGone)?;
    let mut nodes = Vec::new();
    for node in &chain[..=depth] {
        let bitmap = node.bitmaps.iter().find(|bitmap| bitmap.name.as_deref() == Some(name)).ok_or(FullReason::Gap)?;
        if bitmap.inconsistent {
            return Err(FullReason::Inconsistent);
        }
        if !bitmap.recording {
            return Err(FullReason::NotRecording);
        }
        if node.size_bytes != size_bytes {
            return Err(FullReason::ChainSizes);
        }
        nodes.push(node.name.clone());
    }
    Ok(nodes)
}

/// Adds what lies behind the base's size, joins and clips.
#[must_use]
pub fn with_tail(mut dirty: Vec<Range<u64>>, base_size_bytes: u64, size_bytes: u64) -> Vec<Range<u64>> {
    if size_bytes > base_size_bytes {
        dirty.push(base_size_bytes..size_bytes);
        dirty.sort_by_key(|range| range.start);
    }
    let mut out: Vec<Range<u64>> = Vec::with_capacity(dirty.len());
    for range in dirty {
        let end = range.end.min(size_bytes);
        match out.last_mut() {
            _ if range.start >= end => {}
            Some(last) if range.start <= last.end => last.end = last.end.max(end),
            _ => out.push(range.start..end),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::nodes::Bitmap;

    const STORE: [u8; 4] = [1, 2, 3, 4];
    const BASE: [u8; 16] = [9; 16];

    struct Catalog(PointStatus, Option<CarrierRecord>);

    impl PointCatalog for Catalog {
        fn status(&self, session: [u8; 16]) -> PointStatus {
            if session == BASE { self.0 } else { PointStatus::NotCommitted }
        }
        fn carrier(&self, _session: [u8; 16], _ordinal: u32) -> Option<CarrierRecord> {
            self.1.clone()
        }
    }

    fn name() -> String {
        BitmapName { store8: STORE, session: BASE, role: Role::Disk(0) }.to_string()
    }

    fn node(file: &str, bitmap: bool) -> ChainNode {
        let bitmap =
            bitmap.then(|| Bitmap { name: Some(name()), granularity: 65536, count: 0, recording: true, busy: false, persistent: true, inconsistent: false });
        ChainNode {
            name: format!("n{file}"),
            driver: "qcow2".to_owned(),
            filename: file.to_owned(),
            read_only: false,
            size_bytes: 100,
            bitmaps: bitmap.into_iter().collect(),
        }
    }

    fn carrier() -> CarrierRecord {
        CarrierRecord { size_bytes: 100, image_path: "/base".to_owned(), device_inode: Some((1, 7)), bitmap_name: name() }
    }

    fn decide_on(chain: &[ChainNode], status: PointStatus, record: Option<CarrierRecord>) -> Base {
        decide(chain, STORE, &Catalog(status, record), &|path| (path == "/base").then_some((1, 7)))
    }

    fn reason(base: Base) -> FullReason {
        match base {
            Base::None { reason, .. } => reason,
            Base::Bitmap { .. } => panic!("incremental"),
        }
    }

    #[test]
    fn the_table_of_the_document() {
        let usable = PointStatus::Usable { order: 1 };
        let good = [node("/top", true), node("/base", true)];
        let Base::Bitmap { nodes, .. } = decide_on(&good, usable, Some(carrier())) else { panic!("not incremental") };
        assert_eq!(nodes, ["n/top", "n/base"]);
        assert_eq!(reason(decide_on(&[node("/top", false), node("/base", true)], usable, Some(carrier()))), FullReason::Gap);
        assert_eq!(reason(decide_on(&[node("/top", true)], usable, Some(carrier()))), FullReason::CarrierGone);
        assert_eq!(reason(decide_on(&[node("/base", false)], usable, Some(carrier()))), FullReason::NoBitmap);
        assert_eq!(reason(decide_on(&good, PointStatus::Forgotten, Some(carrier()))), FullReason::BaseGone);
        assert_eq!(reason(decide_on(&good, PointStatus::Unreachable, Some(carrier()))), FullReason::BaseUnknown);
        assert_eq!(reason(decide_on(&good, usable, None)), FullReason::BaseGone);
        let shrunk = CarrierRecord { size_bytes: 101, ..carrier() };
        assert_eq!(reason(decide_on(&good, usable, Some(shrunk))), FullReason::Shrunk);
        let mut broken = good.clone();
        broken[1].bitmaps[0].inconsistent = true;
        assert_eq!(reason(decide_on(&broken, usable, Some(carrier()))), FullReason::Inconsistent);
        let mut disabled = good.clone();
        disabled[0].bitmaps[0].recording = false;
        assert_eq!(reason(decide_on(&disabled, usable, Some(carrier()))), FullReason::NotRecording);
        let mut sizes = good.clone();
        sizes[0].size_bytes = 200;
        assert_eq!(reason(decide_on(&sizes, usable, Some(carrier()))), FullReason::ChainSizes);
    }

    #[test]
    fn a_grown_disk_is_dirty_behind_its_old_end() {
        assert_eq!(with_tail(vec![0..10, 20..30], 25, 40), vec![0..10, 20..40]);
        assert_eq!(with_tail(vec![0..10, 20..30], 40, 28), vec![0..10, 20..28]);
        assert_eq!(with_tail(vec![0..5, 30..35], 10, 20), [0..5, 10..20]);
    }
}
