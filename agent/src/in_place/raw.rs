//! Raw files and block devices are read and written directly: a storage daemon would add a copy through a socket for each byte, and there is no
//! bitmap in them that it could keep. What it would do besides, we do ourselves: QEMU's image lock is held, so that no guest starts on a disk that is
//! being written.

use crate::{
    failure::{FAILED, Failure, Outcome},
    restore::{QEMU_LOCK_LEN, QEMU_LOCK_START},
};
use cairn_store::{FileSource, FileTarget};
use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};
use std::{fs::File, path::Path};

/// QEMU's permissions (consistent read, write, unchanged write, resize, and one that older versions had), one byte each, twice: held, and not shared.
const PERMISSIONS: libc::off_t = 5;
const UNSHARED_FROM: libc::off_t = 100;

/// A disk that is open and ours.
pub struct RawDisk {
    /// For reading.
    pub source: FileSource,
    /// For writing; its descriptor holds the lock.
    pub target: FileTarget,
}

/// Opens it for reading alone.
pub fn open_source(path: &Path) -> Outcome<FileSource> {
    FileSource::open(path).map_err(|e| failed("open", path, &e))
}

/// Opens it for both, locks it, and gives a file its new length.
pub fn open(path: &Path, size_bytes: u64, is_device: bool) -> Outcome<RawDisk> {
    let mut target = FileTarget::open_existing(path).map_err(|e| failed("open", path, &e))?;
    lock(target.file(), path)?;
    if !is_device && cairn_store::BlockTarget::size_bytes(&target) != size_bytes {
        target.set_len(size_bytes).map_err(|e| failed("resize", path, &e))?;
    }
    Ok(RawDisk { source: open_source(path)?, target })
}

fn lock(file: &File, path: &Path) -> Outcome<()> {
    let flock =
        |kind: i32, start, len| libc::flock { l_type: kind as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: start, l_len: len, l_pid: 0 };
    for start in [QEMU_LOCK_START, QEMU_LOCK_START + UNSHARED_FROM] {
        if let Err(e) = fcntl(file, FcntlArg::F_OFD_SETLK(&flock(libc::F_RDLCK, start, PERMISSIONS))) {
            // A file system without locks: QEMU has none there either.
            tracing::debug!("{}: no lock: {e}", path.display());
            return Ok(());
        }
    }
    // Ours are held by the same descriptor and do not count here.
    let mut other = flock(libc::F_WRLCK, QEMU_LOCK_START, QEMU_LOCK_LEN);
    if fcntl(file, FcntlArg::F_OFD_GETLK(&mut other)).is_ok() && other.l_type != libc::F_UNLCK as libc::c_short {
        return Err(Failure::refused(format!("{} is in use by a running QEMU; nothing was written", path.display())));
    }
    Ok(())
}

fn failed(what: &str, path: &Path, e: &std::io::Error) -> Failure {
    let hint = if e.raw_os_error() == Some(libc::EBUSY) { " (it is mounted or in use)" } else { "" };
    Failure::new(FAILED, format!("cannot {what} {}: {e}{hint}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn qemu_does_not_open_what_is_being_written() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, vec![1; 1 << 20]).expect("writes");
        let opens = || {
            let output = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4k"]).arg(&path).output().expect("qemu-io runs");
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert!(opens().0, "nobody has it");
        let disk = open(&path, 2 << 20, false).expect("ours");
        assert_eq!(cairn_store::BlockTarget::size_bytes(&disk.target), 2 << 20);
        let (opened, said) = opens();
        assert!(!opened && said.contains("lock"), "{said}");
        assert!(matches!(open(&path, 2 << 20, false), Err(f) if f.code == crate::failure::REFUSED), "nor do we twice");
        drop(disk);
        assert!(opens().0, "free again");
    }
}
