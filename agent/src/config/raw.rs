//! The file as its grammar has it: every key that there is, and the place of each value that may be wrong in itself.

use super::policy::{Every, SelectState};
use crate::watch::Trigger;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_saphyr::Spanned;
use std::{collections::BTreeMap, fmt, path::PathBuf};

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
    #[serde(default)]
    pub jobs_max: Option<Spanned<u64>>,
    #[serde(default)]
    pub gc_every: Option<Spanned<String>>,
}

/// A policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPolicy {
    #[serde(default)]
    pub select: Option<Spanned<RawSelect>>,
    #[serde(default)]
    pub default: Option<bool>,
    #[serde(default)]
    pub on: Vec<Trigger>,
    #[serde(default)]
    pub schedule: Option<Spanned<Lines>>,
    #[serde(default)]
    pub timezone: Option<Spanned<String>>,
    #[serde(default)]
    pub jitter: Option<Spanned<String>>,
    #[serde(default)]
    pub window: Option<Spanned<String>>,
    #[serde(default)]
    pub rpo: Option<Spanned<String>>,
    pub stores: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub quiesce: RawQuiesce,
    #[serde(default)]
    pub tags: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    pub retention: Option<Spanned<RawRetention>>,
    #[serde(default)]
    pub verify: RawVerify,
    #[serde(default)]
    pub limits: RawLimits,
}

/// One text, or a list of them.
#[derive(Debug)]
pub enum Lines {
    One(String),
    All(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Lines;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of them")
            }
            fn visit_str<E>(self, text: &str) -> Result<Lines, E> {
                Ok(Lines::One(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Lines, A::Error> {
                let mut all = Vec::new();
                while let Some(line) = seq.next_element()? {
                    all.push(line);
                }
                Ok(Lines::All(all))
            }
        }
        d.deserialize_any(Either)
    }
}

/// Which domains.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSelect {
    #[serde(default)]
    pub names: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    pub tags: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub except: Vec<Spanned<String>>,
    #[serde(default)]
    pub state: Option<SelectState>,
}

/// What is kept.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRetention {
    #[serde(default)]
    pub keep_last: Option<Spanned<u64>>,
    #[serde(default)]
    pub keep_hourly: Option<Spanned<u64>>,
    #[serde(default)]
    pub keep_daily: Option<Spanned<u64>>,
    #[serde(default)]
    pub keep_weekly: Option<Spanned<u64>>,
    #[serde(default)]
    pub keep_monthly: Option<Spanned<u64>>,
    #[serde(default)]
    pub keep_yearly: Option<Spanned<u64>>,
    #[serde(default)]
    pub keep_within: Option<Spanned<String>>,
    #[serde(default)]
    pub keep_tags: Option<Vec<String>>,
    #[serde(default)]
    pub min_age: Option<Spanned<String>>,
}

/// What is checked by itself.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawVerify {
    #[serde(default)]
    pub data_percent_daily: Option<Spanned<u64>>,
    #[serde(default)]
    pub rate: Option<Spanned<String>>,
    #[serde(default)]
    pub boot: Option<Every>,
}

/// How much of the host a backup takes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    #[serde(default)]
    pub read: Option<Spanned<String>>,
    #[serde(default)]
    pub parallel_disks: Option<Spanned<u64>>,
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
