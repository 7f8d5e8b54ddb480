//! One daemon a host: the lock of its state folder, `<state folder>/daemon.lock`, which names its process.
//!
//! Invariant: it is never deleted by us, since a deleted lock file can be locked by two. Where somebody else deletes it, or the folder, the daemon that has
//! it sees that before it begins anything, and ends.

use crate::{
    failure::{BUSY, Failure, Outcome},
    run::folder::failed,
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const TRIES_MAX: usize = 8;

/// What lies in the state folder is run by the daemon: nobody else may write to it.
fn refuse_others(state_dir: &Path) -> Outcome<()> {
    let meta = fs::metadata(state_dir).map_err(|e| failed("look at", state_dir, &e))?;
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() == me && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "the state folder {} belongs to user {} with mode {:o}, and others could write there what the daemon runs; make it this user's ({me}), mode 700",
        state_dir.display(),
        meta.uid(),
        meta.mode() & 0o7777
    )))
}

/// The state folder is this daemon's until it is dropped.
#[derive(Debug)]
pub struct StateLock {
    file: File,
    path: PathBuf,
}

impl StateLock {
    /// Whether the lock is the one that another daemon would find. A folder that was removed or replaced has no lock of ours: another daemon may have the one
    /// that is there now. A disk that does not say is no reason to think so.
    pub fn is_in_place(&self) -> bool {
        let id = |m: &Metadata| (m.dev(), m.ino());
        match (fs::symlink_metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => id(&there) == id(&ours),
            (Err(e), _) => !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
            (Ok(_), Err(_)) => true,
        }
    }
}

/// Takes it at once, or says who has it.
pub fn take(state_dir: &Path) -> Outcome<StateLock> {
    for _ in 0..TRIES_MAX {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(|e| failed("create", state_dir, &e))?;
        refuse_others(state_dir)?;
        let lock = try_take(state_dir)?;
        // Somebody may have taken the file away between our opening and locking it.
        if lock.is_in_place() {
            return Ok(lock);
        }
    }
    Err(Failure::new(BUSY, format!("the state folder {} is taken away again and again; see who does that", state_dir.display())))
}

fn try_take(state_dir: &Path) -> Outcome<StateLock> {
    let path = state_dir.join("daemon.lock");
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(|e| failed("open", &path, &e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // Who it is, is only for people.
            let _ = (&file).take(32).read_to_string(&mut pid);
            let who = if pid.trim().is_empty() { "another daemon".into() } else { format!("another daemon, process {},", pid.trim()) };
            return Err(Failure::new(
                BUSY,
                format!(
                    "{who} works with {} already; stop it with 'systemctl stop cairn' (or a SIGTERM), or reload it with 'cairn daemon --reload'",
                    state_dir.display()
                ),
            ));
        }
        Err(e) => return Err(failed("lock", &path, &e.into())),
    }
    let write = |file: &mut File| -> std::io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    // Who it is, is only for people: a disk that is full is told where it matters.
    if let Err(e) = write(&mut file) {
        tracing::warn!("{}", failed("write", &path, &e).message);
    }
    Ok(StateLock { file, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_was_first() {
        let dir = tempfile::tempdir().expect("dir");
        let state = dir.path().join("state");
        let first = take(&state).expect("free");
        let f = take(&state).expect_err("taken");
        assert_eq!(f.code, BUSY);
        assert!(f.message.contains(&format!("process {},", std::process::id())), "{}", f.message);
        drop(first);
        take(&state).expect("free again");
    }

    #[test]
    fn a_folder_that_is_gone_or_replaced_is_seen() {
        let dir = tempfile::tempdir().expect("dir");
        let state = dir.path().join("state");
        let first = take(&state).expect("free");
        assert!(first.is_in_place());
        fs::rename(&state, dir.path().join("aside")).expect("moved");
        assert!(!first.is_in_place(), "gone");
        let second = take(&state).expect("a new folder is free");
        assert!(second.is_in_place() && !first.is_in_place(), "replaced");
    }
}
