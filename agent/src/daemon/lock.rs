//! One daemon a host: the lock of its state folder, `<state folder>/daemon.lock`, which names its process. It is never deleted: a deleted lock file can
//! be locked by two.

use crate::{
    failure::{BUSY, Failure, Outcome},
    run::folder::failed,
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

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

/// Takes it at once, or says who has it. Whoever keeps the file has the lock.
pub fn take(state_dir: &Path) -> Outcome<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(|e| failed("create", state_dir, &e))?;
    refuse_others(state_dir)?;
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
    write(&mut file).map_err(|e| failed("write", &path, &e))?;
    Ok(file)
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
}
