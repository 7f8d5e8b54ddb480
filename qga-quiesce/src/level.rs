//! How quiet a guest was at the point in time.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the point in time is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuiesceLevel {
    /// As after a power cut.
    Crash,
    /// File systems were frozen.
    Filesystem,
    /// Applications were told as well (VSS, or hooks in the guest).
    Application,
}

impl fmt::Display for QuiesceLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
            Self::Application => "application",
        })
    }
}

/// What to do about quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuiescePolicy {
    /// Without it there is no point.
    Require,
    /// With it if possible.
    #[default]
    Prefer,
    /// The agent is left alone.
    Never,
}

impl FromStr for QuiescePolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "require" => Ok(Self::Require),
            "prefer" => Ok(Self::Prefer),
            "never" => Ok(Self::Never),
            other => Err(format!("{other:?} is none of require, prefer, never")),
        }
    }
}

/// Longest a guest may be frozen. Windows VSS gives up after 10 s by itself.
pub const FREEZE_LIMIT_DEFAULT: Duration = Duration::from_secs(10);
/// What may be asked for instead, seconds. Below it nothing is left for the freeze itself, before the guard's thaw
/// ([`crate::guard::THAW_RESERVE`]). Above it, with a thaw that waits for the guest's hooks, a Linux guest would come near the 120 s after which its kernel reports
/// programs that wait for a disk as hung, or reboots, as some are told to.
pub const FREEZE_LIMIT_S: RangeInclusive<u64> = 4..=60;
const _: () = assert!(*FREEZE_LIMIT_S.start() > crate::guard::THAW_RESERVE.as_secs(), "a second for the freeze itself");

/// What was reached, for the restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuiesceReport {
    /// Level, proved.
    pub level: QuiesceLevel,
    /// From before the freeze was asked for to after the thaw was answered; 0 without a freeze.
    pub freeze_ms: u64,
    /// File systems that our own thaw thawed.
    pub frozen_filesystems: u32,
    /// Mount points of these, where not all were to be frozen. Empty: all, or none.
    pub frozen_mounts: Vec<String>,
    /// Why the level is not higher.
    pub reason: Option<String>,
}

impl QuiesceReport {
    /// As after a power cut, and why.
    #[must_use]
    pub fn crash(reason: impl Into<String>) -> Self {
        Self { level: QuiesceLevel::Crash, freeze_ms: 0, frozen_filesystems: 0, frozen_mounts: Vec::new(), reason: Some(reason.into()) }
    }
}
