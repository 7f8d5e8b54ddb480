//! Which causes stand, who was told what, and what is due. Pure: the time is handed in.
//!
//! Invariants
//! - Nothing is taken for told that was not delivered.
//! - A clock that is set back or ahead makes a message come too early, never not at all.
//! - Of one cause a target gets at most one opening message in its `pause`, and one that it is gone; a cause that grows worse is told at once.

use super::{Cause, Severity};
use crate::config::AlertTarget;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What begins together is told together.
const GATHER_MS: u64 = 3_000;
/// Causes in one message.
const BATCH_MAX: usize = 200;
/// For how long it is known that a cause was there.
const GONE_KEEP_MS: u64 = 7 * 24 * 3_600_000;
/// Before the next try of a target that failed.
const PAUSES_MS: [u64; 6] = [5_000, 15_000, 60_000, 300_000, 900_000, 1_800_000];

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Book {
    /// By key.
    pub entries: BTreeMap<String, Entry>,
    /// Targets that fail, by name.
    pub failing: BTreeMap<String, Failing>,
    /// What policies promise to do again and again.
    pub promises: BTreeMap<String, Promise>,
}

/// A cause, and who knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// As it was seen last.
    pub cause: Cause,
    /// When it was first seen, this time; tells this time from earlier ones.
    pub opened_unix_ms: u64,
    /// When it was seen to be gone.
    #[serde(default)]
    pub gone_unix_ms: Option<u64>,
    /// Nobody is told until then.
    #[serde(default)]
    pub silent_until_unix_ms: Option<u64>,
    /// By target.
    #[serde(default)]
    pub told: BTreeMap<String, Told>,
}

/// What a target knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Of which time ([`Entry::opened_unix_ms`]).
    pub opened_unix_ms: u64,
    /// When it was last told that it stands.
    pub at_unix_ms: u64,
    /// The worst that it was told.
    pub severity: Severity,
    /// It was told that this is over.
    #[serde(default)]
    pub is_closed: bool,
}

/// A target that takes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// Since when.
    pub since_unix_ms: u64,
    /// How often in a row.
    pub tries: u32,
    /// Not tried again before.
    pub next_unix_ms: u64,
    /// Why.
    pub why: String,
}

/// What is to be done again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Since when it is known.
    pub since_unix_ms: u64,
    /// When it was last done, as far as is known.
    #[serde(default)]
    pub done_unix_ms: Option<u64>,
}

/// Why something is in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is news.
    Open,
    /// It still stands.
    Reminder,
    /// It is gone.
    Resolved,
}

impl State {
    /// In JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Reminder => "reminder",
            Self::Resolved => "resolved",
        }
    }
}

/// One thing that is to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// Why.
    pub state: State,
    /// What.
    pub entry: Entry,
}

/// How long ago; what lies ahead was written by a clock that was wrong, and is as long ago as can be.
fn elapsed(at: u64, now: u64) -> u64 {
    now.checked_sub(at).unwrap_or(u64::MAX)
}

fn ms(length: std::time::Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

impl Entry {
    /// When what it tells of began.
    pub fn since_unix_ms(&self) -> u64 {
        self.cause.since_unix_ms.unwrap_or(self.opened_unix_ms)
    }

    fn is_silent(&self, now: u64) -> bool {
        // Longer than anybody may ask for: a clock that was wrong.
        self.silent_until_unix_ms.is_some_and(|until| now < until && until - now <= SILENCE_MS_MAX)
    }

    fn due(&self, name: &str, target: &AlertTarget, now: u64) -> Option<State> {
        let told = self.told.get(name).filter(|told| told.opened_unix_ms == self.opened_unix_ms);
        if self.is_silent(now) {
            return None;
        }
        if self.gone_unix_ms.is_some() {
            return told.is_some_and(|told| !told.is_closed && target.resolved).then_some(State::Resolved);
        }
        if !target.matches(&self.cause) || elapsed(self.opened_unix_ms, now) < self.cause.hold_ms {
            return None;
        }
        match (told, self.told.get(name)) {
            (Some(told), _) if self.cause.severity > told.severity => Some(State::Open),
            (Some(told), _) => target.repeat.is_some_and(|every| elapsed(told.at_unix_ms, now) >= ms(every)).then_some(State::Reminder),
            // It was there before: whatever comes and goes is told at a pace.
            (None, Some(before)) => (elapsed(before.at_unix_ms, now) >= ms(target.pause)).then_some(State::Open),
            (None, None) => Some(State::Open),
        }
    }
}

/// Longest silence.
pub const SILENCE_MS_MAX: u64 = 90 * 24 * 3_600_000;

impl Book {
    /// What was found. Of what was not, `is_gone` says whether it is known to be gone.
    pub fn see(&mut self, found: Vec<Cause>, is_gone: impl Fn(&Entry) -> bool, now: u64) {
        for entry in self.entries.values_mut().filter(|entry| entry.gone_unix_ms.is_none()) {
            if !found.iter().any(|cause| cause.key == entry.cause.key) && is_gone(entry) {
                entry.gone_unix_ms = Some(now);
                // It was for this time.
                entry.silent_until_unix_ms = None;
            }
        }
        for cause in found {
            match self.entries.get_mut(&cause.key) {
                Some(entry) => {
                    if entry.gone_unix_ms.take().is_some() {
                        entry.opened_unix_ms = now.max(entry.opened_unix_ms + 1);
                    }
                    entry.cause = cause;
                }
                None => {
                    let entry = Entry { opened_unix_ms: now, gone_unix_ms: None, silent_until_unix_ms: None, told: BTreeMap::new(), cause };
                    self.entries.insert(entry.cause.key.clone(), entry);
                }
            }
        }
        self.entries.retain(|_, entry| entry.gone_unix_ms.is_none_or(|at| at > now || now - at < GONE_KEEP_MS));
    }

    /// Forgets targets that are not there any more.
    pub fn keep_targets(&mut self, targets: &BTreeMap<String, AlertTarget>) {
        self.failing.retain(|name, _| targets.contains_key(name));
        self.entries.values_mut().for_each(|entry| entry.told.retain(|name, _| targets.contains_key(name)));
    }

    /// What a target is to be told now, the news first; nothing while it rests after a failure.
    pub fn due(&self, name: &str, target: &AlertTarget, now: u64) -> Vec<Due> {
        let rests = |failing: &Failing| failing.next_unix_ms.checked_sub(now).is_some_and(|left| left > 0 && left <= PAUSES_MS[PAUSES_MS.len() - 1]);
        if self.failing.get(name).is_some_and(rests) {
            return Vec::new();
        }
        let of = |entry: &Entry| entry.due(name, target, now).map(|state| Due { state, entry: entry.clone() });
        let mut due: Vec<Due> = self.entries.values().filter_map(of).collect();
        let is_old = |due: &Due| elapsed(due.entry.gone_unix_ms.unwrap_or(due.entry.opened_unix_ms), now) >= GATHER_MS;
        if !due.iter().any(is_old) {
            return Vec::new();
        }
        due.sort_by_key(|due| (due.state, std::cmp::Reverse(due.entry.cause.severity)));
        due.truncate(BATCH_MAX);
        due
    }

    /// It was delivered.
    pub fn delivered(&mut self, name: &str, batch: &[Due], now: u64) {
        self.failing.remove(name);
        for due in batch {
            let Some(entry) = self.entries.get_mut(&due.entry.cause.key) else { continue };
            let is_closed = due.state == State::Resolved;
            let before = entry.told.get(name);
            let at_unix_ms = before.filter(|_| is_closed).map_or(now, |told| told.at_unix_ms);
            let told = Told { opened_unix_ms: due.entry.opened_unix_ms, at_unix_ms, severity: due.entry.cause.severity, is_closed };
            entry.told.insert(name.to_owned(), told);
        }
    }

    /// It was not; how often in a row by now.
    pub fn failed(&mut self, name: &str, why: &str, now: u64) -> u32 {
        let failing = self.failing.entry(name.to_owned()).or_insert(Failing { since_unix_ms: now, tries: 0, next_unix_ms: 0, why: String::new() });
        let pause = PAUSES_MS[usize::try_from(failing.tries).unwrap_or(usize::MAX).min(PAUSES_MS.len() - 1)];
        failing.tries = failing.tries.saturating_add(1);
        (failing.next_unix_ms, failing.why) = (now.saturating_add(pause), super::cut(why, super::TEXT_CHARS_MAX));
        failing.tries
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
