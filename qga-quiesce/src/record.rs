//! Record of an open freeze: a file per domain in `/run/cairn/frozen`, from before the freeze until the thaw is certain. Whoever meets one under
//! the domain's lock thaws the guest: its freezer is gone. `/run` is gone after a restart of the host, and so are the guests.
//!
//! In it: the process that freezes, and when it asked to, in milliseconds of the clock that runs from the host's start, also while that sleeps (CLOCK_BOOTTIME): nobody
//! sets it. Once libvirt has answered, a second line says so. A record without a time, or with one to come, is of another version or was cut off: its freeze may still come
//! until somebody who met it has given it a time.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::late::FREEZE_WAITS_MAX;

/// Folder unless told otherwise.
pub const RECORD_DIR_DEFAULT: &str = "/run/cairn/frozen";
/// The second line.
const ANSWERED: &str = "answered";

fn path_of(dir: &Path, uuid: &str) -> PathBuf {
    dir.join(uuid)
}

/// Since the host's start.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Records that a freeze is about to begin.
///
/// # Errors
/// The operating system's; do not freeze then.
pub fn open(dir: &Path, uuid: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(path_of(dir, uuid), first_line(std::process::id()))
}

fn first_line(pid: u32) -> String {
    format!("{pid} {}\n", now().as_millis())
}

/// libvirt has answered the freeze: none comes after a thaw any more. A record that is closed by now stays so.
///
/// # Errors
/// The operating system's; the freeze is waited for then.
pub fn answered(dir: &Path, uuid: &str) -> io::Result<()> {
    match std::fs::File::options().append(true).open(path_of(dir, uuid)) {
        Ok(mut file) => file.write_all(format!("{ANSWERED}\n").as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The guest is thawed for certain.
///
/// # Errors
/// The operating system's.
pub fn close(dir: &Path, uuid: &str) -> io::Result<()> {
    match std::fs::remove_file(path_of(dir, uuid)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A freeze is recorded and was not closed.
#[must_use]
pub fn is_open(dir: &Path, uuid: &str) -> bool {
    path_of(dir, uuid).exists()
}

/// What a record says; nothing that it does not say is made up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    pid: Option<u32>,
    asked: Option<Duration>,
    answered: bool,
}

fn read(text: &str) -> Said {
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let asked = words.next().and_then(|word| word.parse().ok()).map(Duration::from_millis);
    Said { pid, asked, answered: lines.next() == Some(ANSWERED) }
}

fn said(dir: &Path, uuid: &str) -> Said {
    std::fs::read(path_of(dir, uuid)).map_or_else(|_| Said::default(), |bytes| read(&String::from_utf8_lossy(&bytes)))
}

/// A freeze is recorded, by this process: a record that is there later may be another backup's.
#[must_use]
pub fn is_open_by(dir: &Path, uuid: &str, pid: u32) -> bool {
    said(dir, uuid).pid == Some(pid)
}

/// The recorded freeze may still be sent to the guest: libvirt has not answered it, as far as is known, and has not given it up for certain.
#[must_use]
pub fn may_come(dir: &Path, uuid: &str) -> bool {
    let Said { asked, answered, .. } = said(dir, uuid);
    let age = asked.and_then(|asked| now().checked_sub(asked));
    is_open(dir, uuid) && !answered && age.is_none_or(|age| age < FREEZE_WAITS_MAX)
}

/// Gives a record that has no time, or one to come, the present one: from now on it grows old. Under the domain's lock.
///
/// # Errors
/// The operating system's.
pub fn date(dir: &Path, uuid: &str) -> io::Result<()> {
    let Said { pid, asked, .. } = said(dir, uuid);
    if !is_open(dir, uuid) || asked.is_some_and(|asked| asked <= now()) {
        return Ok(());
    }
    std::fs::write(path_of(dir, uuid), first_line(pid.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lasts_until_it_is_closed() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(!is_open(dir.path(), "u") && !may_come(dir.path(), "u"));
        open(dir.path(), "u").expect("open");
        assert!(is_open(dir.path(), "u") && is_open_by(dir.path(), "u", std::process::id()) && !is_open_by(dir.path(), "u", 1));
        close(dir.path(), "u").expect("close");
        close(dir.path(), "u").expect("twice is once");
        assert!(!is_open(dir.path(), "u"));
    }

    #[test]
    fn a_freeze_comes_no_more_once_it_was_answered() {
        let dir = tempfile::tempdir().expect("dir");
        open(dir.path(), "u").expect("open");
        assert!(may_come(dir.path(), "u"));
        answered(dir.path(), "u").expect("noted");
        assert!(is_open_by(dir.path(), "u", std::process::id()) && !may_come(dir.path(), "u"));
        close(dir.path(), "u").expect("close");
        answered(dir.path(), "u").expect("nothing to note");
        assert!(!is_open(dir.path(), "u"), "a record that was closed stays so");
        open(dir.path(), "u").expect("open");
        assert!(may_come(dir.path(), "u"), "the next freeze is another one");
    }

    /// A record with this text.
    fn written(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("u"), text).expect("written");
        dir
    }

    #[test]
    fn a_freeze_comes_no_more_once_its_time_is_over() {
        let ago = |s: u64| written(&format!("7 {}\n", now().saturating_sub(Duration::from_secs(s)).as_millis()));
        assert!(now() > FREEZE_WAITS_MAX, "this host was started just now");
        assert!(may_come(ago(1).path(), "u"));
        let old = ago(FREEZE_WAITS_MAX.as_secs());
        // The file's own time is of now: it is not what counts.
        assert!(!may_come(old.path(), "u") && is_open_by(old.path(), "u", 7));
        date(old.path(), "u").expect("it has a time");
        assert!(!may_come(old.path(), "u"));
    }

    #[test]
    fn a_record_without_a_time_grows_old_from_when_it_was_met() {
        let to_come = format!("7 {}\n", (now() + Duration::from_secs(3600)).as_millis());
        for text in ["7\n", &to_come, "7 soon\n", "7 -1\n", "7 99999999999999999999\n", "7"] {
            let dir = written(text);
            assert!(may_come(dir.path(), "u") && is_open_by(dir.path(), "u", 7), "{text:?}");
            date(dir.path(), "u").expect("dated");
            let said = said(dir.path(), "u");
            assert!(said.pid == Some(7) && said.asked.is_some_and(|asked| asked <= now()) && !said.answered, "{text:?}: {said:?}");
            assert!(may_come(dir.path(), "u"), "{text:?}: for as long as any");
        }
        for text in ["", "\u{0}\n", "\nanswered\nanswered"] {
            let dir = written(text);
            assert!(is_open(dir.path(), "u") && !is_open_by(dir.path(), "u", 0), "{text:?}");
            date(dir.path(), "u").expect("dated");
            assert!(may_come(dir.path(), "u") && said(dir.path(), "u").asked.is_some(), "{text:?}");
        }
        let none = tempfile::tempdir().expect("dir");
        date(none.path(), "u").expect("nothing to date");
        assert!(!is_open(none.path(), "u"));
    }
}
