//! The writer's journal: numbered, checksummed records of fixed size, the same on both disks.
//!
//! Record n goes to disk a and is synced, then to disk b and is synced, then comes n + 1. At any one point in
//! time therefore `a.records - b.records` is 0 or 1, and every record below is whole. A pair of images that
//! shows anything else was not taken at one point in time, or lost data.

use crate::error::{Error, Result};

/// Size of a record in bytes: magic 8, number 8, filling 480, checksum 16.
pub const RECORD_BYTES: usize = 512;
const MAGIC: &[u8; 8] = b"CAIRNLAB";
const BODY_BYTES: usize = RECORD_BYTES - 16;

/// The record of that number.
#[must_use]
pub fn record(number: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let mut state = number;
    for word in bytes[16..BODY_BYTES].chunks_exact_mut(8) {
        word.copy_from_slice(&mix(&mut state).to_le_bytes());
    }
    let (low, high) = checksum(&bytes[..BODY_BYTES]);
    bytes[BODY_BYTES..BODY_BYTES + 8].copy_from_slice(&low.to_le_bytes());
    bytes[BODY_BYTES + 8..].copy_from_slice(&high.to_le_bytes());
    bytes
}

/// Checks a journal; gives the number of its records.
///
/// # Errors
/// The first record that is torn, damaged or out of order, with its number.
pub fn check(journal: &[u8]) -> Result<u64> {
    let mut count = 0u64;
    for piece in journal.chunks(RECORD_BYTES) {
        if piece != record(count).as_slice() {
            let why = if piece.len() < RECORD_BYTES { "is torn" } else { "is damaged or out of order" };
            return Err(Error::answer("journal", format!("record {count} {why}")));
        }
        count += 1;
    }
    Ok(count)
}

/// Checks that two journals are of one point in time; gives the numbers of their records.
///
/// # Errors
/// One of them is damaged, or one is further than the writer can have been.
pub fn check_pair(a: &[u8], b: &[u8]) -> Result<(u64, u64)> {
    let (a, b) = (check(a)?, check(b)?);
    if a == b || a == b + 1 {
        return Ok((a, b));
    }
    Err(Error::answer("journals", format!("disk a has {a} records and disk b has {b}: not one point in time")))
}

/// splitmix64: the usual one.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a from both ends: enough against torn and misplaced blocks.
fn checksum(bytes: &[u8]) -> (u64, u64) {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let start = 0xcbf2_9ce4_8422_2325;
    (bytes.iter().fold(start, step), bytes.iter().rev().fold(start, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(records: u64) -> Vec<u8> {
        (0..records).flat_map(record).collect()
    }

    #[test]
    fn whole_journals_count() {
        assert_eq!(check(&[]).expect("empty"), 0);
        assert_eq!(check(&journal(3)).expect("whole"), 3);
        assert_eq!(check_pair(&journal(3), &journal(3)).expect("equal"), (3, 3));
        assert_eq!(check_pair(&journal(4), &journal(3)).expect("one ahead"), (4, 3));
    }

    #[test]
    fn a_torn_pair_is_found() {
        assert!(check_pair(&journal(3), &journal(4)).is_err(), "b can never be ahead");
        assert!(check_pair(&journal(5), &journal(3)).is_err(), "a can never be two ahead");
    }

    #[test]
    fn damage_is_found() {
        let mut bytes = journal(3);
        bytes[RECORD_BYTES + 100] ^= 1;
        assert!(check(&bytes).expect_err("a flipped bit").to_string().contains("record 1"));
        assert!(check(&journal(3)[..RECORD_BYTES * 2 + 7]).expect_err("torn").to_string().contains("torn"));
        let mut zeroed = journal(3);
        zeroed[RECORD_BYTES * 2..].fill(0);
        assert!(check(&zeroed).is_err(), "zeros are not a record");
        let swapped: Vec<u8> = [record(1), record(0)].concat();
        assert!(check(&swapped).is_err());
    }
}
