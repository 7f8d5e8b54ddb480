//! The last lines of a guest's console, for the errors of a guest that does not come up.
//!
//! The text is the guest's: bounded, and shown with its control characters escaped. No console is no error:
//! it is looked at only to explain another one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Where the guests of a lab write (`guest/lab1.xml`); copies of them have ptys.
pub const LOG: &str = "/var/log/libvirt/lab-console.log";
const LINES_MAX: usize = 15;
const BYTES_MAX: u64 = 16 << 10;
const LINE_CHARS_MAX: usize = 200;
/// How the kernel begins to say why it stopped.
const PANIC: &str = "Kernel panic";

/// A hint for an error, with its leading separator: the end of the console at `path`, or that there is nothing.
#[must_use]
pub fn hint(path: &Path) -> String {
    match read_end(path) {
        Ok(bytes) => match last_lines(&String::from_utf8_lossy(&bytes)) {
            lines if lines.is_empty() => format!("; its console ({}) is empty: the kernel did not start", path.display()),
            lines => format!("; the last lines of its console ({}):\n  {}", path.display(), lines.join("\n  ")),
        },
        Err(error) => format!("; its console ({}) cannot be read: {error}", path.display()),
    }
}

fn read_end(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let (before, last) = lines.split_at(lines.len().saturating_sub(LINES_MAX));
    // A panic's reason stands above its registers and stack, which fill more lines than are quoted.
    let reason = before.iter().rfind(|line| line.contains(PANIC) && !last.iter().any(|line| line.contains(PANIC)));
    reason.into_iter().chain(last).map(|line| shown(line)).collect()
}

fn shown(line: &str) -> String {
    let escaped = line.chars().take(LINE_CHARS_MAX).map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_quoted_and_tamed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("console");
        let mut text: String = (0..5000).map(|n| format!("line {n}\r\n")).collect();
        text.push_str("\r\nKernel panic\x1b[31m - not syncing\r\n\r\n");
        std::fs::write(&path, text).expect("written");
        let hint = hint(&path);
        let lines: Vec<&str> = hint.lines().skip(1).collect();
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines.first(), Some(&"  line 4986"));
        assert_eq!(lines.last(), Some(&"  Kernel panic\\u{1b}[31m - not syncing"));
    }

    #[test]
    fn the_reason_of_a_panic_is_quoted_from_above_its_stack() {
        let mut text = "Kernel panic - not syncing: the first\nKernel panic - not syncing: the second\n".to_owned();
        text.push_str(&"register\n".repeat(2 * LINES_MAX));
        let lines = last_lines(&text);
        assert_eq!((lines.len(), lines[0].as_str()), (LINES_MAX + 1, "Kernel panic - not syncing: the second"));
        text.push_str("Kernel panic - not syncing: the third\n");
        assert_eq!(last_lines(&text).len(), LINES_MAX);
    }

    #[test]
    fn nothing_to_quote_is_said() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("console");
        assert!(hint(&path).contains("cannot be read"));
        std::fs::write(&path, "\r\n").expect("written");
        assert!(hint(&path).contains("is empty"));
    }
}
