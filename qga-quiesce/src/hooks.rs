//! Whether the guest's own hooks told its applications of a freeze (`qga-quiesce/guest`, docs/quiesce.md).
//!
//! The guest's `cairn-quiesce` writes a record of each freeze: its number, what each hook said before the freeze, what it said after the thaw.
//! A level of `application` takes a record that is newer by exactly one than what was there before, whole, with a hook that did its work
//! and none that failed. Whatever is missing leaves the level at `filesystem`, with the reason.
//!
//! Invariants
//! - Asked before the freeze and after the thaw only: a frozen agent reads no files, and nothing here may make a freeze longer.
//! - The guest may lie, and then deceives nobody but those who restore it. Its record is read to a bound, its names are shown escaped.
//!
//! What it must not do: raise anything but `filesystem`, or fail a backup.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;

use crate::agent::{AgentFailure, GuestAgent, call_with, shown};
use crate::freeze::{PROBE_LIMIT_S, Probe};
use crate::level::{QuiesceLevel, QuiesceReport};

/// Where the guest writes its record.
pub const RECORD_PATH: &str = "/run/cairn-quiesce/status";
/// Longest record that is read: hundreds of hooks.
pub const RECORD_BYTES_MAX: usize = 16 << 10;
/// Agent commands without which no record can be read.
pub const COMMANDS: [&str; 3] = ["guest-file-open", "guest-file-read", "guest-file-close"];
/// First line of a record.
const VERSION: &str = "cairn-quiesce 1";
/// Words of a line.
const WORDS_MAX: usize = 3;

/// What was known of the guest's hooks before a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// The agent reads no files for its host.
    Unreadable,
    /// Number of the last freeze that the guest recorded; 0 if there is no record.
    Number(u64),
}

/// Looks at the record while the guest is thawed, before the freeze.
#[must_use]
pub fn before(agent: &dyn GuestAgent) -> Before {
    // No record, and one that cannot be read, count as none: what matters is the one that comes.
    Before::Number(read(agent).ok().and_then(|text| Record::parse(&text).map(|record| record.number).ok()).unwrap_or(0))
}

/// The report of a freeze that is over, raised to `application` if the guest's record proves that, else with the reason why not.
#[must_use]
pub fn raised(agent: &dyn GuestAgent, probe: &Probe, report: QuiesceReport) -> QuiesceReport {
    if report.level != QuiesceLevel::Filesystem {
        return report;
    }
    match proof(agent, probe.hooks) {
        Ok(()) => QuiesceReport { level: QuiesceLevel::Application, reason: None, ..report },
        Err(reason) => QuiesceReport { reason: Some(reason), ..report },
    }
}

fn proof(agent: &dyn GuestAgent, before: Before) -> Result<(), String> {
    let Before::Number(number) = before else {
        return Err("the guest's agent does not let files be read, so its hooks are not known (guest-file-open)".to_owned());
    };
    let text = read(agent).map_err(|failure| match failure {
        AgentFailure::Refused(_) => "no hooks ran in the guest".to_owned(),
        other => format!("the record of the guest's hooks cannot be read: {other}"),
    })?;
    judge(&text, number)
}

/// Whether a record's text is proof that applications were told of the freeze after number `before`.
///
/// # Errors
/// Why it is none, fit to be shown.
pub fn judge(text: &str, before: u64) -> Result<(), String> {
    let record = Record::parse(text).map_err(|problem| format!("the record of the guest's hooks is not one: {problem}"))?;
    record.proves(before)
}

/// A record as the guest wrote it.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    number: u64,
    /// Name, and what it said before the freeze.
    hooks: Vec<(&'a str, &'a str)>,
    /// Name, and what it said after the thaw.
    after: Vec<(&'a str, &'a str)>,
    /// The thaw's line, which is the last one.
    end: Option<u64>,
}

impl<'a> Record<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let wrong = |line: &str| shown(&format!("{line:.64?}"));
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        if first != VERSION {
            return Err(format!("it begins with {}", wrong(first)));
        }
        let mut record = Self { number: 0, hooks: Vec::new(), after: Vec::new(), end: None };
        for line in lines {
            let words: Vec<&str> = line.splitn(WORDS_MAX + 1, ' ').collect();
            match words.as_slice() {
                ["freeze", number] if record.number == 0 => record.number = number.parse().map_err(|_| wrong(line))?,
                ["hook", name, outcome] if record.end.is_none() => record.hooks.push((name, outcome)),
                ["after", name, outcome] if record.end.is_none() => record.after.push((name, outcome)),
                ["end", number] if record.end.is_none() => record.end = Some(number.parse().map_err(|_| wrong(line))?),
                _ => return Err(wrong(line)),
            }
        }
        if record.number == 0 { Err("it names no freeze".to_owned()) } else { Ok(record) }
    }

    /// Of the freeze after number `before`, whole, something done, nothing failed.
    fn proves(&self, before: u64) -> Result<(), String> {
        if self.number == before {
            return Err("no hooks ran in the guest: its last record is of an earlier freeze".to_owned());
        }
        if Some(self.number) != before.checked_add(1) {
            return Err(format!("the guest's hooks recorded freeze {} after freeze {before}: another's freeze came between", self.number));
        }
        if let Some((name, outcome)) = self.hooks.iter().find(|(_, outcome)| !matches!(*outcome, "ok" | "skipped")) {
            return Err(format!("the guest's hook {} {} before the freeze", shown(name), shown(outcome)));
        }
        if self.end != Some(self.number) {
            return Err("the guest's hooks were not told of the thaw".to_owned());
        }
        let mut done = self.hooks.iter().filter(|(_, outcome)| *outcome == "ok").peekable();
        if done.peek().is_none() {
            return Err("the guest's hooks found no application".to_owned());
        }
        match done.find(|(name, _)| !self.after.contains(&(*name, "ok"))) {
            None => Ok(()),
            Some((name, _)) => Err(format!("what the guest's hook {} held was lost before the thaw", shown(name))),
        }
    }
}

/// The record's text.
fn read(agent: &dyn GuestAgent) -> Result<String, AgentFailure> {
    #[derive(Deserialize)]
    struct Piece {
        #[serde(rename = "buf-b64")]
        base64: String,
    }
    let handle: i64 = call_with(agent, "guest-file-open", &json!({"path": RECORD_PATH, "mode": "r"}), PROBE_LIMIT_S)?;
    // One read gives it all: it is a file in memory.
    let piece: Result<Piece, AgentFailure> = call_with(agent, "guest-file-read", &json!({"handle": handle, "count": RECORD_BYTES_MAX}), PROBE_LIMIT_S);
    // An agent that cannot close keeps one descriptor; no reason to doubt what it read.
    let closed: Result<serde_json::Value, AgentFailure> = call_with(agent, "guest-file-close", &json!({"handle": handle}), PROBE_LIMIT_S);
    if let Err(error) = closed {
        tracing::debug!(%error, "the guest's record is not closed");
    }
    let nonsense = |problem: &str| AgentFailure::Nonsense { command: "guest-file-read", problem: problem.to_owned() };
    let base64 = piece?.base64;
    if base64.len() > RECORD_BYTES_MAX.div_ceil(3) * 4 {
        return Err(nonsense("more than was asked for"));
    }
    let bytes = STANDARD.decode(base64).map_err(|_| nonsense("no base64"))?;
    String::from_utf8(bytes).map_err(|_| nonsense("no text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const GOOD: &str =
        "cairn-quiesce 1\nfreeze 8\nhook 10-postgresql ok\nhook 50-mariadb ok\nhook 60-x skipped\nafter 10-postgresql ok\nafter 50-mariadb ok\nend 8\n";

    /// Reads one file, as an agent does.
    struct Reader {
        text: Option<String>,
        open: RefCell<u32>,
    }

    impl Reader {
        fn new(text: Option<&str>) -> Self {
            Self { text: text.map(str::to_owned), open: RefCell::new(0) }
        }
    }

    impl GuestAgent for Reader {
        fn command(&self, json: &str, _limit_s: u16) -> Result<String, AgentFailure> {
            let order: serde_json::Value = serde_json::from_str(json).expect("a command is JSON");
            match order["execute"].as_str().expect("a command has a name") {
                "guest-file-open" if self.text.is_none() => Err(AgentFailure::Refused("No such file or directory".to_owned())),
                "guest-file-open" => {
                    assert_eq!((order["arguments"]["path"].as_str(), order["arguments"]["mode"].as_str()), (Some(RECORD_PATH), Some("r")));
                    *self.open.borrow_mut() += 1;
                    Ok("{\"return\":1000}".to_owned())
                }
                "guest-file-read" => {
                    assert_eq!(order["arguments"]["handle"], 1000);
                    Ok(serde_json::json!({ "return": { "count": 1, "eof": true, "buf-b64": STANDARD.encode(self.text.as_deref().unwrap_or_default()) } })
                        .to_string())
                }
                "guest-file-close" => {
                    *self.open.borrow_mut() -= 1;
                    Ok("{\"return\":{}}".to_owned())
                }
                other => panic!("{other} is not needed"),
            }
        }
    }

    fn after(before: Before, text: Option<&str>) -> QuiesceReport {
        let agent = Reader::new(text);
        let probe = Probe { can_freeze: true, is_frozen: false, can_freeze_list: true, is_windows: false, filesystems: Vec::new(), hooks: before };
        let report = QuiesceReport { level: QuiesceLevel::Filesystem, freeze_ms: 5, frozen_filesystems: 1, frozen_mounts: Vec::new(), reason: None };
        let raised = raised(&agent, &probe, report);
        assert_eq!(*agent.open.borrow(), 0, "what was opened is closed");
        raised
    }

    #[test]
    fn a_whole_record_of_the_next_freeze_is_proof() {
        let report = after(Before::Number(7), Some(GOOD));
        assert_eq!((report.level, report.reason, report.freeze_ms), (QuiesceLevel::Application, None, 5));
    }

    #[test]
    fn anything_less_is_none_and_says_why() {
        let cases = [
            (Before::Unreadable, Some(GOOD.to_owned()), "guest-file-open"),
            (Before::Number(0), None, "no hooks ran"),
            (Before::Number(8), Some(GOOD.to_owned()), "earlier freeze"),
            (Before::Number(3), Some(GOOD.to_owned()), "came between"),
            (Before::Number(7), Some(GOOD.replace("hook 50-mariadb ok", "hook 50-mariadb failed")), "50-mariadb failed"),
            (Before::Number(7), Some(GOOD.replace("after 50-mariadb ok", "after 50-mariadb failed")), "50-mariadb held was lost"),
            (Before::Number(7), Some(GOOD.replace("after 50-mariadb ok\n", "")), "50-mariadb held was lost"),
            (Before::Number(7), Some(GOOD.replace("end 8\n", "")), "not told of the thaw"),
            (Before::Number(7), Some("cairn-quiesce 1\nfreeze 8\nhook a skipped\nend 8\n".to_owned()), "no application"),
            (Before::Number(7), Some("cairn-quiesce 1\nfreeze 8\nend 8\n".to_owned()), "no application"),
            (Before::Number(7), Some("cairn-quiesce 2\nfreeze 8\n".to_owned()), "is not one"),
            (Before::Number(7), Some(GOOD.replace("hook 60-x", "hook 60 x")), "is not one"),
            (Before::Number(7), Some(format!("{GOOD}hook late ok\n")), "is not one"),
            (Before::Number(7), Some("cairn-quiesce 1\nfreeze -1\n".to_owned()), "is not one"),
            (Before::Number(7), Some("x".repeat(RECORD_BYTES_MAX + 9)), "more than was asked for"),
            (Before::Number(u64::MAX), Some(GOOD.to_owned()), "came between"),
        ];
        for (before, text, word) in cases {
            let report = after(before, text.as_deref());
            let reason = report.reason.expect("a reason");
            assert!(report.level == QuiesceLevel::Filesystem && reason.contains(word), "{word}: {reason}");
        }
    }

    #[test]
    fn what_a_guest_wrote_is_shown_escaped_and_cut() {
        let bad = GOOD.replace("50-mariadb ok\nhook", &format!("\u{1b}[31m{} failed\nhook", "x".repeat(5000)));
        for text in [bad.as_str(), "\u{1b}[31m\n", &"\u{7f}".repeat(4000)] {
            let reason = after(Before::Number(7), Some(text)).reason.expect("a reason");
            assert!(reason.len() < 700 && !reason.chars().any(char::is_control), "{reason:?}");
        }
    }

    #[test]
    fn other_levels_stay_and_the_guest_is_not_asked() {
        let probe = Probe { can_freeze: true, is_frozen: false, can_freeze_list: true, is_windows: true, filesystems: Vec::new(), hooks: Before::Number(7) };
        for level in [QuiesceLevel::Crash, QuiesceLevel::Application] {
            let report = QuiesceReport { level, freeze_ms: 1, frozen_filesystems: 0, frozen_mounts: Vec::new(), reason: Some("as it was".to_owned()) };
            let agent = Reader::new(Some(GOOD));
            assert_eq!(raised(&agent, &probe, report.clone()), report);
        }
    }

    #[test]
    fn the_last_number_is_seen_before_a_freeze() {
        assert_eq!(before(&Reader::new(Some(GOOD))), Before::Number(8));
        assert_eq!(before(&Reader::new(None)), Before::Number(0));
        assert_eq!(before(&Reader::new(Some("nonsense"))), Before::Number(0));
    }
}
