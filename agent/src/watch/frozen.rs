//! Guests that may stand frozen: what is told of them, by the records of open freezes ([`cairn_quiesce::record`]) and by what looks made of those.
//!
//! Invariants
//! - A record that is gone tells nothing any more: whoever closed it had the agent's word.
//! - What may be in order is no alarm: a backup has its guest frozen for [`FREEZE_LIMIT_MAX`] at most, and a freeze that was just asked for may still come for
//!   [`FREEZE_WAITS_MAX`], for which its record stays.
//! - Only domains that a look has seen running are told of: records of others may be those of another libvirt, or of a domain that is gone.
//! - Bounded: few domains are named.

use cairn_quiesce::{late::FREEZE_WAITS_MAX, record::is_open};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, time::Duration};

/// Longest freeze that anybody can ask for (docs/quiesce.md), and time for its thaw to be confirmed.
const FREEZE_LIMIT_MAX: Duration = Duration::from_secs(90);
/// More domains than these are counted only.
const NAMED_MAX: usize = 3;
/// Longest text of one.
const WHY_CHARS_MAX: usize = 500;

/// Domains that ran when they were last looked at.
#[derive(Debug, Clone, Default)]
pub struct Frozen {
    /// By UUID: name, and why the last look could not end a freeze of it.
    running: BTreeMap<String, (String, Option<String>)>,
}

/// A guest that may stand frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Of the domain.
    pub uuid: String,
    /// Of the domain.
    pub name: String,
    /// For people, in words that can be shown.
    pub words: String,
}

/// Whether a look found a freeze and could not end it.
pub fn stays(report: &Value) -> Option<&str> {
    let left = report["found"].as_array()?.iter().find(|found| found["kind"] == "freeze" && found["gone"] == false)?;
    Some(left["outcome"].as_str().unwrap_or("still there"))
}

/// What the log says of what a look found: it is not mended while anything of it is left.
pub fn said(found: &[Value]) -> &'static str {
    if found.iter().all(|one| one["gone"] == true) { "mended" } else { "found, and not all of it could be mended" }
}

impl Frozen {
    /// A look came to its end.
    pub fn looked(&mut self, reports: &[Value], at_all: bool) {
        for report in reports {
            let (Some(uuid), Some(name)) = (report["uuid"].as_str(), report["name"].as_str()) else { continue };
            if report["state"] == "running" {
                let why = stays(report).map(|why| why.chars().take(WHY_CHARS_MAX).collect());
                self.running.insert(uuid.to_owned(), (name.to_owned(), why));
            } else {
                self.running.remove(uuid);
            }
        }
        if at_all {
            self.running.retain(|uuid, _| reports.iter().any(|report| report["uuid"] == uuid.as_str()));
        }
    }

    /// For people, in words that can be shown. `records`: folder of the records of open freezes.
    pub fn problems(&self, records: &Path) -> Vec<String> {
        let mut out: Vec<String> = self.stuck(records).into_iter().map(|stuck| stuck.words).collect();
        let more = out.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            out.truncate(NAMED_MAX);
            out.push(format!("{more} more guests may stand frozen; 'cairn reconcile' shows all"));
        }
        out
    }

    /// Each of them.
    pub fn stuck(&self, records: &Path) -> Vec<Stuck> {
        let open = self.running.iter().filter(|(uuid, _)| is_open(records, uuid));
        let stuck = open.filter_map(|(uuid, (name, why))| {
            // A clock that was set back tells no age: then the look's word counts alone.
            let since = age(records, uuid);
            let is_late = match (why, since) {
                (Some(_), since) => since.is_none_or(|since| since >= FREEZE_WAITS_MAX),
                (None, since) => since.is_some_and(|since| since >= FREEZE_LIMIT_MAX),
            };
            is_late.then(|| Stuck { uuid: uuid.clone(), name: name.clone(), words: words(name, why.as_deref(), since) })
        });
        stuck.collect()
    }
}

/// How long ago a freeze was recorded, or its record written to; none where the clock was set back since.
fn age(records: &Path, uuid: &str) -> Option<Duration> {
    std::fs::metadata(records.join(uuid)).and_then(|record| record.modified()).ok()?.elapsed().ok()
}

fn words(name: &str, why: Option<&str>, since: Option<Duration>) -> String {
    let name = crate::output::shown(name);
    let since = since.map_or(String::new(), |since| format!(" for {} s", since.as_secs()));
    let why = why.map_or_else(|| "nobody has confirmed its thaw".to_owned(), crate::output::shown);
    format!(
        "the guest of domain {name} was frozen by a backup and may stand still{since}: {why}; 'cairn reconcile {name}' thaws it if its agent answers. If that stays: \
         restart the agent in the guest (on its console: systemctl restart qemu-guest-agent), or libvirtd; a reset of the guest ends every freeze"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_quiesce::record;
    use serde_json::json;
    use std::{fs::File, time::SystemTime};

    const STAYS: &str = "still there: the guest's agent does not answer";

    fn report(uuid: &str, found: &Value) -> Value {
        json!({"uuid": uuid, "name": format!("web-{uuid}\u{1b}[2J"), "state": "running", "outcome": "looked", "found": found})
    }

    fn left() -> Value {
        json!([{"kind": "freeze", "name": "file systems", "outcome": STAYS, "gone": false}])
    }

    /// A freeze that was recorded so long ago.
    fn recorded(dir: &Path, uuid: &str, ago: u64) {
        record::open(dir, uuid).expect("records");
        let file = File::options().write(true).open(dir.join(uuid)).expect("opens");
        file.set_modified(SystemTime::now() - Duration::from_secs(ago)).expect("dates");
    }

    #[test]
    fn a_guest_that_stands_frozen_is_told_until_its_record_is_closed() {
        let dir = tempfile::tempdir().expect("dir");
        let mut frozen = Frozen::default();
        recorded(dir.path(), "u", 20);
        frozen.looked(&[report("u", &left())], false);
        assert!(frozen.problems(dir.path()).is_empty(), "it may still come");
        recorded(dir.path(), "u", 45);
        let told = frozen.problems(dir.path());
        assert!(
            told.len() == 1 && told[0].contains("domain web-u") && told[0].contains("does not answer") && told[0].contains("'cairn reconcile web-u"),
            "{told:?}"
        );
        assert!(!told[0].contains('\u{1b}'), "{told:?}");
        record::close(dir.path(), "u").expect("closes");
        assert!(frozen.problems(dir.path()).is_empty(), "its guard had the agent's word");
    }

    #[test]
    fn a_record_that_stays_open_is_told_though_somebody_holds_the_domain() {
        let dir = tempfile::tempdir().expect("dir");
        let mut frozen = Frozen::default();
        let busy = json!({"uuid": "u", "name": "web", "state": "running", "outcome": "busy", "found": []});
        frozen.looked(std::slice::from_ref(&busy), true);
        recorded(dir.path(), "u", 65);
        recorded(dir.path(), "other", 9000);
        assert!(frozen.problems(dir.path()).is_empty(), "a backup may have it frozen; the other is nobody's that a look saw");
        recorded(dir.path(), "u", 95);
        let told = frozen.problems(dir.path());
        assert!(told.len() == 1 && told[0].contains("domain web was frozen") && told[0].contains("for 9"), "{told:?}");
        frozen.looked(&[json!({"uuid": "u", "name": "web", "state": "off", "outcome": "looked", "found": []})], false);
        assert!(frozen.problems(dir.path()).is_empty(), "what is off is not frozen");
        frozen.looked(&[busy], false);
        frozen.looked(&[], true);
        assert!(frozen.problems(dir.path()).is_empty(), "it is gone");
    }

    #[test]
    fn many_are_counted() {
        let dir = tempfile::tempdir().expect("dir");
        let mut frozen = Frozen::default();
        for n in 0..5 {
            recorded(dir.path(), &n.to_string(), 3600);
            frozen.looked(&[report(&n.to_string(), &left())], false);
        }
        let told = frozen.problems(dir.path());
        assert!(told.len() == 4 && told[3].contains("2 more guests"), "{told:?}");
    }

    #[test]
    fn what_is_left_is_not_called_mended() {
        let gone = json!({"kind": "scratch", "gone": true});
        assert_eq!(said(std::slice::from_ref(&gone)), "mended");
        assert_ne!(said(&[gone, left()[0].clone()]), "mended");
    }
}
