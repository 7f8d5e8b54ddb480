//! The watch itself: takes messages, keeps the records, says when to look, hands wishes on.
//!
//! Invariants
//! - It calls no libvirt and opens no store: looks do that, in a process of their own. So it takes messages at any time.
//! - What a domain's end or start means is decided with the record, in one transaction; libvirt's event, the hook and a look may come in any order.
//! - A run's domain has no record and makes no wish.

use super::{
    Settings,
    child::{self, Looking},
    due::{Due, Look},
    failing::Failing,
    frozen::{self, Frozen},
    life::Sight,
    post::{Message, Post},
    reconcile::boot,
    records::{Note, Records},
    wish::Wish,
};
use crate::{commands::now_unix_ms, failure::Outcome};
use cairn_hook::{Event as HookEvent, Operation};
use cairn_hypervisor::{
    events::{Event, Stop, What},
    phase::Phase,
};
use cairn_quiesce::record::{self, RECORD_DIR_DEFAULT};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// Without a message something may be due all the same.
const TURN: Duration = Duration::from_secs(1);
/// Between two attempts to open records that cannot be opened.
const RECORDS_EVERY: Duration = Duration::from_secs(30);

/// How the watch is, for whoever asks.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Why libvirt is not there; none where it is.
    pub lost: Option<String>,
    /// Since when it is not there, by the clock that nobody sets.
    pub lost_at: Option<Instant>,
    /// Since when it is there, or not.
    pub since_unix_ms: u64,
    /// Events of libvirt's.
    pub events: u64,
    /// The last look at all domains that came to its end.
    pub all_unix_ms: Option<u64>,
    /// Looks that came to their end.
    pub looks: u64,
    /// Why the last one did not.
    pub problem: Option<String>,
    /// A look is under way.
    pub looking: bool,
    /// Looks that fail again and again.
    pub failing: Failing,
    /// Guests that may stand frozen.
    pub frozen: Frozen,
    /// Why nothing is remembered of domains, for as long as it is so.
    pub forgetful: Option<String>,
}

/// Shared with the handle.
pub type Shared = Arc<Mutex<State>>;

/// Does something with it.
pub fn with<T>(shared: &Shared, f: impl FnOnce(&mut State) -> T) -> T {
    // What it says holds whatever a thread died of.
    f(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

/// All that the watch's thread has.
pub struct Core {
    pub settings: Settings,
    pub wishes: Sender<Wish>,
    pub post: Post,
    pub shared: Shared,
    records: Option<Records>,
    records_at: Instant,
    due: Due,
    looking: Option<Looking>,
    connected: bool,
    wished: bool,
    /// Wishes that were handed on and not granted yet.
    given: HashSet<i64>,
}

impl Core {
    /// Nothing is done yet.
    pub fn new(settings: Settings, wishes: Sender<Wish>, post: Post, shared: Shared) -> Self {
        let now = Instant::now();
        let due = Due::new(settings.reconcile_every, now);
        Self { settings, wishes, post, shared, records: None, records_at: now, due, looking: None, connected: false, wished: false, given: HashSet::new() }
    }

    /// Until the end.
    pub fn run(mut self, from: &Receiver<Message>) {
        loop {
            let wait = TURN.min(self.due.next_at().saturating_duration_since(Instant::now())).max(Duration::from_millis(10));
            let idle = if self.connected && self.looking.is_none() { wait } else { TURN };
            match from.recv_timeout(idle) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.post.take_missed() {
                self.due.all(Instant::now());
            }
            self.look();
            self.hand_on();
        }
        self.post.end();
        if let Some(looking) = self.looking {
            looking.end();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Hook(event) => self.hook(&event),
            Message::Libvirt(event, stamp_ns) => self.libvirt(&event, stamp_ns),
            Message::Connected => {
                self.connected = true;
                with(&self.shared, |s| (s.lost, s.lost_at, s.since_unix_ms) = (None, None, now_unix_ms()));
                // What happened meanwhile was told to nobody.
                self.due.all(Instant::now());
            }
            Message::Lost(why) => self.lost(why),
            Message::Looked(look, result) => self.looked(&look, result),
            Message::Ask(None) => self.due.all(Instant::now()),
            Message::Ask(Some(domain)) => self.due.soon(&domain, Instant::now()),
            Message::Granted(id) => {
                self.given.remove(&id);
                self.record(|r| r.wished(id));
            }
            Message::Change(settings) => {
                self.due.set_every(settings.reconcile_every, Instant::now());
                if settings.state_dir != self.settings.state_dir {
                    self.records = None;
                    self.given.clear();
                }
                self.settings = *settings;
                self.due.all(Instant::now());
            }
            Message::Stop => {}
        }
    }

    fn lost(&mut self, why: String) {
        if self.connected {
            tracing::warn!("libvirt: {why}; it is asked again until it answers");
        }
        self.connected = false;
        with(&self.shared, |s| {
            if s.lost.is_none() {
                (s.since_unix_ms, s.lost_at) = (now_unix_ms(), Some(Instant::now()));
            }
            s.lost = Some(why);
        });
        if let Some(looking) = &self.looking {
            // It would wait for the same daemon.
            looking.end();
        }
    }

    /// The records, opened anew where that failed a while ago. Without them nothing is remembered, and everything else goes on.
    fn records(&mut self) -> Option<&mut Records> {
        if self.records.is_none() && Instant::now() >= self.records_at {
            self.records_at = Instant::now() + RECORDS_EVERY;
            match Records::open(&self.settings.state_dir) {
                Ok(records) => {
                    self.records = Some(records);
                    with(&self.shared, |s| s.forgetful = None);
                }
                Err(f) => self.forgets(f.message),
            }
        }
        self.records.as_mut()
    }

    fn record<T>(&mut self, work: impl FnOnce(&mut Records) -> Outcome<T>) -> Option<T> {
        match work(self.records()?) {
            Ok(value) => Some(value),
            Err(f) => {
                self.records = None;
                self.forgets(f.message);
                None
            }
        }
    }

    fn forgets(&self, why: String) {
        tracing::warn!("{why}");
        with(&self.shared, |s| s.forgetful = Some(why));
    }

    fn saw(&mut self, uuid: &str, name: &str, sight: &Sight, source: &'static str) {
        let change = self.record(|r| r.saw(uuid, name, sight, source));
        self.wished |= change.is_some_and(|c| c.wish.is_some());
    }

    fn note(&mut self, uuid: &str, at_unix_ms: u64, note: &Note<'_>) {
        self.record(|r| r.happened(uuid, at_unix_ms, note));
    }

    fn libvirt(&mut self, event: &Event, stamp_ns: u64) {
        let Event::Domain { uuid, name, what } = event else { return };
        with(&self.shared, |s| s.events += 1);
        if self.is_run(name) {
            if *what == (What::Suspended { io_error: true }) {
                // It cannot read its point. Those who serve it bring each other back; should all of them be gone, a look does.
                self.due.event(uuid, Instant::now());
            }
            return;
        }
        let (now, at_unix_ms) = (Instant::now(), now_unix_ms());
        let sight = |phase| Sight { phase, stamp_ns, boot: boot(), at_unix_ms };
        let note = |detail| Note { source: "libvirt", what: what.word(), detail };
        match what {
            What::Started(start) => self.saw(uuid, name, &sight(Phase::Running(*start)), "libvirt"),
            What::Stopped(stop) => self.saw(uuid, name, &sight(Phase::Off(*stop)), "libvirt"),
            What::Defined { .. } | What::Undefined { .. } => self.note(uuid, at_unix_ms, &note(name)),
            What::Crashed => self.note(uuid, at_unix_ms, &note("the guest crashed; QEMU is still there")),
            What::BlockJob { disk, ended: true } => self.note(uuid, at_unix_ms, &note(disk)),
            What::Agent { connected: true } if record::is_open(Path::new(RECORD_DIR_DEFAULT), uuid) => {}
            What::BlockJob { .. } | What::Agent { .. } | What::Suspended { .. } | What::Resumed | What::ShuttingDown | What::Other => return,
        }
        self.due.event(uuid, now);
    }

    fn hook(&mut self, event: &HookEvent) {
        if self.is_run(&event.domain) {
            return;
        }
        let known = event.uuid.map(|uuid| uuid.to_string());
        let Some(uuid) = known.or_else(|| self.record(|r| r.uuid_of(&event.domain)).flatten()) else {
            // Whose it is cannot be told; something happened.
            return self.due.all(Instant::now());
        };
        let (word, now) = (event.operation.word(), Instant::now());
        match event.operation {
            Operation::Started | Operation::Restore | Operation::Migrate | Operation::Reconnect | Operation::Stopped => {
                self.note(&uuid, event.time_unix_ms, &Note { source: "hook", what: word, detail: event.extra.trim_matches('-') });
            }
            Operation::Release | Operation::Attach | Operation::Other(_) => {}
            // Attempts; what comes of them is told.
            Operation::Prepare | Operation::Start => return,
        }
        // Since 10.5 libvirt says here why; before, its own event does.
        let stop = Stop::of(&event.extra);
        if event.operation == Operation::Stopped && stop != Stop::Other {
            let boot = event.boot.map_or_else(boot, |boot| boot.to_string());
            let sight = Sight { phase: Phase::Off(stop), stamp_ns: event.stamp_ns, boot, at_unix_ms: event.time_unix_ms };
            self.saw(&uuid, &event.domain, &sight, "hook");
        }
        self.due.event(&uuid, now);
    }

    fn is_run(&self, name: &str) -> bool {
        let is_name = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        is_name && self.settings.state_dir.join("runs").join(name).is_dir()
    }

    fn look(&mut self) {
        if !self.connected || self.looking.is_some() {
            return;
        }
        let Some(look) = self.due.take(Instant::now()) else { return };
        match child::start(&self.settings, look, self.post.clone()) {
            Ok(looking) => {
                self.looking = Some(looking);
                with(&self.shared, |s| s.looking = true);
            }
            Err(e) => {
                tracing::warn!("cannot start a look at domains: {e}");
                self.due.all_later(Instant::now());
            }
        }
    }

    fn looked(&mut self, look: &Look, result: Result<Vec<Value>, String>) {
        self.looking = None;
        let now = Instant::now();
        // One that was broken off since libvirt has gone is told as that.
        if self.connected {
            with(&self.shared, |s| s.failing.looked(&result, *look == Look::All));
        }
        let problem = match result {
            Ok(reports) => {
                with(&self.shared, |s| s.frozen.looked(&reports, *look == Look::All));
                reports.iter().for_each(|report| self.follow(report, now));
                None
            }
            Err(why) => {
                tracing::warn!("{}", crate::output::shown(&why));
                match look {
                    Look::All => self.due.all_later(now),
                    Look::Domains(uuids) => uuids.iter().for_each(|uuid| self.due.later(uuid, now)),
                }
                Some(why)
            }
        };
        // A look may have seen an end that nobody told.
        self.wished = true;
        with(&self.shared, |s| {
            s.looking = false;
            s.looks += u64::from(problem.is_none());
            if problem.is_none() && *look == Look::All {
                s.all_unix_ms = Some(now_unix_ms());
            }
            s.problem = problem;
        });
    }

    /// What one report calls for.
    fn follow(&mut self, report: &Value, now: Instant) {
        let is_open = matches!(report["outcome"].as_str(), Some("busy" | "failed")) || frozen::stays(report).is_some();
        if let Some(uuid) = report["uuid"].as_str().filter(|_| is_open) {
            self.due.later(uuid, now);
        }
        if let Some(found) = report["found"].as_array().filter(|found| !found.is_empty()) {
            tracing::warn!(domain = report["name"].as_str(), found = json!(found).to_string(), "{}", frozen::said(found));
        }
    }

    /// Each wish once; one that finds no room waits. It stays in the records until it is granted.
    fn hand_on(&mut self) {
        if !std::mem::take(&mut self.wished) {
            return;
        }
        for wish in self.record(Records::wishes).unwrap_or_default() {
            let id = wish.id;
            if self.given.contains(&id) {
                continue;
            }
            match self.wishes.try_send(wish) {
                Ok(()) => drop(self.given.insert(id)),
                Err(TrySendError::Full(_)) => {
                    self.wished = true;
                    return;
                }
                Err(TrySendError::Closed(_)) => return,
            }
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
