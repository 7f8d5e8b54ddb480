//! Checksums made right, so that what lies behind them is reached, and comparison that leaves out what decoders ignore on purpose.

use sha2::{Digest, Sha256};
use std::ops::Range;

/// Bytes of an object's header that a reader ignores: a reserved one and the read-compatible feature bits.
pub const HEADER_IGNORED: [Range<usize>; 2] = [5..6, 12..16];

/// The same with a right CRC32C in its last four bytes.
pub fn with_crc(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    if let Some(at) = out.len().checked_sub(4) {
        let crc = crc32c::crc32c(&out[..at]);
        out[at..].copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// The same with a right SHA-256 in its last 32 bytes.
pub fn with_sha256(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    if let Some(at) = out.len().checked_sub(32) {
        let sum = Sha256::digest(&out[..at]);
        out[at..].copy_from_slice(&sum);
    }
    out
}

/// `again` is `bytes`, up to `end` and but for what is ignored.
pub fn assert_same(what: &str, again: &[u8], bytes: &[u8], ignored: &[Range<usize>], end: usize) {
    assert_eq!(again.len(), bytes.len(), "{what}: another length when encoded again");
    let differs = (0..end.min(bytes.len())).find(|at| again[*at] != bytes[*at] && !ignored.iter().any(|range| range.contains(at)));
    assert_eq!(differs, None, "{what}: another byte when encoded again");
}
