//! The store's two doors: where disk content comes from and where it goes; and both for plain files and devices.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    },
    path::Path,
};

/// A part of a source, and whether all of it is known to be zero without reading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bytes.
    pub range: Range<u64>,
    /// Reads as zero.
    pub zero: bool,
}

/// A disk at one point in time. Any range can be read at any time, changed or not, from several threads.
pub trait BlockSource: Send + Sync {
    /// Size, bytes.
    fn size_bytes(&self) -> u64;
    /// Covers `range` exactly, in order. What is not `zero` must be read.
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>>;
    /// Fills `buf` from `offset`; never beyond the size.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// How many reads at once make it faster.
    fn parallel(&self) -> usize {
        1
    }
    /// This range will not be read again: caches may drop it.
    fn done_with(&self, _range: Range<u64>) {}
}

/// Where a disk is restored to. Written from several threads, each range at most once.
pub trait BlockTarget: Send + Sync {
    /// Size, bytes.
    fn size_bytes(&self) -> u64;
    /// Writes all of `buf`.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;
    /// Makes a range read as zero.
    fn zero(&self, range: Range<u64>) -> io::Result<()>;
    /// Everything written so far is durable on return.
    fn flush(&self) -> io::Result<()>;
    /// All of it is zero before the first write.
    fn starts_zeroed(&self) -> bool {
        false
    }
    /// This range will not be written again: it may go to the disk now, beside the work on the next one, and not all at the end.
    fn done_with(&self, _range: Range<u64>) {}
}

/// A raw image file or block device as a source. Holes are not read, and what was read does not stay in the page cache.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size_bytes: u64,
    is_file: bool,
}

impl FileSource {
    /// Opens for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        // A pipe without a writer would keep a plain open waiting; of files and devices the flag says nothing.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"));
        }
        let size_bytes = size_by_seek(&file)?;
        Ok(Self { file, size_bytes, is_file: kind.is_file() })
    }

    fn seek(&self, offset: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: lseek takes a valid descriptor and no memory; the file position is not used for reading (pread only).
        let at = unsafe { libc::lseek(self.file.as_raw_fd(), offset, whence) };
        if at >= 0 {
            return Ok(u64::try_from(at).ok());
        }
        let e = io::Error::last_os_error();
        if e.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(e) }
    }
}

/// Length of a file or device, bytes.
fn size_by_seek(file: &File) -> io::Result<u64> {
    use std::io::Seek;
    let mut f = file;
    f.seek(io::SeekFrom::End(0))
}

impl BlockSource for FileSource {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        if !self.is_file {
            return Ok(vec![Extent { range, zero: false }]);
        }
        let (mut out, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let data = self.seek(at, libc::SEEK_DATA)?.unwrap_or(range.end).clamp(at, range.end);
            if data > at {
                out.push(Extent { range: at..data, zero: true });
            }
            if data == range.end {
                break;
            }
            let hole = self.seek(data, libc::SEEK_HOLE)?.unwrap_or(range.end).clamp(data + 1, range.end);
            out.push(Extent { range: data..hole, zero: false });
            at = hole;
        }
        Ok(out)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn parallel(&self) -> usize {
        2
    }

    fn done_with(&self, range: Range<u64>) {
        let (Ok(start), Ok(len)) = (libc::off_t::try_from(range.start), libc::off_t::try_from(range.end - range.start)) else { return };
        // SAFETY: posix_fadvise takes a valid descriptor and touches no memory of ours; its failure is harmless.
        unsafe { libc::posix_fadvise(self.file.as_raw_fd(), start, len, libc::POSIX_FADV_DONTNEED) };
    }
}

/// Unit of a file's allocation as stat tells it.
const STAT_BLOCK_BYTES: u64 = 512;

/// A raw image file or block device as a target.
#[derive(Debug)]
pub struct FileTarget {
    file: File,
    size_bytes: u64,
    fresh: bool,
    /// What is zeroed gives its space back.
    punches: bool,
}

impl FileTarget {
    /// A new file that must not exist; sparse, all zero.
    pub fn create_new(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        file.set_len(size_bytes)?;
        Ok(Self { file, size_bytes, fresh: true, punches: false })
    }
    /// An existing block device, at least as large; its content is overwritten.
    pub fn open_device(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path)?;
        let have = size_by_seek(&file)?;
        if have < size_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the device has {have} bytes, the disk {size_bytes}")));
        }
        Ok(Self { file, size_bytes, fresh: false, punches: false })
    }
    /// An existing image or device that keeps its content; as large as it is. A sparse file stays sparse, one whose space was allocated beforehand
    /// keeps it.
    pub fn open_existing(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let is_device = std::fs::metadata(path)?.file_type().is_block_device();
        let file = OpenOptions::new().read(true).write(true).custom_flags(if is_device { libc::O_EXCL } else { 0 }).open(path)?;
        let size_bytes = size_by_seek(&file)?;
        let punches = is_device || file.metadata()?.blocks() * STAT_BLOCK_BYTES < size_bytes;
        Ok(Self { file, size_bytes, fresh: false, punches })
    }
    /// Gives a file another length; what is new reads as zero.
    pub fn set_len(&mut self, size_bytes: u64) -> io::Result<()> {
        self.file.set_len(size_bytes)?;
        self.size_bytes = size_bytes;
        Ok(())
    }
    /// The open file, for locks.
    pub fn file(&self) -> &File {
        &self.file
    }
    fn fallocate(&self, mode: libc::c_int, range: &Range<u64>) -> io::Result<bool> {
        let (start, len) =
            (libc::off_t::try_from(range.start).map_err(io::Error::other)?, libc::off_t::try_from(range.end - range.start).map_err(io::Error::other)?);
        // SAFETY: fallocate takes a valid descriptor and numbers only.
        Ok(unsafe { libc::fallocate(self.file.as_raw_fd(), mode | libc::FALLOC_FL_KEEP_SIZE, start, len) } == 0)
    }
}

impl BlockTarget for FileTarget {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }
    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        if (self.punches && self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, &range)?) || self.fallocate(libc::FALLOC_FL_ZERO_RANGE, &range)? {
            return Ok(());
        }
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..usize::try_from(n).expect("at most 64 KiB")], at)?;
            at += n;
        }
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn starts_zeroed(&self) -> bool {
        self.fresh
    }
    fn done_with(&self, range: Range<u64>) {
        let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(range.end - range.start)) else { return };
        // SAFETY: sync_file_range takes a valid descriptor and numbers only. It only begins; what fails shows at the flush.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_of_files_are_seen_and_ranges_covered() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("img");
        let t = FileTarget::create_new(&path, 10 << 20).expect("creates");
        t.write_at(4 << 20, &[7; 8192]).expect("writes");
        t.flush().expect("syncs");
        assert!(FileTarget::create_new(&path, 1).is_err(), "exists");
        let s = FileSource::open(&path).expect("opens");
        let e = s.extents(0..10 << 20).expect("extents");
        assert_eq!((e[0].range.start, e.last().expect("some").range.end), (0, 10 << 20));
        assert!(e.windows(2).all(|w| w[0].range.end == w[1].range.start));
        assert!(e.iter().any(|x| !x.zero && x.range.contains(&(4 << 20))));
        assert!(e[0].zero && e[0].range.end <= 4 << 20);
        assert!(FileSource::open(dir.path()).is_err(), "a folder is no image");
    }

    #[test]
    fn a_pipe_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let (done, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(FileSource::open(&path).map(drop)));
        let outcome = outcome.recv_timeout(std::time::Duration::from_secs(20)).expect("opening does not wait for a writer");
        assert!(outcome.is_err(), "a pipe is no image");
    }
}
