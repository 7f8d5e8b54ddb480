//! What each disk gets: incremental, full compare, or full. Per disk, never per domain; pure.

use std::fmt;
use std::ops::Range;

use super::names::{BitmapName, CheckpointName, Role};
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
    /// Name of the bitmap that it may be continued from: the one that began there or, of a domain that was off, one that was there already. Empty
    /// if there is none.
    pub bitmap_name: String,
    /// What such an older bitmap had marked by then (a superset): sorted, disjoint. Empty for one that began there.
    pub marked: Vec<Range<u64>>,
}

/// A point whose disk may be continued from a bitmap that began at an earlier point (docs/adr/0021).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Later {
    /// The point.
    pub session: [u8; 16],
    /// The disk in it.
    pub ordinal: u32,
    /// What is known of the point; of several the newest usable one counts.
    pub status: PointStatus,
}

/// The store's side of the door.
pub trait PointCatalog {
    /// State of a point.
    fn status(&self, session: [u8; 16]) -> PointStatus;
    /// What a point recorded of one disk.
    fn carrier(&self, session: [u8; 16], ordinal: u32) -> Option<CarrierRecord>;
    /// The newest point that says it may be continued from this bitmap, other than the one at which the bitmap began.
    fn later(&self, bitmap: &BitmapName) -> Option<Later>;
    /// What a point recorded of all disks that its checkpoint has, with their ordinals.
    fn checkpointed(&self, _session: [u8; 16]) -> Vec<(u32, CarrierRecord)> {
        Vec::new()
    }
    /// The checkpoint of the domain's newest point, if that was taken with one: libvirt may have lost it.
    fn newest_checkpoint(&self) -> Option<CheckpointName> {
        None
    }
}

/// A store that says the same of every point.
#[cfg(test)]
pub(super) struct Says(pub(super) PointStatus, pub(super) Option<Later>);

#[cfg(test)]
impl PointCatalog for Says {
    fn status(&self, _session: [u8; 16]) -> PointStatus {
        self.0
    }
    fn carrier(&self, _session: [u8; 16], _ordinal: u32) -> Option<CarrierRecord> {
        None
    }
    fn later(&self, _bitmap: &BitmapName) -> Option<Later> {
        self.1
    }
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
    /// No checkpoint of this store goes with the disk's image: first backup in this mode, new disk, other image.
    NoCheckpoint,
    /// The image cannot store a bitmap, and libvirt's checkpoints are nothing else.
    NoCheckpointPossible,
    /// libvirt does not go on from the checkpoint: its bitmap is gone, or was in use when QEMU died.
    CheckpointBroken,
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
            Self::NoCheckpoint => "no checkpoint of this store on the disk's image",
            Self::NoCheckpointPossible => "libvirt has checkpoints for qcow2 images of version 3 only",
            Self::CheckpointBroken => "the checkpoint's bitmap is gone or inconsistent",
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
        /// Name of the bitmap.
        bitmap: String,
        /// Nodes that have it, top first.
        nodes: Vec<String>,
        /// Dirty whatever the bitmap says now: what it had marked at a point that is later than its beginning.
        marked: Vec<Range<u64>>,
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
///
/// A bitmap marks whatever was written since it began, so it tells what changed since any later instant as well: the base is the newest point that
/// names it.
///
/// Only the newest is asked. An older bitmap may lie on an image that was read-only while a newer one began above it, and whether it has all that a commit of
/// that overlay wrote, which had it no longer, was not found out.
pub fn decide(chain: &[ChainNode], store8: [u8; 4], catalog: &dyn PointCatalog, file_id: &dyn Fn(&str) -> Option<(u64, u64)>) -> Base {
    let mut newest: Option<(u64, Candidate)> = None;
    let mut reason = FullReason::NoBitmap;
    for name in names_on(chain, store8) {
        let Role::Disk(ordinal) = name.role else { continue };
        match bases(&name, ordinal, catalog) {
            Ok((order, candidate)) if newest.as_ref().is_none_or(|(best, _)| order > *best) => newest = Some((order, candidate)),
            Ok(_) => {}
            Err(why) => reason = why,
        }
    }
    let Some((_, Candidate { bitmap, session, ordinal })) = newest else { return Base::None { reason, compare: None } };
    let compare = Some((session, ordinal));
    let Some(carrier) = catalog.carrier(session, ordinal) else {
        return Base::None { reason: FullReason::BaseGone, compare };
    };
    match covering(chain, &bitmap, &carrier, file_id) {
        Ok(nodes) => Base::Bitmap { session, ordinal, bitmap, nodes, marked: carrier.marked, base_size_bytes: carrier.size_bytes },
        Err(reason) => Base::None { reason, compare },
    }
}

struct Candidate {
    bitmap: String,
    session: [u8; 16],
    ordinal: u32,
}

/// The newest usable point of one bitmap, with its order.
fn bases(name: &BitmapName, ordinal: u32, catalog: &dyn PointCatalog) -> Result<(u64, Candidate), FullReason> {
    let own = catalog.status(name.session);
    // Nobody continues from a bitmap whose point never was, or of which nothing is known.
    let later = match own {
        PointStatus::NotCommitted => return Err(FullReason::BaseGone),
        PointStatus::Unreachable => return Err(FullReason::BaseUnknown),
        PointStatus::Usable { .. } | PointStatus::Forgotten | PointStatus::Damaged => catalog.later(name),
    };
    let candidate = |session, ordinal| Candidate { bitmap: name.to_string(), session, ordinal };
    match (later, own) {
        (Some(Later { session, ordinal, status: PointStatus::Usable { order } }), _) => Ok((order, candidate(session, ordinal))),
        (_, PointStatus::Usable { order }) => Ok((order, candidate(name.session, ordinal))),
        _ => Err(FullReason::BaseGone),
    }
}

/// The bitmap that a point of a domain that is off may be continued from: one that the top image has, where all later writes go, whatever the images
/// below have. That of the base if there is one.
pub fn continued_from(chain: &[ChainNode], base: &Base, store8: [u8; 4], catalog: &dyn PointCatalog) -> Option<String> {
    let top = chain.first()?;
    let sound = |name: &str| top.bitmaps.iter().any(|bitmap| bitmap.name.as_deref() == Some(name) && bitmap.recording && !bitmap.inconsistent);
    if let Base::Bitmap { bitmap, .. } = base {
        return sound(bitmap).then(|| bitmap.clone());
    }
    let known = |name: &BitmapName| !matches!(catalog.status(name.session), PointStatus::NotCommitted | PointStatus::Unreachable);
    let mut names = names_on(&chain[..1], store8).into_iter().filter(|name| matches!(name.role, Role::Disk(_)) && known(name)).map(|name| name.to_string());
    names.find(|name| sound(name))
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

/// Adds what lies behind the base's size; puts in order, joins and clips.
#[must_use]
pub fn with_tail(mut dirty: Vec<Range<u64>>, base_size_bytes: u64, size_bytes: u64) -> Vec<Range<u64>> {
    if size_bytes > base_size_bytes {
        dirty.push(base_size_bytes..size_bytes);
    }
    dirty.sort_by_key(|range| range.start);
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

/// Ranges that a point remembers of a bitmap, at most.
pub const MARKED_RANGES_MAX: usize = 4096;

/// Joins ranges over the smallest gaps until they are few enough: a superset. In order and disjoint, before and after.
#[must_use]
pub fn thinned(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    if ranges.len() > MARKED_RANGES_MAX {
        let mut gaps_bytes: Vec<u64> = ranges.windows(2).map(|pair| pair[1].start.saturating_sub(pair[0].end)).collect();
        gaps_bytes.sort_unstable_by(|a, b| b.cmp(a));
        let joined_bytes_max = gaps_bytes[MARKED_RANGES_MAX - 1];
        ranges.dedup_by(|next, last| {
            let joins = next.start.saturating_sub(last.end) <= joined_bytes_max;
            last.end = if joins { next.end } else { last.end };
            joins
        });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::nodes::Bitmap;

    const STORE: [u8; 4] = [1, 2, 3, 4];
    const BASE: [u8; 16] = [9; 16];

    const LATER: [u8; 16] = [10; 16];

    struct Catalog(PointStatus, Option<CarrierRecord>, Option<PointStatus>);

    impl PointCatalog for Catalog {
        fn status(&self, session: [u8; 16]) -> PointStatus {
            if session == BASE { self.0 } else { PointStatus::NotCommitted }
        }
        fn carrier(&self, session: [u8; 16], _ordinal: u32) -> Option<CarrierRecord> {
            let marked = if session == LATER { vec![0..10] } else { Vec::new() };
            self.1.clone().map(|record| CarrierRecord { marked, ..record })
        }
        fn later(&self, _bitmap: &BitmapName) -> Option<Later> {
            self.2.map(|status| Later { session: LATER, ordinal: 3, status })
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
        CarrierRecord { size_bytes: 100, image_path: "/base".to_owned(), device_inode: Some((1, 7)), bitmap_name: name(), marked: Vec::new() }
    }

    fn decide_on(chain: &[ChainNode], status: PointStatus, record: Option<CarrierRecord>) -> Base {
        decide(chain, STORE, &Catalog(status, record, None), &|path| (path == "/base").then_some((1, 7)))
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
    fn the_newest_point_that_names_the_bitmap_is_the_base() {
        let chain = [node("/top", true), node("/base", true)];
        let usable = PointStatus::Usable { order: 1 };
        let decided = |own, later| decide(&chain, STORE, &Catalog(own, Some(carrier()), later), &|path| (path == "/base").then_some((1, 7)));
        for own in [usable, PointStatus::Forgotten, PointStatus::Damaged] {
            let Base::Bitmap { session, ordinal, bitmap, marked, .. } = decided(own, Some(PointStatus::Usable { order: 5 })) else { panic!("{own:?}") };
            assert_eq!((session, ordinal, bitmap, marked), (LATER, 3, name(), vec![0..10]));
        }
        // A later point that is damaged: the one before it serves.
        let Base::Bitmap { session, marked, .. } = decided(usable, Some(PointStatus::Damaged)) else { panic!("not incremental") };
        assert_eq!((session, marked), (BASE, vec![]));
        assert_eq!(reason(decided(PointStatus::Forgotten, Some(PointStatus::Damaged))), FullReason::BaseGone);
        assert_eq!(reason(decided(PointStatus::NotCommitted, Some(usable))), FullReason::BaseGone);
    }

    #[test]
    fn a_point_goes_on_from_a_bitmap_of_the_top_image_alone() {
        let catalog = Catalog(PointStatus::Forgotten, Some(carrier()), None);
        let none = Base::None { reason: FullReason::BaseGone, compare: None };
        let on = |chain: &[ChainNode], catalog: &Catalog| continued_from(chain, &none, STORE, catalog);
        assert_eq!(on(&[node("/top", true), node("/base", false)], &catalog), Some(name()));
        assert_eq!(on(&[node("/top", false), node("/base", true)], &catalog), None);
        assert_eq!(on(&[node("/top", true)], &Catalog(PointStatus::NotCommitted, None, None)), None);
        let mut broken = [node("/top", true)];
        broken[0].bitmaps[0].inconsistent = true;
        assert_eq!(on(&broken, &catalog), None);
    }

    #[test]
    fn many_ranges_become_few_that_hold_them_all() {
        let ranges: Vec<Range<u64>> = (0..100_000u64).map(|i| (i * i) << 16..(i * i + 1) << 16).collect();
        let few = thinned(ranges.clone());
        assert_eq!(few.len(), MARKED_RANGES_MAX);
        assert!(few.windows(2).all(|pair| pair[0].end < pair[1].start));
        assert!(ranges.iter().all(|range| few.iter().any(|held| held.start <= range.start && range.end <= held.end)));
        assert_eq!(thinned(ranges[..100].to_vec()), ranges[..100]);
    }

    #[test]
    fn a_grown_disk_is_dirty_behind_its_old_end() {
        assert_eq!(with_tail(vec![0..10, 20..30], 25, 40), vec![0..10, 20..40]);
        assert_eq!(with_tail(vec![0..10, 20..30], 40, 28), vec![0..10, 20..28]);
        assert_eq!(with_tail(vec![0..5, 30..35], 10, 20), [0..5, 10..20]);
    }
}
