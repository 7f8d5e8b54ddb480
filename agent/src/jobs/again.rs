//! A job that met somebody at work (exit code 11) is tried again, if an event asked for it: nobody is there who would. Pure.
//!
//! Invariants
//! - Bounded: so many tries, with a growing pause before each. Whoever is at work may take an hour; what takes longer is seen by the next event.
//! - What a person asked for is not done behind their back: they were told, and decide.
//! - What ended long ago is not tried again: a table that was begun anew takes in all that folders know.

use super::record::{ASKED, Again, Job, State};
use crate::failure::BUSY;

/// Before the second try, the third, and so on: an hour in all.
pub const PAUSES_MS: [u64; 7] = [30_000, 60_000, 120_000, 240_000, 480_000, 960_000, 1_920_000];
/// A job that ended longer ago is history.
const FRESH_MS: u64 = 3600 * 1000;

/// What is to become of a job that has just been seen to be over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Over,
    /// It was tried often enough; how often.
    GivenUp(u32),
    /// Another try.
    Try(Again),
}

/// See the module.
pub fn next(job: &Job, now_unix_ms: u64) -> Next {
    let is_busy = job.state == State::Failed && job.code == Some(BUSY.into());
    let is_fresh = job.ended_unix_ms.is_some_and(|at| now_unix_ms.saturating_sub(at) < FRESH_MS);
    if !is_busy || !is_fresh || job.cancel || job.order.trigger == ASKED {
        return Next::Over;
    }
    let tries = job.tries();
    match usize::try_from(tries).ok().and_then(|n| PAUSES_MS.get(n - 1)) {
        Some(pause) => Next::Try(Again { of: job.id, tries: tries + 1, not_before_unix_ms: now_unix_ms.saturating_add(*pause) }),
        None => Next::GivenUp(tries),
    }
}

/// Whether its time has come. A clock that was set back makes nobody wait for long.
pub fn is_due(job: &Job, now_unix_ms: u64) -> bool {
    let wait = job.again.as_ref().map_or(0, |again| again.not_before_unix_ms.saturating_sub(now_unix_ms));
    wait == 0 || PAUSES_MS.last().is_some_and(|longest| wait > *longest)
}
