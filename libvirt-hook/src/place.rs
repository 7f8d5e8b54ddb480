//! The folder in which hook and reader meet, `/run/cairn`, and whether it may be trusted.
//!
//! Below `/run`, since records are of use in the boot in which they were written only, and since a file system in memory is there early,
//! quick, and never read-only, full of something else, or on a server that is gone.

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::geteuid;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

/// Where it is.
pub const DIR_DEFAULT: &str = "/run/cairn";
/// Names another folder, for tests: libvirt gives its hooks none of its environment.
pub const DIR_VARIABLE: &str = "CAIRN_HOOK_RUN_DIR";
/// The socket in it.
pub const SOCKET: &str = "hook.sock";
/// The spool in it.
pub const SPOOL: &str = "hook-spool";

/// An empty file in it; its time is that of the last call. So it can be told whether libvirt calls the hook at all.
pub const CALLED: &str = "hook-called";

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Opens the folder, made if it is not there.
///
/// # Errors
/// It cannot be made, is a link, or others may write to it.
pub fn open_base(dir: &Path) -> io::Result<OwnedFd> {
    match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o755).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    trusted(open(dir, FOLDER, Mode::empty())?)
}

/// Opens the spool in it, made if it is not there.
///
/// # Errors
/// As [`open_base`].
pub fn open_spool(base: impl AsFd) -> io::Result<OwnedFd> {
    match mkdirat(base.as_fd(), SPOOL, Mode::S_IRWXU) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(e) => return Err(e.into()),
    }
    trusted(openat(base, SPOOL, FOLDER, Mode::empty())?)
}

/// Leaves the time of this call.
///
/// # Errors
/// The file cannot be made; something else is in its place.
pub fn mark_called(base: impl AsFd) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(base, CALLED, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(futimens(&file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)?)
}

/// When the hook was last called in this boot; none where it was not.
#[must_use]
pub fn last_called(base: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(base.join(CALLED)).ok()?.modified().ok()
}

/// Nobody but ourselves may put names into it: what we open in it by name is then what was put there.
fn trusted(dir: OwnedFd) -> io::Result<OwnedFd> {
    if is_ours_alone(&fstat(&dir)?) { Ok(dir) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may write to the folder")) }
}

fn is_ours_alone(stat: &FileStat) -> bool {
    stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn both_are_made_with_their_modes() {
        let dir = tempfile::tempdir().expect("folder");
        let base = dir.path().join("cairn");
        for _ in 0..2 {
            open_spool(open_base(&base).expect("base")).expect("spool");
        }
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&base.join(SPOOL)), 0o700);
        assert_eq!(mode(&base) & !0o755, 0);
    }

    #[test]
    fn links_files_and_folders_of_others_are_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let (link, open, file) = (dir.path().join("link"), dir.path().join("open"), dir.path().join("file"));
        fs::create_dir(&open).expect("made");
        fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("changed");
        symlink(dir.path(), &link).expect("link");
        fs::write(&file, b"").expect("written");
        for path in [&link, &open, &file, &dir.path().join("a/b")] {
            assert!(open_base(path).is_err(), "{}", path.display());
        }
        let base = open_base(&dir.path().join("base")).expect("base");
        symlink(dir.path(), dir.path().join("base").join(SPOOL)).expect("link");
        assert!(open_spool(&base).is_err());
    }
}
