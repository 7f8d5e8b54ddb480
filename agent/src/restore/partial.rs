//! A file under a name that says it is not whole.
//!
//! Invariants
//! - It is created exclusively, and only who created it removes it: of two restores to one place, the loser leaves the winner's file alone.
//! - It is private from its first moment on, or has the owner and mode of the file that it will replace.
//! - It is removed unless it was given its name.

use super::write::failed;
use crate::failure::{FAILED, Failure, Outcome};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".cairn-partial";
const PRIVATE_MODE: u32 = 0o600;
/// Permission bits of a mode.
const MODE_MASK: u32 = 0o7777;

/// Ours, as long as it lives.
pub struct Partial {
    path: PathBuf,
    target: PathBuf,
    file: File,
}

impl Partial {
    /// Creates it beside `target`, empty; a file there lends it owner and mode.
    pub fn new(target: &Path) -> Outcome<Self> {
        let mut name = target.file_name().ok_or_else(|| Failure::usage(format!("{} names no file", target.display())))?.to_owned();
        name.push(SUFFIX);
        let path = target.with_file_name(name);
        let file = match OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE_MODE).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Failure::refused(format!("{} is left from a restore that broke off, or one is running; remove it if none is", path.display())));
            }
            Err(e) => return Err(failed("create", &path, &e)),
        };
        let partial = Self { path, target: target.to_owned(), file };
        partial.take_over_permissions()?;
        Ok(partial)
    }

    /// Where the content goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes it as long as the disk, all zero, without allocating.
    pub fn set_len(&self, size_bytes: u64) -> Outcome<()> {
        self.file.set_len(size_bytes).map_err(|e| failed("make room for", &self.path, &e))
    }

    fn take_over_permissions(&self) -> Outcome<()> {
        let old = match fs::symlink_metadata(&self.target) {
            Ok(m) => m,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("look at", &self.target, &e)),
        };
        // The owner first: a change of owner clears bits of the mode.
        fchown(&self.file, Some(old.uid()), Some(old.gid()))
            .and_then(|()| self.file.set_permissions(Permissions::from_mode(old.mode() & MODE_MASK)))
            .map_err(|e| failed("keep the owner and mode of", &self.target, &e))
    }

    /// Everything written to it is on the disk.
    pub fn sync(&self) -> Outcome<()> {
        self.file.sync_all().map_err(|e| failed("sync", &self.path, &e))
    }

    /// Gives it its name, which is durable afterwards.
    pub fn finish(self, force: bool) -> Outcome<()> {
        let flags = if force { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        let renamed = match renameat2(AT_FDCWD, &self.path, AT_FDCWD, &self.target, flags) {
            // File systems without the flag: link refuses to replace just as well; drop() removes the other name.
            Err(nix::errno::Errno::EINVAL) => fs::hard_link(&self.path, &self.target),
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Failure::refused(format!("{} appeared meanwhile; it was left alone", self.target.display())),
            _ => Failure::new(FAILED, format!("cannot give the restored disk its name {}: {e}", self.target.display())),
        })?;
        let dir = self.target.parent().unwrap_or(Path::new("/"));
        File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed("sync", dir, &e))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a finished restore the name is gone already, and whatever has it by now is not ours.
        let ours = self.file.metadata().map(|m| (m.dev(), m.ino())).ok();
        if fs::symlink_metadata(&self.path).map(|m| (m.dev(), m.ino())).ok() == ours && ours.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loser_leaves_the_winners_file() {
        let dir = tempfile::tempdir().expect("temp dir");
        let target = dir.path().join("vda.raw");
        let winner = Partial::new(&target).expect("creates");
        let refused = Partial::new(&target).err().expect("one at a time");
        assert_eq!(refused.code, crate::failure::REFUSED);
        assert!(winner.path().exists(), "the loser removed nothing");
        fs::write(&target, "meanwhile").expect("writes");
        let path = winner.path().to_owned();
        assert_eq!(winner.finish(false).expect_err("not without force").code, crate::failure::REFUSED);
        assert_eq!(fs::read(&target).expect("reads"), b"meanwhile");
        assert!(!path.exists(), "removed by its owner");
    }

    #[test]
    fn owner_and_mode_are_private_or_those_of_the_file_before() {
        let dir = tempfile::tempdir().expect("temp dir");
        let target = dir.path().join("vda.raw");
        Partial::new(&target).expect("creates").finish(false).expect("finishes");
        assert_eq!(fs::metadata(&target).expect("there").mode() & MODE_MASK, PRIVATE_MODE);
        fs::set_permissions(&target, Permissions::from_mode(0o640)).expect("chmod");
        // Only root can give files away; others see that their own stay theirs.
        let uid = if nix::unistd::geteuid().is_root() { 12_345 } else { nix::unistd::geteuid().as_raw() };
        std::os::unix::fs::chown(&target, Some(uid), None).expect("chown");
        let inode = fs::metadata(&target).expect("there").ino();
        Partial::new(&target).expect("creates").finish(true).expect("finishes");
        let m = fs::metadata(&target).expect("there");
        assert_eq!((m.mode() & MODE_MASK, m.uid()), (0o640, uid));
        assert_ne!(m.ino(), inode, "it was replaced");
    }
}
