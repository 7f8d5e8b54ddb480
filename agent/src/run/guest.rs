//! The supervisor's eye on the domain: lets a guest go on that was paused by a read or write that failed ([`super::stopped`]), and carries a keep
//! through, step by step.
//!
//! Invariants
//! - Every step begins with a look at libvirt and ends before the next: there is nothing to remember, and a crash between two steps is none.
//! - While a keep changes over from one image to another, it alone says whether the processors run.
//! - A libvirt that is gone is asked again once a second; a hung one holds up this thread alone.

use super::{
    again, copy, finish,
    folder::RunFolder,
    keep, log,
    record::{Phase, Record, State, Wish},
    status::KeepStatus,
    stopped::{self, Stopped},
    supervisor::Shared,
};
use crate::failure::{Failure, Outcome};
use cairn_hypervisor::{Domain, Host, host::HostError, run::GuestState};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

const TICK: Duration = Duration::from_millis(250);
/// While a keep is at work, whose last steps pause the guest.
const TICK_SHORT: Duration = Duration::from_millis(50);
const TROUBLE: Duration = Duration::from_secs(1);
/// A domain that is not there for so long is gone, and not only being defined anew.
const GONE_AFTER: Duration = Duration::from_secs(3);

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More to do.
    Again,
    /// The domain is an ordinary one.
    Done,
}

/// What a step works with.
pub struct Work<'a> {
    /// The run's folder.
    pub folder: &'a RunFolder,
    /// The connection.
    pub host: &'a Host,
    /// Its domain.
    pub domain: &'a Domain,
    /// Its state at the beginning of the step.
    pub state: GuestState,
    /// The record, which the step may change and save.
    pub record: &'a mut Record,
    /// What is told.
    pub shared: &'a Shared,
    /// Limit, bytes a second.
    pub bytes_per_s: u64,
    /// What lives from step to step.
    pub memory: &'a mut keep::Memory,
}

/// Watches until the run is over.
pub fn watch(folder: &RunFolder, shared: &Shared) {
    let mut watcher = Watcher {
        folder,
        shared,
        host: None,
        record: None,
        memory: keep::Memory::default(),
        stopped: None,
        log_bytes: 0,
        said: String::new(),
        gone_since: None,
    };
    while !shared.over.load(Ordering::SeqCst) {
        let pause = watcher.tick().unwrap_or_else(|f| {
            watcher.host = None;
            watcher.trouble(f.message);
            TROUBLE
        });
        std::thread::sleep(pause);
    }
}

struct Watcher<'a> {
    folder: &'a RunFolder,
    shared: &'a Shared,
    host: Option<Host>,
    record: Option<Record>,
    memory: keep::Memory,
    stopped: Option<Stopped>,
    /// Length of the log while all was well.
    log_bytes: u64,
    said: String,
    /// Since when libvirt has no such domain.
    gone_since: Option<Instant>,
}

impl Watcher<'_> {
    /// Says the same thing once.
    fn trouble(&mut self, text: String) {
        if self.said != text {
            log::say(&text);
            self.said.clone_from(&text);
        }
        let mut status = self.shared.status();
        if status.served {
            status.problem = Some(text);
        }
    }

    /// Nothing is in the way any more.
    fn well(&mut self) {
        self.said.clear();
        let mut status = self.shared.status();
        if status.served {
            status.problem = self.stopped.as_ref().map(|s| s.problem.clone());
        }
    }

    fn tick(&mut self) -> Outcome<Duration> {
        let mut record = match self.record.take() {
            Some(record) => record,
            None => self.folder.record()?,
        };
        if record.state == State::Making {
            return Ok(TICK);
        }
        let result = self.look(&mut record);
        self.record = Some(record);
        result
    }

    fn look(&mut self, record: &mut Record) -> Outcome<Duration> {
        let host = match self.host.take() {
            Some(host) => host,
            None => Host::open(record.connect.as_deref())?,
        };
        let domain = match host.domain(&record.uuid) {
            Err(HostError::NoDomain { .. }) => return self.without_domain(record),
            result => result?,
        };
        self.gone_since = None;
        let fail = |e: cairn_hypervisor::ffi::LibvirtError| Failure::new(crate::failure::FAILED, e.to_string());
        let state = domain.guest_state().map_err(fail)?;
        self.see_to(&domain, state, record);
        let pause = self.wish(&host, &domain, state, record)?;
        self.host = Some(host);
        Ok(pause)
    }

    /// Somebody undefined it: a keep ends, and can be cancelled.
    fn without_domain(&mut self, record: &mut Record) -> Outcome<Duration> {
        if self.gone_since.get_or_insert_with(Instant::now).elapsed() < GONE_AFTER {
            return Ok(TICK);
        }
        self.stopped = None;
        self.memory.stop_offline();
        match self.folder.wish()? {
            Some(Wish::Cancel) => {
                keep::cancel_without_domain(self.folder, record)?;
                self.cancelled()
            }
            Some(Wish::Keep { asked_unix_ms, .. }) => {
                self.hear(asked_unix_ms, record);
                if !self.memory.gave_up {
                    self.memory.gave_up = true;
                    self.give_up(again::gone(record));
                }
                Ok(TROUBLE)
            }
            Some(Wish::Discard) | None => Err(again::gone(record)),
        }
    }

    /// A cancel is done.
    fn cancelled(&mut self) -> Outcome<Duration> {
        self.memory = keep::Memory::default();
        {
            let mut status = self.shared.status();
            status.keep = None;
            // What was in the way of the keep is in nobody's way any more.
            status.problem = self.stopped.as_ref().map(|s| s.problem.clone());
        }
        self.folder.clear_wish()?;
        Ok(TICK)
    }

    /// A keep that was asked for anew begins with nothing remembered.
    fn hear(&mut self, asked_unix_ms: u64, record: &Record) -> bool {
        if self.memory.asked_unix_ms == asked_unix_ms {
            return false;
        }
        self.memory = keep::Memory::of(asked_unix_ms);
        let total_bytes = record.disks.iter().map(|d| d.size_bytes).sum();
        {
            let mut status = self.shared.status();
            status.keep = Some(KeepStatus { asked_unix_ms, done_bytes: 0, total_bytes, gave_up: false });
            // Of an earlier one.
            status.problem = self.stopped.as_ref().map(|s| s.problem.clone());
        }
        log::say("keep: begins, or goes on");
        true
    }

    fn give_up(&mut self, f: Failure) {
        log::say(format!("keep: given up: {}", f.message));
        let mut status = self.shared.status();
        status.problem = Some(f.message);
        if let Some(keep) = &mut status.keep {
            keep.gave_up = true;
        }
    }

    /// Paused by a read or write that failed: if what was in the way is gone, it works now.
    fn see_to(&mut self, domain: &Domain, state: GuestState, record: &Record) {
        let log = self.folder.log();
        match state {
            GuestState::IoError => {}
            GuestState::Running if self.stopped.as_mut().is_some_and(|s| !s.is_over()) => return,
            _ => {
                if self.stopped.take().is_some() && state == GuestState::Running {
                    log::say("the guest runs again");
                }
                self.log_bytes = stopped::log_bytes(&log);
                return;
            }
        }
        let log_from = self.log_bytes;
        let stopped = self.stopped.get_or_insert_with(|| Stopped::new(record, log_from));
        let before = stopped.problem.clone();
        stopped.look(record, &log);
        if self.shared.started.swap(false, Ordering::SeqCst) {
            stopped.afresh();
        }
        let said = (stopped.problem != before).then(|| stopped.problem.clone());
        let pivots = record.disks.iter().any(|d| matches!(d.phase, Phase::Pivoting { .. }));
        let resume = self.shared.status().served && !pivots && stopped.is_due();
        if let Some(problem) = said {
            log::say(problem);
        }
        if resume {
            match domain.resume() {
                Ok(()) => log::say("the guest was paused by a failed read or write; it goes on"),
                Err(e) => log::say(format!("the guest cannot go on: {e}")),
            }
        }
    }

    fn wish(&mut self, host: &Host, domain: &Domain, state: GuestState, record: &mut Record) -> Outcome<Duration> {
        let (asked_unix_ms, bytes_per_s, to) = match self.folder.wish()? {
            Some(Wish::Keep { asked_unix_ms, bytes_per_s, to }) => (asked_unix_ms, bytes_per_s, to),
            Some(Wish::Cancel) => {
                // A change over takes a moment and is not undone; left in the middle, the guest would stand still.
                let memory = &mut self.memory;
                let mut work = Work { folder: self.folder, host, domain, state, record, shared: self.shared, bytes_per_s: 0, memory };
                if copy::end_pivots(&mut work)? {
                    return Ok(TICK_SHORT);
                }
                keep::cancel(self.folder, domain, state, record, &mut self.memory)?;
                return self.cancelled();
            }
            Some(Wish::Discard) | None => {
                self.well();
                return Ok(TICK);
            }
        };
        if self.hear(asked_unix_ms, record) {
            again::remember(self.folder, domain)?;
        }
        if self.memory.gave_up {
            return Ok(TROUBLE);
        }
        if state == GuestState::Off && self.folder.is_starting() {
            self.memory.stop_offline();
            return Ok(TICK);
        }
        let copying = !to.is_empty() || record.disks.iter().any(|d| d.copy.is_some());
        let mut work = Work { folder: self.folder, host, domain, state, record, shared: self.shared, bytes_per_s, memory: &mut self.memory };
        let step = if copying { copy::step(&mut work, &to) } else { keep::step(&mut work) };
        let step = match step {
            Ok(Step::Done) => finish::check_ordinary(host, domain, record).map(|()| Step::Done).map_err(|f| self.memory.check_failed(f)),
            step => step,
        };
        match step {
            Ok(Step::Again) => {
                self.well();
                Ok(TICK_SHORT)
            }
            Ok(Step::Done) => {
                self.shared.kept.store(true, Ordering::SeqCst);
                Ok(TICK)
            }
            Err(f) if self.memory.gave_up => {
                self.give_up(f);
                Ok(TROUBLE)
            }
            Err(f) => {
                self.memory.attempts.failed(&f);
                Err(f)
            }
        }
    }
}
