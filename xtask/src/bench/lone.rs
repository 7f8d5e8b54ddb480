//! The lone fact: one changed chunk on a 1 TiB disk with a dirty bitmap, run by the store's example `one_change`.

use super::measure::{cold_cache, measured};
use crate::error::{Error, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Its figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneChange {
    /// Bytes of all new files in the store: the chunk, the map twice, index, register, session records.
    pub written_bytes: u64,
    /// The whole backup, from opening its session to its register.
    pub wall_s: f64,
    /// The first backup of the same, nearly empty disk.
    pub first_s: f64,
    /// The chunk's own size.
    pub chunk_bytes: u64,
}

/// Runs it in a folder of its own.
pub fn one_change(program: &Path, run_dir: &Path) -> Result<OneChange> {
    let dir = run_dir.join("one-change");
    let failed = |e: std::io::Error| Error::failed(format!("{}: {e}", dir.display()));
    fs::create_dir_all(&dir).map_err(failed)?;
    let log = run_dir.join("one-change.log");
    cold_cache();
    measured(Command::new(program).arg(&dir), &log)?;
    let said = fs::read_to_string(&log).map_err(failed)?;
    fs::remove_dir_all(&dir).map_err(failed)?;
    parse(&said).ok_or_else(|| Error::failed(format!("one_change said what is not understood: {said}")))
}

fn parse(said: &str) -> Option<OneChange> {
    let number = |key: &str| said.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok());
    Some(OneChange {
        written_bytes: number("increment_written_bytes ")?,
        wall_s: number("increment_ms ")? as f64 / 1000.0,
        first_s: number("first_ms ")? as f64 / 1000.0,
        chunk_bytes: number("chunk_bytes ")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_lines_are_read() {
        let said = "first_ms 1500\nincrement_ms 40\nincrement_written_bytes 50000\nincrement_read_bytes 9\nchunk_bytes 32768\n";
        assert_eq!(parse(said), Some(OneChange { written_bytes: 50_000, wall_s: 0.04, first_s: 1.5, chunk_bytes: 32_768 }));
        assert_eq!(parse("first_ms 1500\n"), None);
    }
}
