//! `/etc/cairn/cairn.yaml`: stores by name, policies, the daemon's own settings.
//!
//! Invariants
//! - What is not understood is an error with line and column: a setting that is passed over would be believed.
//! - No secret stands in it: keys and passphrases are named by file.
//! - A file that is wrong changes nothing: who reloads keeps what there was.

mod text;

use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

pub use text::{ConfigError, load};

/// Where it lies unless told otherwise.
pub const PATH_DEFAULT: &str = "/etc/cairn/cairn.yaml";
/// Between two looks at all domains, unless told otherwise.
const RECONCILE_EVERY_DEFAULT: Duration = Duration::from_secs(300);
const JOBS_MAX_DEFAULT: usize = 2;

/// All of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Stores by name.
    #[serde(default)]
    pub stores: BTreeMap<String, StoreEntry>,
    /// Policies by name.
    #[serde(default)]
    pub policies: BTreeMap<String, Policy>,
    /// The daemon's own settings.
    #[serde(default)]
    pub daemon: DaemonSettings,
}

/// A store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreEntry {
    /// Its place, as on the command line.
    pub url: String,
    /// Key file; without one the default place is looked at.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// File whose first line is the passphrase.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
}

/// What is done for which domains.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Which domains.
    pub select: Select,
    /// What makes a backup of them, besides being asked for.
    #[serde(default)]
    pub on: Vec<Trigger>,
    /// Names of stores; each gets a point.
    pub stores: Vec<String>,
    /// How the guest is quiesced.
    #[serde(default)]
    pub quiesce: QuiesceSettings,
    /// Tags of its points.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// Which domains.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// Patterns of names, with `*`, `?` and `[...]`.
    pub names: Vec<String>,
    /// Patterns of names that are left out all the same.
    #[serde(default)]
    pub except: Vec<String>,
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

/// How the guest is quiesced.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuiesceSettings {
    /// How much it matters.
    #[serde(default)]
    pub level: QuiesceWord,
    /// Longest freeze.
    #[serde(default, deserialize_with = "text::optional_duration")]
    pub freeze_limit: Option<Duration>,
}

/// As `--quiesce` has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuiesceWord {
    /// No point without.
    Require,
    /// If it can be had.
    #[default]
    Prefer,
    /// Not at all.
    Never,
}

impl QuiesceWord {
    /// For the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Never => "never",
        }
    }
}

/// The daemon's own settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonSettings {
    /// Between two looks at all domains.
    #[serde(default = "reconcile_every", deserialize_with = "text::duration")]
    pub reconcile_every: Duration,
    /// Jobs at once.
    #[serde(default = "jobs_max")]
    pub jobs_max: usize,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self { reconcile_every: reconcile_every(), jobs_max: jobs_max() }
    }
}

fn reconcile_every() -> Duration {
    RECONCILE_EVERY_DEFAULT
}

fn jobs_max() -> usize {
    JOBS_MAX_DEFAULT
}

impl Select {
    /// Whether a domain of this name is meant. Patterns are checked when the file is read.
    pub fn takes(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().filter_map(|p| glob::Pattern::new(p).ok()).any(|p| p.matches(name));
        any(&self.names) && !any(&self.except)
    }
}

impl Config {
    /// Policies that take a domain, by name.
    pub fn policies_of<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = (&'a str, &'a Policy)> {
        self.policies.iter().filter(move |(_, policy)| policy.select.takes(domain)).map(|(name, policy)| (name.as_str(), policy))
    }
}

/// The file that options name or the default; `None` where only the default was looked for and is not there.
pub fn find(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_path_buf).or_else(|| Path::new(PATH_DEFAULT).exists().then(|| PathBuf::from(PATH_DEFAULT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_selected_by_patterns() {
        let select = Select { names: vec!["prod-*".into(), "db?".into()], except: vec!["*-test".into()] };
        for (name, taken) in [("prod-web", true), ("db1", true), ("db12", false), ("prod-web-test", false), ("web", false)] {
            assert_eq!(select.takes(name), taken, "{name}");
        }
    }
}
