//! The folder of records that nobody took, `/run/cairn/hook-spool`: one file a record, whole or not there.
//!
//! ```text
//! 00086400000000000-0000001234.event     a record: stamp in ns since the boot (20 digits), process id (10 digits)
//! .00086400000000000-0000001234.new      one that is being written
//! overflow                               records were lost since the last drain
//! ```
//!
//! Invariants:
//! - a record appears under its name by a rename, when it is whole, and is never changed;
//! - at most [`RECORDS_MAX`] files, counted before one more is made: hooks that count at the same moment may be over it by their number;
//! - what finds no room is told by `overflow`;
//! - the reader takes them in the order of their names and removes each after it was taken, so a reader that dies gets it again;
//! - the folder belongs to its user alone, and nothing in it is followed if it is a link.

mod read;
mod write;

pub use read::{Drained, Spool};
pub use write::{Put, put};

/// A hundred domains started and stopped twice. At 4 KiB each it is 4 MiB of memory, below `/run`.
pub const RECORDS_MAX: usize = 1024;

const OVERFLOW: &str = "overflow";
const RECORD_END: &str = ".event";
const UNFINISHED_END: &str = ".new";

/// `STAMP-PID`, so that names sort as they were made.
fn stem(stamp_ns: u64, pid: u32) -> String {
    format!("{stamp_ns:020}-{pid:010}")
}

/// The stamp in a name that [`stem`] made; none in any other.
fn stamp_of(stem: &str) -> Option<u64> {
    let (stamp, pid) = stem.split_once('-')?;
    let digits = |text: &str, length: usize| text.len() == length && text.bytes().all(|c| c.is_ascii_digit());
    (digits(stamp, 20) && digits(pid, 10)).then(|| stamp.parse().ok())?
}

#[cfg(test)]
mod tests;
