//! The log of a run: what its processes say, with times, never more than two files of [`LOG_BYTES_MAX`].
//!
//! All of them append to one file. It is cut in place, so that those which have it open go on at its new end.

use super::folder::{RunFolder, failed};
use crate::failure::Outcome;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// A log that is longer becomes `log.1`.
pub const LOG_BYTES_MAX: u64 = 1 << 20;

/// The log, for a process to write to.
pub fn open(folder: &RunFolder) -> Outcome<File> {
    let path = folder.log();
    OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(|e| failed("open", &path, &e))
}

/// Cuts a log that is too long.
pub fn rotate(folder: &RunFolder) {
    cut(&folder.log());
}

/// The same for any log whose writers append.
pub fn cut(path: &Path) {
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        // A log that cannot be kept is cut all the same.
        let _ = fs::copy(path, path.with_extension("1"));
        let _ = OpenOptions::new().write(true).open(path).and_then(|f| f.set_len(0));
    }
}

/// The last line, for a message.
pub fn last_line(folder: &RunFolder) -> Option<String> {
    let text = fs::read(folder.log()).ok()?;
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    tail.lines().rev().find(|l| !l.trim().is_empty()).map(|l| l.chars().take(500).collect())
}

/// A line with the time; standard error of a run's processes is its log.
pub fn say(text: impl std::fmt::Display) {
    eprintln!("{} {}", jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.3f"), text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_log_is_bounded_and_its_writers_go_on() {
        let state = tempfile::tempdir().expect("temp dir");
        let folder = RunFolder::of(state.path(), "a").expect("a name");
        folder.create().expect("creates");
        let mut writer = open(&folder).expect("opens");
        writer.write_all(&vec![b'x'; 2 << 20]).expect("writes");
        rotate(&folder);
        assert_eq!(fs::metadata(folder.log()).expect("there").len(), 0);
        writer.write_all(b"first\nlast\n\n").expect("writes");
        assert_eq!(fs::metadata(folder.log()).expect("there").len(), 12, "not behind a hole");
        assert_eq!(last_line(&folder).as_deref(), Some("last"));
    }
}
