//! The frame of small sealed objects: point logs, tombstones, session records, beats, key rings, GC lists, reports.
//!
//! header 16 · subject 16 (a session id, or zero) · number u64 · sealed length u32 · sealed bytes · CRC32C u32.
//! The seal's associated data is everything before it ([`aad`]): an object moved to another name does not open.

use crate::{
    FormatError,
    error::at_most,
    header::{HEADER_BYTES, ObjectKind, check_header, put_header},
    limits::{LIST_BYTES_MAX, SMALL_BYTES_MAX},
    wire::{Put, Reader, check_crc, put_crc},
};

/// Bytes before the sealed part.
const PREFIX_BYTES: usize = HEADER_BYTES + 16 + 8;

/// A decoded small object; `sealed` still has to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Small<'a> {
    /// Session or point it belongs to; zero where none.
    pub subject: [u8; 16],
    /// Sequence, beat or round number.
    pub number: u64,
    /// The sealed payload.
    pub sealed: &'a [u8],
}

/// What the seal authenticates besides its payload.
pub fn aad(kind: ObjectKind, subject: &[u8; 16], number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES);
    put_header(&mut out, kind);
    out.put(subject);
    out.put_u64(number);
    out
}

fn bytes_max(kind: ObjectKind) -> usize {
    match kind {
        ObjectKind::Condemned | ObjectKind::Pardon | ObjectKind::Report => LIST_BYTES_MAX,
        _ => SMALL_BYTES_MAX,
    }
}

/// Encodes an object around a sealed payload.
pub fn encode(kind: ObjectKind, subject: &[u8; 16], number: u64, sealed: &[u8]) -> Result<Vec<u8>, FormatError> {
    at_most("small object", sealed.len() as u64, bytes_max(kind) as u64)?;
    let mut out = aad(kind, subject, number);
    out.put_u32(u32::try_from(sealed.len()).expect("limit checked above"));
    out.put(sealed);
    put_crc(&mut out);
    Ok(out)
}

/// Decodes an object of `kind`.
pub fn decode(kind: ObjectKind, bytes: &[u8]) -> Result<Small<'_>, FormatError> {
    const WHAT: &str = "small object";
    let mut r = Reader::new(WHAT, check_crc(WHAT, bytes)?);
    check_header(WHAT, &mut r, kind)?;
    let (subject, number, len) = (r.array()?, r.u64()?, r.u32()? as usize);
    at_most(WHAT, len as u64, bytes_max(kind) as u64)?;
    let sealed = r.bytes(len)?;
    r.finish()?;
    Ok(Small { subject, number, sealed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_flip_is_seen() {
        let o = encode(ObjectKind::Beat, &[7; 16], 9, b"payload").expect("small");
        assert_eq!(decode(ObjectKind::Beat, &o).expect("own bytes"), Small { subject: [7; 16], number: 9, sealed: b"payload" });
        assert!(decode(ObjectKind::Done, &o).is_err());
        for i in 0..o.len() {
            let mut bad = o.clone();
            bad[i] ^= 1;
            assert!(decode(ObjectKind::Beat, &bad).is_err(), "byte {i}");
            assert!(decode(ObjectKind::Beat, &o[..i]).is_err(), "cut at {i}");
        }
    }
}
