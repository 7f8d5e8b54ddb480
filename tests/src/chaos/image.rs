//! Images whose every byte can be told at any later time: a block is a number, its bytes follow from the number.
//!
//! Invariants:
//! - number 0 is a block of zeros; any other number's bytes depend on nothing but the number, and begin with it;
//! - a copy of an [`Image`] costs little (tables are shared until one side changes), so every point can keep the image it must restore to;
//! - no code of Cairn's takes part.

use super::rng::{Rng, mix};
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 4096;
/// Smallest image.
const BYTES_MIN: u64 = 24 << 20;
/// Largest image.
const BYTES_MAX: u64 = 64 << 20;
/// Images end at a multiple of this, as disks do: often within a block.
const SECTOR_BYTES: u64 = 512;
/// Blocks of one shared table.
const TABLE: usize = 256;
const BLOCK: usize = 4096;

/// What an image file holds.
#[derive(Debug, Clone, Default)]
pub struct Image {
    size_bytes: u64,
    tables: Vec<Arc<[u64; TABLE]>>,
}

impl Image {
    /// A sparse image with some data.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let mut image = Self::default();
        image.resize(rng.within(BYTES_MIN, BYTES_MAX * 3 / 4));
        for _ in 0..6 {
            image.write_run(rng, 1024);
        }
        image
    }

    /// Its size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn blocks(&self) -> usize {
        usize::try_from(self.size_bytes.div_ceil(BLOCK_BYTES)).expect("images are small")
    }

    fn get(&self, block: usize) -> u64 {
        self.tables.get(block / TABLE).map_or(0, |t| t[block % TABLE])
    }

    fn set(&mut self, block: usize, number: u64) {
        if self.get(block) != number {
            Arc::make_mut(&mut self.tables[block / TABLE])[block % TABLE] = number;
        }
    }

    fn resize(&mut self, bytes: u64) {
        let old = self.blocks();
        // What a file gains reads as zero, also within the block it ended in: that block is no longer what its number says.
        if bytes > self.size_bytes && !self.size_bytes.is_multiple_of(BLOCK_BYTES) {
            self.set(old - 1, 0);
        }
        self.size_bytes = bytes - bytes % SECTOR_BYTES;
        let now = self.blocks();
        for block in now..old {
            self.set(block, 0);
        }
        self.tables.resize(now.div_ceil(TABLE), Arc::new([0; TABLE]));
    }

    /// Changes it as a guest might, a few times. `others`: images to clone and earlier states to go back to.
    pub fn change(&mut self, rng: &mut Rng, others: &[Arc<Self>]) {
        for _ in 0..rng.within(1, 5) {
            match rng.below(100) {
                0..35 => self.write_scattered(rng),
                35..60 => self.write_run(rng, 512),
                60..72 => self.move_run(rng),
                72..82 => self.zero_run(rng),
                82..87 => self.resize(rng.within(self.size_bytes, BYTES_MAX + 1)),
                87..92 => self.resize(rng.within(BYTES_MIN, self.size_bytes.max(BYTES_MIN + 1))),
                _ if others.is_empty() => self.write_scattered(rng),
                _ => *self = Self::clone(rng.pick::<Arc<Self>>(others)),
            }
        }
    }

    fn range(&self, rng: &mut Rng, len_max: u64) -> std::ops::Range<usize> {
        let start = rng.index(self.blocks());
        let len = usize::try_from(rng.within(1, len_max + 1)).expect("small");
        start..(start + len).min(self.blocks())
    }

    fn write_scattered(&mut self, rng: &mut Rng) {
        for _ in 0..rng.within(1, 120) {
            let block = rng.index(self.blocks());
            self.set(block, number(rng));
        }
    }

    fn write_run(&mut self, rng: &mut Rng, len_max: u64) {
        for block in self.range(rng, len_max) {
            self.set(block, number(rng));
        }
    }

    fn move_run(&mut self, rng: &mut Rng) {
        let from = self.range(rng, 1024);
        let moved: Vec<u64> = from.clone().map(|b| self.get(b)).collect();
        if rng.percent(50) {
            from.for_each(|b| self.set(b, 0));
        }
        let to = rng.index(self.blocks());
        let room = self.blocks() - to;
        for (i, number) in moved.into_iter().take(room).enumerate() {
            self.set(to + i, number);
        }
    }

    fn zero_run(&mut self, rng: &mut Rng) {
        self.range(rng, 2048).for_each(|b| self.set(b, 0));
    }

    /// Makes the file at `path`, which holds `before`, hold this.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, before: &Self, path: &Path) -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(Error::io("open", path))?;
        let write = || {
            file.set_len(before.size_bytes.min(self.size_bytes))?;
            file.set_len(self.size_bytes)?;
            let mut bytes = [0; BLOCK];
            for block in (0..self.blocks()).filter(|b| self.get(*b) != before.get(*b) || before.ends_within(*b)) {
                fill(self.get(block), &mut bytes);
                file.write_all_at(&bytes[..self.len_of(block)], block as u64 * BLOCK_BYTES)?;
            }
            Ok(())
        };
        write().map_err(Error::io("write", path))
    }

    fn ends_within(&self, block: usize) -> bool {
        block + 1 == self.blocks() && !self.size_bytes.is_multiple_of(BLOCK_BYTES)
    }

    fn len_of(&self, block: usize) -> usize {
        usize::try_from((self.size_bytes - block as u64 * BLOCK_BYTES).min(BLOCK_BYTES)).expect("at most a block")
    }

    /// How a file differs from this, byte by byte; `None` where it does not.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn difference(&self, path: &Path) -> Result<Option<String>> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("look at", path))?.len();
        if len != self.size_bytes {
            return Ok(Some(format!("it has {len} bytes instead of {}", self.size_bytes)));
        }
        let (mut want, mut table) = ([0; BLOCK], vec![0; BLOCK * TABLE]);
        for first in (0..self.blocks()).step_by(TABLE) {
            let start = first as u64 * BLOCK_BYTES;
            let bytes = usize::try_from((self.size_bytes - start).min(table.len() as u64)).expect("at most a table");
            file.read_exact_at(&mut table[..bytes], start).map_err(Error::io("read", path))?;
            for (i, got) in table[..bytes].chunks(BLOCK).enumerate() {
                fill(self.get(first + i), &mut want);
                if *got != want[..got.len()] {
                    let begins = got.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
                    return Ok(Some(format!("block {} begins with {begins:#x} and should be {:#x}", first + i, self.get(first + i))));
                }
            }
        }
        Ok(None)
    }
}

/// A new number. Two images may well draw the same: equal blocks in other company.
fn number(rng: &mut Rng) -> u64 {
    if rng.percent(10) { 1 + rng.below(64) } else { rng.bits() | 1 }
}

/// A block's bytes: a quarter of all numbers give bytes that compress.
fn fill(number: u64, out: &mut [u8; BLOCK]) {
    if number == 0 {
        return out.fill(0);
    }
    let step = if mix(number).is_multiple_of(4) { 0 } else { 0x9e37_79b9_7f4a_7c15 };
    let mut state = number;
    for word in out.chunks_exact_mut(8) {
        word.copy_from_slice(&state.to_le_bytes());
        state = if step == 0 { state } else { mix(state.wrapping_add(step)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_follow_their_images() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (path, mut rng) = (dir.path().join("image"), Rng::new(7));
        let mut on_disk = Image::default();
        let first = Arc::new(Image::new(&mut rng));
        let mut now = (*first).clone();
        for round in 0..25 {
            now.write(&on_disk, &path).expect("writes");
            assert_eq!(now.difference(&path).expect("reads"), None, "round {round}");
            on_disk = now.clone();
            now.change(&mut rng, std::slice::from_ref(&first));
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
        let mut byte = [0];
        file.read_exact_at(&mut byte, on_disk.size_bytes() / 2).expect("reads");
        file.write_all_at(&[byte[0] ^ 1], on_disk.size_bytes() / 2).expect("writes");
        assert!(on_disk.difference(&path).expect("reads").is_some(), "one bit is seen");
    }
}
