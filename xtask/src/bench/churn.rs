//! A day's work on an image: 1 % of the database's pages in place, most of them close together; new files; upgraded programs; the journal.
//!
//! Freed blocks keep their old bytes, as on a real disk without TRIM.

use super::disk::{BLOCK_BYTES, Disk, PARTITION_OFFSET, Script};
use super::images::{DATABASE, files_failed, put};
use super::random::{Generator, PAGE_BYTES, Random};
use super::tree::HostFile;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Pages of the database that change, of so many.
const PAGES_PART: usize = 100;
/// Of ten changes, so many in the hot zones.
const HOT_OF_TEN: u64 = 8;
const ZONES: usize = 32;
const ZONE_PAGES: usize = 512;
/// Shares of the disk: logs, documents, media (each in files), upgraded programs, journal.
const LOG_PART: u64 = 170;
const DOCUMENT_PART: u64 = 205;
const MEDIA_PART: u64 = 170;
const UPGRADE_PART: u64 = 128;
const JOURNAL_PART: u64 = 680;
const DOCUMENTS: u64 = 40;
const MEDIA_FILES: u64 = 12;
const PROGRAM_BYTES: std::ops::Range<u64> = 100 << 10..16 << 20;
const PAGE_BLOCKS: usize = PAGE_BYTES / BLOCK_BYTES as usize;
/// What a journal's descriptor block begins with.
const JOURNAL_MAGIC: [u8; 8] = [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 1];

/// Does a day's work; returns what it was.
pub fn one_day(disk: &Disk, temporary: &Path, files: &[HostFile], disk_bytes: u64, day: u64) -> Result<Value> {
    let pages = update_database(disk, day)?;
    let mut work = NewFiles { script: Script::default(), temporary, made: Vec::new(), bytes: 0 };
    let result = work.all(files, disk_bytes, day).and_then(|upgraded| disk.run(&work.script).map(|()| upgraded));
    for path in &work.made {
        fs::remove_file(path).map_err(|e| files_failed(&e))?;
    }
    let upgraded = result?;
    let journal = write_journal(disk, disk_bytes / JOURNAL_PART / BLOCK_BYTES, day)?;
    Ok(json!({"day": day, "pages": pages, "new_mib": work.bytes >> 20, "upgraded_files": upgraded, "journal_mib": (journal * BLOCK_BYTES) >> 20}))
}

/// New files on this machine that debugfs then takes over.
struct NewFiles<'a> {
    script: Script,
    temporary: &'a Path,
    made: Vec<PathBuf>,
    bytes: u64,
}

impl NewFiles<'_> {
    fn add(&mut self, to: &str, write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>) -> Result<()> {
        let path = self.temporary.join(format!("new-{}", self.made.len()));
        put(&path, write)?;
        self.bytes += fs::metadata(&path).map_err(|e| files_failed(&e))?.len();
        self.script.write(&path.to_string_lossy(), to);
        self.made.push(path);
        Ok(())
    }

    fn all(&mut self, files: &[HostFile], disk_bytes: u64, day: u64) -> Result<usize> {
        let folder = format!("/data/day{day}");
        self.script.folder(&folder);
        self.add(&format!("/var/log/app-day{day}.log"), |out| Generator::new(1300 + day).text(out, disk_bytes / LOG_PART))?;
        let mut text = Generator::new(1400 + day);
        for n in 0..DOCUMENTS {
            self.add(&format!("{folder}/document{n}.txt"), |out| text.text(out, disk_bytes / DOCUMENT_PART / DOCUMENTS))?;
        }
        let mut media = Generator::new(1500 + day);
        for n in 0..MEDIA_FILES {
            self.add(&format!("{folder}/picture{n}.jpg"), |out| media.media(out, disk_bytes / MEDIA_PART / MEDIA_FILES))?;
        }
        let mut left = disk_bytes / UPGRADE_PART;
        let mut upgraded = 0;
        let larger = files.iter().filter(|f| PROGRAM_BYTES.contains(&f.size)).enumerate();
        for (_, f) in larger.filter(|(n, _)| (*n as u64 * 7 + day).is_multiple_of(9)) {
            if f.size <= left {
                left -= f.size;
                upgraded += 1;
                let old = fs::read(&f.path).map_err(|e| Error::failed(format!("cannot read {}: {e}", f.path)))?;
                let new = Generator::new(day * 7919 + f.size).next_build(&old);
                self.script.remove(&f.path);
                self.add(&f.path, |out| io::Write::write_all(out, &new))?;
            }
        }
        Ok(upgraded)
    }
}

fn open(disk: &Disk) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(disk.path()).map_err(|e| Error::failed(format!("cannot open {}: {e}", disk.path().display())))
}

/// Which pages a day touches: mostly within a few zones, there often several in a row.
fn touched(pages: usize, random: &mut Random) -> Vec<usize> {
    let want = pages / PAGES_PART;
    let zones: Vec<usize> = (0..ZONES).map(|_| random.index(pages)).collect();
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    while out.len() < want {
        let hot = random.below(10) < HOT_OF_TEN;
        let (at, run) = if hot { (zones[random.index(ZONES)] + random.index(ZONE_PAGES), 1 + random.index(6)) } else { (random.index(pages), 1) };
        out.extend((at..at + run).filter(|p| *p < pages && seen.insert(*p)));
    }
    out.truncate(want);
    out
}

fn update_database(disk: &Disk, day: u64) -> Result<usize> {
    let blocks = disk.blocks(DATABASE)?;
    let mut generator = Generator::new(1000 + day);
    let pages = touched(blocks.len() / PAGE_BLOCKS, generator.random());
    let file = open(disk)?;
    let place = |block: usize| PARTITION_OFFSET + blocks[block] * BLOCK_BYTES;
    let mut work = || {
        let mut page = vec![0; PAGE_BYTES];
        for number in &pages {
            let parts = || (number * PAGE_BLOCKS..).zip((0..PAGE_BYTES).step_by(BLOCK_BYTES as usize));
            for (block, at) in parts().take(PAGE_BLOCKS) {
                file.read_exact_at(&mut page[at..at + BLOCK_BYTES as usize], place(block))?;
            }
            generator.update_page(&mut page, *number as u64, day);
            for (block, at) in parts().take(PAGE_BLOCKS) {
                file.write_all_at(&page[at..at + BLOCK_BYTES as usize], place(block))?;
            }
        }
        file.sync_data()
    };
    work().map_err(|e| Error::failed(format!("cannot change the database in {}: {e}", disk.path().display())))?;
    Ok(pages.len())
}

/// The journal goes on where the day before ended: copies of blocks from the file system's start under a new head.
fn write_journal(disk: &Disk, count: u64, day: u64) -> Result<u64> {
    let blocks = disk.blocks("<8>")?;
    // The first block is the journal's superblock.
    let (room, file) = (blocks.len() as u64 - 1, open(disk)?);
    let count = count.min(room);
    let mut random = Random::new(1600 + day);
    let work = || {
        let mut block = vec![0; BLOCK_BYTES as usize];
        for n in 0..count {
            let from = 1000 + random.below(room);
            file.read_exact_at(&mut block, PARTITION_OFFSET + from * BLOCK_BYTES)?;
            block[..8].copy_from_slice(&JOURNAL_MAGIC);
            block[8..16].copy_from_slice(&(day * count + n).to_be_bytes());
            let to = 1 + usize::try_from((day * count + n) % room).expect("within the journal");
            file.write_all_at(&block, PARTITION_OFFSET + blocks[to] * BLOCK_BYTES)?;
        }
        file.sync_data()
    };
    let mut work = work;
    work().map_err(|e| Error::failed(format!("cannot write the journal of {}: {e}", disk.path().display())))?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_of_the_pages_is_touched_mostly_side_by_side() {
        let mut pages = touched(131_072, &mut Random::new(9));
        assert_eq!(pages.len(), 1310);
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), 1310, "no page twice");
        let close = pages.windows(2).filter(|w| w[1] - w[0] < 32).count();
        assert!(close > 700, "{close} have a neighbour");
    }
}
