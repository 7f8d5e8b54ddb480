//! Room for the records of jobs on the disk of the state folder: whether there is some, and taking it before a job begins.
//!
//! Invariants
//! - A job begins only when there is place for how it ends: a disk that fills up meanwhile costs no job its end ([`super::folder`]).
//! - It is asked anew each time: what is full now need not be in a minute.
//!
//! Must not: make room. What lies in the state folder is somebody's.

use nix::errno::Errno;
use rustix::fs::{FallocateFlags, StatVfsMountFlags, fallocate, statvfs};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// Less than this is none: a job's own records, the table's journal, and what the command caches of its store.
pub const ROOM_BYTES_MIN: u64 = 1 << 20;
/// A folder and its files.
const FILES_MIN: u64 = 32;

/// Whether jobs can begin.
///
/// # Errors
/// Why not, and what to do, for people.
pub fn check(state_dir: &Path) -> Result<(), String> {
    let at = state_dir.display();
    let remedy = "no job begins until that is mended; free space on its file system, or name a folder elsewhere as daemon.state_dir and restart the daemon";
    let fs = statvfs(state_dir).map_err(|e| format!("the state folder {at} cannot be looked at ({e}); see whether its disk is in order"))?;
    if fs.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(format!("the state folder {at} is on a file system that takes no writes: no job begins; look into the kernel's log (dmesg) for why"));
    }
    let blocks = if nix::unistd::geteuid().is_root() { fs.f_bfree } else { fs.f_bavail };
    let bytes = blocks.saturating_mul(fs.f_frsize);
    if bytes < ROOM_BYTES_MIN {
        let (left, wanted) = (crate::output::bytes(bytes), crate::output::bytes(ROOM_BYTES_MIN));
        return Err(format!("the disk of the state folder {at} is full: {left} are left, and the records of a job want {wanted}; {remedy}"));
    }
    // File systems that make inodes as they go count none.
    if fs.f_files > 0 && fs.f_ffree < FILES_MIN {
        return Err(format!("the disk of the state folder {at} has no room for more files: {} inodes are left; {remedy}", fs.f_ffree));
    }
    Ok(())
}

/// Whether an error says that there is no room, by the disk or by a quota.
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS))
}

/// Place behind the end of a file for what will be written to it; the file stays as long as it is. Where the file system has no such thing there is
/// none, and no error.
pub fn behind(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A file of blanks, on the disk: place for a text on every file system that writes where it has written.
pub fn blanks(path: &Path, bytes: usize) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.len() < bytes as u64 {
        file.write_all(&vec![b' '; bytes])?;
    }
    file.sync_all()
}

/// Writes a text over the blanks of such a file; the rest stays blank. Durable when it returns.
///
/// # Errors
/// There is no such file, or it is too short.
pub fn fill(path: &Path, text: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() < text.len() as u64 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    file.write_all_at(text, 0)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_filled_and_what_is_too_long_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("room");
        assert!(fill(&path, b"x").is_err(), "there is none");
        blanks(&path, 64).expect("makes");
        fill(&path, b"{\"a\": 1}").expect("fills");
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON, with blanks behind it");
        assert_eq!(value["a"], 1);
        assert_eq!(fill(&path, &[b'x'; 65]).expect_err("longer than the place").kind(), io::ErrorKind::FileTooLarge);
        blanks(&path, 64).expect("again");
        assert!(std::fs::read(&path).expect("reads").starts_with(b"{"), "what is there is let alone");
    }

    #[test]
    fn place_behind_the_end_does_not_show() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let file = OpenOptions::new().create(true).append(true).open(&path).expect("opens");
        behind(&file, 16 << 10).expect("takes place");
        (&file).write_all(b"first").expect("writes");
        assert_eq!(std::fs::read(&path).expect("reads"), b"first");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        check(dir.path()).expect("this test's own disk has room");
        assert!(check(&dir.path().join("gone")).expect_err("is not there").contains("gone"));
    }
}
