//! The listener's side: takes the records in order while hooks go on writing.

use super::{OVERFLOW, RECORD_END, UNFINISHED_END, stamp_of};
use crate::event::{DecodeError, Event, RECORD_BYTES_MAX};
use crate::{clock, place};
use nix::dir::Dir;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A hook lives for a tenth of a second; what it has not finished by then it will not.
const UNFINISHED_NS_MAX: u64 = 10_000_000_000;
/// A record that is there can be read at once; a FIFO or a device in its place must not make the reader wait.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// The spool in a folder.
#[derive(Debug, Clone)]
pub struct Spool {
    base: PathBuf,
}

/// What a drain found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drained {
    /// Records that were taken.
    pub taken: usize,
    /// Files that were no records, and are gone: name and why.
    pub rejected: Vec<(String, String)>,
    /// Records were lost since the last drain.
    pub overflowed: bool,
}

impl Drained {
    /// Whether something may have happened that no record tells: all domains are to be looked at.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.overflowed || !self.rejected.is_empty()
    }
}

impl Spool {
    /// The spool in `base`, which need not be there yet.
    #[must_use]
    pub fn at(base: &Path) -> Self {
        Self { base: base.to_owned() }
    }

    /// Hands every record that is there to `take`, oldest first, and removes each after `take` returned. Records that come meanwhile are
    /// for the next drain.
    ///
    /// # Errors
    /// Another process drains (`WouldBlock`), the folder cannot be used, or `take` failed: that record and all behind it stay.
    pub fn drain(&self, mut take: impl FnMut(Event) -> io::Result<()>) -> io::Result<Drained> {
        let dir = self.lock()?;
        // First the sign, then the records: what is lost from now on makes the sign anew.
        let mut drained = Drained { overflowed: remove(&*dir, c"overflow")?, ..Drained::default() };
        for name in names(&dir)? {
            let text = name.to_string_lossy();
            if let Some(stamp) = text.strip_prefix('.').and_then(|t| t.strip_suffix(UNFINISHED_END)).and_then(stamp_of) {
                let now = clock::since_boot_ns();
                // One of another boot, where the folder is not in memory, may be ahead of the clock.
                if stamp > now || now - stamp > UNFINISHED_NS_MAX {
                    remove(&*dir, &name)?;
                    drained.overflowed = true;
                }
                continue;
            }
            let found = match text.strip_suffix(RECORD_END).and_then(stamp_of) {
                None => Err("a name that no hook makes".to_owned()),
                Some(_) => read(&*dir, &name)?.map_or(Err("no file".to_owned()), |bytes| Event::decode(&bytes).map_err(|e: DecodeError| e.to_string())),
            };
            match found {
                Ok(event) => {
                    take(event)?;
                    drained.taken += 1;
                }
                Err(why) => drained.rejected.push((text.into_owned(), why)),
            }
            remove(&*dir, &name)?;
        }
        Ok(drained)
    }

    /// One reader at a time; two would take records twice.
    fn lock(&self) -> io::Result<Flock<OwnedFd>> {
        let dir = place::open_spool(place::open_base(&self.base)?)?;
        Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
    }
}

/// All names but the sign's, sorted: those of records begin with their stamps.
fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    // A descriptor of its own: this one's place in the folder is moved by reading.
    let mut dir = Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    for entry in dir.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") && entry.file_name().to_bytes() != OVERFLOW.as_bytes() {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A file's bytes, one more than a record has at most; none where it is no plain file.
fn read(dir: impl AsFd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let file = match openat(dir, name, READ, Mode::empty()) {
        Ok(fd) => File::from(fd),
        // A link, a socket.
        Err(nix::Error::ELOOP | nix::Error::ENXIO | nix::Error::ENOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Whether there was something to remove. A folder that somebody made here stays, and is told every time.
fn remove(dir: impl AsFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => Ok(true),
        Err(nix::Error::ENOENT | nix::Error::EISDIR) => Ok(false),
        Err(e) => Err(io::Error::new(io::Error::from(e).kind(), format!("cannot remove {}: {e}", name.to_string_lossy()))),
    }
}
