//! Opening objects for reading: files that stay open, names that a host believes to be missing, handles that a server has forgotten.

use super::{LocalPlatform, lock};
use crate::platform::nfs;
use cairn_store_format::ObjectName;
use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

/// Pack files kept open for reading.
const OPEN_FILES_MAX: usize = 64;
/// Tries of a read whose file handle the server does not know any more.
const STALE_TRIES_MAX: u32 = 5;

#[derive(Default)]
pub(super) struct OpenFiles {
    files: HashMap<ObjectName, Arc<File>>,
    order: VecDeque<ObjectName>,
}

/// A pipe in an object's place would keep whoever opens it waiting; opened like this it reads as empty.
/// A file that somebody has a lease on (a server that exports this folder, on behalf of its clients) is then not opened, but asked back: waiting for that
/// is the kernel's, which ends it by itself (`fs.lease-break-time`, 45 s).
pub(super) fn open(path: &Path) -> io::Result<File> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock && fs::metadata(path)?.is_file() => File::open(path),
        other => other,
    }
}

impl LocalPlatform {
    /// On NFS "not there" is believed only after this host has forgotten what it knew about the folder.
    pub(super) fn open_path(&self, path: &Path) -> io::Result<File> {
        match open(path) {
            Err(e) if self.nfs && e.kind() == io::ErrorKind::NotFound => {
                let dir = path.parent().expect("objects lie in folders");
                if self.refresh(dir)? { open(path) } else { Err(e) }
            }
            other => other,
        }
    }

    pub(super) fn open_file(&self, name: &ObjectName) -> io::Result<Arc<File>> {
        let mut open = lock(&self.open_files);
        if let Some(f) = open.files.get(name) {
            return Ok(f.clone());
        }
        let file = Arc::new(self.open_path(&self.path(name))?);
        if open.files.len() >= OPEN_FILES_MAX
            && let Some(oldest) = open.order.pop_front()
        {
            open.files.remove(&oldest);
        }
        open.order.push_back(name.clone());
        open.files.insert(name.clone(), file.clone());
        Ok(file)
    }

    pub(super) fn forget_open(&self, name: &ObjectName) {
        lock(&self.open_files).files.remove(name);
    }
}

/// A handle that the server does not know any more says nothing about what its name leads to now: the read begins anew, a few times.
pub(super) fn again_if_stale<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 1;
    loop {
        match read() {
            Err(e) if nfs::is_stale(&e) && tries < STALE_TRIES_MAX => tries += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::fd::AsRawFd, time::Duration};

    /// `fcntl`'s; the crate `libc` has it for few targets.
    const F_SETSIG: libc::c_int = 10;

    #[test]
    fn a_file_that_is_leased_is_asked_back_and_waited_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("object");
        fs::write(&path, b"bytes").expect("writes");
        let holder = File::options().read(true).write(true).open(&path).expect("opens");
        let fcntl = |command, value: libc::c_int| {
            // SAFETY: fcntl takes a valid descriptor and numbers only.
            unsafe { libc::fcntl(holder.as_raw_fd(), command, value) }
        };
        // The signal that asks for the lease would end the process; this one is ignored.
        assert!(fcntl(F_SETSIG, libc::SIGURG) == 0 && fcntl(libc::F_SETLEASE, libc::F_WRLCK) == 0, "{}", io::Error::last_os_error());
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| open(&path).map(|mut file| file.read_to_end(&mut Vec::new()).expect("reads")));
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(fcntl(libc::F_SETLEASE, libc::F_UNLCK), 0);
            assert_eq!(reader.join().expect("ends").expect("opens"), 5);
        });
    }
}
