//! Content that zstd would not make smaller: compressed and encrypted files, which are half of what guests store.
//!
//! To learn that from zstd costs as much as compressing; a sixteenth of the bytes tells it too, for nearly nothing (docs/adr/0025). A wrong "dense" costs
//! room, a wrong "not dense" time, and neither costs content: a frame says how it is stored.

use cairn_store_format::limits::BLOCK_BYTES;

/// What is looked at of each block: so many pieces of so many bytes, spread over it, so that neither a header nor a tail speaks for all; a prime apart, or
/// the heads of records of a power of two would.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 16;
const STRIDE: usize = 251;
/// 256 random bytes have 162 values on average, 5 being the standard deviation. Text, code, numbers and half-filled blocks have 40 to 130.
const VALUES_MIN: u32 = 140;

/// Whether each whole block of `plain` looks random; never for content of less than two blocks, which costs nothing to try.
pub(super) fn is_dense(plain: &[u8]) -> bool {
    let (blocks, rest) = plain.as_chunks::<BLOCK_BYTES>();
    blocks.len() >= 2 && rest.is_empty() && blocks.iter().all(|block| values(block) >= VALUES_MIN)
}

/// How many different bytes the sample of a block has.
fn values(block: &[u8; BLOCK_BYTES]) -> u32 {
    let mut seen = [0u64; 4];
    for piece in block.chunks(STRIDE).take(PIECES) {
        for byte in &piece[..PIECE_BYTES] {
            seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }
    seen.iter().map(|part| part.count_ones()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn random(len: usize) -> Vec<u8> {
        let mut out: Vec<u8> = (0..len.div_ceil(32) as u64).flat_map(|i| Sha256::digest(i.to_le_bytes())).collect();
        out.truncate(len);
        out
    }

    #[test]
    fn random_content_is_dense() {
        let all = random(16 << 20);
        let chunks = all.chunks(64 << 10);
        let (of, dense) = (chunks.len(), chunks.filter(|c| is_dense(c)).count());
        assert!(dense * 1000 >= of * 999, "{dense} of {of}");
    }

    #[test]
    fn one_block_that_shrinks_is_enough() {
        let base = random(16 * BLOCK_BYTES);
        let with = |change: &dyn Fn(&mut [u8])| {
            let mut content = base.clone();
            change(&mut content[5 * BLOCK_BYTES..6 * BLOCK_BYTES]);
            is_dense(&content)
        };
        assert!(with(&|_| {}));
        assert!(!with(&|block| block.fill(0)), "zeros");
        assert!(!with(&|block| block[BLOCK_BYTES / 2..].fill(0)), "a file's tail");
        assert!(!with(&|block| block.iter_mut().for_each(|b| *b &= 0x7f)), "seven bits");
        assert!(!with(&|block| block.iter_mut().step_by(2).for_each(|b| *b = 0)), "numbers of two bytes");
    }

    #[test]
    fn heads_of_records_do_not_speak_for_all() {
        let mut content = random(16 * BLOCK_BYTES);
        content.chunks_mut(512).for_each(|record| record[..12].fill(7));
        assert!(is_dense(&content));
    }

    #[test]
    fn small_content_is_tried() {
        assert!(!is_dense(&random(BLOCK_BYTES)));
        assert!(!is_dense(&random(2 * BLOCK_BYTES + 1)));
        assert!(!is_dense(&[]));
        assert!(is_dense(&random(2 * BLOCK_BYTES)));
    }
}
