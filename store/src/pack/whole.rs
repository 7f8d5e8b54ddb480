//! A pack's bytes as a whole: its footer, and its entry for an index file.
//!
//! Must not: trust a byte. An entry is made only of a pack whose every frame is as its footer and its checksum say.

use crate::{Result, damage::read_or_skip, platform::Platform};
use cairn_store_format::{
    ObjectName, PackId,
    index::IndexedPack,
    limits::PACK_BYTES_MAX,
    pack::{FRAME_HEADER_BYTES, Footer, FrameHeader, PACK_HEADER_BYTES, TRAILER_BYTES, Trailer, decode_pack_header},
};
use sha2::{Digest, Sha256};

/// A pack's footer and where it begins.
pub(crate) fn footer_of(bytes: &[u8]) -> Result<(Footer, usize), String> {
    let start = bytes.len().checked_sub(TRAILER_BYTES).ok_or("it is shorter than a trailer")?;
    let trailer = Trailer::decode(&bytes[start..], bytes.len() as u64).map_err(|e| e.to_string())?;
    let (from, len) = (trailer.footer_offset as usize, trailer.footer_len as usize);
    let encoded = bytes.get(from..from + len).ok_or("its footer reaches beyond its end")?;
    if from + len != start {
        return Err("there is a gap behind the footer".into());
    }
    Ok((trailer.footer(encoded).map_err(|e| e.to_string())?, from))
}

/// What an index file says of a pack, from its first copy that is whole; `None` where none is.
pub(crate) fn indexed(platform: &dyn Platform, pack: &PackId) -> Result<Option<IndexedPack>> {
    for name in ObjectName::pack(pack) {
        if let Some(bytes) = read_or_skip(platform, &name, PACK_BYTES_MAX)?
            && let Some(footer) = whole(pack, &bytes)
        {
            return Ok(Some(IndexedPack { pack: *pack, size_bytes: bytes.len() as u64, sha256: Sha256::digest(&bytes).into(), footer }));
        }
    }
    Ok(None)
}

/// The footer of a pack of which no byte is wrong, as far as checksums tell.
fn whole(pack: &PackId, bytes: &[u8]) -> Option<Footer> {
    if !decode_pack_header(bytes, pack.kind).is_ok_and(|(_, id)| id == *pack) {
        return None;
    }
    let (footer, end) = footer_of(bytes).ok()?;
    let mut slots: Vec<_> = footer.slots.iter().collect();
    slots.sort_unstable_by_key(|s| s.offset);
    let mut at = PACK_HEADER_BYTES;
    for slot in slots {
        let body = at + FRAME_HEADER_BYTES;
        let header = FrameHeader::decode(bytes.get(at..body)?).ok()?;
        let stored = bytes.get(body..body + slot.stored_len as usize)?;
        let same = (header.id, header.kind, header.level, header.stored_len) == (slot.id, slot.kind, slot.level, slot.stored_len);
        if slot.offset as usize != at || !same || header.check_stored(stored).is_err() {
            return None;
        }
        at = body + stored.len();
    }
    (at == end).then_some(footer)
}
