//! What a policy says: which domains, when, how, what is kept of it, what is checked.

use crate::{
    cli::Quiesce,
    schedule::{Schedule, Window},
    watch::Trigger,
};
use serde::Deserialize;
use std::time::Duration;

/// What is done for which domains.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Which domains.
    pub select: Select,
    /// It takes those domains that no other takes.
    pub is_default: bool,
    /// What makes a backup of them, besides being asked for.
    pub on: Vec<Trigger>,
    /// When there is one without anything having happened.
    pub schedule: Option<Schedule>,
    /// Over how long a time the domains of one instant are spread.
    pub jitter: Duration,
    /// When its work may begin.
    pub window: Option<Window>,
    /// How old the newest point of a domain may get; what is told of that is others' business.
    pub rpo: Option<Duration>,
    /// Names of stores; each gets a point.
    pub stores: Vec<String>,
    /// How the guest is quiesced.
    pub quiesce: QuiesceSettings,
    /// Tags of its points.
    pub tags: Vec<String>,
    /// What is kept; without it, everything.
    pub retention: Option<Retention>,
    /// What is checked by itself.
    pub verify: Checks,
    /// How much of the host its backups take.
    pub limits: BackupLimits,
}

/// Which domains: those that a name or a tag selects, less those that are left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Select {
    /// Patterns of names, with `*`, `?` and `[...]`.
    pub names: Vec<glob::Pattern>,
    /// Tags in the domain's own metadata.
    pub tags: Vec<String>,
    /// Patterns of names that are left out all the same.
    pub except: Vec<glob::Pattern>,
    /// What the domain does at the time of a run.
    pub state: SelectState,
}

/// What a domain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelectState {
    /// Whatever.
    #[default]
    Any,
    /// It runs.
    Running,
    /// It does not.
    Off,
}

impl SelectState {
    /// As the file has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Running => "running",
            Self::Off => "off",
        }
    }
}

/// How the guest is quiesced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuiesceSettings {
    /// How much it matters.
    pub level: Quiesce,
    /// Longest freeze, whole seconds; none is the command line's default.
    pub freeze_limit_s: Option<u64>,
    /// Mount points to freeze; empty for all.
    pub freeze_mounts: Vec<String>,
}

/// Rules of retention, as `cairn prune` has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// `--keep-last`
    pub last: u32,
    /// `--keep-hourly`
    pub hourly: u32,
    /// `--keep-daily`
    pub daily: u32,
    /// `--keep-weekly`
    pub weekly: u32,
    /// `--keep-monthly`
    pub monthly: u32,
    /// `--keep-yearly`
    pub yearly: u32,
    /// `--keep-within`, as it was written, and how long that is about.
    pub within: Option<(String, u64)>,
    /// `--keep-tag`
    pub tags: Vec<String>,
    /// `--min-age`, likewise.
    pub min_age: Option<(String, u64)>,
}

impl Retention {
    /// What keeps all that any of both keeps: rules are independent of each other, and of each the one that keeps more holds what the other does.
    pub fn or(mut self, other: &Self) -> Self {
        let longer = |a: Option<(String, u64)>, b: &Option<(String, u64)>| match (a, b) {
            (Some(a), Some(b)) => Some(if a.1 >= b.1 { a } else { b.clone() }),
            (a, b) => a.or_else(|| b.clone()),
        };
        self.last = self.last.max(other.last);
        self.hourly = self.hourly.max(other.hourly);
        self.daily = self.daily.max(other.daily);
        self.weekly = self.weekly.max(other.weekly);
        self.monthly = self.monthly.max(other.monthly);
        self.yearly = self.yearly.max(other.yearly);
        self.within = longer(self.within, &other.within);
        self.min_age = longer(self.min_age, &other.min_age);
        self.tags.extend(other.tags.iter().filter(|tag| !self.tags.contains(tag)).cloned().collect::<Vec<_>>());
        self
    }

    /// The options of `cairn prune`.
    pub fn options(&self) -> Vec<String> {
        let counts =
            [("last", self.last), ("hourly", self.hourly), ("daily", self.daily), ("weekly", self.weekly), ("monthly", self.monthly), ("yearly", self.yearly)];
        let mut out: Vec<String> = counts.into_iter().filter(|(_, n)| *n > 0).map(|(word, n)| format!("--keep-{word}={n}")).collect();
        out.extend(self.within.iter().map(|(text, _)| format!("--keep-within={text}")));
        out.extend(self.tags.iter().map(|tag| format!("--keep-tag={tag}")));
        out.extend(self.min_age.iter().map(|(text, _)| format!("--min-age={text}")));
        out
    }
}

/// What is checked by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    /// So many percent of each store's packs a day.
    pub percent_daily: Option<u8>,
    /// At most so many bytes a second, as it was written.
    pub rate: Option<String>,
    /// How often the latest point of each domain is booted.
    pub boot: Option<Every>,
}

/// How much of the host backups take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupLimits {
    /// `--limit-read`, as it was written, and in bytes a second.
    pub read: Option<(String, u64)>,
    /// `--parallel-disks`
    pub parallel_disks: Option<u8>,
}

impl BackupLimits {
    /// What keeps both: the lower limit of each.
    pub fn and(self, other: &Self) -> Self {
        let read = [self.read, other.read.clone()].into_iter().flatten().min_by_key(|(_, bytes_per_s)| *bytes_per_s);
        let parallel_disks = [self.parallel_disks, other.parallel_disks].into_iter().flatten().min();
        Self { read, parallel_disks }
    }
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// Each day.
    Daily,
    /// Every seven days.
    Weekly,
    /// Every thirty days.
    Monthly,
}

impl Every {
    /// As the file has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    /// In milliseconds.
    pub fn ms(self) -> u64 {
        let days = match self {
            Self::Daily => 1,
            Self::Weekly => 7,
            Self::Monthly => 30,
        };
        days * 24 * 3_600_000
    }
}
