//! What is above all parts of the simulated host: true time, the host's clock, what is broken just now, one stream of randomness, and the history.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub const MINUTE: u64 = 60_000;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// Last lines that a failure prints.
const HISTORY_MAX: usize = 120;

/// A stream of numbers that a seed begins (splitmix64).
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From the first up to, not with, the second.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }
}

/// What changes.
#[derive(Debug)]
pub struct State {
    /// Unix milliseconds by a clock that is right.
    pub true_ms: u64,
    /// The host's clock is ahead by this.
    pub ahead_ms: i64,
    /// Boots so far.
    pub boot: u32,
    /// Stores whose disks are full, by number.
    pub full: BTreeSet<usize>,
    pub libvirt_away: bool,
    /// The next backup that begins hangs.
    pub hang_next: bool,
    pub rng: Rng,
    history: Vec<String>,
    violations: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Sky(Mutex<State>);

impl Sky {
    pub fn new(begin_ms: u64, seed: u64) -> Self {
        Self(Mutex::new(State {
            true_ms: begin_ms,
            ahead_ms: 0,
            boot: 1,
            full: BTreeSet::new(),
            libvirt_away: false,
            hang_next: false,
            rng: Rng::new(seed),
            history: Vec::new(),
            violations: 0,
        }))
    }

    /// What it guards is changed in single steps.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn true_ms(&self) -> u64 {
        self.state().true_ms
    }

    /// The host's clock.
    pub fn clock(&self) -> u64 {
        let state = self.state();
        state.true_ms.saturating_add_signed(state.ahead_ms)
    }

    pub fn note(&self, what: impl std::fmt::Display) {
        let mut state = self.state();
        let clock = if state.ahead_ms == 0 { String::new() } else { format!(" (host: {})", shown(state.true_ms.saturating_add_signed(state.ahead_ms))) };
        let line = format!("{}{clock} {what}", shown(state.true_ms));
        state.history.push(line);
        if state.history.len() > 4 * HISTORY_MAX {
            state.history.drain(..3 * HISTORY_MAX);
        }
    }

    /// Where a promise does not hold, the month ends; with CAIRN_MONTH_GO_ON, it is told and goes on to its end.
    pub fn hold(&self, holds: bool, what: impl FnOnce() -> String) {
        if holds {
            return;
        }
        let what = what();
        assert!(std::env::var_os("CAIRN_MONTH_GO_ON").is_some(), "{what}");
        println!("{}: {what}", shown(self.true_ms()));
        self.note(format_args!("VIOLATION: {what}"));
        self.state().violations += 1;
    }

    /// How many there were.
    pub fn violations(&self) -> usize {
        self.state().violations
    }

    /// The last of it.
    pub fn history(&self) -> String {
        let state = self.state();
        state.history[state.history.len().saturating_sub(HISTORY_MAX)..].join("\n")
    }
}

/// A time as people read it.
pub fn shown(unix_ms: u64) -> String {
    let stamp = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| unix_ms.to_string(), |stamp| stamp.strftime("%m-%dT%H:%M:%SZ").to_string())
}
