//! Alerts: what is wrong with this host's backups is told, by mail, webhook or program (docs/alerts.md, docs/adr/0026).
//!
//! - [`find`]: from facts to causes, pure; what `cairn status` found is taken as it stands, and judged no second time
//! - [`book`]: which causes stand, who was told what, what is due now; pure. [`table`]: the same on disk
//! - [`message`]: what is said; [`send`]: how it gets there, by [`smtp`], [`web`] or [`command`], over [`tls`]
//!
//! Invariants
//! - A cause has one key for as long as it lasts. To each target it is told once; again after a pause of the target's, if it was gone and is back, or as a reminder.
//! - What could not be looked at ends no cause.
//! - A message counts as told when it was delivered, and not before: a daemon that dies in between tells twice.
//! - Every delivery has a limit, and no target waits for another.
//! - Names of guests are text: no control character of theirs is in any message, header, argument or variable.

pub mod book;
mod command;
pub mod find;
pub mod message;
pub mod send;
mod smtp;
pub mod table;
mod tls;
mod web;

use crate::output::shown;
use serde::{Deserialize, Serialize};

/// Longest text of one kind in a message.
const TEXT_CHARS_MAX: usize = 2000;
/// Longest title: it is a mail's subject.
const TITLE_CHARS_MAX: usize = 160;

/// What kind of thing is wrong; the words are those of `match.kinds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The last job of its work failed for good, or was lost.
    JobFailed,
    /// A domain's newest good point is older than promised, or there is none.
    Rpo,
    /// No policy takes a domain.
    Unprotected,
    /// A store has little room, or none.
    StoreSpace,
    /// A store does not answer.
    StoreAway,
    /// Data in a store is damaged.
    Damaged,
    /// A guest may stand frozen.
    Frozen,
    /// What a policy promises was not done for twice its time.
    Overdue,
    /// A job does not get on.
    Stalled,
    /// The daemon complains of something else.
    Daemon,
    /// How the host stands cannot be seen.
    Unseen,
    /// A target of alerts takes none.
    AlertTarget,
    /// Somebody tries a target.
    Test,
}

impl Kind {
    /// All that a target can be limited to.
    pub const ALL: [Self; 12] = [
        Self::JobFailed,
        Self::Rpo,
        Self::Unprotected,
        Self::StoreSpace,
        Self::StoreAway,
        Self::Damaged,
        Self::Frozen,
        Self::Overdue,
        Self::Stalled,
        Self::Daemon,
        Self::Unseen,
        Self::AlertTarget,
    ];

    /// In configuration, JSON and keys.
    pub fn word(self) -> &'static str {
        match self {
            Self::JobFailed => "job-failed",
            Self::Rpo => "rpo",
            Self::Unprotected => "unprotected",
            Self::StoreSpace => "store-space",
            Self::StoreAway => "store-away",
            Self::Damaged => "damaged",
            Self::Frozen => "frozen",
            Self::Overdue => "overdue",
            Self::Stalled => "stalled",
            Self::Daemon => "daemon",
            Self::Unseen => "unseen",
            Self::AlertTarget => "alert-target",
            Self::Test => "test",
        }
    }
}

/// How bad it is, the better before the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is worse than it need be, or will be.
    Warning,
    /// A promise is broken, or data or a guest is in danger.
    Critical,
}

impl Severity {
    /// In configuration and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The work of a job: one that came to a good end ends what an earlier one had failed of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Kind of job.
    pub kind: String,
    /// As the order has it.
    pub name: String,
    /// Name of the store.
    pub store: String,
}

/// One thing that is wrong. All of its texts can be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The same for as long as it lasts.
    pub key: String,
    /// What kind.
    pub kind: Kind,
    /// How bad.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// What happened, to what.
    pub what: String,
    /// The last words of whoever failed.
    pub why: Vec<String>,
    /// What to do, a line for each.
    pub remedy: Vec<String>,
    /// Name of the domain.
    pub domain: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Policies that it is about.
    pub policies: Vec<String>,
    /// Name of the store.
    pub store: Option<String>,
    /// Number of the job.
    pub job: Option<i64>,
    /// Since when, where that is known better than by when it was seen.
    pub since_unix_ms: Option<u64>,
    /// Not told before it has stood for so long.
    pub hold_ms: u64,
    /// What ends it by being done.
    pub work: Option<Work>,
}

impl Cause {
    /// Of a kind and a subject, which make the key.
    pub fn new(kind: Kind, severity: Severity, subject: &str, title: &str) -> Self {
        let key = format!("{}:{}", kind.word(), cut(subject, TITLE_CHARS_MAX));
        let title = cut(title, TITLE_CHARS_MAX);
        let (what, domain, uuid, store, job, since_unix_ms, work) = (title.clone(), None, None, None, None, None, None);
        let (why, remedy, policies) = (Vec::new(), Vec::new(), Vec::new());
        Self { key, kind, severity, title, what, why, remedy, domain, uuid, policies, store, job, since_unix_ms, hold_ms: 0, work }
    }

    /// In full.
    pub fn what(mut self, what: &str) -> Self {
        self.what = cut(what, TEXT_CHARS_MAX);
        self
    }

    /// A line of what to do.
    pub fn remedy(mut self, line: &str) -> Self {
        self.remedy.push(cut(line, TEXT_CHARS_MAX));
        self
    }

    /// A message of the program's, which names what happened first and then, behind a semicolon, what to do.
    pub fn told(self, message: &str, otherwise: &str) -> Self {
        let (what, remedy) = message.split_once("; ").unwrap_or((message, otherwise));
        self.what(what).remedy(remedy)
    }

    /// Of a domain.
    pub fn of_domain(mut self, name: &str, uuid: &str) -> Self {
        (self.domain, self.uuid) = (Some(shown(name)), Some(shown(uuid)));
        self
    }

    /// Of a store.
    pub fn of_store(mut self, store: &str) -> Self {
        self.store = Some(shown(store));
        self
    }

    /// Of a policy.
    pub fn of_policy(mut self, policy: &str) -> Self {
        self.policies.push(shown(policy));
        self
    }

    /// Told when it has stood for so long.
    pub fn hold_ms(mut self, ms: u64) -> Self {
        self.hold_ms = ms;
        self
    }
}

/// Text that can be shown, of at most so many characters.
fn cut(text: &str, max: usize) -> String {
    let text = shown(text);
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
