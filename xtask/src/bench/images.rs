//! The five images: a machine on three days, its clone, and another machine with the same packages installed by itself.
//!
//! Made once for a size and kept; a folder without its facts file is one that was not finished and is made anew.

use super::churn;
use super::disk::{Disk, Script};
use super::random::Generator;
use super::tree::{HostFile, host_files};
use crate::error::{Error, Result};
use crate::say::say;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Other generators make other images.
const VERSION: u64 = 1;
const FACTS: &str = "facts.json";
/// Of the disk's size: the machine's own files, a database, media, logs.
const TREE_PART: f64 = 0.3125;
const DATABASE_PART: u64 = 8;
const MEDIA_PART: u64 = 16;
const LOG_PART: u64 = 340;
/// The database's place in the image.
pub const DATABASE: &str = "/var/lib/db/base.db";
const MEDIA: &str = "/srv/media.bin";

/// One of the five.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The first machine.
    Day1,
    /// The day after.
    Day2,
    /// Another day.
    Day3,
    /// From the same template: equal files at equal places, other data.
    Clone,
    /// The same packages, installed by itself: equal files at other places, other data.
    Separate,
}

impl Image {
    /// All, in the order in which they are saved.
    pub const ALL: [Self; 5] = [Self::Day1, Self::Day2, Self::Day3, Self::Clone, Self::Separate];

    /// Name of its file and of its points.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day1 => "day1",
            Self::Day2 => "day2",
            Self::Day3 => "day3",
            Self::Clone => "clone",
            Self::Separate => "separate",
        }
    }

    /// The machine it is of.
    pub fn machine(self) -> &'static str {
        match self {
            Self::Day1 | Self::Day2 | Self::Day3 => "vm1",
            Self::Clone => "vm2",
            Self::Separate => "vm3",
        }
    }
}

/// A finished set.
pub struct Images {
    dir: PathBuf,
    /// What is in them.
    pub facts: Value,
}

impl Images {
    /// The image's file.
    pub fn path(&self, image: Image) -> PathBuf {
        file(&self.dir, image)
    }

    /// The set of this size below `cache`, made unless it is there.
    pub fn get(cache: &Path, bytes: u64) -> Result<Self> {
        let dir = cache.join(format!("images-{}m", bytes >> 20));
        let facts = fs::read(dir.join(FACTS)).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
        if let Some(facts) = facts.filter(|f| f["version"] == VERSION && Image::ALL.iter().all(|i| file(&dir, *i).is_file())) {
            return Ok(Self { dir, facts });
        }
        fs::create_dir_all(&dir).map_err(|e| Error::failed(format!("cannot make {}: {e}", dir.display())))?;
        let start = Instant::now();
        let facts = Maker { dir: &dir, bytes, files: host_files((bytes as f64 * TREE_PART) as u64)? }.make()?;
        say!("bench: made the images in {} s", start.elapsed().as_secs());
        put(&dir.join(FACTS), |out| out.write_all(facts.to_string().as_bytes()))?;
        Ok(Self { dir, facts })
    }
}

fn file(dir: &Path, image: Image) -> PathBuf {
    dir.join(format!("{}.raw", image.name()))
}

struct Maker<'a> {
    dir: &'a Path,
    bytes: u64,
    files: Vec<HostFile>,
}

impl Maker<'_> {
    fn make(&self) -> Result<Value> {
        say!("bench: making images of {} MiB with {} files of /usr", self.bytes >> 20, self.files.len());
        let day1 = file(self.dir, Image::Day1);
        let template = Disk::create(&day1, self.bytes)?;
        template.run(&tree(&self.files))?;
        let clone = Disk::copy(&day1, &file(self.dir, Image::Clone), 0)?;
        self.add_data(&template, 1, false)?;
        self.add_data(&clone, 2, false)?;
        say!("bench: {} and {} are there", Image::Day1.name(), Image::Clone.name());
        let separate = Disk::create(&file(self.dir, Image::Separate), self.bytes)?;
        self.add_data(&separate, 3, true)?;
        let mut other_order = self.files.clone();
        other_order.reverse();
        separate.run(&tree(&other_order))?;
        let mut before = day1;
        let mut days = Vec::new();
        for (image, day) in [(Image::Day2, 2), (Image::Day3, 3)] {
            let disk = Disk::copy(&before, &file(self.dir, image), day)?;
            days.push(churn::one_day(&disk, self.dir, &self.files, self.bytes, day)?);
            before = disk.path().to_owned();
        }
        let allocated = |i: Image| Ok((i.name().to_owned(), (fs::metadata(file(self.dir, i)).map_err(|e| files_failed(&e))?.blocks() / 2048).into()));
        Ok(json!({
            "version": VERSION,
            "disk_mib": self.bytes >> 20,
            "tree_files": self.files.len(),
            "tree_mib": self.files.iter().map(|f| f.size).sum::<u64>() >> 20,
            "database_mib": (self.bytes / DATABASE_PART) >> 20,
            "media_mib": (self.bytes / MEDIA_PART) >> 20,
            "days": days,
            "allocated_mib": Image::ALL.into_iter().map(allocated).collect::<Result<serde_json::Map<String, Value>>>()?,
        }))
    }

    /// A machine's own: a database, media, a log, a host name.
    fn add_data(&self, disk: &Disk, machine: u64, media_first: bool) -> Result<()> {
        let temporary = |name: &str| self.dir.join(format!("new-{name}"));
        let (database, media, log, host) = (temporary("database"), temporary("media"), temporary("log"), temporary("host"));
        put(&database, |out| Generator::new(100 + machine).database(out, self.bytes / DATABASE_PART))?;
        put(&media, |out| Generator::new(200 + machine).media(out, self.bytes / MEDIA_PART))?;
        put(&log, |out| Generator::new(300 + machine).text(out, self.bytes / LOG_PART))?;
        put(&host, |out| writeln!(out, "vm{machine}"))?;
        let mut script = Script::default();
        for folder in ["/etc", "/srv", "/var", "/var/log", "/var/lib", "/var/lib/db", "/data"] {
            script.folder(folder);
        }
        let mut data = [(&database, DATABASE), (&media, MEDIA)];
        if media_first {
            data.reverse();
        }
        for (from, to) in data.into_iter().chain([(&log, "/var/log/syslog"), (&host, "/etc/hostname")]) {
            script.write(&from.to_string_lossy(), to);
        }
        disk.run(&script)?;
        [database, media, log, host].iter().try_for_each(fs::remove_file).map_err(|e| files_failed(&e))
    }
}

/// All files, in the given order, and the folders they need.
fn tree(files: &[HostFile]) -> Script {
    let mut folders = BTreeSet::new();
    for f in files {
        folders.extend(f.path.match_indices('/').skip(1).map(|(at, _)| &f.path[..at]));
    }
    let mut script = Script::default();
    folders.iter().for_each(|f| script.folder(f));
    files.iter().for_each(|f| script.write(&f.path, &f.path));
    script
}

/// Writes a file through a buffer.
pub fn put(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let work = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        write(&mut out)?;
        out.flush()
    };
    work().map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))
}

/// Of the images' own files.
pub fn files_failed(error: &std::io::Error) -> Error {
    Error::failed(format!("making the images: {error}"))
}
