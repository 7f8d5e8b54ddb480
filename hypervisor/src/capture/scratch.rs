//! Scratch images: where QEMU keeps what the guest overwrites while a backup reads.
//!
//! Invariants: made before the freeze (REUSE_EXTERNAL), qcow2, on a local disk that is not the store's; below `<dir>/<domain uuid>/`, so that a
//! sweep finds what a crash left. A full scratch gives the guest ENOSPC, so space is checked first and watched by the guard.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::CaptureError;

/// Folder unless told otherwise: below libvirt's own state, which QEMU's user may traverse.
pub const SCRATCH_DIR_DEFAULT: &str = "/var/lib/libvirt/qemu/cairn-scratch";
/// Least free space to begin with, bytes; a disk smaller than this needs only its own size.
pub const FREE_BYTES_MIN: u64 = 1 << 30;

/// Scratch images of one backup.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
}

/// Folder of a domain's scratch images.
#[must_use]
pub fn folder_of(dir: &Path, uuid: &str) -> PathBuf {
    dir.join(uuid)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CaptureError {
    let path = path.to_owned();
    move |source| CaptureError::File { action, path, source }
}

impl Scratch {
    /// Makes the folder, empty, after checking the space below it.
    ///
    /// # Errors
    /// [`CaptureError::ScratchSpace`], [`CaptureError::File`].
    pub fn prepare(dir: &Path, uuid: &str, disk_bytes: u64) -> Result<Self, CaptureError> {
        let folder = folder_of(dir, uuid);
        remove(&folder)?;
        // Traversable for QEMU's user, listable only for us. A folder that is there already stays as it is (it may be /tmp), and only the last
        // part of a path is made: a mistyped one must not put the scratch on the root file system.
        for path in [dir, &folder] {
            match fs::DirBuilder::new().create(path) {
                Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o711)).map_err(failed("set the mode of", path))?,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path == dir => {}
                Err(e) => return Err(failed("create", path)(e)),
            }
        }
        let free_bytes = free_bytes(&folder)?;
        let needed_bytes = disk_bytes.min(FREE_BYTES_MIN);
        if free_bytes < needed_bytes {
            remove(&folder)?;
            return Err(CaptureError::ScratchSpace { path: folder, free_bytes, needed_bytes });
        }
        Ok(Self { folder })
    }

    /// Makes the image of one disk.
    ///
    /// # Errors
    /// [`CaptureError::Program`].
    pub fn image(&self, target: &str, size_bytes: u64) -> Result<PathBuf, CaptureError> {
        let path = self.folder.join(format!("{target}.qcow2"));
        let output = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(size_bytes.to_string()).output();
        let problem = match output {
            Err(error) => format!("{error}; install qemu-utils"),
            Ok(output) if !output.status.success() => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Ok(_) => return Ok(path),
        };
        Err(CaptureError::Program { program: "qemu-img create", problem })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Bytes free for us on the file system of `path`.
///
/// # Errors
/// [`CaptureError::File`].
pub fn free_bytes(path: &Path) -> Result<u64, CaptureError> {
    let stat = rustix::fs::statvfs(path).map_err(|error| failed("statvfs", path)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Removes a scratch folder and what is in it; one that is not there is removed already.
///
/// # Errors
/// [`CaptureError::File`].
pub fn remove(folder: &Path) -> Result<(), CaptureError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let scratch = Scratch::prepare(dir.path(), "u", 4096).expect("4 KiB");
        fs::write(scratch.folder().join("old"), b"x").expect("write");
        let again = Scratch::prepare(dir.path(), "u", 4096).expect("4 KiB");
        assert_eq!(fs::read_dir(again.folder()).expect("folder").count(), 0, "leftovers go");
        remove(again.folder()).expect("remove");
        remove(again.folder()).expect("twice is once");
        assert!(!folder_of(dir.path(), "u").exists());
    }
}
