//! A file under a name that says it is not whole.
//!
//! Invariants
//! - It is created exclusively, and only who created it removes it: of two restores to one place, the loser leaves the winner's file alone.
//! - It is private from its first moment on, or has the owner and mode of the file that it will replace.
//! - It is removed unless it was given its name.
//! - Who made it holds a lock on it as long as it lives, which ends with the process however that ends. So one that is not locked is left from a
//!   restore that was killed: the next one to the same place takes it away, if it is a plain file with no other name.
//!
//! Two restores, one file: it is made exclusively and locked, and taken away only by who holds its lock; each then looks whether the name still leads to
//! the file that it locked, and begins anew where it does not.

use super::write::failed;
use crate::failure::{FAILED, Failure, Outcome};
use nix::fcntl::{AT_FDCWD, FcntlArg, RenameFlags, fcntl, renameat2};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".cairn-partial";
const PRIVATE_MODE: u32 = 0o600;
/// Restores that make and take away the same file at the same moment; more tries than that mean something is wrong.
const TRIES_MAX: u32 = 20;
/// The one byte that is locked: far behind all content, and none that QEMU locks in images. Byte ranges work on NFS, too, where a lock of the whole file
/// would keep QEMU out.
const LOCKED_BYTE: i64 = i64::MAX - 1;
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
        for _ in 0..TRIES_MAX {
            match OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE_MODE).open(&path) {
                Ok(file) if lock(&file, &path)? && leads_to(&path, &file) => {
                    let partial = Self { path, target: target.to_owned(), file };
                    partial.take_over_permissions()?;
                    return Ok(partial);
                }
                // Another restore took it for a left one before the lock was on it.
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => take_away(&path)?,
                Err(e) => return Err(failed("create", &path, &e)),
            }
        }
        Err(Failure::refused(format!("{}: other restores to the same place come and go; try again", path.display())))
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

/// Whether the lock was free and is ours now; it ends when the file is closed. File systems without locks have none to tell by: `true`, so that
/// restores work there, and [`take_away`] asks for a lock that works.
fn lock(file: &File, path: &Path) -> Outcome<bool> {
    match try_lock(file) {
        Ok(ours) => Ok(ours),
        Err(nix::errno::Errno::ENOLCK | nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EINVAL) => Ok(true),
        Err(e) => Err(failed("lock", path, &e.into())),
    }
}

fn try_lock(file: &File) -> nix::Result<bool> {
    let range = nix::libc::flock { l_type: nix::libc::F_WRLCK as i16, l_whence: nix::libc::SEEK_SET as i16, l_start: LOCKED_BYTE, l_len: 1, l_pid: 0 };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

fn leads_to(path: &Path, file: &File) -> bool {
    let identity = |m: fs::Metadata| (m.dev(), m.ino());
    let ours = file.metadata().map(identity).ok();
    ours.is_some() && fs::symlink_metadata(path).map(identity).ok() == ours
}

/// Removes what a restore left that was killed; refused where it may be anything else.
fn take_away(path: &Path) -> Outcome<()> {
    let why =
        |what: &str| Failure::refused(format!("{} is there already and {what}; nothing was written. Look what it is, and remove it by hand", path.display()));
    let file = match OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(why(&format!("cannot be opened ({e})"))),
    };
    let m = file.metadata().map_err(|e| failed("look at", path, &e))?;
    if !m.is_file() || m.nlink() > 1 {
        return if m.is_file() && m.nlink() == 0 { Ok(()) } else { Err(why("is no plain file with this one name")) };
    }
    match try_lock(&file) {
        Ok(true) => {}
        Ok(false) => {
            return Err(Failure::refused(format!(
                "a restore to this place is running: it has locked {}; nothing was written, wait for its end",
                path.display()
            )));
        }
        Err(e) => {
            return Err(why(&format!("its file system tells nothing about who uses it ({e}); it is left from a restore that broke off, or one is running")));
        }
    }
    if !leads_to(path, &file) {
        return Ok(());
    }
    say!("cairn: {} is left from a restore that broke off; it is replaced", path.display());
    fs::remove_file(path).map_err(|e| failed("remove", path, &e))
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a finished restore the name is gone already, and whatever has it by now is not ours.
        if leads_to(&self.path, &self.file) {
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
    fn what_a_killed_restore_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temp dir");
        let target = dir.path().join("vda.raw");
        let path = dir.path().join("vda.raw.cairn-partial");
        fs::write(&path, "half a disk").expect("writes");
        let partial = Partial::new(&target).expect("nobody has locked it");
        assert_eq!(fs::metadata(&path).expect("is there").len(), 0, "a new one");
        drop(partial);

        fs::write(dir.path().join("other"), "somebody's").expect("writes");
        fs::hard_link(dir.path().join("other"), &path).expect("links");
        assert_eq!(Partial::new(&target).err().expect("it has another name").code, crate::failure::REFUSED);
        fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink(dir.path().join("other"), &path).expect("links");
        assert_eq!(Partial::new(&target).err().expect("a link").code, crate::failure::REFUSED);
        fs::remove_file(&path).expect("removes");
        fs::create_dir(&path).expect("makes");
        assert_eq!(Partial::new(&target).err().expect("a folder").code, crate::failure::REFUSED);
        assert_eq!(fs::read(dir.path().join("other")).expect("is there"), b"somebody's");
    }

    #[test]
    fn of_many_restores_to_one_place_one_at_a_time_has_the_file() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (target, inside) = (dir.path().join("vda.raw"), std::sync::atomic::AtomicU32::new(0));
        fs::write(dir.path().join("vda.raw.cairn-partial"), "left").expect("writes");
        let had: u32 = std::thread::scope(|s| {
            let one = || {
                (0..200)
                    .filter(|_| {
                        let Ok(partial) = Partial::new(&target) else { return false };
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two have it");
                        assert!(leads_to(partial.path(), &partial.file));
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        true
                    })
                    .count() as u32
            };
            let all: Vec<_> = (0..4).map(|_| s.spawn(one)).collect();
            all.into_iter().map(|t| t.join().expect("no panic")).sum()
        });
        assert!(had > 0);
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
