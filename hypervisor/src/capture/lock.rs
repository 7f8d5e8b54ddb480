//! One lock a domain, from the first look to the last clean-up: `flock` on `/run/cairn/domain/<uuid>.lock`.
//!
//! The lock belongs to the open file description, so the guard, which inherits the descriptor, holds it on when the job is killed. The file
//! names the holder for others' error texts and is never deleted: a deleted lock file can be locked by two.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::CaptureError;

/// Where locks live unless told otherwise.
pub const LOCK_DIR_DEFAULT: &str = "/run/cairn/domain";
/// Longest holder text that is read, bytes.
const HOLDER_BYTES_MAX: u64 = 256;

/// A held lock.
#[derive(Debug)]
pub struct DomainLock {
    file: File,
}

impl DomainLock {
    /// Takes the lock at once or says who has it.
    ///
    /// # Errors
    /// [`CaptureError::Busy`], [`CaptureError::File`].
    pub fn take(dir: &Path, domain: &str, uuid: &str) -> Result<Self, CaptureError> {
        let failed = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| CaptureError::File { action, path, source }
        };
        std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let path: PathBuf = dir.join(format!("{uuid}.lock"));
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed("open", &path))?;
        match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(CaptureError::Busy { domain: domain.to_owned(), holder: holder(&mut file) }),
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
        write_holder(&mut file).map_err(failed("write", &path))?;
        Ok(Self { file })
    }

    /// The file, for the guard to inherit.
    ///
    /// # Errors
    /// The operating system's, from duplicating the descriptor.
    pub fn share(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    let command = std::env::args().next().unwrap_or_default();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{} ({command})", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(HOLDER_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_was_first() {
        let dir = tempfile::tempdir().expect("dir");
        let first = DomainLock::take(dir.path(), "web", "u").expect("free");
        let error = DomainLock::take(dir.path(), "web", "u").expect_err("taken");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        let kept = first.share().expect("duplicate");
        drop(first);
        assert!(DomainLock::take(dir.path(), "web", "u").is_err(), "the inherited descriptor still holds it");
        drop(kept);
        DomainLock::take(dir.path(), "web", "u").expect("free again");
    }
}
