//! The register and what its seals hold: summary, body, disk table, references.

use crate::fix::{HEADER_IGNORED, assert_same, with_crc};
use cairn_store_format::register::{self, Body, Summary};

/// Registers; each part also for itself, as if its seal had been opened.
pub fn store_register(data: &[u8]) -> bool {
    let whole = whole(data) | whole(&with_crc(data));
    whole | summary(data) | body(data) | disks(data) | reference(data)
}

fn whole(bytes: &[u8]) -> bool {
    let Ok(found) = register::decode(bytes) else { return false };
    let again = register::encode(&found.session, found.kind, found.summary, found.body).expect("what was accepted keeps the limits");
    let [reserved, bits] = HEADER_IGNORED;
    assert_same("register", &again, bytes, &[reserved, bits, 33..36], bytes.len() - 4);
    for part in [1, 2] {
        let aad = register::aad(&found.session, found.kind, part);
        assert_eq!((&aad[..36], aad[36]), (&again[..36], part), "the seals hold the object's own beginning");
    }
    summary(found.summary);
    body(found.body);
    true
}

fn summary(bytes: &[u8]) -> bool {
    let Ok(found) = Summary::decode(bytes) else { return false };
    let again = found.encode().expect("what was accepted keeps the limits");
    assert_eq!(Summary::decode(&again).as_ref(), Ok(&found));
    true
}

fn body(bytes: &[u8]) -> bool {
    let Ok(found) = Body::decode(bytes) else { return false };
    let again = found.encode().expect("what was accepted keeps the limits");
    assert_eq!(Body::decode(&again).as_ref(), Ok(&found));
    true
}

fn disks(bytes: &[u8]) -> bool {
    let Ok(found) = register::decode_disks(bytes) else { return false };
    let again = register::encode_disks(&found).expect("what was accepted keeps the limits");
    assert_eq!(register::decode_disks(&again).as_ref(), Ok(&found));
    !found.is_empty()
}

fn reference(bytes: &[u8]) -> bool {
    let Ok(found) = register::decode_ref(bytes) else { return false };
    assert_eq!(register::encode_ref(&found), bytes, "a reference has one encoding");
    true
}
