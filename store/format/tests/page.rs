//! docs/format.md says what the code does: its numbers are the code's constants. Where they differ, one of the two has a bug.

use cairn_store_format::{
    FamilyId, Location, PackId, PackKind, SessionId,
    config::ChunkSizes,
    header::{HEADER_BYTES, ObjectKind, VERSION, put_header},
    limits::{
        BLOCK_BYTES, BRANCH_FANOUT, BRANCH_LEVEL_MAX, HOST_BYTES_MAX, PACK_BYTES_MAX, PACK_FRAMES_MAX, PACK_TARGET_BYTES, REGION_BLOCKS, REGION_BYTES,
        REGISTER_BYTES_MAX, SUMMARY_PLAIN_BYTES_MAX, SUMMARY_SEALED_BYTES_MAX,
    },
    pack::{FRAME_HEADER_BYTES, FRAME_MAGIC, FrameKind, PACK_HEADER_BYTES, SLOT_BYTES, TRAILER_BYTES, Trailer, encode_pack_header},
    point_log::Action,
    register::{INLINE_DISKS_BYTES_MAX, RegisterKind},
    small,
};

const PAGE: &str = include_str!("../../../docs/format.md");

/// With a comma between thousands, as the page writes them.
fn thousands(n: usize) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", n / 1000, n % 1000) }
}

/// The page, with line ends as blanks.
fn says(what: &str) {
    let page: Vec<&str> = PAGE.split_whitespace().collect();
    let what: Vec<&str> = what.split_whitespace().collect();
    assert!(page.join(" ").contains(&what.join(" ")), "docs/format.md does not say: {}", what.join(" "));
}

#[test]
fn magic_and_kinds() {
    let mut header = Vec::new();
    put_header(&mut header, ObjectKind::Beat);
    assert_eq!((header.len(), &header[..4]), (HEADER_BYTES, &b"CRN1"[..]));
    says(&format!("## Header of every object ({HEADER_BYTES})"));
    says("| 0 | magic `CRN1` |");
    says(&format!("| version u16 = {VERSION} |"));
    let [data, meta, index, register, log, tombstone, session, beat, config, slot, ring, condemned, pardon, done, report, evidence] = [
        ObjectKind::DataPack,
        ObjectKind::MetaPack,
        ObjectKind::Index,
        ObjectKind::Register,
        ObjectKind::PointLog,
        ObjectKind::Tombstone,
        ObjectKind::Session,
        ObjectKind::Beat,
        ObjectKind::Config,
        ObjectKind::KeySlot,
        ObjectKind::KeyRing,
        ObjectKind::Condemned,
        ObjectKind::Pardon,
        ObjectKind::Done,
        ObjectKind::Report,
        ObjectKind::Evidence,
    ]
    .map(|k| k as u8);
    says(&format!(
        "kind u8: {data} data pack, {meta} metadata pack, {index} index, {register} register, {log} point log, {tombstone} tombstone, {session} session, {beat} beat"
    ));
    says(&format!(
        "{config} config, {slot} key slot, {ring} key ring, {condemned} condemned, {pardon} pardon, {done} done, {report} report, {evidence} evidence |"
    ));
    let hex: Vec<String> = FRAME_MAGIC.iter().map(|b| format!("{b:02X}")).collect();
    says(&format!("magic `{}`", hex.join(" ")));
}

#[test]
fn packs() {
    let pack = PackId { session: SessionId([1; 16]), seq: 2, kind: PackKind::Data };
    assert_eq!(encode_pack_header(&FamilyId([3; 16]), &pack).len(), PACK_HEADER_BYTES);
    let mut trailer = Vec::new();
    Trailer { footer_offset: 64, footer_len: 0, slots: 0, key_rows: 0, footer_crc: 0 }.encode(&mut trailer);
    assert_eq!((trailer.len(), &trailer[TRAILER_BYTES - 4..]), (TRAILER_BYTES, &b"CrnZ"[..]));
    says(&format!("At most {} MiB and {} frames", PACK_BYTES_MAX >> 20, thousands(PACK_FRAMES_MAX)));
    says(&format!("would pass {} MiB", PACK_TARGET_BYTES >> 20));
    says(&format!("**Header ({PACK_HEADER_BYTES})**"));
    says(&format!("**Frame header ({FRAME_HEADER_BYTES})**"));
    says(&format!("slots sorted by id, {SLOT_BYTES} each"));
    says(&format!("**Trailer ({TRAILER_BYTES})**"));
    says("magic `CrnZ`");
    let [chunk, node, manifest, blob, list, table] =
        [FrameKind::Chunk, FrameKind::Node, FrameKind::Manifest, FrameKind::Blob, FrameKind::Relocation, FrameKind::DiskTable].map(|k| k as u8);
    says(&format!("Frame kinds: {chunk} chunk, {node} map node, {manifest} manifest (JSON), {blob} blob, {list} relocation list, {table} disk table."));
    says(&format!("**Location** ({})", Location::BYTES));
    says(&format!("**Reference** ({})", 32 + Location::BYTES));
    says(&format!("Lists of packs: {} bytes each", PackId::BYTES));
}

#[test]
fn maps_and_cutting() {
    says(&format!("regions of {} MiB", REGION_BYTES >> 20));
    says(&format!("a region has {} blocks of {} KiB", thousands(REGION_BLOCKS), BLOCK_BYTES >> 10));
    says(&format!("Branch (levels 1 to {BRANCH_LEVEL_MAX}, spanning {} MiB", (REGION_BYTES >> 20) * BRANCH_FANOUT as u64));
    let sizes = |c: ChunkSizes| format!("{}, {}, {}", c.min_blocks, c.mean_blocks, c.max_blocks);
    says(&format!("small {}; default {}; archive {}", sizes(ChunkSizes::SMALL), sizes(ChunkSizes::DEFAULT), sizes(ChunkSizes::ARCHIVE)));
}

#[test]
fn registers_and_small_objects() {
    let [manifest, relocation, fence, abort] = [RegisterKind::Manifest, RegisterKind::Relocation, RegisterKind::Fence, RegisterKind::Abort].map(|k| k as u8);
    says(&format!("kind u8 ({manifest} manifest, {relocation} relocation, {fence} fence, {abort} abort)"));
    says(&format!("sealed summary (at most {SUMMARY_SEALED_BYTES_MAX})"));
    says(&format!("at most {} in all", thousands(REGISTER_BYTES_MAX)));
    says(&format!("at most {SUMMARY_PLAIN_BYTES_MAX} plain bytes"));
    says(&format!("12 host (at most {HOST_BYTES_MAX} bytes"));
    says(&format!("where it passes {} bytes", thousands(INLINE_DISKS_BYTES_MAX)));
    says(&format!("Associated data: the first {} bytes, so none opens under another name", small::aad(ObjectKind::Beat, &[0; 16], 0).len()));
    let [protect, unprotect, tag, untag, note, verified, forget, proof] =
        [Action::Protect, Action::Unprotect, Action::Tag, Action::Untag, Action::Note, Action::Verified, Action::Forget, Action::BootProof].map(|a| a as u8);
    says(&format!(
        "{protect} protect, {unprotect} unprotect, {tag} tag, {untag} untag, {note} note, {verified} verified, {forget} forget, {proof} boot proof)"
    ));
}
