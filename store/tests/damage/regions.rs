//! Where the fields of an object lie, by docs/format.md: one byte of each is what the matrix damages.
//!
//! Invariant: every field of every layout is named here, and so are each object's first, middle and last byte.

use cairn_store::format::pack::{FRAME_HEADER_BYTES, PACK_HEADER_BYTES, SLOT_BYTES, TRAILER_BYTES};

/// A field's name and an offset in it.
pub type Region = (String, usize);

/// Layouts, as the page groups them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    Pack,
    Index,
    Register,
    Small,
    Config,
    KeySlot,
    KeyRing,
}

/// The layout of an object by its path in the store.
pub fn layout(path: &str) -> Layout {
    match path.split('/').next().expect("a path has a first part") {
        "d" | "m" | "trash" => Layout::Pack,
        "x" => Layout::Index,
        "c" | "r" => Layout::Register,
        "config" => Layout::Config,
        "keys" if path.contains("slot-") => Layout::KeySlot,
        "keys" => Layout::KeyRing,
        _ => Layout::Small,
    }
}

/// One offset in each field.
pub fn regions(path: &str, bytes: &[u8]) -> Vec<Region> {
    let mut out: Vec<Region> = Vec::new();
    let mut add = |name: &str, at: usize| out.push((name.to_owned(), at));
    for (name, at) in [("magic", 0), ("kind", 4), ("header's zero", 5), ("version", 6), ("incompatible features", 8), ("read-compatible features", 12)] {
        add(name, at);
    }
    let len = bytes.len();
    let fields: &[(&str, usize)] = match layout(path) {
        Layout::Pack => return [out, pack(bytes)].concat(),
        Layout::Index => &[
            ("session", 16),
            ("packs", 32),
            ("seq", 36),
            ("pack kind", 40),
            ("size", 41),
            ("SHA-256 of a pack", 49),
            ("slots", 81),
            ("key rows", 85),
            ("footer length", 89),
            ("slot", 93),
            ("middle", len / 2),
            ("end of the last footer", len - 33),
            ("SHA-256", len - 32),
        ],
        Layout::Register if len == 44 => {
            &[("session", 16), ("register kind", 32), ("zeros", 33), ("summary length", 36), ("body length", 38), ("CRC", len - 4)]
        }
        Layout::Register => &[
            ("session", 16),
            ("register kind", 32),
            ("zeros", 33),
            ("summary length", 36),
            ("body length", 38),
            ("seal's scheme", 40),
            ("seal's epoch", 41),
            ("nonce or payload", 45),
            ("middle", len / 2),
            ("end of the body", len - 5),
            ("CRC", len - 4),
        ],
        Layout::Small | Layout::KeyRing => &[
            ("subject", 16),
            ("number", 32),
            ("sealed length", 40),
            ("seal's scheme", 44),
            ("seal's epoch", 45),
            ("nonce or payload", 49),
            ("middle", len / 2),
            ("end of the seal", len - 5),
            ("CRC", len - 4),
        ],
        Layout::Config => &[
            ("length", 16),
            ("tag", 20),
            ("tag's length", 22),
            ("store id", 26),
            ("family id", 48),
            ("end of the fields", len - 65),
            ("signature", len - 64),
            ("middle of the signature", len - 32),
        ],
        Layout::KeySlot => {
            &[("length", 16), ("tag", 20), ("tag's length", 22), ("slot kind", 26), ("middle", len / 2), ("end of the key", len - 5), ("CRC", len - 4)]
        }
    };
    fields.iter().for_each(|(name, at)| add(name, *at));
    add("last byte", len - 1);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn pack(bytes: &[u8]) -> Vec<Region> {
    let trailer = bytes.len() - TRAILER_BYTES;
    let (footer, slots) = (u32_at(bytes, trailer), u32_at(bytes, trailer + 8));
    let frame = PACK_HEADER_BYTES;
    let stored_len = u32_at(bytes, frame + 44);
    let stored = frame + FRAME_HEADER_BYTES;
    let rows = footer + slots * SLOT_BYTES;
    let mut out: Vec<Region> = [
        ("family", 16),
        ("session", 32),
        ("seq", 48),
        ("header's reserved bytes", 52),
        ("header's CRC", 60),
        ("frame magic", frame),
        ("frame id", frame + 4),
        ("key row of a frame", frame + 36),
        ("frame kind", frame + 38),
        ("frame level", frame + 39),
        ("codec", frame + 40),
        ("codec level", frame + 41),
        ("frame's zeros", frame + 42),
        ("stored length", frame + 44),
        ("CRC of the stored bytes", frame + 48),
        ("CRC of the frame header", frame + 52),
        ("first stored byte", stored),
        ("middle of the stored bytes", stored + stored_len / 2),
        ("last stored byte", stored + stored_len - 1),
        ("last byte before the footer", footer - 1),
        ("slot's id", footer),
        ("slot's offset", footer + 32),
        ("slot's stored length", footer + 36),
        ("slot's kind", footer + 40),
        ("slot's level", footer + 41),
        ("slot's zeros", footer + 42),
        ("footer offset", trailer),
        ("footer length", trailer + 4),
        ("slots", trailer + 8),
        ("key rows", trailer + 12),
        ("trailer's zeros", trailer + 16),
        ("footer's CRC", trailer + 28),
        ("trailer's CRC", trailer + 32),
        ("trailer's magic", trailer + 36),
        ("last byte", bytes.len() - 1),
    ]
    .map(|(name, at)| (name.to_owned(), at))
    .to_vec();
    if rows < trailer {
        out.extend(
            [("key row's scheme", rows), ("key row's epoch", rows + 1), ("key row's length", rows + 5), ("wrapped key", rows + 7)]
                .map(|(n, at)| (n.to_owned(), at)),
        );
        out.push(("end of the key table".into(), trailer - 1));
    }
    out
}
