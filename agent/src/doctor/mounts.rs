//! On which file system a path lies, and with which options it is mounted (proc(5), `/proc/PID/mountinfo`).

use std::{fs, os::unix::ffi::OsStringExt, path::Path};

/// Longest table of mounts that is read whole; hosts with thousands of containers have less.
const MOUNTS: &str = "/proc/self/mountinfo";

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: Vec<u8>,
    /// `ext4`, `nfs4`, ...
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Options of the mount and of its file system.
    pub options: Vec<String>,
}

impl Mount {
    /// The one that a path lies on; links are followed. `None` where that cannot be told.
    pub fn of(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        find(&fs::read(MOUNTS).ok()?, &path.into_os_string().into_vec())
    }

    /// Lies on another machine.
    pub fn is_network(&self) -> bool {
        self.is_nfs() || ["cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "fuse.glusterfs", "fuse.sshfs"].contains(&self.kind.as_str())
    }

    /// Is NFS.
    pub fn is_nfs(&self) -> bool {
        self.kind.starts_with("nfs")
    }

    /// Is memory.
    pub fn is_memory(&self) -> bool {
        ["tmpfs", "ramfs"].contains(&self.kind.as_str())
    }

    /// Is mounted with an option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }

    /// In words.
    pub fn text(&self) -> String {
        format!("{} on {} ({})", self.kind, String::from_utf8_lossy(&self.point), self.options.join(","))
    }
}

/// The mount with the longest point that the path begins with; of several at one point the last, which hides the others.
fn find(table: &[u8], path: &[u8]) -> Option<Mount> {
    let lies_on = |point: &[u8]| point == b"/" || path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    let all = table.split(|b| *b == b'\n').filter_map(parse).filter(|mount| lies_on(&mount.point));
    // The last of equal ones.
    all.max_by_key(|mount| mount.point.len())
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS`
fn parse(line: &[u8]) -> Option<Mount> {
    let line = String::from_utf8_lossy(line);
    let (mount, superblock) = line.split_once(" - ")?;
    let (mut mount, mut superblock) = (mount.split(' ').skip(4), superblock.split(' '));
    let (point, own) = (mount.next()?, mount.next()?);
    let (kind, source) = (superblock.next()?, superblock.next()?);
    let mut options: Vec<String> = own.split(',').chain(superblock.next().unwrap_or_default().split(',')).map(str::to_owned).collect();
    options.retain(|o| !o.is_empty());
    let mut seen = Vec::new();
    options.retain(|o| !seen.contains(o) && (seen.push(o.clone()), true).1);
    Some(Mount { point: unescaped(point), kind: kind.to_owned(), source: source.to_owned(), options })
}

/// Blank, tab, newline and backslash are written in octal: `\040`.
fn unescaped(text: &str) -> Vec<u8> {
    let (bytes, mut out) = (text.as_bytes(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
40 22 0:45 / /mnt/a\\040b rw,relatime shared:7 master:2 - nfs4 host:/a rw,vers=4.2,soft,proto=tcp\n\
41 22 0:46 / /mnt rw - xfs /dev/sdb rw\n\
42 22 0:47 / /mnt ro - tmpfs none rw\n\
broken line\n";

    #[test]
    fn the_longest_and_last_mount_counts() {
        let of = |path: &str| find(TABLE, path.as_bytes()).expect("a mount");
        assert_eq!((of("/mnt/a b/store").kind.as_str(), of("/mnt/a b").has("soft")), ("nfs4", true));
        assert!(of("/mnt/a b").is_network() && of("/mnt/x").is_memory() && of("/mnt/a bc").is_memory());
        assert_eq!(of("/mntx").text(), "ext4 on / (rw,relatime,errors=remount-ro)");
        assert_eq!(find(b"", b"/"), None);
    }

    #[test]
    fn every_path_of_this_host_lies_somewhere() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert!(!Mount::of(dir.path()).expect("a mount").kind.is_empty());
        assert_eq!(Mount::of(&dir.path().join("no such")), None);
    }
}
