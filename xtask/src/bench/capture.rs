//! `cargo xtask bench capture`: backups of a running domain beside virtnbdbackup, and what the guest's own writes take meanwhile.

use super::options::Options;
use super::{lab, machine, measure};
use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace;
use std::fmt::Write as _;
use std::fs;

pub const PACKAGES: [&str; 1] = ["virtnbdbackup"];
const PAGE: &str = "docs/capture-figures.md";
/// The size of a disk, how much data it has at first, what changes between its backups; MiB. A gigabyte of changes fits beside the data.
const CHANGES: &str = "10,100,1000";
const HEAD: &str = "\
# Figures of captures

Written by `cargo xtask bench capture --write`; do not edit. Other machines give other seconds: compare what stands side by side.

One domain, one qcow2 disk; both save it in turns, the page cache is emptied before each. Cairn compresses (zstd 3), encrypts (AES-256-GCM) and deduplicates;
It gives way as its daemon's jobs do (`--priority low`).
virtnbdbackup does what it does by default, none of these. Beside full backups the guest writes 4 KiB past its cache, then pauses a millisecond: microseconds of
its writes. Both freeze the guest's file systems for the point in time, which is in the longest write.

The aims: a full backup at least 1.5 times as fast as virtnbdbackup's, increments 3 times; the guest's p99 at most half of what it is beside virtnbdbackup.
";
const TABLE: &str = "| what | by | s | median us | p99 us | longest us |\n|---|---|---:|---:|---:|---:|\n";

/// Runs the suite with large disks.
pub fn bench(options: &Options) -> Result<()> {
    let cairn = workspace::released()?;
    let disk_mib = options.bytes >> 20;
    let sizes = format!("{disk_mib},{}", disk_mib / 2);
    let rounds = options.repeat.to_string();
    let told = [("CAIRN_LOAD_ROUNDS", rounds.as_str()), ("CAIRN_LOAD_MIB", &sizes), ("CAIRN_LOAD_CHANGES_MIB", CHANGES), ("CAIRN_LOAD_PEER", "1")];
    let part = lab::Part { suite: "load", test: "a_guest_writes_beside_backups", told: &told, heads: &["load: ", "freeze: "] };
    let mut text = format!("{HEAD}\n- load of the last minute at the start: {}\n- rounds: {rounds} (medians)\n", measure::load());
    let _ = writeln!(text, "- disk: {disk_mib} MiB, {} of them files at first", disk_mib / 2);
    for (what, value) in machine::facts(&options.dir) {
        let _ = writeln!(text, "- {what}: {value}");
    }
    let lines = lab::lines(&part, &cairn)?;
    let freezes: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("freeze: ")).collect();
    let _ = writeln!(text, "- freezes by Cairn: {}\n\n{TABLE}{}", freezes.join(", "), rows(&lines));
    say!("{}", text.trim());
    if options.write {
        let path = workspace::root().join(PAGE);
        fs::write(&path, text).map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))?;
        say!("bench: wrote {PAGE}");
    }
    Ok(())
}

/// The suite's rows, in its order and without the numbers that make it.
fn rows(lines: &[String]) -> String {
    let row = |line: &String| line.strip_prefix("load: | ").and_then(|rest| rest.split_once(' ')).map(|(_, rest)| format!("| {rest}\n"));
    lines.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn rows_lose_their_number() {
        let lines = ["freeze: 7 ms".to_owned(), "load: | 1 full | cairn | 2.50 | 90 | 200 | 3000 |".to_owned()];
        assert_eq!(rows(&lines), "| full | cairn | 2.50 | 90 | 200 | 3000 |\n");
    }
}
