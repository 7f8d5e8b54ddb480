//! A disk in memory that a point is restored to.

use cairn_store::BlockTarget;
use std::{
    io,
    ops::Range,
    sync::{Mutex, PoisonError},
};

pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    /// Full of rubbish.
    pub fn new(bytes: usize) -> Self {
        Self(Mutex::new(vec![0xee; bytes]))
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, offset: u64, len: usize, change: impl FnOnce(&mut [u8])) {
        let at = usize::try_from(offset).expect("fits");
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)[at..at + len]);
    }
}

impl BlockTarget for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.with(offset, buf.len(), |place| place.copy_from_slice(buf));
        Ok(())
    }
    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.with(range.start, usize::try_from(range.end - range.start).expect("fits"), |place| place.fill(0));
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
