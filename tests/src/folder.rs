//! The folder of one lab on the host, and the clean-up of those whose makers were killed.
//!
//! Layout of `BASE/cairn-lab.XXXXXX`: `lock` (held as long as the lab lives), `host/` (what is mounted over
//! the host's folders), `boot/` (kernel, initramfs), `work/` (`LAB_DIR`), `log/`, `up` (exists once the
//! command runs).
//!
//! Invariant: a folder is removed only by the process that holds its lock.

use crate::error::{Error, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "cairn-lab.";
const LOCK: &str = "lock";
const NAME_ATTEMPTS_MAX: u32 = 100;

/// A lab's folder; dropping it removes the folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    /// Makes a new folder below `base`, after removing those that dead labs left there.
    ///
    /// # Errors
    /// `base` is not there or not writable.
    pub fn create(base: &Path) -> Result<Self> {
        sweep(base);
        for _ in 0..NAME_ATTEMPTS_MAX {
            let path = base.join(format!("{PREFIX}{}", unique_name()));
            match fs::create_dir(&path) {
                Ok(()) => return Self::own(path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", &path)(error)),
            }
        }
        Err(Error::answer(base.display().to_string(), "no free name for a lab's folder"))
    }

    fn own(path: PathBuf) -> Result<Self> {
        // Between the two lines the lock is free: a sweep leaves so young a lock alone.
        let lock_path = path.join(LOCK);
        let file = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| Error::io("lock", &lock_path)(errno.into()))?;
        // QEMU's user must be able to walk through; only `work` is open for writing.
        set_mode(&path, 0o755)?;
        for (name, mode) in [("host", 0o755), ("boot", 0o755), ("log", 0o755), ("work", 0o777)] {
            let sub = path.join(name);
            fs::create_dir(&sub).map_err(Error::io("create", &sub))?;
            set_mode(&sub, mode)?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("lab: cannot remove {}: {error}; remove it by hand", self.path.display());
        }
    }
}

/// Sets a folder's mode, whatever the umask.
///
/// # Errors
/// Not ours, or gone.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("set the mode of", path))
}

/// Removes folders whose makers are gone. Best effort: what cannot be removed now will be by a later lab.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)) {
        let lock_path = entry.path().join(LOCK);
        // Without a lock file a folder is being made right now, or was half removed; age tells which.
        match OpenOptions::new().write(true).open(&lock_path) {
            Ok(file) if older_than(&lock_path, YOUNG_S) => {
                if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    let _ = fs::remove_dir_all(entry.path());
                    drop(lock);
                }
            }
            Err(_) if older_than(&entry.path(), HOUR_S) => {
                let _ = fs::remove_dir_all(entry.path());
            }
            _ => {}
        }
    }
}

/// A lock file this young may not be locked yet.
const YOUNG_S: u64 = 10;
const HOUR_S: u64 = 3600;

fn older_than(path: &Path, seconds: u64) -> bool {
    let age = fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > seconds)
}

/// Unique enough for a name that is then created exclusively.
fn unique_name() -> String {
    use std::hash::{BuildHasher, Hasher};
    // RandomState is seeded by the system's random numbers.
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{:08x}", random & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_labs_folder_is_swept_and_a_living_one_is_not() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let alive = Folder::create(base.path()).expect("first lab");
        let dead = base.path().join("cairn-lab.dead");
        fs::create_dir(&dead).expect("made");
        let lock = File::create(dead.join(LOCK)).expect("made");
        lock.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(60)).expect("old");
        let young = base.path().join("cairn-lab.young");
        fs::create_dir(&young).expect("made");
        fs::write(young.join(LOCK), b"").expect("written");
        let second = Folder::create(base.path()).expect("second lab");
        assert!(alive.path().exists() && second.path().exists());
        assert!(!dead.exists() && young.exists(), "a lab that is being made is left alone");
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
    }
}
