//! Who else writes to an image of a domain that is off: its bytes would be of no moment at all.
//!
//! Two witnesses, because each is blind somewhere:
//! - QEMU's image lock (block/file-posix.c: byte 101 of the file stands for "writes", 103 for "resizes"). It sees any QEMU, with libvirt or without;
//!   not one that has a device by a node of another mount namespace, which is how libvirt gives devices to QEMU.
//! - the disks of the domains that libvirt says are running. These have names.
//!
//! Readers are welcome: an image that many domains have as their backing file is open all the time. No lock is taken, for a domain that starts
//! meanwhile would fail.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

use crate::disks::SkipReason;
use crate::domain::Domain;
use crate::ffi::LibvirtError;

/// Bytes of QEMU's lock that a writer holds.
const WRITES: libc::off_t = 101;
const RESIZES: libc::off_t = 103;

/// What makes two paths the same image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Device(u64),
    File(u64, u64),
}

fn identity(path: &Path) -> Option<Identity> {
    let meta = std::fs::metadata(path).ok()?;
    Some(if meta.file_type().is_block_device() { Identity::Device(meta.rdev()) } else { Identity::File(meta.dev(), meta.ino()) })
}

/// Images that running domains other than this one write to, with the domains' names.
pub(super) struct Writers(Vec<(String, Identity)>);

impl Writers {
    pub(super) fn beside(domain: &Domain) -> Result<Self, LibvirtError> {
        let own = domain.uuid()?;
        let mut out = Vec::new();
        for other in domain.siblings()? {
            // A domain that ends meanwhile writes nothing; an odd one must not hide the others.
            if !other.is_running().unwrap_or(false) || other.uuid().is_ok_and(|uuid| uuid == own) {
                continue;
            }
            let name = other.name().unwrap_or_default();
            for disk in other.disks().unwrap_or_default() {
                let reads = matches!(disk.skip, Some(SkipReason::ReadOnly | SkipReason::Cdrom | SkipReason::Empty));
                let image = if reads { None } else { disk.source.path().and_then(|path| identity(Path::new(path))) };
                out.extend(image.map(|image| (name.clone(), image)));
            }
        }
        Ok(Self(out))
    }

    /// Who writes to the image, in words.
    pub(super) fn of(&self, image: &Path) -> Option<String> {
        let identity = identity(image)?;
        let domain = self.0.iter().find(|(_, other)| *other == identity).map(|(name, _)| format!("the running domain {name:?}"));
        domain.or_else(|| is_written(image).then(|| "a QEMU process that is no domain of this libvirt (or one that moves images)".to_owned()))
    }
}

/// Whether a QEMU says by its lock that it writes. A file system without locks: QEMU has none there either.
fn is_written(image: &Path) -> bool {
    let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(image) else { return false };
    [WRITES, RESIZES].into_iter().any(|byte| {
        let mut lock = libc::flock { l_type: libc::F_WRLCK as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: byte, l_len: 1, l_pid: 0 };
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && lock.l_type != libc::F_UNLCK as libc::c_short
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_is_seen_and_who_reads_is_not() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("image");
        std::fs::write(&path, [0; 512]).expect("written");
        assert!(!is_written(&path));
        let held = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
        let lock = |byte| libc::flock { l_type: libc::F_RDLCK as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: byte, l_len: 1, l_pid: 0 };
        // What a QEMU with a backing file holds: it reads, and wants nobody to write.
        for byte in [100, 201] {
            fcntl(&held, FcntlArg::F_OFD_SETLK(&lock(byte))).expect("locks");
        }
        assert!(!is_written(&path), "a reader");
        fcntl(&held, FcntlArg::F_OFD_SETLK(&lock(101))).expect("locks");
        assert!(is_written(&path), "a writer");
    }
}
