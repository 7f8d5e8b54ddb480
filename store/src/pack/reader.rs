//! Reading packs: footers (kept in a bounded cache) and frames at a place.

use crate::{
    Result, StoreError,
    crypto::{Keys, PackKey, open_frame},
    platform::Platform,
};
use cairn_store_format::{
    Id, Location, ObjectName, PackId, PackKind, index,
    limits::{LIST_BYTES_MAX, PACK_BYTES_MAX},
    map::Ref,
    name::parse_numbered,
    pack::{FRAME_HEADER_BYTES, Footer, FrameHeader, FrameKind, KEY_ROW_NONE, PACK_HEADER_BYTES, TRAILER_BYTES, Trailer, decode_pack_header},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};
use zstd::bulk::Decompressor;

/// Slots of all cached footers together: 44 B each in packs, some 60 B here, so about 60 MiB.
const CACHED_SLOTS_MAX: usize = 1_000_000;

/// A pack's footer, its keys as far as they were needed, its size.
pub(crate) struct PackInfo {
    pub(crate) footer: Footer,
    pub(crate) size_bytes: u64,
    /// The footer was read from the pack's own bytes. Where it is an index file's, the pack is not whole: its frames may be there or not, and nothing
    /// new may come to depend on them.
    pub(crate) own_footer: bool,
    keys: Vec<OnceLock<Arc<PackKey>>>,
}

impl PackInfo {
    /// Where the footer says that an id is; `pack` is this one's.
    pub(crate) fn place_of(&self, pack: &PackId, id: &Id) -> Option<Location> {
        self.footer.find(id).map(|s| Location { pack: *pack, offset: s.offset, stored_len: s.stored_len })
    }

    fn key(&self, keys: &Keys, row: u16) -> Result<Option<Arc<PackKey>>> {
        if row == KEY_ROW_NONE {
            return Ok(None);
        }
        let missing = || StoreError::damaged("pack footer", format!("it has no key row {row}"));
        let cell = self.keys.get(usize::from(row)).ok_or_else(missing)?;
        if let Some(k) = cell.get() {
            return Ok(Some(k.clone()));
        }
        let key = Arc::new(keys.unwrap_row(&self.footer.key_rows[usize::from(row)])?);
        Ok(Some(cell.get_or_init(|| key).clone()))
    }
}

#[derive(Default)]
struct Cache {
    packs: HashMap<PackId, Arc<PackInfo>>,
    order: VecDeque<PackId>,
    slots: usize,
}

/// Shared by all threads of an open store.
pub(crate) struct PackReader {
    platform: Arc<dyn Platform>,
    cache: Mutex<Cache>,
}

impl PackReader {
    pub(crate) fn new(platform: Arc<dyn Platform>) -> Self {
        Self { platform, cache: Mutex::default() }
    }

    /// Forgets all footers: a session trusts only what it read itself, for a collection may have taken packs since.
    pub(crate) fn begin_session(&self) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = Cache::default();
    }

    /// A pack's footer, from its own bytes; where these are damaged, as an index file keeps it.
    pub(crate) fn info(&self, pack: &PackId) -> Result<Arc<PackInfo>> {
        if let Some(i) = self.cached(pack) {
            return Ok(i);
        }
        let own = self.first_good(&ObjectName::pack(pack), |name| self.load(pack, name));
        let info = Arc::new(match own {
            Err(e) if e.is_damage() || e.is_bad_media() => self.rescued(pack)?.ok_or(e)?,
            other => other?,
        });
        let mut c = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        c.slots += info.footer.slots.len();
        if c.packs.insert(*pack, info.clone()).is_none() {
            c.order.push_back(*pack);
        }
        while c.slots > CACHED_SLOTS_MAX && c.order.len() > 1 {
            let oldest = c.order.pop_front().expect("checked above");
            if let Some(gone) = c.packs.remove(&oldest) {
                c.slots -= gone.footer.slots.len();
            }
        }
        Ok(info)
    }

    /// The footer holds the keys of all frames: a bit that flipped in it must not cost the whole pack. Index files have the same footer. Not for a
    /// file that is another pack: its frames are not what that footer tells.
    fn rescued(&self, pack: &PackId) -> Result<Option<PackInfo>> {
        let mut size = None;
        for name in ObjectName::pack(pack) {
            let header = match self.platform.read_at(&name, 0, PACK_HEADER_BYTES) {
                Err(e) if e.is_bad_media() => continue,
                other => other?.map(|bytes| decode_pack_header(&bytes, pack.kind)),
            };
            if header.is_some_and(|h| h.is_ok_and(|(_, found)| found == *pack)) {
                size = size.or(self.platform.size(&name)?);
            }
        }
        // Of a pack that is gone no footer is looked for: it would cost a look at all index files of its session for each of its chunks.
        let Some(size_bytes) = size else { return Ok(None) };
        let Some(footer) = footer_from_index(&*self.platform, pack)? else { return Ok(None) };
        tracing::warn!("pack {pack}: its footer is damaged; an index file has it");
        Ok(Some(PackInfo { keys: footer.key_rows.iter().map(|_| OnceLock::new()).collect(), footer, size_bytes, own_footer: false }))
    }

    fn cached(&self, pack: &PackId) -> Option<Arc<PackInfo>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).packs.get(pack).cloned()
    }

    /// The first copy that answers; else the first copy's error.
    fn first_good<T>(&self, names: &[ObjectName], mut read: impl FnMut(&ObjectName) -> Result<T>) -> Result<T> {
        let mut first = None;
        for name in names {
            match read(name) {
                Ok(v) => return Ok(v),
                Err(e) => first = first.or(Some(e)),
            }
        }
        Err(first.unwrap_or_else(|| StoreError::damaged("pack", "it has no copies")))
    }

    fn load(&self, pack: &PackId, name: &ObjectName) -> Result<PackInfo> {
        let bad = |why: &dyn std::fmt::Display| StoreError::damaged(name, why);
        let size_bytes = self.platform.size(name)?.ok_or_else(|| bad(&"it is missing"))?;
        if size_bytes < (PACK_HEADER_BYTES + TRAILER_BYTES) as u64 || size_bytes > PACK_BYTES_MAX as u64 {
            return Err(bad(&"no pack has this size"));
        }
        let read = |offset: u64, len: usize| self.platform.read_at(name, offset, len)?.ok_or_else(|| bad(&"it ends early"));
        // Another pack under this one's name would be believed to hold what that one holds, and its keys to be this one's. A header that is
        // damaged says nothing, and is no reason to give up a pack: frames prove themselves.
        if let Ok((_, found)) = decode_pack_header(&read(0, PACK_HEADER_BYTES)?, pack.kind)
            && found != *pack
        {
            return Err(bad(&format_args!("it is pack {found} under another's name")));
        }
        let trailer = Trailer::decode(&read(size_bytes - TRAILER_BYTES as u64, TRAILER_BYTES)?, size_bytes).map_err(|e| bad(&e))?;
        let footer = trailer.footer(&read(trailer.footer_offset.into(), trailer.footer_len as usize)?).map_err(|e| bad(&e))?;
        debug_assert_eq!(pack.kind == PackKind::Meta, name.as_str().starts_with("m/") || name.as_str().ends_with(['a', 'b']));
        Ok(PackInfo { keys: footer.key_rows.iter().map(|_| OnceLock::new()).collect(), footer, size_bytes, own_footer: true })
    }

    /// Plain content of the frame at a place, proven to be `id`. `names`: the pack's files, best first.
    pub(crate) fn frame_from(
        &self,
        names: &[ObjectName],
        keys: &Keys,
        zstd: &mut Decompressor<'static>,
        at: &Location,
        want: (Id, FrameKind, u8),
    ) -> Result<Vec<u8>> {
        self.first_good(names, |name| {
            let missing = || StoreError::damaged(name, format!("nothing can be read at {}: the pack is missing or too short", at.offset));
            let mut bytes = self.platform.read_at(name, at.offset.into(), FRAME_HEADER_BYTES + at.stored_len as usize)?.ok_or_else(missing)?;
            self.open(name, keys, zstd, at, want, &mut bytes)
        })
    }

    /// A pack's footer from files of these names alone.
    pub(crate) fn info_of(&self, pack: &PackId, names: &[ObjectName]) -> Result<PackInfo> {
        self.first_good(names, |name| self.load(pack, name))
    }

    /// Whether files of these names hold a frame, good at its place.
    pub(crate) fn holds(&self, names: &[ObjectName], keys: &Keys, zstd: &mut Decompressor<'static>, frame: &Ref) -> bool {
        let Ok(info) = self.info_of(&frame.at.pack, names) else { return false };
        let slot = info.footer.find(&frame.id).filter(|s| s.offset == frame.at.offset);
        slot.is_some_and(|s| self.frame_from(names, keys, zstd, &frame.at, (s.id, s.kind, s.level)).is_ok())
    }

    /// Opens the bytes of one frame (header and stored), read from `name`.
    pub(crate) fn open(
        &self,
        name: &ObjectName,
        keys: &Keys,
        zstd: &mut Decompressor<'static>,
        at: &Location,
        want: (Id, FrameKind, u8),
        bytes: &mut [u8],
    ) -> Result<Vec<u8>> {
        let bad = |why: &dyn std::fmt::Display| StoreError::damaged(format_args!("{name} at {}", at.offset), why);
        let header = FrameHeader::decode(bytes).map_err(|e| bad(&e))?;
        if (header.id, header.kind, header.level) != want || header.stored_len != at.stored_len {
            return Err(bad(&"another frame lies there"));
        }
        let key = match header.key_row {
            KEY_ROW_NONE => None,
            row => self.key_of(name, &at.pack, keys, row)?,
        };
        open_frame(keys, zstd, &header, &mut bytes[FRAME_HEADER_BYTES..], key.as_deref()).map_err(|e| match e {
            StoreError::Damaged { why, .. } => bad(&why),
            other => other,
        })
    }

    /// Packs in the trash are read with the footer of the very file.
    fn key_of(&self, name: &ObjectName, pack: &PackId, keys: &Keys, row: u16) -> Result<Option<Arc<PackKey>>> {
        if name.as_str().starts_with("trash/") { self.load(pack, name)?.key(keys, row) } else { self.info(pack)?.key(keys, row) }
    }
}

/// A pack's footer as the index files of its session tell it.
fn footer_from_index(platform: &dyn Platform, pack: &PackId) -> Result<Option<Footer>> {
    let dir = ObjectName::index(&pack.session, 0);
    for name in platform.list(dir.dir())?.into_iter().filter(|n| parse_numbered(n.file()).is_some_and(|(s, _)| s == pack.session)) {
        let bytes = match platform.read(&name, LIST_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(e) if e.is_damage() || e.is_bad_media() => continue,
            Err(e) => return Err(e),
        };
        let found = index::decode(&bytes).ok().and_then(|(_, packs)| packs.into_iter().find(|p| p.pack == *pack));
        if let Some(p) = found {
            return Ok(Some(p.footer));
        }
    }
    Ok(None)
}
