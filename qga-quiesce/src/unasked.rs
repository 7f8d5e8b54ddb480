//! Guests that the next backup is not to ask for a freeze: a file per domain and store in `/run/cairn/unasked`, with the reason.
//!
//! A backup whose thaw nobody confirms ends without a point (docs/adr/0023). If each one asked such an agent again, its guest would never have a point. So
//! that backup leaves a mark, those that follow leave the agent alone, and the first point that comes of it takes the mark away.
//!
//! A mark that is lost costs one more freeze, one too many a better point: neither is worth more than a word.

use std::io::{self, Read};
use std::path::Path;

/// Folder unless told otherwise.
pub const UNASKED_DIR_DEFAULT: &str = "/run/cairn/unasked";
/// Longest reason that is read, bytes.
const REASON_BYTES_MAX: u64 = 1024;

/// The next backup asks for no freeze.
///
/// # Errors
/// The operating system's.
pub fn mark(dir: &Path, name: &str, reason: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join(name), reason)
}

/// Why no freeze is asked for, if so.
#[must_use]
pub fn why(dir: &Path, name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(dir.join(name)).ok()?.take(REASON_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The next backup asks again.
///
/// # Errors
/// The operating system's.
pub fn clear(dir: &Path, name: &str) -> io::Result<()> {
    match std::fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_a_name_and_lasts_until_it_is_cleared() {
        let dir = tempfile::tempdir().expect("dir");
        let marks = dir.path().join("unasked");
        assert_eq!(why(&marks, "u"), None);
        mark(&marks, "u", "thaw: silence").expect("marked");
        mark(&marks, "u", "thaw: no agent").expect("marked again");
        assert_eq!((why(&marks, "u").as_deref(), why(&marks, "other")), (Some("thaw: no agent"), None));
        clear(&marks, "u").expect("cleared");
        clear(&marks, "u").expect("twice is once");
        assert_eq!(why(&marks, "u"), None);
    }

    #[test]
    fn a_reason_without_an_end_is_cut() {
        let dir = tempfile::tempdir().expect("dir");
        mark(dir.path(), "u", &"\u{1f600}".repeat(10_000)).expect("marked");
        assert!(why(dir.path(), "u").is_some_and(|why| why.len() <= 1024));
    }
}
