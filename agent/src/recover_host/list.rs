//! The list of domains: text in, entries out, each error with its line.

use crate::failure::{Failure, Outcome};
use std::path::PathBuf;

/// Longest wait or delay, seconds.
const SECONDS_MAX: u64 = 3600;
/// Entries of one list.
pub const ENTRIES_MAX: usize = 10_000;
/// Word that sets options for the lines below it.
const DEFAULTS: &str = "defaults";

/// Options of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineOptions {
    /// Another name, with a new identity.
    pub rename: Option<String>,
    /// Pool for its disks.
    pub pool: Option<String>,
    /// Folder for its disks.
    pub dir: Option<PathBuf>,
    /// Start it.
    pub start: bool,
    /// Wait so long for its agent, seconds.
    pub agent_s: Option<u64>,
    /// Wait so long before the next one, seconds.
    pub delay_s: u64,
    /// If it fails, the next ones are not tried.
    pub stop_on_error: bool,
}

/// One domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A name, or a POINT.
    pub what: String,
    /// How.
    pub options: LineOptions,
}

/// Reads a list. `defaults`: what the command line says.
pub fn parse(text: &str, defaults: &LineOptions) -> Outcome<Vec<Entry>> {
    let mut defaults = defaults.clone();
    let mut out: Vec<Entry> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
        let fail = |why: String| Failure::usage(format!("line {number} of the list: {why}"));
        let words = words(line).map_err(fail)?;
        let Some((first, rest)) = words.split_first() else { continue };
        let mut options = defaults.clone();
        rest.iter().try_for_each(|word| set(&mut options, word)).map_err(fail)?;
        if first == DEFAULTS {
            if options.rename.is_some() {
                return Err(fail("'as' belongs to one domain".into()));
            }
            defaults = options;
            continue;
        }
        if out.iter().any(|e| e.what == *first && e.options.rename == options.rename) {
            return Err(fail(format!("'{first}' occurs twice")));
        }
        if out.len() == ENTRIES_MAX {
            return Err(fail(format!("more than {ENTRIES_MAX} domains")));
        }
        out.push(Entry { what: first.clone(), options });
    }
    if out.is_empty() { Err(Failure::usage("the list names no domain")) } else { Ok(out) }
}

/// Words of a line: blanks part them, double quotes hold them together, `#` begins a comment.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut out, mut word, mut quoted, mut started) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                started = true;
            }
            '#' if !quoted && !started => break,
            c if c.is_whitespace() && !quoted => {
                if started {
                    out.push(std::mem::take(&mut word));
                }
                started = false;
            }
            c => {
                word.push(c);
                started = true;
            }
        }
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    if started {
        out.push(word);
    }
    Ok(out)
}

fn set(o: &mut LineOptions, word: &str) -> Result<(), String> {
    let (key, value) = word.split_once('=').ok_or_else(|| format!("'{word}' is no option; write KEY=VALUE (and a name with blanks in double quotes)"))?;
    if value.is_empty() {
        return Err(format!("'{word}': a value is missing"));
    }
    let seconds = || value.parse().ok().filter(|s| *s <= SECONDS_MAX).ok_or_else(|| format!("'{word}': seconds are a number up to {SECONDS_MAX}"));
    let yes = || match value {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err(format!("'{word}': write yes or no")),
    };
    match key {
        "as" => o.rename = Some(value.to_owned()),
        "pool" => (o.pool, o.dir) = (Some(value.to_owned()), None),
        "dir" => (o.dir, o.pool) = (Some(value.into()), None),
        "start" => {
            o.start = yes()?;
            if !o.start {
                o.agent_s = None;
            }
        }
        "agent" => {
            o.agent_s = Some(seconds()?).filter(|s| *s > 0);
            o.start |= o.agent_s.is_some();
        }
        "delay" => o.delay_s = seconds()?,
        "stop_on_error" => o.stop_on_error = yes()?,
        _ => return Err(format!("there is no option '{key}'; there are as, pool, dir, start, agent, delay, stop_on_error")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_in_its_order() {
        let text = "# what we need first\n\ndb1 agent=120 # the database\ndefaults pool=fast start=yes\n\"web 1\" delay=5\nweb2@-1 as=web3 start=no dir=/x stop_on_error=yes\n";
        let list = parse(text, &LineOptions::default()).expect("a list");
        assert_eq!(list.iter().map(|e| e.what.as_str()).collect::<Vec<_>>(), ["db1", "web 1", "web2@-1"]);
        assert_eq!(list[0].options, LineOptions { start: true, agent_s: Some(120), ..LineOptions::default() });
        assert_eq!(list[1].options, LineOptions { start: true, pool: Some("fast".into()), delay_s: 5, ..LineOptions::default() });
        let last = LineOptions { rename: Some("web3".into()), dir: Some("/x".into()), stop_on_error: true, ..LineOptions::default() };
        assert_eq!(list[2].options, last);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line, word) in [
            ("a\nb start=perhaps", 2, "yes or no"),
            ("a b", 1, "KEY=VALUE"),
            ("a colour=red", 1, "colour"),
            ("a agent=99999", 1, "3600"),
            ("\"a", 1, "quote"),
            ("a\n\na", 3, "twice"),
            ("defaults as=x", 1, "one domain"),
            ("a pool=", 1, "missing"),
        ] {
            let f = parse(text, &LineOptions::default()).expect_err(text);
            assert_eq!(f.code, crate::failure::USAGE);
            assert!(f.message.contains(&format!("line {line} ")) && f.message.contains(word), "{text}: {}", f.message);
        }
        assert!(parse("# nothing\n", &LineOptions::default()).is_err());
    }
}
