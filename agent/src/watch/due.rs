//! When which domain is to be looked at: soon after something happened to it, once however much happened, and all of them now and then. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// After the last of several events.
const QUIET: Duration = Duration::from_secs(2);
/// After the first of them, though they go on.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a look that came too early, or failed.
const AGAIN: Duration = Duration::from_secs(30);
/// More domains than these are looked at together with all others.
const NAMED_MAX: usize = 64;

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Every domain.
    All,
    /// These, by UUID.
    Domains(Vec<String>),
}

/// What is to be looked at, and when.
#[derive(Debug)]
pub struct Due {
    every: Duration,
    all_at: Instant,
    /// First and last event of each.
    events: BTreeMap<String, (Instant, Instant)>,
    again: BTreeMap<String, Instant>,
}

impl Due {
    /// All domains are due at once.
    pub fn new(every: Duration, now: Instant) -> Self {
        Self { every, all_at: now, events: BTreeMap::new(), again: BTreeMap::new() }
    }

    /// Looks at all domains come this often from now on.
    pub fn set_every(&mut self, every: Duration, now: Instant) {
        self.every = every;
        self.all_at = self.all_at.min(now + every);
    }

    /// Something happened to a domain.
    pub fn event(&mut self, uuid: &str, now: Instant) {
        if self.events.len() >= NAMED_MAX && !self.events.contains_key(uuid) {
            self.all(now);
        } else {
            self.events.entry(uuid.to_owned()).and_modify(|(_, last)| *last = now).or_insert((now, now));
        }
    }

    /// Somebody wants to know.
    pub fn soon(&mut self, uuid: &str, now: Instant) {
        if self.again.len() < NAMED_MAX {
            self.again.insert(uuid.to_owned(), now);
        } else {
            self.all(now);
        }
    }

    /// Something may have happened to any.
    pub fn all(&mut self, now: Instant) {
        self.all_at = self.all_at.min(now);
    }

    /// A look at a domain did not come to its end.
    pub fn later(&mut self, uuid: &str, now: Instant) {
        if self.again.len() < NAMED_MAX {
            self.again.insert(uuid.to_owned(), now + AGAIN);
        } else {
            self.all_at = self.all_at.min(now + AGAIN);
        }
    }

    /// A look at all did not come to its end.
    pub fn all_later(&mut self, now: Instant) {
        self.all_at = self.all_at.min(now + AGAIN);
    }

    /// What is due now; it is taken to be done.
    pub fn take(&mut self, now: Instant) -> Option<Look> {
        if now >= self.all_at {
            self.all_at = now + self.every;
            self.events.clear();
            self.again.clear();
            return Some(Look::All);
        }
        let mut due: Vec<String> = self.events.iter().filter(|(_, at)| now >= event_at(**at)).map(|(uuid, _)| uuid.clone()).collect();
        due.extend(self.again.iter().filter(|(_, at)| now >= **at).map(|(uuid, _)| uuid.clone()));
        due.sort();
        due.dedup();
        for uuid in &due {
            self.events.remove(uuid);
            self.again.remove(uuid);
        }
        (!due.is_empty()).then_some(Look::Domains(due))
    }

    /// When to ask again.
    pub fn next_at(&self) -> Instant {
        let events = self.events.values().map(|at| event_at(*at));
        events.chain(self.again.values().copied()).fold(self.all_at, Instant::min)
    }
}

fn event_at((first, last): (Instant, Instant)) -> Instant {
    (last + QUIET).min(first + PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(300);

    fn settled() -> (Due, Instant) {
        let now = Instant::now();
        let mut due = Due::new(EVERY, now);
        assert_eq!(due.take(now), Some(Look::All), "at the start");
        assert_eq!(due.take(now), None);
        (due, now)
    }

    #[test]
    fn many_events_make_one_look() {
        let (mut due, start) = settled();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for ms in [0, 1500, 3000, 4500] {
            due.event("a", at(ms));
            assert_eq!(due.take(at(ms + 1)), None);
        }
        assert_eq!(due.next_at(), at(6500));
        assert_eq!(due.take(at(6500)), Some(Look::Domains(vec!["a".into()])));
        assert_eq!(due.take(at(20_000)), None);
    }

    #[test]
    fn events_that_go_on_do_not_put_it_off_for_ever() {
        let (mut due, start) = settled();
        let seen = (0..40).map(|n| start + Duration::from_millis(500 * n)).find_map(|now| {
            due.event("a", now);
            due.take(now).map(|_| now)
        });
        assert_eq!(seen, Some(start + PATIENCE));
    }

    #[test]
    fn all_come_by_the_clock_and_when_something_was_missed() {
        let (mut due, start) = settled();
        assert_eq!(due.next_at(), start + EVERY);
        due.event("a", start);
        due.all(start);
        assert_eq!(due.take(start), Some(Look::All), "and that one is among them");
        assert_eq!(due.take(start + PATIENCE), None);
        due.later("b", start);
        due.set_every(Duration::from_secs(60), start);
        assert_eq!(due.take(start + AGAIN), Some(Look::Domains(vec!["b".into()])));
        assert_eq!(due.next_at(), start + Duration::from_secs(60));
        (0..=NAMED_MAX).for_each(|n| due.event(&n.to_string(), start));
        assert_eq!(due.take(start), Some(Look::All), "bounded");
    }
}
