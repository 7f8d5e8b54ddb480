//! One lock a domain, from the first look to the last clean-up: `flock` on `/run/cairn/domain/<uuid>.lock`.
//!
//! The lock belongs to the open file description, so the guard, which inherits the descriptor, holds it on when the job is killed. The file
//! names the holder for others' error texts and is never deleted: a deleted lock file can be locked by two.
//!
//! A look between backups ([`super::look`]) holds it for a moment only and comes at any time, so nobody is turned away because of one: [`DomainLock::take`]
//! waits for its end. A look itself waits for nobody.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::error::CaptureError;

/// Where locks live unless told otherwise.
pub const LOCK_DIR_DEFAULT: &str = "/run/cairn/domain";
/// Longest holder text that is read, bytes.
const HOLDER_BYTES_MAX: u64 = 256;
/// What a look's file says of it.
const LOOK: &str = "look";
/// How long a look is waited for; one that finds nothing takes a tenth of a second, one that ends what a dead backup left somewhat more.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// Between taking the lock and saying who has it a holder needs no longer than this, on a busy machine too; until then the file names the one before.
const NAMING_LIMIT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// A held lock.
#[derive(Debug)]
pub struct DomainLock {
    file: File,
}

impl DomainLock {
    /// Takes the lock at once, or after the end of a look, or says who has it.
    ///
    /// # Errors
    /// [`CaptureError::Busy`], [`CaptureError::File`].
    pub fn take(dir: &Path, domain: &str, uuid: &str) -> Result<Self, CaptureError> {
        let start = Instant::now();
        // Of several that come one after the other each has its own time to name itself.
        let (mut named, mut since) = (String::new(), start);
        loop {
            let holder = match Self::attempt(dir, uuid, "")? {
                Ok(lock) => return Ok(lock),
                Err(holder) => holder,
            };
            if holder != named {
                (named, since) = (holder, Instant::now());
            }
            let is_no_look = !named.ends_with(LOOK) && since.elapsed() > NAMING_LIMIT;
            if is_no_look || start.elapsed() > LOOK_LIMIT {
                return Err(CaptureError::Busy { domain: domain.to_owned(), holder: named });
            }
            std::thread::sleep(POLL);
        }
    }

    /// For a look: takes the lock at once or says who has it.
    ///
    /// # Errors
    /// [`CaptureError::Busy`], [`CaptureError::File`].
    pub fn take_for_look(dir: &Path, domain: &str, uuid: &str) -> Result<Self, CaptureError> {
        Self::attempt(dir, uuid, LOOK)?.map_err(|holder| CaptureError::Busy { domain: domain.to_owned(), holder })
    }

    /// Who has the lock now, if anybody; asked without taking it for longer than that, and without making the file.
    #[must_use]
    pub fn holder_now(dir: &Path, uuid: &str) -> Option<String> {
        let mut file = File::open(dir.join(format!("{uuid}.lock"))).ok()?;
        match flock(file.as_fd(), FlockOperation::NonBlockingLockShared) {
            // It goes with the descriptor.
            Ok(()) => None,
            Err(_) => Some(holder(&mut file)),
        }
    }

    /// Once; the holder if there is one. `kind` is put behind our name in the file.
    fn attempt(dir: &Path, uuid: &str, kind: &str) -> Result<Result<Self, String>, CaptureError> {
        let failed = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| CaptureError::File { action, path, source }
        };
        std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let path: PathBuf = dir.join(format!("{uuid}.lock"));
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed("open", &path))?;
        match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Err(holder(&mut file))),
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
        write_holder(&mut file, kind).map_err(failed("write", &path))?;
        Ok(Ok(Self { file }))
    }

    /// The file, for the guard to inherit.
    ///
    /// # Errors
    /// The operating system's, from duplicating the descriptor.
    pub fn share(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

fn write_holder(file: &mut File, kind: &str) -> std::io::Result<()> {
    let command = std::env::args().next().unwrap_or_default();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{} ({command}) {kind}", std::process::id())
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
        assert!(DomainLock::holder_now(dir.path(), "u").expect("held").contains(&std::process::id().to_string()));
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        let kept = first.share().expect("duplicate");
        drop(first);
        assert!(DomainLock::take(dir.path(), "web", "u").is_err(), "the inherited descriptor still holds it");
        drop(kept);
        assert_eq!((DomainLock::holder_now(dir.path(), "u"), DomainLock::holder_now(dir.path(), "other")), (None, None));
        DomainLock::take(dir.path(), "web", "u").expect("free again");
        assert!(!dir.path().join("other.lock").exists(), "a question makes no file");
    }

    #[test]
    fn a_look_is_waited_for_and_waits_for_nobody() {
        let dir = tempfile::tempdir().expect("dir");
        let backup = DomainLock::take(dir.path(), "web", "u").expect("free");
        let start = Instant::now();
        DomainLock::take_for_look(dir.path(), "web", "u").expect_err("a look does not wait");
        assert!(start.elapsed() < NAMING_LIMIT);
        drop(backup);
        let look = DomainLock::take_for_look(dir.path(), "web", "u").expect("free");
        DomainLock::take_for_look(dir.path(), "web", "u").expect_err("not for another look either");
        let length = NAMING_LIMIT + NAMING_LIMIT / 2;
        let ends = std::thread::spawn(move || {
            std::thread::sleep(length);
            drop(look);
        });
        DomainLock::take(dir.path(), "web", "u").expect("after the look");
        assert!(start.elapsed() >= length);
        ends.join().expect("no panic");
    }

    #[test]
    fn who_follows_a_look_has_the_time_to_say_that_it_is_one_too() {
        let dir = tempfile::tempdir().expect("dir");
        let look = DomainLock::take_for_look(dir.path(), "web", "u").expect("free");
        let waits = std::thread::spawn({
            let dir = dir.path().to_owned();
            move || DomainLock::take(&dir, "web", "u").map(drop)
        });
        // The lock goes from one look to the next, which is slow to name itself: what is there looks like a backup's.
        std::thread::sleep(NAMING_LIMIT + NAMING_LIMIT / 2);
        let path = dir.path().join("u.lock");
        std::fs::write(&path, "1 (cairn) \n").expect("written");
        std::thread::sleep(NAMING_LIMIT / 4);
        std::fs::write(&path, format!("1 (cairn) {LOOK}\n")).expect("written");
        std::thread::sleep(NAMING_LIMIT);
        drop(look);
        waits.join().expect("no panic").expect("after the second look");
    }
}
