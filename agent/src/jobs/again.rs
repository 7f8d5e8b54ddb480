//! A job that failed of something that may be over soon, or was lost, is tried again, if an event asked for it: nobody is there who would. Pure.
//!
//! Invariants
//! - Bounded: so many tries, with a growing pause before each. Whoever is at work may take an hour; what takes longer is seen by the next event.
//! - What stays as it is until somebody mends it (a wrong key, a refusal, a domain that is gone) is not tried again.
//! - What a person asked for is not done behind their back: they were told, and decide.
//! - What ended long ago is not tried again where it is only read up: a table that was begun anew takes in all that folders know. What was seen to run is news
//!   however late: a host that is off overnight ends it in the evening, and the next daemon hears of that in the morning.

use super::record::{ASKED, Again, Job, State};
use crate::failure::{BUSY, FAILED, INTERRUPTED, NO_STORE};

/// Before the second try, the third, and so on: an hour in all.
pub const PAUSES_MS: [u64; 7] = [30_000, 60_000, 120_000, 240_000, 480_000, 960_000, 1_920_000];
/// Codes above this are of processes that a signal ended.
const SIGNALS: i32 = 128;
/// A job that ended longer ago, and was not seen to run, is history.
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

/// See the module. `was_seen`: the table had it as one that runs.
pub fn next(job: &Job, was_seen: bool, now_unix_ms: u64) -> Next {
    let may_be_over = match job.state {
        State::Failed => may_be_over(job.code),
        // The host went down, or its runner was killed: that is over.
        State::Lost => true,
        _ => false,
    };
    let is_news = was_seen || job.ended_unix_ms.is_some_and(|at| now_unix_ms.saturating_sub(at) < FRESH_MS);
    if !may_be_over || !is_news || job.cancel || job.order.trigger == ASKED {
        return Next::Over;
    }
    let tries = job.tries();
    match usize::try_from(tries).ok().and_then(|n| PAUSES_MS.get(n - 1)) {
        Some(pause) => Next::Try(Again { of: job.id, tries: tries + 1, not_before_unix_ms: now_unix_ms.saturating_add(*pause) }),
        None => Next::GivenUp(tries),
    }
}

/// Whether what it failed of may be over soon: somebody at work; a store that is not there, as when a server restarts; a process that could not be started,
/// or was ended by somebody, as when memory is short or the host shuts down; and all that has no code of its own: libvirt is away, a disk is full, a network is slow.
fn may_be_over(code: Option<i32>) -> bool {
    let is = |known: u8, code: i32| code == i32::from(known);
    code.is_none_or(|code| [FAILED, NO_STORE, BUSY].iter().any(|known| is(*known, code)) || code > SIGNALS)
}

/// What was failed of, where the job itself gave no reason.
pub fn reason(code: Option<i32>) -> &'static str {
    match code {
        Some(code) if code == i32::from(BUSY) => "somebody else was at work",
        Some(code) if code == i32::from(NO_STORE) => "the store was not there",
        Some(code) if code == i32::from(INTERRUPTED) => "it was interrupted",
        _ => "it gave no reason",
    }
}

/// Whether its time has come. A clock that was set back makes nobody wait for long.
pub fn is_due(job: &Job, now_unix_ms: u64) -> bool {
    let wait = job.again.as_ref().map_or(0, |again| again.not_before_unix_ms.saturating_sub(now_unix_ms));
    wait == 0 || PAUSES_MS.last().is_some_and(|longest| wait > *longest)
}
