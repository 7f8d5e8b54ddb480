//! How a file is known to be a `cairn-hook` without running it: a line of text in it, with format and version.
//!
//! `cairn hook` replaces and removes only files that carry it. The program prints nothing, ever, so it cannot be asked.

/// Format and version between these, as in `cairn-hook-mark:1:0.1.0:end`.
const BEGIN: &[u8] = b"cairn-hook-mark:";
const END: &[u8] = b":end";
const VERSION_BYTES_MAX: usize = 64;

/// What the program carries; main.rs keeps it in the binary.
pub const TEXT: &str = concat!("cairn-hook-mark:1:", env!("CARGO_PKG_VERSION"), ":end");
/// The version of this library, and of the program built with it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A mark that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The format of the records it writes.
    pub format: u32,
    /// Its version.
    pub version: String,
}

/// Looks for a mark in a file's bytes. The library's own constant is none: nothing valid follows it.
#[must_use]
pub fn find(bytes: &[u8]) -> Option<Mark> {
    bytes.windows(BEGIN.len()).enumerate().filter(|(_, w)| *w == BEGIN).find_map(|(at, _)| parse(bytes.get(at + BEGIN.len()..)?))
}

fn parse(rest: &[u8]) -> Option<Mark> {
    let text = rest.get(..rest.len().min(VERSION_BYTES_MAX))?;
    let end = text.windows(END.len()).position(|w| w == END)?;
    let (format, version) = std::str::from_utf8(text.get(..end)?).ok()?.split_once(':')?;
    let good = !version.is_empty() && version.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
    good.then_some(Mark { format: format.parse().ok()?, version: version.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::FORMAT;

    #[test]
    fn the_own_mark_is_found_among_other_bytes() {
        let file = [b"\x7fELF...cairn-hook-mark:\0:end".as_slice(), b"cairn-hook-mark:", TEXT.as_bytes(), b"\0\0"].concat();
        assert_eq!(find(&file), Some(Mark { format: FORMAT, version: VERSION.to_owned() }));
    }

    #[test]
    fn what_is_not_whole_is_none() {
        for text in
            ["", "#!/bin/sh\n", "cairn-hook-mark:", "cairn-hook-mark:1:0.1.0", "cairn-hook-mark:x:1:end", "cairn-hook-mark:1::end", "cairn-hook-mark:1:a b:end"]
        {
            assert_eq!(find(text.as_bytes()), None, "{text}");
        }
    }
}
