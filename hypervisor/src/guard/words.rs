//! What the guard and its children say, without waiting for whoever reads it: a terminal after Ctrl-S, a pipe that is full, a log on a disk that hangs. A guest
//! that is frozen cannot wait for any of them.
//!
//! Standard error becomes a pipe that never blocks its writers; a thread hands on what comes out of it. What the pipe has no room for is lost.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// At the end: so long for the last words.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(500);
const PIECE_BYTES: usize = 4096;

/// Standard error as it was, and who writes to it.
pub(super) struct Words {
    before: std::fs::File,
    over: Receiver<()>,
}

impl Words {
    /// Puts the pipe into standard error's place. Where that cannot be done, standard error stays what it is.
    pub(super) fn begin() -> Option<Self> {
        Self::try_begin().inspect_err(|error| tracing::debug!(%error, "guard: standard error is written to as it is")).ok()
    }

    fn try_begin() -> std::io::Result<Self> {
        let before = std::fs::File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
        let (mut reader, writer) = std::io::pipe()?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        let mut target = before.try_clone()?;
        let (say, over) = channel();
        std::thread::Builder::new().name("words".to_owned()).spawn(move || {
            let mut piece = [0; PIECE_BYTES];
            let mut is_heard = true;
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                // A reader that is gone keeps nobody from speaking.
                is_heard = is_heard && target.write_all(&piece[..count]).is_ok();
            }
            // Nobody waits for it any more, perhaps.
            let _ = say.send(());
        })?;
        rustix::stdio::dup2_stderr(&writer)?;
        Ok(Self { before, over })
    }

    /// For a program that is to write to where we do.
    pub(super) fn stdio(&self) -> Option<Stdio> {
        self.before.try_clone().ok().map(Stdio::from)
    }

    /// The last words are handed on, if they are taken in time. To be called at the end: nothing is heard of what is said after it.
    pub(super) fn end(self) {
        let_go_of_stderr();
        // In vain where a child still has the pipe, or the reader hangs.
        let _ = self.over.recv_timeout(LAST_WORDS_LIMIT);
    }
}

pub(super) fn null() -> std::io::Result<std::fs::File> {
    std::fs::File::options().write(true).open("/dev/null")
}

/// Whoever reads it waits for its end.
pub(super) fn let_go_of_stderr() {
    if let Err(error) = null().and_then(|null| Ok(rustix::stdio::dup2_stderr(&null)?)) {
        tracing::error!(%error, "guard: standard error is kept");
    }
}
