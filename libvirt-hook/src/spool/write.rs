//! The hook's side: one record into the folder, or a sign that there was no room.

use super::{OVERFLOW, RECORD_END, RECORDS_MAX, UNFINISHED_END, stem};
use crate::place;
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

const NEW_FILE: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is in the spool.
    Stored,
    /// There was no room, and the spool says so.
    Full,
}

/// Puts a record into the spool in `base`. It is not synced: the spool lies in memory, and does not outlive the boot.
///
/// # Errors
/// The folder cannot be used, or the record not written; nothing is left of it then.
pub fn put(base: &Path, stamp_ns: u64, record: &[u8]) -> io::Result<Put> {
    let dir = place::open_spool(place::open_base(base)?)?;
    if count(dir.try_clone()?, RECORDS_MAX)? >= RECORDS_MAX {
        tell_overflow(&dir);
        return Ok(Put::Full);
    }
    let stem = stem(stamp_ns, std::process::id());
    let unfinished = format!(".{stem}{UNFINISHED_END}");
    let written = write(&dir, &unfinished, record).and_then(|()| Ok(renameat(&dir, unfinished.as_str(), &dir, format!("{stem}{RECORD_END}").as_str())?));
    if let Err(e) = written {
        // Fails where it was not made.
        let _ = unlinkat(&dir, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
        tell_overflow(&dir);
        return Err(e);
    }
    Ok(Put::Stored)
}

fn write(dir: impl AsFd, name: &str, record: &[u8]) -> io::Result<()> {
    File::from(openat(dir, name, NEW_FILE, PRIVATE)?).write_all(record)
}

/// Takes no room but a name; where even that cannot be had, the listener finds out when it next looks at all domains.
fn tell_overflow(dir: impl AsFd) {
    let _ = openat(dir, OVERFLOW, NEW_FILE, PRIVATE);
}

/// Files in the folder, unfinished ones and foreign ones among them, as far as `most`.
fn count(dir: std::os::fd::OwnedFd, most: usize) -> io::Result<usize> {
    let mut dir = Dir::from_fd(dir)?;
    let mut count = 0;
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && name != OVERFLOW.as_bytes() {
            count += 1;
        }
        if count >= most {
            break;
        }
    }
    Ok(count)
}
