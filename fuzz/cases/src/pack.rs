//! Packs: header, frame headers, and the footer behind the trailer.

use crate::fix::{HEADER_IGNORED, assert_same, with_crc};
use cairn_store_format::{
    Id, PackKind,
    limits::PACK_BYTES_MAX,
    pack::{
        FRAME_HEADER_BYTES, Footer, FrameHeader, FrameKind, PACK_HEADER_BYTES, SLOT_BYTES, Slot, TRAILER_BYTES, Trailer, checksum, decode_pack_header,
        encode_pack_header,
    },
};

/// Most slots of a made-up footer.
const PLAN_BYTES_MAX: usize = 32;

/// A pack's start, a frame at its start, its end, and a bare footer whose counts stand in front.
pub fn store_pack(data: &[u8]) -> bool {
    let head = data.get(..PACK_HEADER_BYTES).is_some_and(|head| header(head) | header(&with_crc(head)));
    let frame = data.get(..FRAME_HEADER_BYTES).is_some_and(|head| frame(head, &data[FRAME_HEADER_BYTES..]) | frame(&with_crc(head), &[]));
    head | frame | from_the_end(data) | from_the_end(&with_right_end(data)) | bare_footer(data) | made_footer(data)
}

fn header(bytes: &[u8]) -> bool {
    let mut accepted = 0;
    for kind in [PackKind::Data, PackKind::Meta] {
        let Ok((family, pack)) = decode_pack_header(bytes, kind) else { continue };
        let [reserved, bits] = HEADER_IGNORED;
        assert_same("pack header", &encode_pack_header(&family, &pack), bytes, &[reserved, bits, 52..60], PACK_HEADER_BYTES - 4);
        accepted += 1;
    }
    assert!(accepted < 2, "a header is of one kind");
    accepted == 1
}

fn frame(bytes: &[u8], stored: &[u8]) -> bool {
    let Ok(found) = FrameHeader::decode(bytes) else { return false };
    let mut again = Vec::new();
    found.encode(&mut again);
    assert_same("frame header", &again, bytes, &[42..44], FRAME_HEADER_BYTES - 4);
    if found.check_stored(stored).is_ok() {
        assert_eq!((stored.len(), checksum(stored)), (found.stored_len as usize, found.crc));
    }
    true
}

/// As a reader opens a pack: the trailer, then the footer where it says.
fn from_the_end(pack: &[u8]) -> bool {
    let Some(at) = pack.len().checked_sub(TRAILER_BYTES) else { return false };
    let Ok(trailer) = Trailer::decode(&pack[at..], pack.len() as u64) else { return false };
    let mut again = Vec::new();
    trailer.encode(&mut again);
    let magic = TRAILER_BYTES - 4;
    assert_same("trailer", &again, &pack[at..], &[16..28, 32..36], TRAILER_BYTES);
    assert_eq!(again[magic..], pack[at + magic..]);
    assert!(Trailer::decode(&pack[at..], pack.len() as u64 + 1).is_err(), "a longer pack's trailer says something else");
    let start = trailer.footer_offset as usize;
    let Ok(footer) = trailer.footer(&pack[start..start + trailer.footer_len as usize]) else { return false };
    check_footer(&footer, trailer.slots as usize, trailer.key_rows as usize, trailer.footer_len as usize);
    true
}

/// The same with the footer's and the trailer's checksums made right, wherever the trailer says that the footer lies.
fn with_right_end(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let Some(at) = out.len().checked_sub(TRAILER_BYTES) else { return out };
    let field = |n: usize| u32::from_le_bytes([out[at + 4 * n], out[at + 4 * n + 1], out[at + 4 * n + 2], out[at + 4 * n + 3]]) as usize;
    let (start, len) = (field(0), field(1));
    if let Some(footer) = start.checked_add(len).and_then(|end| out.get(start..end)) {
        let crc = checksum(footer);
        out[at + 28..at + 32].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = checksum(&out[at..at + 32]);
    out[at + 32..at + 36].copy_from_slice(&crc.to_le_bytes());
    out
}

/// slots u16, key rows u16, footer.
fn bare_footer(data: &[u8]) -> bool {
    let Some((counts, bytes)) = data.split_at_checked(4) else { return false };
    let (slots, rows) = (usize::from(u16::from_le_bytes([counts[0], counts[1]])), usize::from(u16::from_le_bytes([counts[2], counts[3]])));
    let Ok(footer) = Footer::decode(bytes, slots, rows) else { return false };
    check_footer(&footer, slots, rows, bytes.len());
    slots + rows > 0
}

/// A footer made after a plan of one byte a slot: accepted exactly if the ids rise and each slot ends within the largest pack.
fn made_footer(plan: &[u8]) -> bool {
    if plan.is_empty() || plan.len() > PLAN_BYTES_MAX {
        return false;
    }
    let slot = |n: &u8| Slot { id: Id([*n; 32]), offset: u32::from(*n) << 18, stored_len: 1 << 18, kind: FrameKind::Chunk, level: 0 };
    let made = Footer { slots: plan.iter().map(slot).collect(), key_rows: Vec::new() };
    let end = |slot: &Slot| slot.offset as usize + FRAME_HEADER_BYTES + slot.stored_len as usize;
    let keeps_rules = plan.is_sorted_by(|a, b| a < b) && made.slots.iter().all(|slot| end(slot) <= PACK_BYTES_MAX);
    let found = Footer::decode(&made.encode(), plan.len(), 0);
    assert_eq!(found.is_ok(), keeps_rules, "{made:?}");
    found.is_ok_and(|found| found == made)
}

fn check_footer(footer: &Footer, slots: usize, rows: usize, len: usize) {
    assert_eq!((footer.slots.len(), footer.key_rows.len()), (slots, rows));
    let again = footer.encode();
    assert_eq!(again.len(), len, "a footer is as long as what it is made of");
    assert_eq!(Footer::decode(&again, slots, rows).as_ref(), Ok(footer));
    assert!(again.len() >= slots * SLOT_BYTES);
    for slot in &footer.slots {
        assert_eq!(footer.find(&slot.id), Some(slot), "an id is in a pack once");
        assert!(slot.offset as usize + FRAME_HEADER_BYTES + slot.stored_len as usize <= PACK_BYTES_MAX);
    }
}
