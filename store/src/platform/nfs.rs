//! What NFS asks for besides: mounts that can be trusted, and answers that come from the server and not from this host's caches.
//!
//! A client believes for up to a minute that a name is missing which it once looked up in vain; its own change in a folder makes it forget
//! what it believed about that folder (docs/nfs.md has the measurements).
//! Must not: rely on attributes or mount options for freshness; both rest on the server's change attribute, which can be coarse.

use crate::{Result, StoreError};
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Once,
};

/// `statfs` type of NFS.
const NFS_MAGIC: i64 = 0x6969;
const MOUNTS: &str = "/proc/self/mountinfo";

/// Whether a folder lies on NFS.
pub(super) fn is_nfs(root: &Path) -> bool {
    nix::sys::statfs::statfs(root).is_ok_and(|s| s.filesystem_type().0 == NFS_MAGIC)
}

/// Refuses a mount on which a write may fail and take effect later; warns where one is only slow to notice.
pub(super) fn check_mount(root: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(MOUNTS) else {
        tracing::warn!("{MOUNTS} cannot be read: whether the NFS mount of {} is 'hard' is not known", root.display());
        return Ok(());
    };
    let device = fs::metadata(root).map(|m| m.dev()).map_err(|source| StoreError::Storage { op: "stat", name: root.display().to_string(), source })?;
    let options = options_of(&text, nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if let Some(soft) = options.iter().find(|o| matches!(**o, "soft" | "softerr")) {
        return Err(StoreError::Refused(format!(
            "{} is on an NFS mount with the option '{soft}': a write that the client gave up may take effect later, which can damage the store. \
             Unmount it and mount it with 'hard' (docs/nfs.md)",
            root.display()
        )));
    }
    if options.contains(&"nocto") {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing::warn!("{} is on an NFS mount with the option 'nocto': other hosts' backups may be seen late; mount it without", root.display());
        });
    }
    Ok(())
}

/// Options of the NFS superblock with this device number, of a text as in proc(5): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS`.
fn options_of(mountinfo: &str, major: u64, minor: u64) -> Vec<&str> {
    let device = format!("{major}:{minor}");
    for line in mountinfo.lines() {
        let Some((mount, superblock)) = line.split_once(" - ") else { continue };
        let mut fields = superblock.split(' ');
        if mount.split(' ').nth(2) == Some(device.as_str()) && fields.next().is_some_and(|kind| kind.starts_with("nfs")) {
            return fields.nth(1).unwrap_or_default().split(',').collect();
        }
    }
    Vec::new()
}

/// A handle whose file the server does not know any more (it was replaced, or the server began anew): opening by path tells what is there now.
pub(super) fn is_stale(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ESTALE | libc::EBADF))
}

/// Makes this host forget what it believes about the names in `dir`, by a change of its own there; folders above it first, where it seems to be
/// missing. `false`: it is missing. `unproven` hears of each folder that this host may not change.
pub(super) fn refresh(dir: &Path, root: &Path, unproven: &dyn Fn(&Path)) -> io::Result<bool> {
    match touch(dir, unproven) {
        Err(e) if e.kind() == ErrorKind::NotFound && dir != root => {
            let parent = dir.parent().expect("below the root");
            if !refresh(parent, root, unproven)? {
                return Ok(false);
            }
            match touch(dir, unproven) {
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
                other => other.map(|()| true),
            }
        }
        other => other.map(|()| true),
    }
}

/// Where this host may not write, it can only believe.
fn touch(dir: &Path, unproven: &dyn Fn(&Path)) -> io::Result<()> {
    match super::local::new_temporary(dir) {
        Ok((path, file)) => {
            drop(file);
            // One that stays behind is skipped by every listing and goes by age.
            let _ = fs::remove_file(path);
            Ok(())
        }
        Err(e) if takes_no_files(&e) => {
            unproven(dir);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Why a folder that can be read may take no probe: it is mounted or meant for reading, or there is no room. Readers go on by what this host believes.
pub(super) fn takes_no_files(e: &io::Error) -> bool {
    use ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(e.kind(), PermissionDenied | ReadOnlyFilesystem | StorageFull | QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:45 / /mnt/a\\040b rw,relatime shared:7 master:2 - nfs4 host:/a rw,vers=4.2,hard,proto=tcp
41 22 0:46 / /mnt/b rw,relatime - nfs host:/b rw,vers=3,soft,nocto,timeo=600
42 22 0:47 /sub /mnt/soft rw - ext4 /dev/soft rw,soft
broken line
";

    #[test]
    fn options_are_those_of_the_nfs_mount_with_that_device() {
        assert_eq!(options_of(TEXT, 0, 45), ["rw", "vers=4.2", "hard", "proto=tcp"]);
        assert_eq!(options_of(TEXT, 0, 46), ["rw", "vers=3", "soft", "nocto", "timeo=600"]);
        for (major, minor) in [(0, 47), (8, 1), (0, 4), (1, 45)] {
            assert!(options_of(TEXT, major, minor).is_empty(), "{major}:{minor}");
        }
        assert!(options_of("", 0, 45).is_empty());
        assert!(options_of("1 2 0:45 / /x rw - nfs", 0, 45).iter().all(|o| o.is_empty()), "a line that ends too early");
    }

    #[test]
    fn a_folder_is_refreshed_or_missing_and_nothing_stays() {
        let root = tempfile::tempdir().expect("temp dir");
        let sub = root.path().join("a/b");
        let none = |dir: &Path| panic!("{} takes files", dir.display());
        assert!(!refresh(&sub, root.path(), &none).expect("answers"));
        fs::create_dir_all(&sub).expect("made");
        assert!(refresh(&sub, root.path(), &none).expect("answers"));
        assert_eq!(fs::read_dir(&sub).expect("lists").count(), 0);
    }

    #[test]
    fn a_folder_for_readers_is_told_from_one_that_fails() {
        let takes_none = |number| takes_no_files(&io::Error::from_raw_os_error(number));
        assert!([libc::EACCES, libc::EPERM, libc::EROFS, libc::ENOSPC, libc::EDQUOT].into_iter().all(takes_none));
        assert!(![libc::EIO, libc::ENOENT, libc::ESTALE, libc::ENOTDIR].into_iter().any(takes_none));
    }

    #[test]
    fn stale_handles_are_told_from_other_errors() {
        assert!(is_stale(&io::Error::from_raw_os_error(libc::ESTALE)) && is_stale(&io::Error::from_raw_os_error(libc::EBADF)));
        assert!(!is_stale(&io::Error::from_raw_os_error(libc::EIO)) && !is_stale(&io::Error::other("x")));
    }
}
