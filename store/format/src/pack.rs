//! Packs: header 64 · frames · footer · trailer 40.
//!
//! - header: object header 16, family id 16, session 16, seq u32, reserved 8 (0), CRC32C u32.
//! - frame: [`FrameHeader`] 56, then `stored_len` bytes. A scanner without keys can check it and resync on its magic.
//! - footer: slot table sorted by id (44 a slot), then key table (scheme u8, epoch u32, length u16, wrapped key).
//! - trailer: footer offset u32, footer length u32, slots u32, key rows u32, reserved 12 (0), CRC32C of the footer u32,
//!   CRC32C of the trailer so far u32, magic 4. It stands at the very end, so a pack is opened from its last 40 bytes.

use crate::{
    FormatError, Id, PackId, PackKind, SessionId,
    error::at_most,
    header::{ObjectKind, check_header, put_header},
    ids::FamilyId,
    limits::{FRAME_STORED_BYTES_MAX, KEY_ROW_BYTES_MAX, KEY_ROWS_MAX, PACK_BYTES_MAX, PACK_FRAMES_MAX},
    wire::{Put, Reader, check_crc, put_crc},
};

/// Bytes of the pack header.
pub const PACK_HEADER_BYTES: usize = 64;
/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 56;
/// Bytes of a slot in the footer.
pub const SLOT_BYTES: usize = 44;
/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 40;
/// First bytes of every frame; scanners resync on them.
pub const FRAME_MAGIC: [u8; 4] = *b"\xf7CrF";
const TRAILER_MAGIC: [u8; 4] = *b"CrnZ";
/// `key_row` of frames in stores without encryption.
pub const KEY_ROW_NONE: u16 = 0xffff;

/// CRC32C, the checksum of frames.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// What a frame holds; the byte is part of the content id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// A chunk of disk content.
    Chunk = 1,
    /// A map node; `level` 0 is a region node.
    Node = 2,
    /// JSON manifest of a point.
    Manifest = 3,
    /// A part named by the manifest (domain XML, NVRAM, ..).
    Blob = 4,
    /// A relocation list.
    Relocation = 5,
    /// A point's disk table, where it does not fit the register.
    DiskTable = 6,
}

impl FrameKind {
    /// From its byte.
    pub const fn from_u8(v: u8) -> Result<Self, FormatError> {
        Ok(match v {
            1 => Self::Chunk,
            2 => Self::Node,
            3 => Self::Manifest,
            4 => Self::Blob,
            5 => Self::Relocation,
            6 => Self::DiskTable,
            _ => return Err(FormatError::invalid("frame kind", "unknown")),
        })
    }
}

/// How plain bytes became stored bytes, before the seal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// From its byte.
    pub const fn from_u8(v: u8) -> Result<Self, FormatError> {
        match v {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            _ => Err(FormatError::invalid("codec", "unknown")),
        }
    }
}

/// Cleartext in front of each frame. Layout: magic 4, id 32, key row u16, kind u8, level u8, codec u8, codec level u8, reserved u16 (0),
/// stored length u32, CRC32C of the stored bytes u32, CRC32C of the header so far u32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Content id.
    pub id: Id,
    /// Row of the footer's key table, or [`KEY_ROW_NONE`].
    pub key_row: u16,
    /// Chunk, node, ..
    pub kind: FrameKind,
    /// Level of a node, else 0.
    pub level: u8,
    /// Compression.
    pub codec: Codec,
    /// Compression level: part of the nonce, so one id at two levels never shares one.
    pub codec_level: u8,
    /// Bytes after this header.
    pub stored_len: u32,
    /// CRC32C of those bytes.
    pub crc: u32,
}

impl FrameHeader {
    /// Appends 56 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put(&FRAME_MAGIC);
        out.put(&self.id.0);
        out.put_u16(self.key_row);
        for b in [self.kind as u8, self.level, self.codec as u8, self.codec_level, 0, 0] {
            out.put_u8(b);
        }
        out.put_u32(self.stored_len);
        out.put_u32(self.crc);
        let crc = crc32c::crc32c(&out[start..]);
        out.put_u32(crc);
        debug_assert_eq!(out.len() - start, FRAME_HEADER_BYTES);
    }
    /// Reads one from the first 56 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "frame header";
        let head = bytes.get(..FRAME_HEADER_BYTES).ok_or(FormatError::Short { what: WHAT, need: FRAME_HEADER_BYTES, have: bytes.len() })?;
        if head[..4] != FRAME_MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        let mut r = Reader::new(WHAT, check_crc(WHAT, head)?);
        let _magic = r.array::<4>()?;
        let (id, key_row, kind, level) = (Id(r.array()?), r.u16()?, FrameKind::from_u8(r.u8()?)?, r.u8()?);
        let (codec, codec_level, _reserved) = (Codec::from_u8(r.u8()?)?, r.u8()?, r.u16()?);
        let (stored_len, crc) = (r.u32()?, r.u32()?);
        at_most(WHAT, stored_len.into(), FRAME_STORED_BYTES_MAX as u64)?;
        Ok(Self { id, key_row, kind, level, codec, codec_level, stored_len, crc })
    }
    /// Whether these are the stored bytes that the header speaks of.
    pub fn check_stored(&self, stored: &[u8]) -> Result<(), FormatError> {
        if stored.len() == self.stored_len as usize && crc32c::crc32c(stored) == self.crc { Ok(()) } else { Err(FormatError::Checksum { what: "frame" }) }
    }
}

/// Encodes the pack header.
pub fn encode_pack_header(family: &FamilyId, pack: &PackId) -> Vec<u8> {
    let mut out = Vec::with_capacity(PACK_HEADER_BYTES);
    put_header(&mut out, object_kind(pack.kind));
    out.put(&family.0);
    out.put(&pack.session.0);
    out.put_u32(pack.seq);
    out.put_u64(0);
    put_crc(&mut out);
    debug_assert_eq!(out.len(), PACK_HEADER_BYTES);
    out
}

/// Decodes and checks a pack header.
pub fn decode_pack_header(bytes: &[u8], kind: PackKind) -> Result<(FamilyId, PackId), FormatError> {
    const WHAT: &str = "pack header";
    let head = bytes.get(..PACK_HEADER_BYTES).ok_or(FormatError::Short { what: WHAT, need: PACK_HEADER_BYTES, have: bytes.len() })?;
    let mut r = Reader::new(WHAT, check_crc(WHAT, head)?);
    check_header(WHAT, &mut r, object_kind(kind))?;
    let (family, session, seq) = (FamilyId(r.array()?), SessionId(r.array()?), r.u32()?);
    Ok((family, PackId { session, seq, kind }))
}

const fn object_kind(kind: PackKind) -> ObjectKind {
    match kind {
        PackKind::Data => ObjectKind::DataPack,
        PackKind::Meta => ObjectKind::MetaPack,
    }
}

/// One frame's entry in the footer. Layout: id 32, offset u32, stored length u32, kind u8, level u8, reserved u16 (0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Content id.
    pub id: Id,
    /// Offset of the frame header, bytes.
    pub offset: u32,
    /// Stored length after the frame header, bytes.
    pub stored_len: u32,
    /// As in the frame.
    pub kind: FrameKind,
    /// As in the frame.
    pub level: u8,
}

/// How a row's key is wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WrapScheme {
    /// XChaCha20-Poly1305 under the epoch's data key.
    EpochData = 1,
    /// XChaCha20-Poly1305 under the epoch's metadata key.
    EpochMeta = 2,
    /// HPKE to the store's public key (write-only hosts); reserved.
    Hpke = 3,
}

/// A wrapped pack key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRow {
    /// Which key opens it.
    pub scheme: WrapScheme,
    /// Its epoch.
    pub epoch: u32,
    /// Nonce and ciphertext.
    pub wrapped: Vec<u8>,
}

/// A pack's footer: the truth about what is in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Footer {
    /// Sorted by id, each id once.
    pub slots: Vec<Slot>,
    /// Wrapped keys.
    pub key_rows: Vec<KeyRow>,
}

impl Footer {
    /// The slot of an id.
    pub fn find(&self, id: &Id) -> Option<&Slot> {
        self.slots.binary_search_by(|s| s.id.cmp(id)).ok().map(|i| &self.slots[i])
    }

    /// Footer bytes without trailer.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.slots.len() * SLOT_BYTES + 128);
        for s in &self.slots {
            out.put(&s.id.0);
            out.put_u32(s.offset);
            out.put_u32(s.stored_len);
            for b in [s.kind as u8, s.level, 0, 0] {
                out.put_u8(b);
            }
        }
        for row in &self.key_rows {
            out.put_u8(row.scheme as u8);
            out.put_u32(row.epoch);
            out.put_u16(u16::try_from(row.wrapped.len()).expect("wrapped keys are under KEY_ROW_BYTES_MAX"));
            out.put(&row.wrapped);
        }
        out
    }

    /// Decodes `slots` slots and `rows` key rows from exactly `bytes`.
    pub fn decode(bytes: &[u8], slots: usize, rows: usize) -> Result<Self, FormatError> {
        const WHAT: &str = "pack footer";
        at_most(WHAT, slots as u64, PACK_FRAMES_MAX as u64)?;
        at_most(WHAT, rows as u64, KEY_ROWS_MAX as u64)?;
        let mut r = Reader::new(WHAT, bytes);
        if r.left() < slots * SLOT_BYTES {
            return Err(FormatError::Short { what: WHAT, need: slots * SLOT_BYTES, have: r.left() });
        }
        let mut out = Self { slots: Vec::with_capacity(slots), key_rows: Vec::new() };
        for _ in 0..slots {
            let slot = Slot { id: Id(r.array()?), offset: r.u32()?, stored_len: r.u32()?, kind: FrameKind::from_u8(r.u8()?)?, level: r.u8()? };
            let _reserved = r.u16()?;
            if out.slots.last().is_some_and(|last| last.id >= slot.id) {
                return Err(FormatError::invalid(WHAT, "slots are not sorted or not unique"));
            }
            if u64::from(slot.offset) + FRAME_HEADER_BYTES as u64 + u64::from(slot.stored_len) > PACK_BYTES_MAX as u64 {
                return Err(FormatError::invalid(WHAT, "a slot lies beyond any pack's end"));
            }
            out.slots.push(slot);
        }
        for _ in 0..rows {
            out.key_rows.push(decode_key_row(&mut r)?);
        }
        r.finish()?;
        Ok(out)
    }
}

fn decode_key_row(r: &mut Reader<'_>) -> Result<KeyRow, FormatError> {
    let scheme = match r.u8()? {
        1 => WrapScheme::EpochData,
        2 => WrapScheme::EpochMeta,
        3 => WrapScheme::Hpke,
        _ => return Err(FormatError::invalid("key row", "unknown scheme")),
    };
    let (epoch, len) = (r.u32()?, usize::from(r.u16()?));
    at_most("key row", len as u64, KEY_ROW_BYTES_MAX as u64)?;
    Ok(KeyRow { scheme, epoch, wrapped: r.bytes(len)?.to_vec() })
}

/// The last 40 bytes of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// Where the footer starts, bytes.
    pub footer_offset: u32,
    /// Its length, bytes.
    pub footer_len: u32,
    /// Slots in it.
    pub slots: u32,
    /// Key rows in it.
    pub key_rows: u32,
    /// CRC32C of it.
    pub footer_crc: u32,
}

impl Trailer {
    /// Appends 40 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        for v in [self.footer_offset, self.footer_len, self.slots, self.key_rows, 0, 0, 0, self.footer_crc] {
            out.put_u32(v);
        }
        let crc = crc32c::crc32c(&out[start..]);
        out.put_u32(crc);
        out.put(&TRAILER_MAGIC);
        debug_assert_eq!(out.len() - start, TRAILER_BYTES);
    }
    /// Decodes exactly 40 bytes and checks them against the pack's whole length.
    pub fn decode(bytes: &[u8], pack_len: u64) -> Result<Self, FormatError> {
        const WHAT: &str = "pack trailer";
        at_most(WHAT, pack_len, PACK_BYTES_MAX as u64)?;
        let Some(body) = bytes.strip_suffix(&TRAILER_MAGIC) else { return Err(FormatError::Magic { what: WHAT }) };
        let mut r = Reader::new(WHAT, check_crc(WHAT, body)?);
        let (footer_offset, footer_len, slots, key_rows) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let _reserved = r.bytes(12)?;
        let footer_crc = r.u32()?;
        r.finish()?;
        if u64::from(footer_offset) + u64::from(footer_len) + TRAILER_BYTES as u64 != pack_len || (footer_offset as usize) < PACK_HEADER_BYTES {
            return Err(FormatError::invalid(WHAT, "footer does not lie where the pack's length says"));
        }
        Ok(Self { footer_offset, footer_len, slots, key_rows, footer_crc })
    }
    /// Decodes the footer this trailer speaks of.
    pub fn footer(&self, bytes: &[u8]) -> Result<Footer, FormatError> {
        if bytes.len() != self.footer_len as usize || crc32c::crc32c(bytes) != self.footer_crc {
            return Err(FormatError::Checksum { what: "pack footer" });
        }
        Footer::decode(bytes, self.slots as usize, self.key_rows as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        let slot = |n: u8| Slot { id: Id([n; 32]), offset: 64 * u32::from(n), stored_len: 8, kind: FrameKind::Node, level: 1 };
        Footer { slots: vec![slot(1), slot(2), slot(9)], key_rows: vec![KeyRow { scheme: WrapScheme::EpochMeta, epoch: 3, wrapped: vec![5; 72] }] }
    }

    #[test]
    fn sizes_are_what_the_page_says() {
        let pack = PackId { session: SessionId([1; 16]), seq: 4, kind: PackKind::Data };
        let head = encode_pack_header(&FamilyId([2; 16]), &pack);
        assert_eq!(head.len(), PACK_HEADER_BYTES);
        assert_eq!(decode_pack_header(&head, PackKind::Data).expect("own bytes"), (FamilyId([2; 16]), pack));
        assert!(decode_pack_header(&head, PackKind::Meta).is_err());
        assert_eq!(footer().encode().len(), 3 * SLOT_BYTES + 7 + 72);
    }

    #[test]
    fn footer_and_trailer_round_trip_and_refuse_flips() {
        let f = footer().encode();
        let t = Trailer { footer_offset: 1000, footer_len: f.len() as u32, slots: 3, key_rows: 1, footer_crc: crc32c::crc32c(&f) };
        let mut end = Vec::new();
        t.encode(&mut end);
        let len = 1000 + f.len() as u64 + TRAILER_BYTES as u64;
        assert_eq!(Trailer::decode(&end, len).expect("own").footer(&f).expect("own"), footer());
        assert!(Trailer::decode(&end, len + 1).is_err());
        for i in 0..end.len() {
            let mut bad = end.clone();
            bad[i] ^= 0x10;
            assert!(Trailer::decode(&bad, len).is_err(), "trailer byte {i}");
        }
        for i in 0..f.len() {
            let mut bad = f.clone();
            bad[i] ^= 0x10;
            assert!(t.footer(&bad).is_err(), "footer byte {i}");
        }
        assert!(footer().find(&Id([2; 32])).is_some() && footer().find(&Id([3; 32])).is_none());
    }

    #[test]
    fn frame_header_round_trips_and_refuses_flips() {
        let stored = b"stored";
        let h = FrameHeader {
            id: Id([8; 32]),
            key_row: 1,
            kind: FrameKind::Chunk,
            level: 0,
            codec: Codec::Zstd,
            codec_level: 1,
            stored_len: 6,
            crc: crc32c::crc32c(stored),
        };
        let mut b = Vec::new();
        h.encode(&mut b);
        assert_eq!(FrameHeader::decode(&b).expect("own"), h);
        assert!(h.check_stored(stored).is_ok() && h.check_stored(b"storeD").is_err());
        for i in 0..b.len() {
            let mut bad = b.clone();
            bad[i] ^= 4;
            assert!(FrameHeader::decode(&bad).is_err(), "byte {i}");
        }
    }
}
