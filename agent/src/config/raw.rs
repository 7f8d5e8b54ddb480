//! The file as its grammar has it: every key that there is, and the place of each value that may be wrong in itself.

use crate::watch::Trigger;
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::{collections::BTreeMap, path::PathBuf};

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    #[serde(default)]
    pub stores: BTreeMap<String, Spanned<RawStore>>,
    #[serde(default)]
    pub policies: BTreeMap<String, Spanned<RawPolicy>>,
    #[serde(default)]
    pub daemon: RawDaemon,
}

/// A store.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStore {
    pub url: Spanned<String>,
    #[serde(default)]
    pub key_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub passphrase_file: Option<Spanned<PathBuf>>,
}

/// A policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPolicy {
    pub select: RawSelect,
    #[serde(default)]
    pub on: Vec<Trigger>,
    pub stores: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub quiesce: RawQuiesce,
    #[serde(default)]
    pub tags: Option<Spanned<Vec<String>>>,
}

/// Which domains.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSelect {
    pub names: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub except: Vec<Spanned<String>>,
}

/// How the guest is quiesced.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawQuiesce {
    #[serde(default)]
    pub level: Option<Level>,
    #[serde(default)]
    pub freeze_limit: Option<Spanned<String>>,
    #[serde(default)]
    pub freeze_mounts: Option<Spanned<Vec<String>>>,
}

/// As `--quiesce` has it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Require,
    Prefer,
    Never,
}

/// The daemon's own settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDaemon {
    #[serde(default)]
    pub reconcile_every: Option<Spanned<String>>,
    #[serde(default)]
    pub jobs_max: Option<Spanned<u64>>,
    #[serde(default)]
    pub cancel_limit: Option<Spanned<String>>,
    #[serde(default)]
    pub socket: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub state_dir: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub hook_dir: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub connect: Option<String>,
    #[serde(default)]
    pub on_stuck_freeze: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub capture: Option<RawCapture>,
}

/// As `--capture` has it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RawCapture {
    Live,
    LibvirtApi,
}
