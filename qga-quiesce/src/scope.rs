//! Which of a guest's file systems are frozen: all of them, or those at some mount points (`guest-fsfreeze-freeze-list`).
//!
//! Invariants
//! - What was asked for is looked for while the guest is thawed: the agent passes over mount points that it does not have, without a word.
//! - How many file systems a freeze must reach is known before: one mounted at two of the places counts once, since it is frozen once.
//!
//! What it must not do: fall back to freezing everything. Who names mount points has a reason to leave the others alone.

use std::collections::BTreeSet;

use crate::agent::shown;
use crate::freeze::{FREEZE_LIST, Probe};

/// Most places of a guest's that are named to whoever named another.
const KNOWN_MAX: usize = 16;
/// Most mount points that may be named.
pub const MOUNTS_MAX: usize = 64;
/// Longest of them, bytes; less than [`crate::agent::TEXT_BYTES_MAX`], so that none is compared in part.
pub const MOUNT_BYTES_MAX: usize = 200;

/// What a freeze is to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every file system.
    All,
    /// Those at some mount points.
    Mounts(Mounts),
}

/// Mount points that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    /// As they are sent to the agent.
    pub wanted: Vec<String>,
    /// Those that the guest has, as far as its agent told; all, where it told nothing.
    pub there: Vec<String>,
    /// Those that it does not have.
    pub missing: Vec<String>,
    /// File systems that a freeze of those that are there freezes.
    pub filesystems: u32,
    /// All that the guest has, for whoever named another.
    pub known: Vec<String>,
}

/// Mount points as people name them, in one form: each once, in their order, without a slash at the end.
///
/// # Errors
/// What is wrong with them.
pub fn check(mounts: &[String]) -> Result<Vec<String>, String> {
    let mut out: Vec<String> = Vec::new();
    for mount in mounts {
        let is_drive = |m: &str| m.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && m[1..].starts_with(":\\");
        let bare = if is_drive(mount) { mount.as_str() } else { mount.trim_end_matches('/') };
        let bare = if bare.is_empty() && !mount.is_empty() { "/" } else { bare };
        if bare.is_empty() {
            return Err("an empty text is no mount point; write them as the guest has them (/, /var), or leave the option out to freeze all".to_owned());
        }
        if !bare.starts_with('/') && !is_drive(bare) {
            return Err(format!("{} is no mount point: write it from / on, as the guest has it (of Windows: C:\\)", shown(bare)));
        }
        if bare.contains(',') || bare.chars().any(char::is_control) || bare.len() > MOUNT_BYTES_MAX {
            return Err(format!("{} cannot be named: a mount point has at most {MOUNT_BYTES_MAX} bytes, no ',' and no control character", shown(bare)));
        }
        if !out.iter().any(|known| known == bare) {
            out.push(bare.to_owned());
        }
    }
    match out.len() {
        0 => Err("no mount point is named; leave the option out to freeze all".to_owned()),
        n if n > MOUNTS_MAX => Err(format!("{n} mount points are named; {MOUNTS_MAX} may be")),
        _ => Ok(out),
    }
}

/// What a freeze of these mount points (none: of all) will reach in this guest.
///
/// # Errors
/// Why there can be none, fit to be shown.
pub fn choose(probe: &Probe, wanted: &[String]) -> Result<Scope, String> {
    if wanted.is_empty() {
        return Ok(Scope::All);
    }
    if !probe.can_freeze_list {
        return Err(format!("the guest's agent cannot freeze single file systems ({FREEZE_LIST}); update it, or leave the mount points out to freeze all"));
    }
    let known: Vec<String> = probe.filesystems.iter().map(|f| f.mountpoint.clone()).collect();
    // An agent that does not tell what is mounted: what it freezes shows by its count alone.
    let (there, missing): (Vec<String>, Vec<String>) = wanted.iter().cloned().partition(|m| known.is_empty() || known.contains(&shown(m)));
    let mounts = Mounts { filesystems: count(probe, &there), wanted: wanted.to_vec(), there, missing, known };
    if mounts.there.is_empty() { Err(mounts.lack().unwrap_or_default()) } else { Ok(Scope::Mounts(mounts)) }
}

/// File systems at these mount points.
fn count(probe: &Probe, there: &[String]) -> u32 {
    let at = |mount: &String| probe.filesystems.iter().rev().find(|f| f.mountpoint == shown(mount));
    // Without a name each counts for itself.
    let devices: BTreeSet<&str> = there.iter().map(|mount| at(mount).map_or("", |f| &f.device)).filter(|device| !device.is_empty()).collect();
    let nameless = there.iter().filter(|mount| at(mount).is_none_or(|f| f.device.is_empty())).count();
    u32::try_from(devices.len() + nameless).unwrap_or(u32::MAX)
}

impl Scope {
    /// Mount points that are frozen when all goes well; none: all.
    #[must_use]
    pub fn mounts(&self) -> &[String] {
        match self {
            Self::All => &[],
            Self::Mounts(mounts) => &mounts.there,
        }
    }

    /// What is asked for and not there.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Mounts(mounts) => mounts.lack(),
        }
    }

    /// Why a freeze of so many file systems is not what was asked for.
    #[must_use]
    pub fn shortfall(&self, frozen: u32) -> Option<String> {
        match self {
            Self::Mounts(m) if frozen < m.filesystems => Some(format!(
                "only {frozen} of the {} file systems at {} could be frozen: the others are not mounted, or of a kind that cannot be",
                m.filesystems,
                listed(&m.there)
            )),
            _ => None,
        }
    }
}

impl Mounts {
    fn lack(&self) -> Option<String> {
        (!self.missing.is_empty()).then(|| {
            let more = if self.known.len() > KNOWN_MAX { ", ..." } else { "" };
            let known = &self.known[..self.known.len().min(KNOWN_MAX)];
            let has = if known.is_empty() { String::new() } else { format!(" (it has: {}{more})", known.join(", ")) };
            format!("the guest has nothing mounted at {}{has}", listed(&self.missing))
        })
    }
}

fn listed(mounts: &[String]) -> String {
    mounts.iter().map(|mount| shown(mount)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freeze::Filesystem;
    use crate::hooks::Before;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|&t| t.to_owned()).collect()
    }

    fn probe(filesystems: &[(&str, &str)]) -> Probe {
        let filesystems = filesystems.iter().map(|&(m, d)| Filesystem { mountpoint: m.to_owned(), device: d.to_owned() }).collect();
        Probe { can_freeze: true, is_frozen: false, can_freeze_list: true, is_windows: false, filesystems, hooks: Before::Unreadable }
    }

    #[test]
    fn mount_points_have_one_form() {
        assert_eq!(check(&texts(&["/", "//", "/var/", "/var", "/srv/a b", "C:\\"])).expect("good"), ["/", "/var", "/srv/a b", "C:\\"]);
        let long = format!("/{}", "x".repeat(MOUNT_BYTES_MAX));
        let many: Vec<String> = (0..=MOUNTS_MAX).map(|n| format!("/{n}")).collect();
        for (wrong, word) in [
            (texts(&[]), "no mount point"),
            (texts(&["/", ""]), "empty"),
            (texts(&["var"]), "write it from /"),
            (texts(&["1:\\"]), "write it from /"),
            (texts(&["/a,/b"]), "no ','"),
            (texts(&["/a\n"]), "control"),
            (texts(&[&long]), "bytes"),
            (many, "65 mount points"),
        ] {
            let said = check(&wrong).expect_err("is refused");
            assert!(said.contains(word) && !said.contains('\n'), "{wrong:?}: {said}");
        }
    }

    #[test]
    fn what_is_not_mounted_is_named_before_the_freeze() {
        let guest = probe(&[("/", "vda1"), ("/mnt/a", "vdb"), ("/mnt/a2", "vdb")]);
        assert_eq!(choose(&guest, &[]).expect("all"), Scope::All);
        let scope = choose(&guest, &texts(&["/mnt/a", "/nope"])).expect("in part");
        assert_eq!(scope.mounts(), ["/mnt/a"]);
        assert!(scope.lack().expect("a lack").contains("/nope (it has: /, /mnt/a, /mnt/a2)"), "{scope:?}");
        assert!(choose(&guest, &texts(&["/nope"])).expect_err("nothing is there").contains("/nope"));
        // One file system at two places is frozen once.
        let scope = choose(&guest, &texts(&["/mnt/a", "/mnt/a2", "/"])).expect("there");
        assert_eq!((scope.lack(), scope.shortfall(2)), (None, None));
        assert!(scope.shortfall(1).expect("one too few").contains("only 1 of the 2"));
        assert!(choose(&Probe { can_freeze_list: false, ..guest }, &texts(&["/"])).expect_err("cannot").contains(FREEZE_LIST));
    }

    #[test]
    fn an_agent_that_tells_no_mount_points_is_judged_by_its_count() {
        let scope = choose(&probe(&[]), &texts(&["/a", "/b"])).expect("not known to be missing");
        assert_eq!((scope.mounts().len(), scope.lack(), scope.shortfall(2)), (2, None, None));
        assert!(scope.shortfall(0).is_some());
        // The upper of two at one place is what is frozen there.
        let over = probe(&[("/a", "x"), ("/a", "y"), ("/b", "x")]);
        assert_eq!(choose(&over, &texts(&["/a", "/b"])).expect("there").shortfall(2), None);
    }
}
