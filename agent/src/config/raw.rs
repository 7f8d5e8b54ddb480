//! The file as its grammar has it: every key that there is, and the place of each value that may be wrong in itself.
//!
//! What is said of each key here is said in docs/configuration.md: the page is made of it, and tests/tests/pages.rs holds it to that.

use super::{
    policy::{Every, SelectState},
    raw_alert::RawTarget,
};
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
    /// Stores by name. Commands take the name in the place of a path: `--store main`.
    /// - type: map of names
    /// - default: none
    /// - example: `{ main: { url: /srv/backup } }`
    #[serde(default)]
    pub stores: BTreeMap<String, Spanned<RawStore>>,
    /// Policies by name: which domains, when, into which stores, what is kept.
    /// - type: map of names
    /// - default: none: nothing is saved by itself
    /// - example: `{ all: { select: { names: ["*"] }, stores: [main] } }`
    #[serde(default)]
    pub policies: BTreeMap<String, Spanned<RawPolicy>>,
    /// Targets of alerts by name: who is told what is wrong ([alerts.md](alerts.md)).
    /// - type: map of names
    /// - default: none: nobody is told
    /// - example: `{ admin: { mail: { to: [root@example.net], from: cairn@example.net, server: "smtp://localhost" } } }`
    #[serde(default)]
    pub alerts: BTreeMap<String, Spanned<RawTarget>>,
    /// The daemon's own settings.
    /// - type: keys
    /// - default: as below
    /// - example: `{ jobs_max: 4 }`
    #[serde(default)]
    pub daemon: RawDaemon,
}

/// A store.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStore {
    /// The store's folder, also one on NFS; written from `/` on.
    /// - type: path
    /// - default: none: it must be given
    /// - example: `/srv/backup`
    pub url: Spanned<String>,
    /// File with the key that opens it, 0600.
    /// - type: path
    /// - default: `STORE-ID.key` below `/etc/cairn/keys`
    /// - example: `/etc/cairn/keys/main.key`
    #[serde(default)]
    pub key_file: Option<Spanned<PathBuf>>,
    /// File whose first line is the passphrase, 0600. Either this or `key_file`.
    /// - type: path
    /// - default: none
    /// - example: `/etc/cairn/keys/main.passphrase`
    #[serde(default)]
    pub passphrase_file: Option<Spanned<PathBuf>>,
    /// Jobs at once of this host that have to do with the store.
    /// - type: number, 1 to 64
    /// - default: no limit but `daemon.jobs_max`
    /// - example: `1`
    #[serde(default)]
    pub jobs_max: Option<Spanned<u64>>,
    /// After retention forgot points, space is freed (`cairn gc`) at most so often. `never`: another host does it.
    /// - type: time, 1 m to 366 d, or `never`
    /// - default: 24h
    /// - example: `12h`
    #[serde(default)]
    pub gc_every: Option<Spanned<String>>,
    /// Less free space than this is little, for alerts, `status`, `check` and `doctor`; less than 256 MiB is none.
    /// - type: percent, or bytes
    /// - default: less than 2 GiB, or less than 5 % and 20 GiB
    /// - example: `10%`
    #[serde(default)]
    pub low_space: Option<Spanned<String>>,
}

/// A policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPolicy {
    /// Which domains it takes. Needed, unless `default` is true.
    /// - type: keys
    /// - default: none
    /// - example: `{ names: ["prod-*"] }`
    #[serde(default)]
    pub select: Option<Spanned<RawSelect>>,
    /// It takes the domains that no other policy takes. One policy at most.
    /// - type: `true` or `false`
    /// - default: `false`
    /// - example: `true`
    #[serde(default)]
    pub default: Option<bool>,
    /// What makes a point without being asked: `shutdown` (the guest shut down in good order), `started`.
    /// - type: list of events
    /// - default: none
    /// - example: `[shutdown]`
    #[serde(default)]
    pub on: Vec<Trigger>,
    /// When there is a point by the clock: a cron expression, or a list of them ([policies.md](policies.md#when)).
    /// - type: text, or a list
    /// - default: none: by events or by hand
    /// - example: `"0 2 * * *"`
    #[serde(default)]
    pub schedule: Option<Spanned<Lines>>,
    /// Of schedule and window.
    /// - type: name of a zone
    /// - default: the host's
    /// - example: `Europe/Berlin`
    #[serde(default)]
    pub timezone: Option<Spanned<String>>,
    /// Runs of one instant are spread over so long a time, each domain always by the same share. Needs `schedule`.
    /// - type: time, up to 24 h
    /// - default: none
    /// - example: `1h`
    #[serde(default)]
    pub jitter: Option<Spanned<String>>,
    /// Nothing begins by itself outside of these hours, retention and checks included.
    /// - type: `HH:MM-HH:MM`
    /// - default: always
    /// - example: `22:00-06:00`
    #[serde(default)]
    pub window: Option<Spanned<String>>,
    /// How old the newest good point of a domain may get; `cairn check` and `cairn status` tell of older ones.
    /// - type: time, 1 m to 3660 d
    /// - default: none: nothing is promised
    /// - example: `26h`
    #[serde(default)]
    pub rpo: Option<Spanned<String>>,
    /// Names of stores; each gets a point.
    /// - type: list of names
    /// - default: none: it must be given
    /// - example: `[main]`
    pub stores: Spanned<Vec<Spanned<String>>>,
    /// How the guest is made quiet for the point in time ([quiesce.md](quiesce.md)).
    /// - type: keys
    /// - default: as below
    /// - example: `{ level: require }`
    #[serde(default)]
    pub quiesce: RawQuiesce,
    /// Tags of its points.
    /// - type: list of texts
    /// - default: none
    /// - example: `[gold]`
    #[serde(default)]
    pub tags: Option<Spanned<Vec<String>>>,
    /// What is kept of this host's points of its domains. All rules count, each for itself.
    /// - type: keys
    /// - default: everything is kept
    /// - example: `{ keep_daily: 7 }`
    #[serde(default)]
    pub retention: Option<Spanned<RawRetention>>,
    /// What is checked by itself.
    /// - type: keys
    /// - default: nothing
    /// - example: `{ boot: weekly }`
    #[serde(default)]
    pub verify: RawVerify,
    /// How quickly disks are read ([operations.md](operations.md)).
    /// - type: keys
    /// - default: none
    /// - example: `{ read: 200MiB/s, parallel_disks: 2 }`
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
    /// Patterns of names: `*`, `?`, `[a-z]`. A name or a tag selects.
    /// - type: list of patterns
    /// - default: none
    /// - example: `["prod-*", "db?"]`
    #[serde(default)]
    pub names: Option<Spanned<Vec<Spanned<String>>>>,
    /// Tags that domains have in their own metadata ([policies.md](policies.md#which-policies-take-a-domain)).
    /// - type: list of texts
    /// - default: none
    /// - example: `[gold]`
    #[serde(default)]
    pub tags: Option<Vec<Spanned<String>>>,
    /// Patterns of names that are left out all the same.
    /// - type: list of patterns
    /// - default: none
    /// - example: `["*-test"]`
    #[serde(default)]
    pub except: Vec<Spanned<String>>,
    /// What the domain must do at the time of a run: `any`, `running`, `off`.
    /// - type: word
    /// - default: `any`
    /// - example: `running`
    #[serde(default)]
    pub state: Option<SelectState>,
}

/// What is kept.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRetention {
    /// The newest so many.
    /// - type: number
    /// - default: 0
    /// - example: `3`
    #[serde(default)]
    pub keep_last: Option<Spanned<u64>>,
    /// The newest of each of so many hours that have points.
    /// - type: number
    /// - default: 0
    /// - example: `24`
    #[serde(default)]
    pub keep_hourly: Option<Spanned<u64>>,
    /// The newest of each of so many days that have points.
    /// - type: number
    /// - default: 0
    /// - example: `7`
    #[serde(default)]
    pub keep_daily: Option<Spanned<u64>>,
    /// The newest of each of so many weeks that have points.
    /// - type: number
    /// - default: 0
    /// - example: `4`
    #[serde(default)]
    pub keep_weekly: Option<Spanned<u64>>,
    /// The newest of each of so many months that have points.
    /// - type: number
    /// - default: 0
    /// - example: `12`
    #[serde(default)]
    pub keep_monthly: Option<Spanned<u64>>,
    /// The newest of each of so many years that have points.
    /// - type: number
    /// - default: 0
    /// - example: `2`
    #[serde(default)]
    pub keep_yearly: Option<Spanned<u64>>,
    /// All that are not older than this, counted back from the newest.
    /// - type: time
    /// - default: none
    /// - example: `14d`
    #[serde(default)]
    pub keep_within: Option<Spanned<String>>,
    /// All that have one of these tags.
    /// - type: list of texts
    /// - default: none
    /// - example: `[gold]`
    #[serde(default)]
    pub keep_tags: Option<Vec<String>>,
    /// What is younger is not forgotten, whatever the rules say.
    /// - type: time
    /// - default: none
    /// - example: `1d`
    #[serde(default)]
    pub min_age: Option<Spanned<String>>,
}

/// What is checked by itself.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawVerify {
    /// So many percent of each store's packs are read and checked a day.
    /// - type: number, 1 to 100
    /// - default: none
    /// - example: `15`
    #[serde(default)]
    pub data_percent_daily: Option<Spanned<u64>>,
    /// That reads at most so much a second. Needs `data_percent_daily`.
    /// - type: bytes
    /// - default: no limit
    /// - example: `50MiB`
    #[serde(default)]
    pub rate: Option<Spanned<String>>,
    /// How often the latest point of each domain is booted in isolation ([boot-proof.md](boot-proof.md)): `daily`, `weekly`, `monthly`.
    /// - type: word
    /// - default: never
    /// - example: `weekly`
    #[serde(default)]
    pub boot: Option<Every>,
}

/// How much of the host a backup takes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    /// All disks of a backup together are read at most so quickly.
    /// - type: bytes, with or without `/s`, 1 MiB at least
    /// - default: no limit
    /// - example: `200MiB/s`
    #[serde(default)]
    pub read: Option<Spanned<String>>,
    /// Disks of one domain that are read at the same time.
    /// - type: number, 1 to 8
    /// - default: 1
    /// - example: `2`
    #[serde(default)]
    pub parallel_disks: Option<Spanned<u64>>,
}

/// How the guest is quiesced.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawQuiesce {
    /// `require`: no point without a freeze. `prefer`: one without it, if it cannot be had. `never`: no freeze.
    /// - type: word
    /// - default: `prefer`
    /// - example: `require`
    #[serde(default)]
    pub level: Option<Level>,
    /// Longest freeze.
    /// - type: time, 4 s to 60 s
    /// - default: 10s
    /// - example: `5s`
    #[serde(default)]
    pub freeze_limit: Option<Spanned<String>>,
    /// Mount points in the guest that are frozen ([quiesce.md](quiesce.md#freeze-some-file-systems-only)).
    /// - type: list of paths
    /// - default: all
    /// - example: `[/, /srv]`
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
    /// Between two looks at all domains.
    /// - type: time, 5 s to 24 h
    /// - default: 5m
    /// - example: `2m`
    #[serde(default)]
    pub reconcile_every: Option<Spanned<String>>,
    /// Jobs at once.
    /// - type: number, 1 to 64
    /// - default: 2
    /// - example: `4`
    #[serde(default)]
    pub jobs_max: Option<Spanned<u64>>,
    /// How long a cancelled job may clean up by itself.
    /// - type: time, 1 s to 1 h
    /// - default: 60s
    /// - example: `2m`
    #[serde(default)]
    pub cancel_limit: Option<Spanned<String>>,
    /// Where it listens; counts from the next start on. At most 96 bytes.
    /// - type: path
    /// - default: `/run/cairn/api.sock`; `$XDG_RUNTIME_DIR/cairn/api.sock` for others than root
    /// - example: `/run/cairn/api.sock`
    #[serde(default)]
    pub socket: Option<Spanned<PathBuf>>,
    /// Records of this host; counts from the next start on.
    /// - type: path
    /// - default: `/var/lib/cairn`; `$XDG_STATE_HOME/cairn` for others than root
    /// - example: `/var/lib/cairn`
    #[serde(default)]
    pub state_dir: Option<Spanned<PathBuf>>,
    /// Folder in which libvirt's hook tells ([hooks.md](hooks.md)); counts from the next start on. At most 84 bytes. Another one is for a second daemon, which is not to hear the hook.
    /// - type: path
    /// - default: `/run/cairn`
    /// - example: `/run/cairn-second`
    #[serde(default)]
    pub hook_dir: Option<Spanned<PathBuf>>,
    /// libvirt's URI, as `-c`.
    /// - type: URI
    /// - default: libvirt's own
    /// - example: `qemu:///system`
    #[serde(default)]
    pub connect: Option<String>,
    /// Program that is called for a guest that is not thawed in time; it must be there when the daemon loads the file.
    /// - type: path
    /// - default: none
    /// - example: `/usr/local/sbin/page-me`
    #[serde(default)]
    pub on_stuck_freeze: Option<Spanned<PathBuf>>,
    /// Who tracks running domains: `live`, or `libvirt-api`, which leaves QEMU's monitor alone ([capture.md](capture.md#without-the-monitor)).
    /// - type: word
    /// - default: `CAIRN_CAPTURE`, else `live`
    /// - example: `libvirt-api`
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
