//! What is served: a disk that can be read, by name; and a plain file as one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use rustix::io::{ReadWriteFlags, preadv2};

use super::error::ServerError;
use super::limits::{EXPORT_NAME_BYTES_MAX, EXPORTS_MAX};

/// A part of an export and what is known of it without reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportExtent {
    /// Bytes.
    pub range: Range<u64>,
    /// Reads as zero, and takes no room where it is kept.
    pub zero: bool,
}

/// A disk that can be read from several threads at once. Calls may block: they are made on threads that may.
pub trait Export: Send + Sync + 'static {
    /// Bytes; never changes.
    fn size_bytes(&self) -> u64;

    /// A text for people, at most 256 bytes.
    fn description(&self) -> String {
        String::new()
    }

    /// What lies in `range`, in order and without gaps from its start on, at most `extents_max` of them: fewer than cover all of it are enough,
    /// one at least.
    ///
    /// # Errors
    /// Whatever keeps it from telling; clients see EIO.
    fn extents(&self, range: Range<u64>, extents_max: usize) -> io::Result<Vec<ExportExtent>>;

    /// Fills `into` from `offset` on; never called beyond the size.
    ///
    /// # Errors
    /// Whatever keeps it from reading; clients see EIO, or ENOMEM for [`io::ErrorKind::OutOfMemory`].
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Fills `into` if that can be done at once, without waiting for anything but memory. Called on threads that must not block.
    fn read_ready(&self, offset: u64, into: &mut [u8]) -> bool {
        let _ = (offset, into);
        false
    }

    /// A client expects to read this soon.
    fn prefetch(&self, range: Range<u64>) {
        let _ = range;
    }
}

/// Exports by name.
#[derive(Clone, Default)]
pub struct Exports {
    by_name: BTreeMap<String, Arc<dyn Export>>,
}

impl Exports {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    ///
    /// # Errors
    /// Name taken, above 256 bytes or with a NUL in it; too many exports.
    pub fn add(&mut self, name: impl Into<String>, export: Arc<dyn Export>) -> Result<(), ServerError> {
        let name = name.into();
        let problem = if name.len() > EXPORT_NAME_BYTES_MAX {
            Some("longer than 256 bytes")
        } else if name.contains('\0') {
            Some("it has a NUL character, which the protocol forbids")
        } else if self.by_name.contains_key(&name) {
            Some("two exports would have it; give each its own")
        } else if self.by_name.len() == EXPORTS_MAX {
            Some("the server has 1,024 exports already")
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(ServerError::ExportName { name, problem });
        }
        self.by_name.insert(name, export);
        Ok(())
    }

    /// By its name; the only export is also the default one, "".
    pub(super) fn find(&self, name: &str) -> Option<(&str, &Arc<dyn Export>)> {
        let by_name = self.by_name.get_key_value(name);
        let only = if name.is_empty() && self.by_name.len() == 1 { self.by_name.first_key_value() } else { None };
        by_name.or(only).map(|(name, export)| (name.as_str(), export))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<dyn Export>)> {
        self.by_name.iter().map(|(name, export)| (name.as_str(), export))
    }
}

/// A raw image or block device.
#[derive(Debug)]
pub struct FileExport {
    file: File,
    size_bytes: u64,
    /// A file system tells where a file's holes are.
    has_holes: bool,
    description: String,
}

impl FileExport {
    /// Opens for reading.
    ///
    /// # Errors
    /// It cannot be opened, or is neither a regular file nor a block device.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let file = File::open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"));
        }
        let size_bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        let mut description = format!("raw {}", if kind.is_file() { "image" } else { "device" });
        description.truncate(EXPORT_NAME_BYTES_MAX);
        Ok(Self { file, size_bytes, has_holes: kind.is_file(), description })
    }

    /// Where the next data or hole begins from `at` on; `None` where there is none before the end.
    fn seek(&self, at: u64, whence: Whence) -> io::Result<Option<u64>> {
        let at = i64::try_from(at).map_err(io::Error::other)?;
        match lseek64(&self.file, at, whence) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Export for FileExport {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn extents(&self, range: Range<u64>, extents_max: usize) -> io::Result<Vec<ExportExtent>> {
        if !self.has_holes {
            return Ok(vec![ExportExtent { range, zero: false }]);
        }
        let (mut out, mut at) = (Vec::new(), range.start);
        while at < range.end && out.len() < extents_max {
            let data = self.seek(at, Whence::SeekData)?.unwrap_or(range.end).clamp(at, range.end);
            if data > at {
                out.push(ExportExtent { range: at..data, zero: true });
                at = data;
                continue;
            }
            let hole = self.seek(at, Whence::SeekHole)?.unwrap_or(range.end).clamp(at + 1, range.end);
            out.push(ExportExtent { range: at..hole, zero: false });
            at = hole;
        }
        Ok(out)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    /// What the page cache holds is there at once; the kernel says so instead of waiting for the disk.
    fn read_ready(&self, offset: u64, into: &mut [u8]) -> bool {
        let wanted = into.len();
        preadv2(&self.file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT).is_ok_and(|read| read == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse() -> (tempfile::TempDir, FileExport) {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("disk");
        let file = File::create(&path).expect("create");
        file.set_len(8 << 20).expect("size");
        for at in [1 << 20, 3 << 20, 5 << 20] {
            file.write_all_at(&[7; 65536], at).expect("write");
        }
        drop(file);
        let export = FileExport::open(&path).expect("open");
        (dir, export)
    }

    #[test]
    fn a_file_tells_its_holes_in_parts_if_asked() {
        let (_dir, export) = sparse();
        let whole = export.extents(0..8 << 20, 100).expect("extents");
        assert_eq!((whole.len(), whole[0].zero, whole[1].zero), (7, true, false), "{whole:?}");
        assert!(whole.windows(2).all(|w| w[0].range.end == w[1].range.start));
        let (mut parts, mut at) = (Vec::new(), 0);
        while at < 8 << 20 {
            let part = export.extents(at..8 << 20, 2).expect("extents");
            assert!((1..=2).contains(&part.len()));
            at = part[part.len() - 1].range.end;
            parts.extend(part);
        }
        assert_eq!(parts, whole);
        assert!(FileExport::open(_dir.path()).is_err(), "a folder is no image");
    }

    #[test]
    fn names_are_checked_and_the_only_export_is_the_default() {
        let (_dir, export) = sparse();
        let export: Arc<dyn Export> = Arc::new(export);
        let mut exports = Exports::new();
        exports.add("vda", export.clone()).expect("first");
        assert_eq!(exports.find("").map(|found| found.0), Some("vda"));
        exports.add("vdb", export.clone()).expect("second");
        assert!(exports.find("").is_none() && exports.find("vdc").is_none());
        for bad in ["vda".to_owned(), "a\0b".to_owned(), "x".repeat(257)] {
            assert!(matches!(exports.add(bad, export.clone()), Err(ServerError::ExportName { .. })));
        }
    }
}
