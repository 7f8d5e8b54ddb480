//! `--limit-read`: at most so many bytes a second are read for a backup, from all its disks together.
//!
//! Invariants
//! - In any length of time no more is read than the rate gives for it and for [`BURST`] besides; what was not used up before that is lost.
//! - Each read is counted, whatever it is for: of a disk that is compared the whole disk is. What is known to be zero is not read, and not counted.
//! - Who waits sleeps, and looks each [`SLICE`] whether the backup is to end: then nothing is waited for any more, and it ends at its next step.

use crate::commands::parse_bytes;
use cairn_store::{BlockSource, Extent, Progress};
use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

/// The least: 100 GiB take more than a day with it.
pub const BYTES_PER_S_MIN: u64 = 1 << 20;
/// What a pause gives back at most.
const BURST: Duration = Duration::from_millis(100);
/// Longest sleep without a look.
const SLICE: Duration = Duration::from_millis(50);
/// So many reads a second, where their sizes allow for it: a large one would be a burst of its own.
const PIECES_PER_S: u64 = 20;
/// Sizes of reads, a power of two and larger than any block of a device.
const PIECE_BYTES_MIN: u64 = 64 << 10;
const PIECE_BYTES_MAX: u64 = 4 << 20;

/// `200MiB/s`, `200M`, or bytes.
pub fn parse_read_limit(text: &str) -> Result<u64, String> {
    let amount = text.strip_suffix("/s").unwrap_or(text);
    let is_zero = amount.trim_end_matches(char::is_alphabetic).bytes().all(|b| b == b'0') && amount.starts_with('0');
    let bytes = if is_zero { 0 } else { parse_bytes(amount).map_err(|_| format!("'{text}' is no rate; write 200MiB/s, 50M or 1GiB/s"))? };
    if bytes < BYTES_PER_S_MIN {
        return Err(format!("'{text}' is too little to read a disk with; 1MiB/s is the least, and without it there is no limit"));
    }
    Ok(bytes)
}

/// What is owed for what was read, in time. Pure, so that each case can be tried.
#[derive(Debug)]
struct Bucket {
    bytes_per_s: u64,
    /// Until then all that was read is paid for.
    paid_until_ns: u64,
}

impl Bucket {
    /// Takes what is about to be read; how long that has to wait.
    fn take(&mut self, bytes: u64, now_ns: u64) -> Duration {
        let cost_ns = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.bytes_per_s));
        let begin_ns = self.paid_until_ns.max(now_ns.saturating_sub(ns(BURST)));
        self.paid_until_ns = begin_ns.saturating_add(u64::try_from(cost_ns).unwrap_or(u64::MAX));
        Duration::from_nanos(self.paid_until_ns.saturating_sub(now_ns))
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The limit of one backup.
pub struct ReadLimit {
    bucket: Mutex<Bucket>,
    piece_bytes: usize,
    began: Instant,
    progress: Arc<Progress>,
}

impl ReadLimit {
    /// Of so much, at least [`BYTES_PER_S_MIN`]; `progress` says when nobody is to wait any more.
    pub fn new(bytes_per_s: u64, progress: &Arc<Progress>) -> Arc<Self> {
        let bytes_per_s = bytes_per_s.max(BYTES_PER_S_MIN);
        let piece = (bytes_per_s / PIECES_PER_S).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX) / PIECE_BYTES_MIN * PIECE_BYTES_MIN;
        Arc::new(Self {
            bucket: Mutex::new(Bucket { bytes_per_s, paid_until_ns: 0 }),
            piece_bytes: usize::try_from(piece).expect("at most 4 MiB"),
            began: Instant::now(),
            progress: progress.clone(),
        })
    }

    fn wait(&self, bytes: u64) {
        let wait = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, ns(self.began.elapsed()));
        let begin = Instant::now();
        while let Some(left) = wait.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
            if self.progress.cancel.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(left.min(SLICE));
        }
    }
}

/// The source, read within the limit if there is one.
pub fn limited(source: Arc<dyn BlockSource>, limit: Option<&Arc<ReadLimit>>) -> Arc<dyn BlockSource> {
    match limit {
        Some(limit) => Arc::new(Limited { source, limit: limit.clone() }),
        None => source,
    }
}

struct Limited {
    source: Arc<dyn BlockSource>,
    limit: Arc<ReadLimit>,
}

impl BlockSource for Limited {
    fn size_bytes(&self) -> u64 {
        self.source.size_bytes()
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        self.source.extents(range)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for piece in buf.chunks_mut(self.limit.piece_bytes) {
            self.limit.wait(piece.len() as u64);
            self.source.read_at(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
    fn parallel(&self) -> usize {
        self.source.parallel()
    }
    fn done_with(&self, range: Range<u64>) {
        self.source.done_with(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MS: u64 = 1_000_000;

    fn bucket(bytes_per_s: u64) -> Bucket {
        Bucket { bytes_per_s, paid_until_ns: 0 }
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, bytes) in [("200MiB/s", 200 * MIB), ("200M", 200 * MIB), ("200M/s", 200 * MIB), ("1GiB/s", 1 << 30), ("1048576", MIB), ("1MiB/s", MIB)] {
            assert_eq!(parse_read_limit(text), Ok(bytes), "{text}");
        }
        for text in ["0", "0/s", "0MiB/s", "00", "1", "1023KiB/s", "1048575"] {
            let why = parse_read_limit(text).expect_err(text);
            assert!(why.contains("1MiB/s is the least") && why.contains(text), "{why}");
        }
        for text in ["", "/s", "fast", "-1", "200Mb/s", "1.5GiB/s", "200MiB/min", "20000000000GiB/s", "0x10"] {
            let why = parse_read_limit(text).expect_err(text);
            assert!(why.contains("is no rate; write 200MiB/s"), "{text}: {why}");
        }
    }

    #[test]
    fn whoever_reads_without_a_pause_gets_the_rate() {
        let (mut b, mut now) = (bucket(32 * MIB), 0);
        for _ in 0..1024 {
            now += ns(b.take(64 << 10, now));
        }
        // 64 MiB at 32 MiB a second.
        assert!((2000 * MS..=2000 * MS + 1024).contains(&now), "{now} ns");
        // Many readers wait in one line: each behind those before it.
        let mut b = bucket(MIB);
        let waits: Vec<u128> = (0..4).map(|_| b.take(MIB / 2, 0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 1500, 2000]);
    }

    #[test]
    fn a_pause_gives_no_more_than_a_small_burst() {
        let mut b = bucket(10 * MIB);
        let hour_ns = 3600 * 1000 * MS;
        // A tenth of a second is a mebibyte here; the next byte has to wait.
        assert_eq!(b.take(MIB, hour_ns), Duration::ZERO);
        assert_eq!(b.take(MIB, hour_ns).as_millis(), 100);
        assert_eq!(b.take(0, hour_ns).as_millis(), 100, "nothing costs nothing");
        // In any second: the rate and the burst.
        let (mut b, mut read, mut now) = (bucket(10 * MIB), 0, hour_ns);
        while now < hour_ns + 1000 * MS {
            let wait = b.take(MIB / 16, now);
            now += ns(wait);
            read += if now < hour_ns + 1000 * MS { MIB / 16 } else { 0 };
        }
        assert!((10 * MIB..=11 * MIB).contains(&read), "{read} bytes in a second");
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut b = bucket(1);
        assert!(b.take(u64::MAX, 5) > Duration::from_secs(1 << 33));
        assert_eq!(b.take(u64::MAX, u64::MAX), Duration::ZERO, "the end of time");
        assert_eq!(bucket(u64::MAX).take(4 << 20, 5), Duration::ZERO);
    }

    /// Remembers how it was read.
    struct Noted(Mutex<Vec<(u64, usize)>>);

    impl BlockSource for Noted {
        fn size_bytes(&self) -> u64 {
            1 << 30
        }
        fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
            Ok(vec![Extent { range, zero: false }])
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.0.lock().expect("lock").push((offset, buf.len()));
            buf.fill(7);
            Ok(())
        }
        fn parallel(&self) -> usize {
            5
        }
    }

    #[test]
    fn a_large_read_is_done_in_pieces_and_whole() {
        let (noted, progress) = (Arc::new(Noted(Mutex::default())), Arc::default());
        // 50 ms are 102.4 KiB.
        let source = limited(noted.clone(), Some(&ReadLimit::new(2 * MIB, &progress)));
        let mut buf = vec![0; (160 << 10) + 1];
        let began = Instant::now();
        source.read_at(4096, &mut buf).expect("reads");
        assert!(began.elapsed() >= Duration::from_millis(78), "160 KiB at 2 MiB/s: {:?}", began.elapsed());
        assert!(buf.iter().all(|b| *b == 7) && source.parallel() == 5);
        assert_eq!(*noted.0.lock().expect("lock"), [(4096, 64 << 10), (4096 + (64 << 10), 64 << 10), (4096 + (128 << 10), (32 << 10) + 1)]);
        assert_eq!(ReadLimit::new(1 << 40, &progress).piece_bytes, 4 << 20);
    }

    #[test]
    fn a_backup_that_is_to_end_waits_for_nothing() {
        let progress: Arc<Progress> = Arc::default();
        let limit = ReadLimit::new(MIB, &progress);
        let source = limited(Arc::new(Noted(Mutex::default())), Some(&limit));
        // An hour's worth is owed.
        limit.bucket.lock().expect("lock").take(3600 * MIB, 0);
        let reader = thread::spawn(move || source.read_at(0, &mut [0; 4096]));
        thread::sleep(Duration::from_millis(200));
        assert!(!reader.is_finished(), "it waits");
        progress.cancel.store(true, Ordering::SeqCst);
        let began = Instant::now();
        reader.join().expect("no panic").expect("reads");
        assert!(began.elapsed() < Duration::from_secs(60), "an hour was not waited for: {:?}", began.elapsed());
    }
}
