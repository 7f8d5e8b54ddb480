//! Refusing to overwrite what a guest is using: its writes would go on into a file without a name, or into the middle of ours.
//!
//! Two witnesses, because each is blind somewhere:
//! - QEMU's image lock (block/file-posix.c: one OFD lock a permission, from byte 100 on, one a permission not shared, from byte 200 on). It
//!   sees any QEMU, with or without libvirt, and backing files too; it does not see a device node of another mount namespace. It is asked
//!   for here and not through `qemu-img info`, which takes no lock for raw images and so finds nothing.
//! - the disks of the domains that libvirt says are running. A libvirt that cannot be asked is no reason to refuse a restore to files.
//!
//! What it must not do: take a lock (a guest that starts meanwhile would fail), or write.

use super::RestorePlan;
use crate::failure::{FAILED, Failure, Outcome};
use cairn_hypervisor::Host;
use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};
use std::{
    fs::{self, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::mpsc,
    time::Duration,
};

/// First byte of QEMU's locks.
pub const QEMU_LOCK_START: libc::off_t = 100;
/// Two blocks of 100 bytes: permissions held, permissions not shared.
pub const QEMU_LOCK_LEN: libc::off_t = 200;
/// How long libvirt may take to say which disks are in use.
const LIBVIRT_WAIT_MS_MAX: u64 = 10_000;

/// What makes two paths the same image.
#[derive(PartialEq, Eq)]
enum Identity {
    Device { rdev: u64 },
    File { dev: u64, inode: u64 },
}

impl Identity {
    fn of(m: &Metadata) -> Self {
        if m.file_type().is_block_device() { Self::Device { rdev: m.rdev() } } else { Self::File { dev: m.dev(), inode: m.ino() } }
    }
}

/// Refuses where a target is the image of a running guest. `connect` is libvirt's URI.
pub fn refuse_in_use(plan: &RestorePlan, connect: Option<&str>) -> Outcome<()> {
    refuse_paths_in_use(&plan.disks.iter().map(|d| d.path.as_path()).collect::<Vec<_>>(), connect)
}

/// Refuses where one of these is the image of a running guest.
pub fn refuse_paths_in_use(paths: &[&Path], connect: Option<&str>) -> Outcome<()> {
    let existing: Vec<(&Path, Identity)> = paths.iter().filter_map(|p| fs::metadata(p).ok().map(|m| (*p, Identity::of(&m)))).collect();
    if existing.is_empty() {
        return Ok(());
    }
    for (path, _) in &existing {
        let locked =
            qemu_holds(path).map_err(|e| Failure::new(FAILED, format!("cannot see whether {} is in use: {e}; nothing was written", path.display())))?;
        if locked {
            return Err(refused(path, "a running QEMU"));
        }
    }
    for (domain, image) in running_images(connect) {
        let Ok(identity) = fs::metadata(&image).map(|m| Identity::of(&m)) else { continue };
        if let Some((path, _)) = existing.iter().find(|e| e.1 == identity) {
            return Err(refused(path, &format!("the running domain {}", crate::output::shown(&domain))));
        }
    }
    Ok(())
}

/// Why nothing is written to a path that is taken; what a guest uses is not offered to be overwritten.
pub fn exists(path: &Path) -> Failure {
    if qemu_holds(path).unwrap_or(false) {
        return refused(path, "a running QEMU");
    }
    Failure::refused(format!("{} exists; nothing was written (--force overwrites it)", path.display()))
}

fn refused(path: &Path, by: &str) -> Failure {
    Failure::refused(format!("{} is in use by {by}; nothing was written (shut the guest down first, or restore to another path)", path.display()))
}

/// Whether another process holds QEMU's image lock in any form.
fn qemu_holds(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: QEMU_LOCK_START,
        l_len: QEMU_LOCK_LEN,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(lock.l_type != libc::F_UNLCK as libc::c_short),
        Err(e) => {
            // A file system without locks: QEMU has none there either.
            tracing::debug!("{}: no locks can be asked for: {e}", path.display());
            Ok(false)
        }
    }
}

/// Domain and image path of each disk of each running domain, as far as libvirt answers in time.
fn running_images(connect: Option<&str>) -> Vec<(String, String)> {
    let (send, receive) = mpsc::channel();
    let uri = connect.map(str::to_owned);
    std::thread::spawn(move || {
        // Nobody listens any more when it took too long.
        let _ = send.send(ask(uri.as_deref()));
    });
    match receive.recv_timeout(Duration::from_millis(LIBVIRT_WAIT_MS_MAX)) {
        Ok(Ok(images)) => images,
        Ok(Err(e)) => {
            tracing::debug!("libvirt cannot be asked for running domains: {e}");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!("libvirt did not say in {} s which images are in use; only QEMU's image locks were looked at", LIBVIRT_WAIT_MS_MAX / 1000);
            Vec::new()
        }
    }
}

fn ask(uri: Option<&str>) -> Result<Vec<(String, String)>, cairn_hypervisor::host::HostError> {
    let mut out = Vec::new();
    for domain in Host::open(uri)?.domains()? {
        // A domain that ends meanwhile uses nothing; an odd one must not hide the others.
        if !domain.is_running().unwrap_or(false) {
            continue;
        }
        let name = domain.name().unwrap_or_default();
        out.extend(domain.disks().unwrap_or_default().iter().filter_map(|d| d.source.path().map(|p| (name.clone(), p.to_owned()))));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_qemu_has_open_is_seen() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("image");
        let image = fs::File::create_new(&path).expect("creates");
        assert!(!qemu_holds(&path).expect("asked"), "open, but not by QEMU");
        // What QEMU holds for a writable raw disk: a shared lock on "write" (100 + 1) and on "write not shared" (200 + 1).
        for at in [101, 201] {
            let lock = |kind: i32| libc::flock { l_type: kind as libc::c_short, l_whence: 0, l_start: at, l_len: 1, l_pid: 0 };
            let image = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
            fcntl(&image, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK))).expect("locks");
            assert!(qemu_holds(&path).expect("asked"), "byte {at}");
            drop(image);
            assert!(!qemu_holds(&path).expect("asked"), "byte {at} is free again");
        }
        drop(image);
    }

    #[test]
    fn another_name_of_a_file_is_the_same_image() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        fs::write(&a, "a").expect("writes");
        fs::hard_link(&a, &b).expect("links");
        fs::write(&c, "a").expect("writes");
        let of = |p: &Path| Identity::of(&fs::metadata(p).expect("there"));
        assert!(of(&a) == of(&b) && of(&a) != of(&c));
    }
}
