//! The files of this machine that go into the images: `/usr`, sorted, as many folders as the size allows.
//!
//! The same files in the same order as long as the machine's packages stay the same.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const ROOT: &str = "/usr";
/// Larger ones (archives, debug symbols) would make the tree a tree of few files.
const FILE_BYTES_MAX: u64 = 256 << 20;
const PARTS: u64 = 1000;

/// A file: its path on this machine and in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFile {
    /// Absolute.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// Files of `/usr` in the order of their paths, at most `limit` bytes. Where there is more, every folder is in or out by a hash of its name.
pub fn host_files(limit: u64) -> Result<Vec<HostFile>> {
    let mut files = Vec::new();
    walk(Path::new(ROOT), &mut HashSet::new(), &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(limited(files, limit))
}

fn limited(mut files: Vec<HostFile>, limit: u64) -> Vec<HostFile> {
    let total: u64 = files.iter().map(|f| f.size).sum();
    if total > limit {
        let parts = limit * PARTS / total;
        files.retain(|f| hash(f.path.rsplit_once('/').map_or("", |p| p.0)) % PARTS < parts);
    }
    let mut left = limit;
    files.retain(|f| {
        let fits = f.size <= left;
        left -= if fits { f.size } else { 0 };
        fits
    });
    files
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn walk(folder: &Path, seen: &mut HashSet<u64>, out: &mut Vec<HostFile>) -> Result<()> {
    let failed = |e: std::io::Error| Error::failed(format!("cannot read {}: {e}", folder.display()));
    let mut entries = fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    // Which of two hard links is met first must not depend on the folder's order on disk.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.metadata().map_err(failed)?;
        let path = entry.path();
        let Some(name) = path.to_str().filter(|p| is_plain(p)) else { continue };
        if meta.is_dir() {
            walk(&path, seen, out)?;
        } else if meta.is_file() && meta.len() > 0 && meta.len() <= FILE_BYTES_MAX && seen.insert(meta.ino()) {
            out.push(HostFile { path: name.to_owned(), size: meta.len() });
        }
    }
    Ok(())
}

/// Names that debugfs takes as they are.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._+-@=:,~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_whole_folders_in_order() {
        let file = |i: u64| HostFile { path: format!("/usr/share/{}/f{}", i / 10, i % 10), size: 1000 };
        let all: Vec<_> = (0..5000).map(file).collect();
        assert_eq!(limited(all.clone(), 5_000_000), all);
        let some = limited(all, 2_000_000);
        let bytes: u64 = some.iter().map(|f| f.size).sum();
        assert!((1_000_000..=2_000_000).contains(&bytes), "{bytes}");
        assert!(some.len().is_multiple_of(10) || bytes > 1_990_000, "folders are whole");
    }

    #[test]
    fn odd_names_are_left_out() {
        assert!(is_plain("/usr/lib/a-b_c+1.0:x"));
        assert!(!is_plain("/usr/share/a b") && !is_plain("/usr/share/\"") && !is_plain("/usr/share/ä"));
    }
}
