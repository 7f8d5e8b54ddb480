//! What needs a guest: suites of the lab with the release program and larger disks; their own lines are shown.

use crate::error::{Error, Result};
use crate::workspace;
use cairn_lab::process::run_ok;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(1800);
/// Suite, test, sizes of its disk and data, and how the lines begin that are figures.
const PARTS: [(&str, &str, &str, &[&str]); 3] = [
    ("run_boot", "a_run_boots_as_fast_as_a_local_guest", "", &["first output"]),
    ("in_place", "one_percent_changed_is_little_to_write", "8192,5120", &["full:"]),
    ("terabyte", "a_sparse_terabyte_takes_seconds", "", &["1 TiB"]),
];

/// The lines, by suite.
pub fn lines(cairn: &Path) -> Result<String> {
    let mut out = String::from("## In the lab\n\nA guest without hardware virtualization, release program. From the suites of the same names.\n\n");
    for (suite, test, sizes, heads) in PARTS {
        let mut command = workspace::cargo(&["test", "-q", "-p", "cairn-lab", "--test", suite, "--", "--exact", test, "--nocapture"])?;
        command.env(cairn_lab::lab::CAIRN_VARIABLE, cairn);
        if !sizes.is_empty() {
            command.env("CAIRN_FIGURES_MIB", sizes);
        }
        let said = run_ok(&mut command, LIMIT)?;
        let found: Vec<&str> = said.lines().filter(|l| heads.iter().any(|h| l.starts_with(h))).collect();
        if found.is_empty() {
            return Err(Error::failed(format!("the suite {suite} printed no figures")));
        }
        for line in found {
            let _ = writeln!(out, "- {suite}: {line}");
        }
    }
    Ok(out)
}
