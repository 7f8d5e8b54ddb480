//! The store's smaller objects and their payloads, one function each.

use crate::fix::{HEADER_IGNORED, assert_same, with_crc, with_sha256};
use cairn_store_format::{
    ObjectName, SessionId,
    boot_proof::{BootVerdict, Evidence},
    config::Config,
    gc::{self, Condemned, Pardon, Report, SessionRecord},
    header::ObjectKind,
    index,
    keys::{KeyRing, KeySlot},
    limits::NOTE_BYTES_MAX,
    manifest::{Manifest, PartRef},
    name::{parse_copy, parse_numbered, parse_round, parse_session},
    point_log::LogEntry,
    small,
    tlv::{Tlv, TlvWriter},
};

/// `config/`: what is signed is all but the signature.
pub fn store_config(data: &[u8]) -> bool {
    let Ok((found, signed, signature)) = Config::decode(data) else { return false };
    assert_eq!([signed, &signature].concat(), data);
    let again = [&found.encode_unsigned()[..], &signature].concat();
    assert_eq!(Config::decode(&again).expect("own bytes").0, found);
    true
}

/// Key slots and key rings. Neither may be shown: rings have no `Debug`.
pub fn store_keys(data: &[u8]) -> bool {
    slot(data) | slot(&with_crc(data)) | ring(data)
}

fn slot(bytes: &[u8]) -> bool {
    let Ok(found) = KeySlot::decode(bytes) else { return false };
    assert_eq!(KeySlot::decode(&found.encode()).as_ref(), Ok(&found));
    true
}

fn ring(bytes: &[u8]) -> bool {
    let Ok(found) = KeyRing::decode(bytes) else { return false };
    assert!(KeyRing::decode(&found.encode()).is_ok_and(|again| again == found), "a key ring is another one when encoded again");
    true
}

/// Names: what a parser takes is what this module would have written, so that one object never has two names.
pub fn store_names(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let mut accepted = false;
    if let Ok(sid) = parse_session(&text) {
        assert_eq!(ObjectName::register(&sid).file(), text);
        check_month(&sid);
        accepted = true;
    }
    if let Some((sid, n)) = parse_numbered(&text) {
        assert_eq!(ObjectName::point_log(&sid, n).file(), text);
        accepted = true;
    }
    if let Some(round) = parse_round(&text, "condemned-") {
        assert_eq!(ObjectName::condemned(round).file(), text);
        accepted = true;
    }
    for (prefix, name) in [("ring-", ObjectName::key_ring as fn(u32) -> [ObjectName; 2]), ("", ObjectName::config)] {
        let number = parse_copy(&text, prefix);
        if let Some(Ok(n)) = number.map(u32::try_from) {
            assert!(name(n).iter().any(|copy| copy.file() == text), "{text:?} is no name of ours");
            accepted = true;
        }
    }
    if let Ok(sid) = text.parse::<SessionId>() {
        assert_eq!(sid.to_string(), text.to_ascii_lowercase());
    }
    let (dir, file) = text.rsplit_once('/').unwrap_or(("c/2026-11", &text));
    if let Some(name) = ObjectName::listed(dir, file) {
        assert_eq!((name.dir(), name.file(), name.as_str().len()), (dir, file, dir.len() + 1 + file.len()));
        assert!(file != "." && file != ".." && !file.contains(['/', '\\', '\0']), "{file:?} leads elsewhere");
        accepted = true;
        if let Some(trashed) = ObjectName::trashed(dir, &name) {
            assert_eq!((trashed.dir(), trashed.file()), (format!("trash/{dir}").as_str(), file));
            assert_eq!(trashed.as_str().matches('/').count(), 2, "{trashed} leads elsewhere");
        }
    }
    accepted
}

fn check_month(sid: &SessionId) {
    let month = sid.month();
    let (year, number) = month.split_once('-').expect("YYYY-MM");
    assert!(year.len() >= 4 && (1..=12).contains(&number.parse::<u8>().expect("two digits")), "{month}");
}

/// Index files.
pub fn store_index(data: &[u8]) -> bool {
    index_file(data) | index_file(&with_sha256(data))
}

fn index_file(bytes: &[u8]) -> bool {
    let Ok((session, packs)) = index::decode(bytes) else { return false };
    let again = index::encode(&session, &packs);
    assert_eq!(again.len(), bytes.len(), "an index file is as long as what it is made of");
    assert_eq!(index::decode(&again), Ok((session, packs)));
    true
}

const KINDS: [ObjectKind; 16] = [
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
];

/// The frame of small objects: of one kind only, and of the name that its seal holds.
pub fn store_small(data: &[u8]) -> bool {
    small_object(data) | small_object(&with_crc(data))
}

fn small_object(bytes: &[u8]) -> bool {
    let mut found = KINDS.iter().filter_map(|kind| small::decode(*kind, bytes).ok().map(|object| (*kind, object)));
    let Some((kind, object)) = found.next() else { return false };
    assert!(found.next().is_none(), "an object is of one kind");
    let again = small::encode(kind, &object.subject, object.number, object.sealed).expect("what was accepted keeps the limits");
    assert_same("small object", &again, bytes, &HEADER_IGNORED, bytes.len() - 4);
    assert!(again.starts_with(&small::aad(kind, &object.subject, object.number)), "the seal holds the object's own beginning");
    true
}

/// Payloads of garbage collection.
pub fn store_gc(data: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(found) = SessionRecord::decode(data) {
        assert_eq!(SessionRecord::decode(&found.encode()), Ok(found));
        accepted = true;
    }
    if let Ok(found) = Condemned::decode(data) {
        assert_eq!(Condemned::decode(&found.encode()), Ok(found));
        accepted = true;
    }
    if let Ok(found) = Pardon::decode(data) {
        assert_eq!(Pardon::decode(&found.encode()), Ok(found));
        accepted = true;
    }
    if let Ok(found) = gc::decode_relocations(data) {
        assert_eq!(gc::encode_relocations(&found), data, "a relocation list has one encoding");
        accepted = true;
    }
    if let Ok(found) = Report::decode(data) {
        assert_eq!(Report::decode(&found.encode()), Ok(found));
        accepted = true;
    }
    accepted
}

/// Entries of a point's log, and what boot proofs leave with it.
pub fn store_point_log(data: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(found) = LogEntry::decode(data) {
        let _ = BootVerdict::decode(&found.text);
        assert_eq!(LogEntry::decode(&found.encode()), Ok(found));
        accepted = true;
    }
    if let Ok(found) = Evidence::decode(data) {
        assert_eq!(Evidence::decode(&found.encode()), Ok(found));
        accepted = true;
    }
    if let Some(found) = std::str::from_utf8(data).ok().and_then(|text| BootVerdict::decode(text).ok()) {
        let text = found.encode();
        assert!(text.len() <= NOTE_BYTES_MAX && BootVerdict::decode(&text).is_ok(), "a verdict fits a log entry");
        accepted = true;
    }
    accepted
}

/// The manifest, and the references in it.
pub fn store_manifest(data: &[u8]) -> bool {
    let Ok(found) = Manifest::decode(data) else { return false };
    for part in found.parts.values() {
        if let Ok(at) = part.to_ref() {
            let again = PartRef::new(&at, part.len, part.secret);
            assert_eq!(again.at, part.at.to_ascii_lowercase());
        }
    }
    assert_eq!(Manifest::decode(&found.encode()).as_ref(), Ok(&found));
    true
}

/// Tag-length-value lists, against a second reading of the same rules.
pub fn store_tlv(data: &[u8]) -> bool {
    let expected = fields(data);
    let parsed = Tlv::parse("fuzzed list", data);
    assert_eq!(parsed.is_ok(), expected.is_some());
    let (Ok(parsed), Some(expected)) = (parsed, expected) else { return false };
    let mut again = TlvWriter::new();
    for (tag, value) in &expected {
        again.bytes(*tag, value);
        assert!(parsed.all(*tag).any(|found| found == *value));
        let first = expected.iter().find(|field| field.0 == *tag).map(|field| field.1);
        assert_eq!(parsed.get(*tag), first);
        assert_eq!(parsed.u64(*tag).ok(), first.and_then(|v| v.try_into().ok()).map(u64::from_le_bytes));
        assert_eq!(parsed.text(*tag, 64).ok().as_deref(), first.filter(|v| v.len() <= 64).and_then(|v| std::str::from_utf8(v).ok()));
        // Looking each field up among all is quadratic; the first ones tell enough.
        if again.clone().finish().len() > 256 {
            break;
        }
    }
    let mut again = TlvWriter::new();
    for (tag, value) in &expected {
        again.bytes(*tag, value);
    }
    assert_eq!(again.finish(), data, "a list is what its fields are");
    !expected.is_empty()
}

/// tag u16, length u32, value.
fn fields(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (tag, after) = rest.split_first_chunk::<2>()?;
        let (len, after) = after.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        out.push((u16::from_le_bytes(*tag), value));
        rest = after;
    }
    Some(out)
}
