//! A pack while it grows in memory: at most 32 MiB of frames in the order they come (disk order), each id once.

use crate::crypto::SealedFrame;
use cairn_store_format::{
    FamilyId, Id, Location, PackId,
    limits::{FRAME_STORED_BYTES_MAX, KEY_ROWS_MAX, PACK_FRAMES_MAX, PACK_TARGET_BYTES},
    pack::{FRAME_HEADER_BYTES, Footer, FrameHeader, KEY_ROW_NONE, KeyRow, Slot, TRAILER_BYTES, Trailer, checksum, encode_pack_header},
};
use std::{collections::HashMap, sync::Arc};

/// A pack being filled.
pub(crate) struct PackBuilder {
    pub(crate) pack: PackId,
    bytes: Vec<u8>,
    slots: HashMap<Id, Slot>,
    rows: Vec<Arc<KeyRow>>,
}

/// A whole pack, ready to be written.
pub(crate) struct FinishedPack {
    pub(crate) pack: PackId,
    pub(crate) bytes: Vec<u8>,
    pub(crate) footer: Footer,
}

impl PackBuilder {
    /// `buffer` is what the pack is put together in: that of one that was written spares the system 32 MiB of fresh pages.
    pub(crate) fn new(family: &FamilyId, pack: PackId, buffer: Vec<u8>) -> Self {
        let mut bytes = buffer;
        bytes.clear();
        bytes.extend_from_slice(&encode_pack_header(family, &pack));
        Self { pack, bytes, slots: HashMap::new(), rows: Vec::new() }
    }

    /// Whether a frame of this stored length still belongs in here.
    pub(crate) fn fits(&self, stored_len: usize) -> bool {
        debug_assert!(stored_len <= FRAME_STORED_BYTES_MAX);
        let first = self.slots.is_empty();
        first
            || (self.bytes.len() + FRAME_HEADER_BYTES + stored_len <= PACK_TARGET_BYTES
                && self.slots.len() < PACK_FRAMES_MAX
                && self.rows.len() + 1 < KEY_ROWS_MAX)
    }

    pub(crate) fn find(&self, id: &Id) -> Option<Location> {
        self.slots.get(id).map(|s| Location { pack: self.pack, offset: s.offset, stored_len: s.stored_len })
    }

    /// Adds a frame; one that is in here already keeps its place.
    pub(crate) fn add(&mut self, f: &SealedFrame) -> Location {
        if let Some(at) = self.find(&f.id) {
            return at;
        }
        let key_row = f.row.as_ref().map_or(KEY_ROW_NONE, |r| self.row(r));
        let offset = u32::try_from(self.bytes.len()).expect("packs are below 64 MiB");
        let stored_len = u32::try_from(f.stored.len()).expect("frames are below 17 MiB");
        let header = FrameHeader { id: f.id, key_row, kind: f.kind, level: f.level, codec: f.codec, codec_level: f.codec_level, stored_len, crc: f.crc };
        header.encode(&mut self.bytes);
        self.bytes.extend_from_slice(&f.stored);
        self.slots.insert(f.id, Slot { id: f.id, offset, stored_len, kind: f.kind, level: f.level });
        Location { pack: self.pack, offset, stored_len }
    }

    fn row(&mut self, row: &Arc<KeyRow>) -> u16 {
        let at = self.rows.iter().position(|k| Arc::ptr_eq(k, row)).unwrap_or_else(|| {
            self.rows.push(row.clone());
            self.rows.len() - 1
        });
        u16::try_from(at).expect("at most KEY_ROWS_MAX rows")
    }

    pub(crate) fn finish(self) -> FinishedPack {
        let mut slots: Vec<Slot> = self.slots.into_values().collect();
        slots.sort_unstable_by_key(|s| s.id);
        let footer = Footer { slots, key_rows: self.rows.iter().map(|r| KeyRow::clone(r)).collect() };
        let mut bytes = self.bytes;
        let (footer_offset, encoded) = (bytes.len(), footer.encode());
        bytes.extend_from_slice(&encoded);
        let number = |n: usize| u32::try_from(n).expect("packs are below 64 MiB");
        let trailer = Trailer {
            footer_offset: number(footer_offset),
            footer_len: number(encoded.len()),
            slots: number(footer.slots.len()),
            key_rows: number(footer.key_rows.len()),
            footer_crc: checksum(&encoded),
        };
        trailer.encode(&mut bytes);
        debug_assert!(bytes.len() >= footer_offset + TRAILER_BYTES);
        FinishedPack { pack: self.pack, bytes, footer }
    }
}
