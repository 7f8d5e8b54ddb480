//! Record of an open freeze: a file per domain in `/run/cairn/frozen`, from before the freeze until the thaw is certain. Whoever meets one under
//! the domain's lock thaws the guest: its freezer is gone. `/run` is gone after a restart of the host, and so are the guests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folder unless told otherwise.
pub const RECORD_DIR_DEFAULT: &str = "/run/cairn/frozen";

fn path_of(dir: &Path, uuid: &str) -> PathBuf {
    dir.join(uuid)
}

/// Records that a freeze is about to begin.
///
/// # Errors
/// The operating system's; do not freeze then.
pub fn open(dir: &Path, uuid: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(path_of(dir, uuid), format!("{}\n", std::process::id()))
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

/// The same, by this process: a record that is there later may be another backup's.
#[must_use]
pub fn is_open_by(dir: &Path, uuid: &str, pid: u32) -> bool {
    std::fs::read_to_string(path_of(dir, uuid)).is_ok_and(|text| text.trim() == pid.to_string())
}

/// How long ago a freeze was recorded; none where none is, or where the clock was set back since.
#[must_use]
pub fn age(dir: &Path, uuid: &str) -> Option<Duration> {
    std::fs::metadata(path_of(dir, uuid)).and_then(|meta| meta.modified()).ok()?.elapsed().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lasts_until_it_is_closed() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(!is_open(dir.path(), "u"));
        open(dir.path(), "u").expect("open");
        assert!(is_open(dir.path(), "u") && is_open_by(dir.path(), "u", std::process::id()) && !is_open_by(dir.path(), "u", 1));
        assert!(age(dir.path(), "u").is_some_and(|age| age < Duration::from_secs(3600)) && age(dir.path(), "other").is_none());
        close(dir.path(), "u").expect("close");
        close(dir.path(), "u").expect("twice is once");
        assert!(!is_open(dir.path(), "u"));
    }
}
