//! Where words go: results to stdout, all else to stderr.
//!
//! Invariants
//! - Nothing here panics: a command goes on with its work although nobody can read of it, and says at its end that it was not heard.
//! - A reader that has gone (`cairn list | head -1`) wanted no more: that is no failure.
//! - A stderr that cannot be written to has nobody to tell it to.

use crate::failure::{FAILED, Failure, Outcome};
use std::{
    fmt::Arguments,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

/// The first line that stdout did not take; nothing is written after it.
static REFUSED: Mutex<Option<io::Error>> = Mutex::new(None);

/// A line on stdout, as `println!`.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}

/// A line on stderr, as `eprintln!`.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::tell(format_args!($($text)*)) };
}

/// See `out!`.
pub fn line(text: Arguments<'_>) {
    let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    if refused.is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    *refused = stdout.write_fmt(text).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()).err();
}

/// See `say!`.
pub fn tell(text: Arguments<'_>) {
    let mut stderr = io::stderr().lock();
    // See the invariants.
    let _ = stderr.write_fmt(text).and_then(|()| stderr.write_all(b"\n"));
}

/// Whether all lines so far were taken, or had a reader that left on its own.
pub fn was_heard() -> Outcome<()> {
    match &*REFUSED.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(not_heard(e)),
        _ => Ok(()),
    }
}

/// Whether all lines so far were taken: for what is said only once.
pub fn was_read() -> Outcome<()> {
    REFUSED.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(Ok(()), |e| Err(not_heard(e)))
}

fn not_heard(e: &io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot write to stdout: {e}; the command itself has ended, and what it had to say is not whole"))
}
