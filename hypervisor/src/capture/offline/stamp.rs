//! Whether an image is still what it was: what the file system, or the kernel, counts of its changes.
//!
//! A file: device, inode, size, and the times of its last change (mtime, and ctime, which no program can set). A block device: what the kernel has
//! counted of writes to it since the host started, with what is still in the page cache flushed first.
//!
//! Times are as fine as a tick of the kernel, so a write that follows another within a tick leaves no trace. Hence a stamp counts only once it is
//! older than a moment: [`settled`] waits for that.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A tick is at most 10 ms; file systems with coarser times (a second, of the oldest) are not noticed here, and the domain's state is.
const SETTLE: Duration = Duration::from_millis(100);
/// How long images may go on changing before they are looked at.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
const NANOS: i64 = 1_000_000_000;

/// An image at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Where it lies.
    pub path: PathBuf,
    /// Device of the file, or of the node in /dev.
    pub device: u64,
    /// Inode of it.
    pub inode: u64,
    /// What changes with each write.
    pub state: State,
}

/// What changes with each write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Of a file.
    File {
        /// Bytes.
        size_bytes: u64,
        /// Nanoseconds since 1970.
        mtime_ns: i64,
        /// Nanoseconds since 1970.
        ctime_ns: i64,
    },
    /// Of a block device.
    Device {
        /// The kernel's number of it.
        rdev: u64,
        /// Sectors written, sectors discarded; `None` where the kernel does not count.
        counted: Option<(u64, u64)>,
    },
}

impl Stamp {
    /// As it is now. Opened, not only looked at: a network file system asks its server then.
    ///
    /// # Errors
    /// The file system's; a path that is neither file nor block device.
    pub fn of(path: &Path) -> io::Result<Self> {
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a block device"));
        }
        let file = File::open(path)?;
        if kind.is_block_device() {
            // What somebody wrote without having it on the device yet is counted now, not later.
            file.sync_data()?;
        }
        let meta = file.metadata()?;
        let state = if kind.is_block_device() {
            State::Device { rdev: meta.rdev(), counted: counted(meta.rdev()) }
        } else {
            let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(NANOS).saturating_add(nanos);
            State::File { size_bytes: meta.len(), mtime_ns: ns(meta.mtime(), meta.mtime_nsec()), ctime_ns: ns(meta.ctime(), meta.ctime_nsec()) }
        };
        Ok(Self { path: path.to_owned(), device: meta.dev(), inode: meta.ino(), state })
    }

    fn is_settled(&self) -> bool {
        let State::File { ctime_ns, mtime_ns, .. } = self.state else { return true };
        let now_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let age_ns = now_ns.saturating_sub(ctime_ns.max(mtime_ns));
        // A time in the future (another host's clock) never settles; the next write's differs from it.
        age_ns < 0 || u128::try_from(age_ns).unwrap_or(0) >= SETTLE.as_nanos()
    }
}

/// Stamps of images, none of which changed just now.
///
/// # Errors
/// The path and what is wrong with it; no error where it goes on changing.
pub fn settled(paths: &[PathBuf]) -> Result<Vec<Stamp>, (PathBuf, Option<io::Error>)> {
    let start = Instant::now();
    loop {
        let stamps = paths.iter().map(|path| Stamp::of(path).map_err(|error| (path.clone(), Some(error)))).collect::<Result<Vec<_>, _>>()?;
        let Some(fresh) = stamps.iter().find(|stamp| !stamp.is_settled()) else { return Ok(stamps) };
        if start.elapsed() > SETTLE_LIMIT {
            return Err((fresh.path.clone(), None));
        }
        std::thread::sleep(SETTLE / 2);
    }
}

/// The first image that is no longer what it was.
#[must_use]
pub fn changed(stamps: &[Stamp]) -> Option<&Stamp> {
    stamps.iter().find(|stamp| Stamp::of(&stamp.path).ok().as_ref() != Some(stamp))
}

/// Fields 7 and 14 of the kernel's `stat` of a block device (Documentation/block/stat.rst): sectors written, sectors discarded.
fn counted(rdev: u64) -> Option<(u64, u64)> {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let field = |index: usize| text.split_whitespace().nth(index).and_then(|number| number.parse().ok());
    Some((field(6)?, field(13).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn every_write_shows_once_the_stamp_has_settled() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("image");
        std::fs::write(&path, [1; 4096]).expect("written");
        assert!(!Stamp::of(&path).expect("there").is_settled(), "it was written just now");
        for _ in 0..20 {
            let stamps = settled(std::slice::from_ref(&path)).expect("settles");
            assert_eq!(changed(&stamps), None);
            let mut file = File::options().write(true).open(&path).expect("opens");
            // The same bytes in the same place: only the times tell.
            file.rewind().and_then(|()| file.write_all(&[1; 16])).expect("written");
            assert_eq!(changed(&stamps).map(|stamp| stamp.path.as_path()), Some(path.as_path()));
        }
        let stamps = settled(std::slice::from_ref(&path)).expect("settles");
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).and_then(|_| std::fs::rename(&copy, &path)).expect("replaced");
        assert!(changed(&stamps).is_some(), "another file of the same name");
        std::fs::remove_file(&path).expect("removed");
        assert!(changed(&stamps).is_some(), "it is gone");
        assert_eq!(settled(std::slice::from_ref(&path)).expect_err("gone").0, path);
        assert!(Stamp::of(dir.path()).is_err(), "a folder is no image");
    }
}
