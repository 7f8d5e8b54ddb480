//! What the grammar cannot say: whether values make sense, and fit each other. Finds all that is wrong, not only the first.

use super::{
    Config, DaemonSettings, Policy, QuiesceSettings, Select, StoreEntry,
    raw::{Level, RawCapture, RawConfig, RawDaemon, RawPolicy, RawQuiesce, RawStore},
    words,
};
use crate::cli::{Capture, Quiesce};
use cairn_quiesce::level::FREEZE_LIMIT_S;
use serde_saphyr::{Location, Spanned};
use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Looking at all domains without a pause would be all that libvirt does; a day without a look would be none.
const RECONCILE_EVERY_S: RangeInclusive<u64> = 5..=86_400;
const JOBS_MAX: RangeInclusive<u64> = 1..=64;
const CANCEL_LIMIT_S: RangeInclusive<u64> = 1..=3600;
/// The kernel's 107 (sun_path, less the final zero), less what the name has while the socket is made.
pub const SOCKET_BYTES_MAX: usize = 96;
/// The same for the folder of `.hook.sock.` and ten digits.
const HOOK_DIR_BYTES_MAX: usize = 84;

/// What is wrong, and where.
pub type Wrong = (Location, String);

/// Whether programs that are named must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// They are not looked at.
    Unseen,
    /// They are there, and can be executed.
    There,
}

/// Collects what is wrong.
struct Check {
    wrong: Vec<Wrong>,
    programs: Programs,
}

/// The checked configuration, or all that is wrong with it.
pub fn check(raw: RawConfig, programs: Programs) -> Result<Config, Vec<Wrong>> {
    let mut check = Check { wrong: Vec::new(), programs };
    let known: BTreeSet<String> = raw.stores.keys().cloned().collect();
    let stores = raw.stores.into_iter().map(|(name, store)| (name.clone(), check.store(&name, store))).collect();
    let policies = raw.policies.into_iter().map(|(name, policy)| (name.clone(), check.policy(&name, policy, &known))).collect();
    let daemon = check.daemon(raw.daemon);
    if check.wrong.is_empty() { Ok(Config { stores, policies, daemon }) } else { Err(check.wrong) }
}

impl Check {
    fn wrong(&mut self, at: Location, why: impl Into<String>) {
        self.wrong.push((at, why.into()));
    }

    fn name(&mut self, what: &str, name: &str, at: Location) {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with(['.', '-']) || !name.chars().all(fits) {
            self.wrong(at, format!("{name:?} cannot be the name of a {what}: use 1 to 64 letters, digits, '.', '_' and '-', not '.' or '-' first"));
        }
    }

    fn store(&mut self, name: &str, store: Spanned<RawStore>) -> StoreEntry {
        self.name("store", name, store.referenced);
        let RawStore { url, key_file, passphrase_file } = store.value;
        if let Some((scheme, _)) = url.value.split_once("://") {
            self.wrong(
                url.referenced,
                format!("store {name:?}: stores of kind {scheme} are not supported by this version; use a directory (an NFS mount is one)"),
            );
        } else if !url.value.starts_with('/') {
            self.wrong(url.referenced, format!("store {name:?}: {:?} is no absolute path; write it from / on", url.value));
        }
        if let (Some(_), Some(second)) = (&key_file, &passphrase_file) {
            self.wrong(second.referenced, format!("store {name:?} has a key file and a passphrase file; give one"));
        }
        StoreEntry { url: url.value, key_file: self.absolute(key_file), passphrase_file: self.absolute(passphrase_file) }
    }

    fn absolute(&mut self, path: Option<Spanned<PathBuf>>) -> Option<PathBuf> {
        let path = path?;
        if !path.value.is_absolute() {
            self.wrong(path.referenced, format!("{:?} is no absolute path; write it from / on", path.value));
        }
        Some(path.value)
    }

    fn policy(&mut self, name: &str, policy: Spanned<RawPolicy>, stores: &BTreeSet<String>) -> Policy {
        self.name("policy", name, policy.referenced);
        let RawPolicy { select, mut on, stores: wanted, quiesce, tags } = policy.value;
        if select.names.value.is_empty() {
            self.wrong(select.names.referenced, format!("policy {name:?} selects nothing; names: [\"*\"] takes all domains"));
        }
        let select = Select { names: self.patterns(select.names.value), except: self.patterns(select.except) };
        if wanted.value.is_empty() {
            self.wrong(wanted.referenced, format!("policy {name:?} names no store; there are: {}", listed(stores)));
        }
        let mut names: Vec<String> = Vec::new();
        for store in wanted.value {
            if !stores.contains(&store.value) {
                let meant = words::did_you_mean(&store.value, stores.iter().map(String::as_str));
                self.wrong(store.referenced, format!("policy {name:?}: there is no store {:?}{meant}; there are: {}", store.value, listed(stores)));
            } else if !names.contains(&store.value) {
                names.push(store.value);
            }
        }
        on.dedup();
        let tags = tags.map(|tags| {
            if let Err(failure) = crate::points::check_tags(&tags.value) {
                self.wrong(tags.referenced, format!("policy {name:?}: {}", failure.message));
            }
            tags.value
        });
        Policy { select, on, stores: names, quiesce: self.quiesce(quiesce), tags: tags.unwrap_or_default() }
    }

    fn patterns(&mut self, patterns: Vec<Spanned<String>>) -> Vec<glob::Pattern> {
        let mut out = Vec::new();
        for pattern in patterns {
            match glob::Pattern::new(&pattern.value) {
                Ok(p) => out.push(p),
                Err(e) => self
                    .wrong(pattern.referenced, format!("{:?} is no pattern: {}; '*', '?' and '[a-z]' have a meaning, '[*]' is a star", pattern.value, e.msg)),
            }
        }
        out
    }

    fn quiesce(&mut self, quiesce: RawQuiesce) -> QuiesceSettings {
        let level = match quiesce.level {
            Some(Level::Require) => Quiesce::Require,
            Some(Level::Prefer) | None => Quiesce::Prefer,
            Some(Level::Never) => Quiesce::Never,
        };
        let freeze_limit_s = quiesce.freeze_limit.map(|text| self.seconds("freeze_limit", &text, FREEZE_LIMIT_S));
        let freeze_mounts = quiesce.freeze_mounts.map(|mounts| self.freeze_mounts(level, &mounts)).unwrap_or_default();
        QuiesceSettings { level, freeze_limit_s, freeze_mounts }
    }

    fn freeze_mounts(&mut self, level: Quiesce, mounts: &Spanned<Vec<String>>) -> Vec<String> {
        if level == Quiesce::Never {
            self.wrong(mounts.referenced, "freeze_mounts says what to freeze, and level: never to freeze nothing; leave one of them out");
        }
        cairn_quiesce::scope::check(&mounts.value).unwrap_or_else(|why| {
            self.wrong(mounts.referenced, format!("freeze_mounts: {why}"));
            Vec::new()
        })
    }

    fn daemon(&mut self, raw: RawDaemon) -> DaemonSettings {
        let usual = DaemonSettings::default();
        let mut length = |what, text: Option<Spanned<String>>, within, usual| text.map_or(usual, |text| Duration::from_secs(self.seconds(what, &text, within)));
        let reconcile_every = length("reconcile_every", raw.reconcile_every, RECONCILE_EVERY_S, usual.reconcile_every);
        let cancel_limit = length("cancel_limit", raw.cancel_limit, CANCEL_LIMIT_S, usual.cancel_limit);
        let jobs_max = raw.jobs_max.map_or(usual.jobs_max, |n| {
            if !JOBS_MAX.contains(&n.value) {
                self.wrong(n.referenced, format!("jobs_max is {}; it must be within {} and {}", n.value, JOBS_MAX.start(), JOBS_MAX.end()));
            }
            usize::try_from(n.value).unwrap_or(usual.jobs_max)
        });
        if let Some(socket) = raw.socket.as_ref().filter(|s| bytes(&s.value) > SOCKET_BYTES_MAX) {
            self.wrong(socket.referenced, format!("the path of a socket has at most {SOCKET_BYTES_MAX} bytes, this one has {}", bytes(&socket.value)));
        }
        DaemonSettings {
            reconcile_every,
            jobs_max,
            cancel_limit,
            socket: self.absolute(raw.socket),
            state_dir: self.absolute(raw.state_dir),
            hook_dir: self.hook_dir(raw.hook_dir),
            connect: raw.connect,
            on_stuck_freeze: self.program("on_stuck_freeze", raw.on_stuck_freeze),
            capture: raw.capture.map(|capture| match capture {
                RawCapture::Live => Capture::Live,
                RawCapture::LibvirtApi => Capture::LibvirtApi,
            }),
        }
    }

    /// Its socket has the longest name that is made in it: `.hook.sock.PID`.
    fn hook_dir(&mut self, dir: Option<Spanned<PathBuf>>) -> Option<PathBuf> {
        if let Some(dir) = dir.as_ref().filter(|d| bytes(&d.value) > HOOK_DIR_BYTES_MAX) {
            self.wrong(
                dir.referenced,
                format!("a socket is made in hook_dir: its path has at most {HOOK_DIR_BYTES_MAX} bytes, this one has {}", bytes(&dir.value)),
            );
        }
        self.absolute(dir)
    }

    fn program(&mut self, what: &str, path: Option<Spanned<PathBuf>>) -> Option<PathBuf> {
        let at = path.as_ref()?.referenced;
        let path = self.absolute(path)?;
        if self.programs == Programs::There
            && path.is_absolute()
            && let Err(why) = is_program(&path)
        {
            self.wrong(at, format!("{what}: {}: {why}", path.display()));
        }
        Some(path)
    }

    fn seconds(&mut self, what: &str, text: &Spanned<String>, within: RangeInclusive<u64>) -> u64 {
        match crate::commands::parse_ms(&text.value) {
            Ok(ms) if ms % 1000 == 0 && within.contains(&(ms / 1000)) => ms / 1000,
            Ok(_) => {
                self.wrong(text.referenced, format!("{what} is {:?}; it must be whole seconds within {} s and {} s", text.value, within.start(), within.end()));
                *within.start()
            }
            Err(why) => {
                self.wrong(text.referenced, format!("{what}: {why}"));
                *within.start()
            }
        }
    }
}

/// Whether a path names what can be executed.
///
/// # Errors
/// Why not.
pub fn is_program(path: &Path) -> Result<(), String> {
    match path.metadata() {
        Err(e) => Err(e.to_string()),
        Ok(m) if !m.is_file() || m.permissions().mode() & 0o111 == 0 => Err("it is no program that can be executed".into()),
        Ok(_) => Ok(()),
    }
}

fn bytes(path: &Path) -> usize {
    path.as_os_str().len()
}

fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() { "none, add one below stores:".into() } else { names.iter().cloned().collect::<Vec<_>>().join(", ") }
}
