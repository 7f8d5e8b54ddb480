//! libvirt's daemons on this host, and whether each will call the hook.
//!
//! A daemon looks once, when it starts or is reloaded, whether there is any hook for QEMU; where there was none it never looks again. Where
//! there was one, it runs whatever is there at each operation. Measured on libvirt 9.0 (docs/hooks.md).

use super::Place;
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

/// The daemons that have the QEMU driver in them.
const NAMES: [&str; 2] = ["libvirtd", "virtqemud"];
/// Where libvirt's AppArmor profiles lie, by the daemon's name.
const PROFILES: &str = "/etc/apparmor.d";

/// Whether a daemon will call the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// It will.
    Yes,
    /// It has looked before there was any hook, and needs a reload, unless it had one since.
    AfterReload,
    /// It does not see the file: it has another view of the file system.
    NotSeen,
    /// Its AppArmor profile forbids it.
    Forbidden,
}

impl Calls {
    /// In JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::AfterReload => "after-reload",
            Self::NotSeen => "not-seen",
            Self::Forbidden => "forbidden",
        }
    }
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    /// Its process.
    pub pid: u32,
    /// `libvirtd` or `virtqemud`.
    pub name: String,
    /// Whether it will call the hook.
    pub calls: Calls,
}

/// All of root's daemons that run, and what each makes of the hook in `place`, last called at that time.
pub fn all(place: &Place, called: Option<SystemTime>) -> Vec<Daemon> {
    let since = Since::of(place, called);
    let mut daemons: Vec<Daemon> = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| daemon(&e.path(), place, &since)).collect();
    daemons.sort_by_key(|d| d.pid);
    daemons
}

/// Since when a daemon may have found a hook.
struct Since {
    /// The oldest hook of any name.
    any: Option<SystemTime>,
    /// Whether ours was called since it was installed.
    called: bool,
}

impl Since {
    fn of(place: &Place, called: Option<SystemTime>) -> Self {
        let ours = fs::metadata(&place.path).and_then(|m| m.modified()).ok();
        let others = fs::read_dir(&place.folder).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| *p != place.path);
        let others = others.chain([place.single()]).filter_map(|p| changed(&p));
        Self { any: others.chain(ours).min(), called: called.zip(ours).is_some_and(|(called, ours)| called >= ours) }
    }
}

/// When an executable file last changed in any way, mode and name included.
fn changed(path: &Path) -> Option<SystemTime> {
    let m = fs::metadata(path).ok().filter(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(u64::try_from(m.ctime()).ok()?, u32::try_from(m.ctime_nsec()).ok()?))
}

fn daemon(proc: &Path, place: &Place, since: &Since) -> Option<Daemon> {
    let pid = proc.file_name()?.to_str()?.parse().ok()?;
    let name = fs::read_to_string(proc.join("comm")).ok()?.trim().to_owned();
    // A user's own daemon runs no hooks of the system's.
    if !NAMES.contains(&name.as_str()) || fs::metadata(proc).ok()?.uid() != 0 {
        return None;
    }
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    // A process that has ended and was not waited for runs nothing.
    if state_of(&stat)? == 'Z' {
        return None;
    }
    let calls = if !is_seen(proc, &place.path) {
        Calls::NotSeen
    } else if is_forbidden(proc, &name, place) {
        Calls::Forbidden
    } else if since.called || started(&stat).zip(since.any).is_some_and(|(started, any)| any < started) {
        Calls::Yes
    } else {
        Calls::AfterReload
    };
    Some(Daemon { pid, name, calls })
}

/// Whether the process has the same file there as we have; taken to be so where only root could tell.
fn is_seen(proc: &Path, path: &Path) -> bool {
    let id = |p: &Path| fs::metadata(p).map(|m| (m.dev(), m.ino()));
    let Ok(path) = std::path::absolute(path) else { return false };
    match id(&proc.join("root").join(path.strip_prefix("/").unwrap_or(&path))) {
        Ok(theirs) => id(&path).is_ok_and(|ours| ours == theirs),
        Err(e) => e.kind() == ErrorKind::PermissionDenied,
    }
}

/// Whether the process is confined by a profile that says nothing of the folder.
fn is_forbidden(proc: &Path, name: &str, place: &Place) -> bool {
    let confined = fs::read_to_string(proc.join("attr/current")).is_ok_and(|label| label.contains("(enforce)"));
    let profile = fs::read_to_string(Path::new(PROFILES).join(format!("usr.sbin.{name}")));
    confined && profile.is_ok_and(|text| !text.contains(&place.dir.display().to_string()))
}

/// The fields of `/proc/PID/stat` behind the name, which may hold anything: from the state on.
fn fields(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

fn state_of(stat: &str) -> Option<char> {
    fields(stat)?.next()?.chars().next()
}

/// When the process was started, by the wall's clock.
fn started(stat: &str) -> Option<SystemTime> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0)?;
    // The 22nd field of all; the state is the third.
    let start: u64 = fields(stat)?.nth(19)?.parse().ok()?;
    let since_boot = Duration::from_nanos(cairn_hook::clock::since_boot_ns());
    let age = since_boot.checked_sub(Duration::from_millis(start.checked_mul(1000)? / ticks)).unwrap_or_default();
    SystemTime::now().checked_sub(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_behind_a_name_of_any_form() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(state_of(stat), Some('S'));
        assert_eq!(fields(stat).and_then(|mut f| f.nth(19)), Some("4242"));
        assert_eq!(state_of(""), None);
    }

    #[test]
    fn the_start_of_this_process_is_in_the_past_and_after_the_boot() {
        let stat = fs::read_to_string("/proc/self/stat").expect("stat");
        let age = started(&stat).expect("a time").elapsed().unwrap_or_default();
        assert!(age < Duration::from_nanos(cairn_hook::clock::since_boot_ns()) && age < Duration::from_secs(3600), "{age:?}");
    }

    #[test]
    fn another_hook_that_was_there_first_counts() {
        let dir = tempfile::tempdir().expect("folder");
        let place = Place::of(dir.path());
        fs::create_dir(&place.folder).expect("made");
        assert!(Since::of(&place, Some(SystemTime::now())).any.is_none());
        fs::write(place.folder.join("readme"), "x").expect("written");
        assert!(Since::of(&place, None).any.is_none(), "libvirt runs only what is executable");
        fs::write(place.single(), "x").expect("written");
        fs::set_permissions(place.single(), fs::Permissions::from_mode(0o755)).expect("changed");
        assert!(Since::of(&place, None).any.is_some());
        fs::write(&place.path, "x").expect("written");
        assert!(!Since::of(&place, Some(SystemTime::UNIX_EPOCH)).called && Since::of(&place, Some(SystemTime::now() + Duration::from_secs(1))).called);
    }
}
