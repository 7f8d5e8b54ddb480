//! What became of each domain, for people and scripts.

use crate::{
    failure::{DAMAGED, FAILED, Failure, INTERRUPTED, WARNINGS},
    output::{rfc3339, shown},
    points::SHOWN_ID_DIGITS,
};
use serde_json::{Value, json};

/// How a domain's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing stands in the way (dry run).
    Possible,
    /// Restored now.
    Restored,
    /// Was restored before, or is another host's by now.
    Skipped,
    /// Not restored, not started, or its agent stayed silent.
    Failed,
    /// Its turn did not come.
    NotTried,
}

impl Status {
    fn text(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Restored => "restored",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::NotTried => "not-tried",
        }
    }
}

/// One domain.
#[derive(Debug)]
pub struct Line {
    /// As the list has it.
    pub what: String,
    /// Name that it has here.
    pub name: String,
    /// Point and its time.
    pub point: Option<(String, u64)>,
    /// How it ended.
    pub status: Status,
    /// It runs.
    pub started: bool,
    /// Target and path of its disks.
    pub disks: Vec<(String, String)>,
    /// Why it failed, or was skipped.
    pub message: String,
    /// Exit code of the failure.
    pub code: u8,
    /// What is to be said besides.
    pub warnings: Vec<String>,
    /// What a copy has of its own where the original has something of the host's.
    pub own: Vec<String>,
    /// Maps that fit nothing of it; `None` where that is not known.
    pub unused_maps: Option<Vec<String>>,
}

impl Line {
    /// Before its turn.
    pub fn new(what: &str) -> Self {
        Self {
            what: what.into(),
            name: what.into(),
            point: None,
            status: Status::NotTried,
            started: false,
            disks: Vec::new(),
            message: String::new(),
            code: 0,
            warnings: Vec::new(),
            own: Vec::new(),
            unused_maps: None,
        }
    }

    /// It failed.
    pub fn fail(&mut self, f: Failure) {
        (self.status, self.code, self.message) = (Status::Failed, f.code, f.message);
    }

    fn json(&self) -> Value {
        let disks: Vec<Value> = self.disks.iter().map(|(target, path)| json!({"target": target, "path": path})).collect();
        json!({
            "what": self.what, "name": self.name, "id": self.point.as_ref().map(|p| &p.0), "time": self.point.as_ref().map_or(Value::Null, |p| rfc3339(p.1)),
            "status": self.status.text(), "started": self.started, "disks": disks, "code": self.code, "message": self.message, "own": self.own,
            "warnings": self.warnings,
        })
    }
}

/// All of them.
pub fn json(lines: &[Line], dry_run: bool) -> Value {
    let count = |status: Status| lines.iter().filter(|l| l.status == status).count();
    json!({
        "dry_run": dry_run, "restored": count(Status::Restored), "skipped": count(Status::Skipped), "failed": count(Status::Failed),
        "not_tried": count(Status::NotTried), "domains": lines.iter().map(Line::json).collect::<Vec<_>>(),
    })
}

/// A table.
pub fn text(lines: &[Line]) -> String {
    let mut t = crate::output::plain_table(&["DOMAIN", "POINT", "TIME", "STATUS", "RUNS", ""]);
    for l in lines {
        let name = if l.name == l.what { l.name.clone() } else { format!("{} ({})", l.name, l.what) };
        let (id, time) = l.point.as_ref().map_or_else(|| ("-".into(), "-".into()), |p| (p.0.chars().take(SHOWN_ID_DIGITS).collect(), crate::output::time(p.1)));
        let first = l.message.lines().next().unwrap_or_default();
        t.add_row([shown(&name), id, time, l.status.text().into(), if l.started { "yes" } else { "no" }.into(), shown(first)]);
    }
    t.trim_fmt()
}

/// The worst of all codes: interrupted, damage, a failure without a code of its own, another failure, warnings.
pub fn code(lines: &[Line]) -> u8 {
    let rank = |code: u8| match code {
        INTERRUPTED => 5,
        DAMAGED => 4,
        FAILED => 3,
        WARNINGS => 1,
        0 => 0,
        _ => 2,
    };
    let of = |l: &Line| if l.code == 0 && !l.warnings.is_empty() { WARNINGS } else { l.code };
    lines.iter().map(of).max_by_key(|code| rank(*code)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_code_counts() {
        let line = |code: u8, warned: bool| Line { code, warnings: if warned { vec!["w".into()] } else { vec![] }, ..Line::new("a") };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[line(0, false)]), 0);
        assert_eq!(code(&[line(0, true), line(0, false)]), WARNINGS);
        assert_eq!(code(&[line(0, true), line(13, false)]), 13);
        assert_eq!(code(&[line(13, false), line(14, false), line(1, false)]), DAMAGED);
        assert_eq!(code(&[line(14, false), line(130, false)]), INTERRUPTED);
    }

    #[test]
    fn a_map_that_no_domain_needs_is_told() {
        let line = |maps: Option<&[&str]>| Line { unused_maps: maps.map(|m| m.iter().map(|s| (*s).to_owned()).collect()), ..Line::new("a") };
        let unused = crate::recover_host::unused_maps;
        assert_eq!(unused(&[line(Some(&["x", "y"])), line(Some(&["y"]))]), ["y"]);
        assert!(unused(&[line(Some(&["x"])), line(None)]).is_empty(), "one that could not be looked at may need it");
        assert!(unused(&[]).is_empty());
    }

    #[test]
    fn people_and_scripts_see_every_domain() {
        let mut failed = Line::new("db1");
        failed.fail(Failure::refused("no\nnetwork"));
        let mut done = Line { status: Status::Restored, point: Some(("0123456789abcdef".into(), 0)), ..Line::new("web1") };
        done.name = "web2".into();
        let all = [failed, done];
        let value = json(&all, false);
        assert_eq!((value["failed"].as_u64(), value["restored"].as_u64()), (Some(1), Some(1)));
        assert_eq!(value["domains"][0]["code"], 13);
        let table = text(&all);
        assert!(table.contains("web2 (web1)") && table.contains("0123456789ab") && table.contains("failed"), "{table}");
    }
}
