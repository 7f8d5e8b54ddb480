//! How long a guest's own writes take: 4 KiB each, past its page cache, at random places of a file that it has.
//!
//! The guest's part runs as `lab-guest __lab-guest latency`, until a file beside its report tells it to stop.

use crate::domain::Domain;
use crate::error::{Error, Result};
use nix::libc::O_DIRECT;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const WRITE_BYTES: usize = 4096;
const PAUSE: Duration = Duration::from_millis(1);
/// So many are kept; at one a millisecond most of an hour.
const COUNT_MAX: usize = 3_000_000;
/// In the guest.
const FILE: &str = "/mnt/a/latency";
const FILE_MIB: u64 = 32;
const REPORT: &str = "/run/latency";

/// The middle one of some; none of none.
#[must_use]
pub fn middle<T: Ord>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut sorted: Vec<T> = values.into_iter().collect();
    sorted.sort_unstable();
    let at = sorted.len() / 2;
    sorted.into_iter().nth(at)
}

/// What the writes of one span took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies {
    /// How many there were.
    pub count: usize,
    /// The middle one, microseconds.
    pub median_us: u64,
    /// 99 of 100 took no longer, microseconds.
    pub p99_us: u64,
    /// The longest, microseconds.
    pub max_us: u64,
}

impl Latencies {
    fn of(mut took_us: Vec<u64>) -> Option<Self> {
        took_us.sort_unstable();
        let at = |percent: usize| took_us.get((took_us.len() * percent / 100).min(took_us.len().saturating_sub(1))).copied();
        Some(Self { count: took_us.len(), median_us: at(50)?, p99_us: at(99)?, max_us: *took_us.last()? })
    }
}

/// The guest's part: writes into `path` until `REPORT.stop` exists, then leaves a report.
///
/// # Errors
/// The file is missing or too small, or a write fails: that is what a guest must never see.
pub fn measure(path: &Path, report: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(path).map_err(Error::io("open", path))?;
    let places = file.metadata().map_err(Error::io("look at", path))?.len() / WRITE_BYTES as u64;
    if places == 0 {
        return Err(Error::answer(path.display().to_string(), "shorter than one write"));
    }
    let stop = report.with_extension("stop");
    let mut took_us = Vec::new();
    let mut state = 1;
    while !stop.exists() && took_us.len() < COUNT_MAX {
        took_us.push(write_one(&file, path, &mut state, places)?);
        std::thread::sleep(PAUSE);
    }
    let told = Latencies::of(took_us).ok_or_else(|| Error::answer("latency", "stopped before the first write"))?;
    let text = serde_json::to_vec(&told).map_err(|e| Error::answer("latency", e.to_string()))?;
    let new = report.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, report)).map_err(Error::io("write", report))
}

fn write_one(file: &File, path: &Path, state: &mut u64, places: u64) -> Result<u64> {
    // What is written past the cache must lie at a multiple of a sector in memory, too.
    let mut room = [0; 2 * WRITE_BYTES];
    let from = room.as_ptr().align_offset(WRITE_BYTES);
    let piece = &mut room[from..from + WRITE_BYTES];
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    piece[..8].copy_from_slice(&state.to_le_bytes());
    let at = (*state >> 16) % places * WRITE_BYTES as u64;
    let begin = Instant::now();
    file.write_all_at(piece, at).map_err(Error::io("write to", path))?;
    Ok(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// Makes the file that is written to.
///
/// # Errors
/// The guest's.
pub fn prepare(domain: &Domain) -> Result<()> {
    domain.sh(&format!("/bin/lab-guest __lab-guest noise {FILE} 0 {} 1", FILE_MIB << 20)).map(drop)
}

/// What the guest's writes took while `work` was done.
///
/// # Errors
/// The guest's: it saw a write fail, for example.
pub fn during<T>(domain: &Domain, work: impl FnOnce() -> T) -> Result<(Latencies, T)> {
    let begin = format!("rm -f {REPORT} {REPORT}.stop; setsid /bin/lab-guest __lab-guest latency {FILE} {REPORT} </dev/null >{REPORT}.log 2>&1 & sleep 1");
    domain.sh(&begin)?;
    let value = work();
    let end = format!("touch {REPORT}.stop; n=0; until [ -f {REPORT} ]; do n=$((n+1)); [ $n -lt 300 ] || {{ cat {REPORT}.log >&2; exit 1; }}; sleep 0.1; done");
    let text = domain.sh(&format!("{end}; cat {REPORT}"))?;
    let told = serde_json::from_str(text.trim()).map_err(|e| Error::answer("latency", format!("{e}: {text}")))?;
    Ok((told, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_row_of_durations() {
        let told = Latencies::of((1..=1000).rev().collect()).expect("some");
        assert_eq!(told, Latencies { count: 1000, median_us: 501, p99_us: 991, max_us: 1000 });
        assert_eq!(Latencies::of(vec![7]), Some(Latencies { count: 1, median_us: 7, p99_us: 7, max_us: 7 }));
        assert_eq!(Latencies::of(Vec::new()), None);
    }
}
