//! Index files (`x/`): footers of a session's packs, so that a host learns a store's chunks without opening every pack.
//! header 16 · session 16 · packs u32 · per pack: seq u32, kind u8, size u64, SHA-256 32, slots u32, key rows u32, footer length u32, footer ·
//! SHA-256 of everything before it 32. A hint only: a hit counts once the pack's own footer was read.

use crate::{
    FormatError, PackId, PackKind, SessionId,
    error::at_most,
    header::{ObjectKind, check_header, put_header},
    limits::{INDEX_PACKS_MAX, LIST_BYTES_MAX},
    pack::Footer,
    wire::{Put, Reader},
};
use sha2::{Digest, Sha256};

/// A pack as an index file tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexedPack {
    /// Which.
    pub pack: PackId,
    /// Whole size, bytes.
    pub size_bytes: u64,
    /// SHA-256 of the whole pack.
    pub sha256: [u8; 32],
    /// Its footer.
    pub footer: Footer,
}

/// Encodes an index file; all packs are of `session`.
pub fn encode(session: &SessionId, packs: &[IndexedPack]) -> Vec<u8> {
    debug_assert!(packs.len() <= INDEX_PACKS_MAX && packs.iter().all(|p| p.pack.session == *session));
    let mut out = Vec::new();
    put_header(&mut out, ObjectKind::Index);
    out.put(&session.0);
    out.put_u32(u32::try_from(packs.len()).expect("at most INDEX_PACKS_MAX"));
    for p in packs {
        let footer = p.footer.encode();
        out.put_u32(p.pack.seq);
        out.put_u8(p.pack.kind as u8);
        out.put_u64(p.size_bytes);
        out.put(&p.sha256);
        out.put_u32(u32::try_from(p.footer.slots.len()).expect("at most PACK_FRAMES_MAX"));
        out.put_u32(u32::try_from(p.footer.key_rows.len()).expect("at most KEY_ROWS_MAX"));
        out.put_u32(u32::try_from(footer.len()).expect("a footer is some MiB at most"));
        out.put(&footer);
    }
    let sum = Sha256::digest(&out);
    out.put(&sum);
    out
}

/// Decodes an index file.
pub fn decode(bytes: &[u8]) -> Result<(SessionId, Vec<IndexedPack>), FormatError> {
    const WHAT: &str = "index file";
    at_most(WHAT, bytes.len() as u64, LIST_BYTES_MAX as u64)?;
    let body_len = bytes.len().checked_sub(32).ok_or(FormatError::Short { what: WHAT, need: 32, have: bytes.len() })?;
    let (body, sum) = bytes.split_at(body_len);
    if Sha256::digest(body)[..] != *sum {
        return Err(FormatError::Checksum { what: WHAT });
    }
    let mut r = Reader::new(WHAT, body);
    check_header(WHAT, &mut r, ObjectKind::Index)?;
    let (session, count) = (SessionId(r.array()?), r.u32()?);
    at_most(WHAT, count.into(), INDEX_PACKS_MAX as u64)?;
    let mut packs = Vec::new();
    for _ in 0..count {
        let (seq, kind) = (r.u32()?, PackKind::from_u8(r.u8()?)?);
        let (size_bytes, sha256) = (r.u64()?, r.array()?);
        let (slots, rows, len) = (r.u32()? as usize, r.u32()? as usize, r.u32()? as usize);
        let footer = Footer::decode(r.bytes(len)?, slots, rows)?;
        packs.push(IndexedPack { pack: PackId { session, seq, kind }, size_bytes, sha256, footer });
    }
    r.finish()?;
    Ok((session, packs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Id,
        pack::{FrameKind, Slot},
    };

    #[test]
    fn round_trip() {
        let sid = SessionId([3; 16]);
        let slot = Slot { id: Id([1; 32]), offset: 64, stored_len: 8, kind: FrameKind::Chunk, level: 0 };
        let p = IndexedPack {
            pack: PackId { session: sid, seq: 2, kind: PackKind::Data },
            size_bytes: 4096,
            sha256: [7; 32],
            footer: Footer { slots: vec![slot], key_rows: vec![] },
        };
        let bytes = encode(&sid, std::slice::from_ref(&p));
        assert_eq!(decode(&bytes).expect("own"), (sid, vec![p]));
        for i in (0..bytes.len()).step_by(7) {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(decode(&bad).is_err(), "byte {i}");
        }
    }
}
