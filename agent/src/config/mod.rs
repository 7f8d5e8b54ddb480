//! `/etc/cairn/cairn.yaml`: stores by name, policies, the daemon's own settings (docs/daemon.md).
//!
//! Invariants
//! - What is not understood is an error with line and column: a setting that is passed over would be believed.
//! - What is in a [`Config`] was checked: patterns are patterns, stores that policies name exist, numbers are within their bounds.
//! - No secret stands in it: keys and passphrases are named by file.
//! - Programs that it names are looked at for the daemon alone, which starts them: a restore on another host must not want for them.
//! - A file that is wrong changes nothing: who reloads keeps what there was.

mod alert;
mod blank;
mod check;
mod check_policy;
mod policy;
mod raw;
mod raw_alert;
mod select;
mod text;
mod words;

use crate::cli::Capture;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

pub use alert::{AlertTarget, Mail, Security, Way, Webhook};
pub use check::{SOCKET_BYTES_MAX, is_program};
pub use policy::{BackupLimits, Every, Policy, QuiesceSettings, Retention, Select, SelectState};
pub use select::{Subject, Word};
pub use text::{ConfigErrors, load, load_for_daemon, parse_for_daemon};

/// Where it lies unless told otherwise.
pub const PATH_DEFAULT: &str = "/etc/cairn/cairn.yaml";

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Stores by name.
    pub stores: BTreeMap<String, StoreEntry>,
    /// Policies by name.
    pub policies: BTreeMap<String, Policy>,
    /// Who is told what is wrong, by name.
    pub alerts: BTreeMap<String, AlertTarget>,
    /// The daemon's own settings.
    pub daemon: DaemonSettings,
}

/// A store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreEntry {
    /// Its place, as on the command line.
    pub url: String,
    /// Key file; without one the default place is looked at.
    pub key_file: Option<PathBuf>,
    /// File whose first line is the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Jobs at once of those that have to do with it; none is no limit but the daemon's.
    pub jobs_max: Option<usize>,
    /// At most so often its space is freed after points were forgotten; none is never.
    pub gc_every: Option<Duration>,
    /// Free space below which it has little; none is what `doctor` takes for little.
    pub low_space: Option<LowSpace>,
}

/// When a store has little space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowSpace {
    /// Of its file system's size.
    Percent(u8),
    /// So many.
    Bytes(u64),
}

impl LowSpace {
    /// Whether so much is little.
    pub fn is_low(self, free_bytes: u64, size_bytes: u64) -> bool {
        match self {
            Self::Percent(percent) => u128::from(free_bytes) * 100 < u128::from(size_bytes) * u128::from(percent),
            Self::Bytes(bytes) => free_bytes < bytes,
        }
    }
}

/// The daemon's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Between two looks at all domains.
    pub reconcile_every: Duration,
    /// Jobs at once.
    pub jobs_max: usize,
    /// How long a job that was cancelled may clean up by itself.
    pub cancel_limit: Duration,
    /// Where it listens; none is the default of `daemon::listen`.
    pub socket: Option<PathBuf>,
    /// Records of this host; none is the command line's default.
    pub state_dir: Option<PathBuf>,
    /// Where libvirt's hook tells; none is the hook's own place.
    pub hook_dir: Option<PathBuf>,
    /// libvirt's URI; none is libvirt's default.
    pub connect: Option<String>,
    /// Program for a guest that is not thawed in time; none is the environment's, if it has one.
    pub on_stuck_freeze: Option<PathBuf>,
    /// Who tracks running domains; none is the environment's, or the command line's default.
    pub capture: Option<Capture>,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self {
            reconcile_every: Duration::from_secs(300),
            jobs_max: 2,
            cancel_limit: Duration::from_secs(60),
            socket: None,
            state_dir: None,
            hook_dir: None,
            connect: None,
            on_stuck_freeze: None,
            capture: None,
        }
    }
}

/// The file that options name, or the default; `None` where only the default was looked for and is not there.
pub fn find(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_path_buf).or_else(|| Path::new(PATH_DEFAULT).exists().then(|| PathBuf::from(PATH_DEFAULT)))
}
