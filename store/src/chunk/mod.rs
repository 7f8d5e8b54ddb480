//! Cutting: where chunks begin and end, by content alone.
//!
//! Inside a region of 1024 blocks a zero block belongs to no chunk; between zero runs a chunk ends after a block that the keyed function
//! [`Cutter::is_cut`] picks, once it has `min` blocks, and always at `max`. [`rechunk`] gives the same runs for an increment as a full
//! walk would (the store's central property, tested on random histories).

mod region;
mod walk;

pub(crate) use region::{Dirty, NewRun, RegionReader};
use walk::{Blocks, Piece, rechunk, spans_of};

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use cairn_store_format::config::ChunkSizes;
use xxhash_rust::xxh3::xxh3_128;

/// The keyed cut function. A seeded hash alone would leak content through cut positions; one AES block a 4 KiB hides it.
#[derive(Clone)]
pub(crate) struct Cutter {
    aes: Aes128,
    threshold: u64,
    pub(crate) min_blocks: usize,
    pub(crate) max_blocks: usize,
}

impl Cutter {
    pub(crate) fn new(key: &[u8; 16], sizes: ChunkSizes) -> Self {
        let threshold = u64::MAX / u64::from(sizes.mean_blocks - sizes.min_blocks);
        Self { aes: Aes128::new(&(*key).into()), threshold, min_blocks: sizes.min_blocks as usize, max_blocks: sizes.max_blocks as usize }
    }

    /// Whether a chunk may end after this 4 KiB block.
    pub(crate) fn is_cut(&self, block: &[u8]) -> bool {
        let mut state = xxh3_128(block).to_le_bytes().into();
        self.aes.encrypt_block(&mut state);
        let first: [u8; 8] = state[..8].try_into().expect("an AES block has 16 bytes");
        u64::from_le_bytes(first) < self.threshold
    }
}

/// All zero, in words.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    let (head, words, tail) = {
        // SAFETY: any bytes are valid u64s; align_to splits on alignment itself.
        unsafe { block.align_to::<u64>() }
    };
    head.iter().all(|b| *b == 0) && tail.iter().all(|b| *b == 0) && words.chunks(64).all(|c| c.iter().fold(0, |a, w| a | w) == 0)
}
