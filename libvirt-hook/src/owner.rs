//! Who takes what the hook tells in a folder: one process, by a lock in it, `hook-owner.lock`, which names the process.
//!
//! Invariants
//! - Socket and spool of a folder are its owner's for as long as it lives: a second listener would take records that the first never sees.
//! - A lock on a file that is not in its place any more holds nothing: another process may have the one that is.

use crate::place::open_base;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The lock in the folder.
pub const LOCK: &str = "hook-owner.lock";
/// Longest number of a process.
const PID_BYTES_MAX: u64 = 16;
/// Somebody may take the file away between opening and locking it.
const TRIES_MAX: usize = 8;

/// The folder is this process's until it is dropped.
#[derive(Debug)]
pub struct Owner {
    file: Flock<File>,
    path: PathBuf,
}

impl Owner {
    /// Becomes the owner of `base`, without waiting.
    ///
    /// # Errors
    /// Another process is (`WouldBlock`, its number in the text), or the folder cannot be used.
    pub fn take(base: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        for _ in 0..TRIES_MAX {
            let dir = open_base(base)?;
            let file = File::from(openat(&dir, LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
            let owner = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => Self { file, path: base.join(LOCK) },
                Err((file, nix::Error::EWOULDBLOCK)) => return Err(io::Error::new(io::ErrorKind::WouldBlock, format!("it is {}'s", who(&file)))),
                Err((_, e)) => return Err(e.into()),
            };
            if owner.is_in_place() {
                // Who it is, is only for people: a full disk is no reason not to listen.
                let _ = owner.file.set_len(0).and_then(|()| writeln!(&*owner.file, "{}", std::process::id()));
                return Ok(owner);
            }
        }
        Err(io::Error::other(format!("{} is taken away again and again", base.join(LOCK).display())))
    }

    /// Whether the lock is the one that others see.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        let ours = fstat(&*self.file).map(|s| (s.st_dev, s.st_ino));
        fs::symlink_metadata(&self.path).is_ok_and(|there| ours == Ok((there.dev(), there.ino())))
    }
}

/// The process that a lock names.
fn who(file: &File) -> String {
    let mut text = String::new();
    let read = file.take(PID_BYTES_MAX).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) if read.is_ok() => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owns_and_the_second_is_told_who() {
        let dir = tempfile::tempdir().expect("folder");
        let base = dir.path().join("cairn");
        let first = Owner::take(&base).expect("free");
        let refused = Owner::take(&base).expect_err("taken");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(refused.to_string().contains(&format!("process {}'s", std::process::id())), "{refused}");
        assert_eq!(fs::metadata(base.join(LOCK)).expect("there").mode() & 0o777, 0o600);
        drop(first);
        Owner::take(&base).expect("free again");
    }

    #[test]
    fn a_lock_that_was_taken_away_or_replaced_is_none() {
        let dir = tempfile::tempdir().expect("folder");
        let first = Owner::take(dir.path()).expect("free");
        assert!(first.is_in_place());
        fs::remove_file(dir.path().join(LOCK)).expect("removed");
        assert!(!first.is_in_place());
        let second = Owner::take(dir.path()).expect("a new one is free");
        assert!(second.is_in_place() && !first.is_in_place());
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().expect("folder");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join(LOCK)).expect("link");
        assert!(Owner::take(dir.path()).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
}
