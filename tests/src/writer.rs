//! Our helper in the guest: the lock-step writer, and noise for the other disk contents.
//!
//! Runs in the guest only, started by `/bin/writer` or by a suite through the agent.

use crate::error::{Error, Result};
use crate::imposter;
use crate::journal::{self, RECORD_BYTES};
use crate::latency;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: lab-guest __lab-guest write JOURNAL_A JOURNAL_B PAUSE_MS | noise FILE OFFSET_BYTES LENGTH_BYTES SEED | imposter PORT MODE | \
                     latency FILE REPORT";
const BUFFER_BYTES: usize = 64 << 10;

/// Plays the helper's part; the arguments after its name.
#[must_use]
pub fn main(args: &[String]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["write", a, b, pause_ms] => number(pause_ms).and_then(|pause| write(Path::new(a), Path::new(b), Duration::from_millis(pause))),
        ["noise", file, offset, length, seed] => number(offset).and_then(|offset| noise(Path::new(file), offset, number(length)?, number(seed)?)),
        ["latency", file, report] => latency::measure(Path::new(file), Path::new(report)),
        ["imposter", port, mode] => imposter::answer(Path::new(port), mode),
        _ => Err(Error::answer("lab-guest", USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-guest: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|e| Error::answer(text, format!("{e}; {USAGE}")))
}

/// Appends records to both journals for ever (until it is killed), from where they end now.
fn write(path_a: &Path, path_b: &Path, pause: Duration) -> Result<()> {
    let (mut a, count_a) = open(path_a)?;
    let (mut b, count_b) = open(path_b)?;
    // Stopped between the two disks, it goes on with the one that is behind.
    let mut next = match count_a.checked_sub(count_b) {
        Some(0) => count_a,
        Some(1) => {
            append(&mut b, path_b, count_b)?;
            count_a
        }
        _ => {
            return Err(Error::answer("journals", format!("a has {count_a} records and b has {count_b}: remove both to begin anew")));
        }
    };
    loop {
        append(&mut a, path_a, next)?;
        append(&mut b, path_b, next)?;
        next += 1;
        std::thread::sleep(pause);
    }
}

fn open(path: &Path) -> Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    // Killed within a write: the torn end goes, it was never promised.
    bytes.truncate(bytes.len() - bytes.len() % RECORD_BYTES);
    file.set_len(bytes.len() as u64).map_err(Error::io("cut", path))?;
    Ok((file, journal::check(&bytes)?))
}

fn append(file: &mut File, path: &Path, number: u64) -> Result<()> {
    file.write_all(&journal::record(number)).and_then(|()| file.sync_all()).map_err(Error::io("append to", path))
}

/// Writes reproducible noise into a file and syncs it.
fn noise(path: &Path, offset: u64, length: u64, seed: u64) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(Error::io("open", path))?;
    file.seek(SeekFrom::Start(offset)).map_err(Error::io("seek in", path))?;
    let mut left = length;
    let mut number = seed.wrapping_mul(1 << 32);
    while left > 0 {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        while buffer.len() < BUFFER_BYTES {
            buffer.extend_from_slice(&journal::record(number));
            number += 1;
        }
        let part = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        file.write_all(&buffer[..part]).map_err(Error::io("write to", path))?;
        left -= part as u64;
    }
    file.sync_all().map_err(Error::io("sync", path))
}
