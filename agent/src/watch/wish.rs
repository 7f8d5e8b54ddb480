//! What the watch asks for: a point of a domain to which something happened. Policies decide whether there will be one (`on:`), the daemon makes it a
//! job.

use serde::Deserialize;
use std::fmt;

/// Wishes that wait for the daemon; it takes them at once, so a full queue means that it hangs.
pub const WISHES_MAX: usize = 256;

/// One wish. Those of one event must come once, however many ways the event was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its number in the records, by which it is said to be granted.
    pub id: i64,
    /// Name at that moment.
    pub domain: String,
    /// UUID in its usual form.
    pub uuid: String,
    /// What happened, as policies name it.
    pub trigger: Trigger,
    /// In words, for people: what happened, when, who told it.
    pub why: String,
}

/// What makes a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The guest shut down in good order.
    Shutdown,
    /// The domain was started.
    Started,
}

impl Trigger {
    /// As the configuration has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Started => "started",
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
