//! What the grammar cannot say: whether values make sense, and fit each other. Finds all that is wrong, not only the first.

use super::{
    Config, DaemonSettings, LowSpace, Policy, StoreEntry,
    blank::Blanked,
    raw::{RawCapture, RawConfig, RawDaemon, RawStore},
    raw_alert::RawTarget,
};
use crate::cli::Capture;
use serde_saphyr::{Location, Spanned};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Looking at all domains without a pause would be all that libvirt does; a day without a look would be none.
const RECONCILE_EVERY_S: RangeInclusive<u64> = 5..=86_400;
const JOBS_MAX: RangeInclusive<u64> = 1..=64;
/// Collections: one a day is what most stores want; more than one a minute is a loop.
const GC_EVERY_DEFAULT: Duration = Duration::from_secs(86_400);
const GC_EVERY_S: RangeInclusive<u64> = 60..=366 * 86_400;
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
pub(super) struct Check {
    wrong: Vec<Wrong>,
    programs: Programs,
    blanked: Blanked,
}

/// The checked configuration, or all that is wrong with it. `blanked`: what there was besides.
pub fn check(raw: RawConfig, programs: Programs, blanked: Blanked) -> Result<Config, Vec<Wrong>> {
    let mut check = Check { wrong: Vec::new(), programs, blanked };
    let known: BTreeSet<String> = raw.stores.keys().cloned().collect();
    let stores = raw.stores.into_iter().map(|(name, store)| (name.clone(), check.store(&name, store))).collect();
    let places: BTreeMap<String, Location> = raw.policies.iter().map(|(name, policy)| (name.clone(), policy.referenced)).collect();
    let policies: BTreeMap<String, Policy> = raw.policies.into_iter().map(|(name, policy)| (name.clone(), check.policy(&name, policy, &known))).collect();
    check.one_default(&policies, &places);
    let names: (Vec<&str>, Vec<&str>) = (policies.keys().map(String::as_str).collect(), known.iter().map(String::as_str).collect());
    let target = |(name, target): (String, Spanned<RawTarget>)| check.alert(&name, target, (&names.0, &names.1)).map(|target| (name, target));
    let alerts = raw.alerts.into_iter().filter_map(target).collect();
    let daemon = check.daemon(raw.daemon);
    if check.wrong.is_empty() { Ok(Config { stores, policies, alerts, daemon }) } else { Err(check.wrong) }
}

impl Check {
    pub(super) fn wrong(&mut self, at: Location, why: impl Into<String>) {
        self.wrong.push((at, why.into()));
    }

    /// Something is not there that belongs below these keys; not told where it may have been among what was blanked.
    pub(super) fn lacks(&mut self, below: &[&str], at: Location, why: impl Into<String>) {
        if !self.blanked.hide(below) {
            self.wrong(at, why);
        }
    }

    /// No store is known by this name; not told where it may have been among what was blanked.
    pub(super) fn lacks_store(&mut self, at: Location, why: impl Into<String>) {
        if !self.blanked.hide_stores() {
            self.wrong(at, why);
        }
    }

    pub(super) fn name(&mut self, what: &str, name: &str, at: Location) {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with(['.', '-']) || !name.chars().all(fits) {
            self.wrong(at, format!("{name:?} cannot be the name of a {what}: use 1 to 64 letters, digits, '.', '_' and '-', not '.' or '-' first"));
        }
    }

    /// Of two it could not be told which one a domain belongs to.
    fn one_default(&mut self, policies: &BTreeMap<String, Policy>, places: &BTreeMap<String, Location>) {
        let mut defaults = policies.iter().filter(|(_, policy)| policy.is_default).map(|(name, _)| name);
        let Some(first) = defaults.next() else { return };
        for other in defaults {
            let at = places.get(other).copied().unwrap_or(Location::UNKNOWN);
            self.wrong(at, format!("policy {other:?} cannot be the default: {first:?} is that already; one policy takes what no other does"));
        }
    }

    fn store(&mut self, name: &str, store: Spanned<RawStore>) -> StoreEntry {
        self.name("store", name, store.referenced);
        let RawStore { url, key_file, passphrase_file, jobs_max, gc_every, low_space } = store.value;
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
        let gc_every = match gc_every {
            None => Some(GC_EVERY_DEFAULT),
            Some(text) if text.value == "never" => None,
            Some(text) => Some(Duration::from_secs(self.seconds("gc_every", &text, GC_EVERY_S))),
        };
        StoreEntry {
            url: url.value,
            key_file: self.absolute(key_file),
            passphrase_file: self.absolute(passphrase_file),
            jobs_max: jobs_max.map(|n| self.jobs_max(&n)),
            gc_every,
            low_space: low_space.and_then(|text| self.low_space(&text)),
        }
    }

    fn low_space(&mut self, text: &Spanned<String>) -> Option<LowSpace> {
        let percent = text.value.strip_suffix('%').map(|n| n.trim().parse::<u8>().ok().filter(|n| (1..=99).contains(n)).map(LowSpace::Percent));
        let found = percent.unwrap_or_else(|| crate::commands::parse_bytes(&text.value).ok().filter(|n| *n > 0).map(LowSpace::Bytes));
        if found.is_none() {
            self.wrong(text.referenced, format!("low_space is {:?}; write a share of the file system, 1% to 99%, or a size, as 50GiB", text.value));
        }
        found
    }

    pub(super) fn absolute(&mut self, path: Option<Spanned<PathBuf>>) -> Option<PathBuf> {
        let path = path?;
        if !path.value.is_absolute() {
            self.wrong(path.referenced, format!("{:?} is no absolute path; write it from / on", path.value));
        }
        Some(path.value)
    }

    fn daemon(&mut self, raw: RawDaemon) -> DaemonSettings {
        let usual = DaemonSettings::default();
        let mut length = |what, text: Option<Spanned<String>>, within, usual| text.map_or(usual, |text| Duration::from_secs(self.seconds(what, &text, within)));
        let reconcile_every = length("reconcile_every", raw.reconcile_every, RECONCILE_EVERY_S, usual.reconcile_every);
        let cancel_limit = length("cancel_limit", raw.cancel_limit, CANCEL_LIMIT_S, usual.cancel_limit);
        let jobs_max = raw.jobs_max.map_or(usual.jobs_max, |n| self.jobs_max(&n));
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

    fn jobs_max(&mut self, n: &Spanned<u64>) -> usize {
        if !JOBS_MAX.contains(&n.value) {
            self.wrong(n.referenced, format!("jobs_max is {}; it must be within {} and {}", n.value, JOBS_MAX.start(), JOBS_MAX.end()));
        }
        usize::try_from(n.value).unwrap_or(usize::MAX)
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
        let path = path?;
        self.program_at(what, &path.value, path.referenced);
        Some(path.value)
    }

    pub(super) fn program_at(&mut self, what: &str, path: &Path, at: Location) {
        if !path.is_absolute() {
            self.wrong(at, format!("{path:?} is no absolute path; write it from / on"));
        } else if self.programs == Programs::There
            && let Err(why) = is_program(path)
        {
            self.wrong(at, format!("{what}: {}: {why}", path.display()));
        }
    }

    pub(super) fn seconds(&mut self, what: &str, text: &Spanned<String>, within: RangeInclusive<u64>) -> u64 {
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

pub(super) fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() { "none, add one below stores:".into() } else { names.iter().cloned().collect::<Vec<_>>().join(", ") }
}
