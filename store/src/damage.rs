//! What is known to be damaged: reports in `b/`, and ranges of disks for those who ask.
//!
//! A report names a frame's place, or a whole pack (offset and length 0, where no frame can lie). It is believed only after a look of one's own:
//! a reader's disk may have failed for a moment, and whoever may write reports must not be able to make others distrust good data.

use crate::{
    Result, StoreError,
    platform::{Durability, Platform, random_bytes},
    resolve::decompressor,
    store::Inner,
};
use cairn_store_format::{
    Location, ObjectName, PackId,
    gc::Report,
    header::ObjectKind,
    ids::parse_hex,
    limits::SMALL_BYTES_MAX,
    pack::{FRAME_HEADER_BYTES, FrameHeader},
};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// A range of a disk that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Disk.
    pub target: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What is wrong.
    pub why: String,
}

/// Places and packs that are bad by reports that were checked.
#[derive(Default, Debug)]
pub(crate) struct Bad {
    places: HashSet<Location>,
    packs: HashSet<PackId>,
    /// Packs with anything in them that is bad: where one frame was lost, others may be that nobody has read since.
    doubtful: HashSet<PackId>,
}

impl Bad {
    /// Nothing new may come to depend on what is in here.
    pub(crate) fn contains(&self, at: &Location) -> bool {
        self.places.contains(at) || self.packs.contains(&at.pack)
    }
    /// Whether something in a pack is bad, so that new content had better be stored again than be taken for known there.
    pub(crate) fn doubts(&self, pack: &PackId) -> bool {
        self.doubtful.contains(pack)
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.packs.is_empty()
    }

    /// All reports that hold.
    pub(crate) fn load(store: &Inner) -> Result<Self> {
        let mut out = Self::default();
        let mut checked = HashSet::new();
        for (_, r) in read_reports(store)? {
            if !checked.insert(r.at) {
                continue;
            }
            if is_whole_pack(&r.at) {
                match store.packs.info(&r.at.pack) {
                    Ok(_) => {}
                    Err(e) if e.is_damage() || e.is_bad_media() => {
                        out.packs.insert(r.at.pack);
                        out.doubtful.insert(r.at.pack);
                    }
                    // The look of one's own was not had: that is no proof.
                    Err(e) => return Err(e),
                }
            } else if !frame_is_good(store, &r.at)? {
                out.places.insert(r.at);
                out.doubtful.insert(r.at.pack);
            }
        }
        Ok(out)
    }
}

/// The place that stands for a pack as a whole.
pub(crate) fn whole_pack(pack: PackId) -> Location {
    Location { pack, offset: 0, stored_len: 0 }
}

fn is_whole_pack(at: &Location) -> bool {
    at.offset == 0 && at.stored_len == 0
}

/// Whether the frame at a place opens and is what its header says, in any copy.
fn frame_is_good(store: &Inner, at: &Location) -> Result<bool> {
    for name in ObjectName::pack(&at.pack) {
        let head = match store.platform.read_at(&name, at.offset.into(), FRAME_HEADER_BYTES) {
            Err(e) if e.is_bad_media() => continue,
            other => other?,
        };
        let Some(head) = head else { continue };
        let Ok(header) = FrameHeader::decode(&head) else { continue };
        let want = (header.id, header.kind, header.level);
        match store.packs.frame_from(std::slice::from_ref(&name), &store.keys, &mut decompressor(), at, want) {
            Ok(_) => return Ok(true),
            Err(e) if e.is_damage() || e.is_bad_media() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// An object that others can do without: one that is too large to be whole, or that the storage cannot read, counts as absent, with a warning.
pub(crate) fn read_or_skip(platform: &dyn Platform, name: &ObjectName, max: usize) -> Result<Option<Vec<u8>>> {
    match platform.read(name, max) {
        Err(e) if e.is_damage() || e.is_bad_media() => {
            tracing::warn!("{e}; skipped");
            Ok(None)
        }
        other => other,
    }
}

/// All reports. One that cannot be read says nothing.
pub(crate) fn read_reports(store: &Inner) -> Result<Vec<(ObjectName, Report)>> {
    let mut out = Vec::new();
    for name in store.platform.list("b")? {
        let (Ok(id), Some(bytes)) = (parse_hex::<16>(name.file()), read_or_skip(&*store.platform, &name, SMALL_BYTES_MAX)?) else { continue };
        let report = store.keys.open_object(&name, ObjectKind::Report, &id, 0, &bytes).and_then(|plain| Ok(Report::decode(&plain)?));
        match report {
            Ok(r) => out.push((name, r)),
            Err(e) => tracing::warn!("{e}; the report is skipped"),
        }
    }
    Ok(out)
}

/// Places that were reported, so that each is reported once.
#[derive(Default)]
pub(crate) struct Reported(Mutex<Option<HashSet<Location>>>);

impl Inner {
    /// Leaves a report in `b/`, unless there is one. Best effort: the caller's error matters more.
    pub(crate) fn report(&self, at: &Location, why: &StoreError) {
        let mut reported = self.reported.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = reported.get_or_insert_with(|| read_reports(self).map(|r| r.into_iter().map(|(_, r)| r.at).collect()).unwrap_or_default());
        if known.insert(*at)
            && let Err(e) = self.write_report(at, why)
        {
            tracing::warn!("cannot leave a report about damaged data: {e}");
        }
    }

    fn write_report(&self, at: &Location, why: &StoreError) -> Result<()> {
        let report = Report { at: *at, text: why.to_string().chars().take(1000).collect(), host: self.host.clone(), time_unix_ms: self.platform.now_unix_ms() };
        let id: [u8; 16] = random_bytes(&*self.platform);
        let bytes = self.keys.small_object(&*self.platform, ObjectKind::Report, &id, 0, &report.encode())?;
        self.platform.create(&ObjectName::report(&id), &bytes, Durability::Now).map(drop)
    }
}
