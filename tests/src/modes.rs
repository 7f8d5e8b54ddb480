//! What each disk of a domain without a system gets, point by point, and the tables of docs/modes.md that say so.
//!
//! Functions here panic on failure, as tests do.

use crate::cairn;
use crate::hollow::Hollow;
use crate::suite::{Suite, mode};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Target and mode of each disk of a point.
///
/// # Panics
/// It has none.
#[must_use]
pub fn modes(point: &Value) -> Vec<(String, String)> {
    let disks = point["disks"].as_array().expect("disks");
    disks.iter().map(|d| cairn::text(d, "target").expect("target")).map(|target| (target.clone(), mode(point, &target))).collect()
}

/// A point, every disk of which restores to what its image has now, and the modes of its disks in one line.
///
/// # Panics
/// Not so.
#[must_use]
pub fn saved(suite: &Suite, machine: &Hollow) -> (String, String) {
    saved_by(suite, machine, "live")
}

/// The same by one of the ways to track a running domain.
///
/// # Panics
/// Not so.
#[must_use]
pub fn saved_by(suite: &Suite, machine: &Hollow, capture: &str) -> (String, String) {
    machine.flush();
    let output = suite.cairn.run(&["backup", machine.name(), "--quiesce", "never", "--json", "--capture", capture]).expect("it ends");
    assert!([cairn::DONE, cairn::WARNINGS].contains(&output.code()), "{}", output.err_text());
    let point: Value = serde_json::from_str(&output.text()).expect("a point");
    let id = point["id"].as_str().expect("an id").to_owned();
    let images = machine.images();
    let compared: Vec<(&str, &Path, &str)> = images.iter().map(|(target, path, format)| (target.as_str(), path.as_path(), format.as_str())).collect();
    suite.assert_disks(&id, &compared);
    for (target, mode) in modes(&point) {
        let reason = cairn::disk(&point, &target).expect("disk")["reason"].as_str().unwrap_or_default().to_owned();
        assert_eq!(mode == "incremental", reason.is_empty(), "{target} is {mode} because '{reason}'");
        if !reason.is_empty() {
            println!("{} {target}: {mode}, {reason}", machine.name());
        }
    }
    let line = modes(&point).iter().map(|(target, mode)| format!("{target} {mode}")).collect::<Vec<_>>().join(", ");
    println!("{}: {line}", machine.name());
    (id, line)
}

/// The mode of one disk in such a line.
///
/// # Panics
/// The line has no such disk.
#[must_use]
pub fn cell(line: &str, target: &str) -> String {
    let of = line.split(", ").find_map(|part| part.strip_prefix(target)?.strip_prefix(' '));
    of.unwrap_or_else(|| panic!("no {target} in {line}")).to_owned()
}

/// The table below this heading of docs/modes.md is what was measured; `CAIRN_MODES=write` makes it so.
///
/// # Panics
/// It is another.
pub fn assert_documented(heading: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/modes.md");
    let text = fs::read_to_string(&path).expect("docs/modes.md");
    let line = format!("### {heading}\n");
    let Some((before, rest)) = text.split_once(&line) else {
        println!("docs/modes.md says nothing of {heading}; measured:\n{table}");
        return;
    };
    let end = rest.find("\n#").map_or(rest.len(), |at| at + 1);
    if std::env::var("CAIRN_MODES").is_ok_and(|word| word == "write") {
        let after = &rest[end..];
        let gap = if after.is_empty() { "" } else { "\n" };
        fs::write(&path, format!("{before}{line}\n{table}{gap}{after}")).expect("written");
        return;
    }
    assert_eq!(rest[..end].trim(), table.trim(), "docs/modes.md is to say of {heading}:\n{table}");
}
