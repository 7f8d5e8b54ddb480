//! What needs a guest: suites of the lab with the release program and larger disks; their own lines are shown.

use crate::error::{Error, Result};
use crate::workspace;
use cairn_lab::process::run;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(3600);

/// A test of a suite, what it is told in its environment, and how the lines begin that are figures.
pub struct Part<'a> {
    pub suite: &'a str,
    pub test: &'a str,
    pub told: &'a [(&'a str, &'a str)],
    pub heads: &'a [&'a str],
}

/// The lines of one.
pub fn lines(part: &Part<'_>, cairn: &Path) -> Result<Vec<String>> {
    let mut command = workspace::cargo(&["test", "-q", "-p", "cairn-lab", "--test", part.suite, "--", "--exact", part.test, "--nocapture"])?;
    command.env(cairn_lab::lab::CAIRN_VARIABLE, cairn).envs(part.told.iter().copied());
    let output = run(&mut command, LIMIT)?;
    let said = output.text();
    if !output.status.success() {
        // What happened in the lab stands among what the test printed.
        return Err(Error::failed(format!("the suite {} failed: {}\n{}", part.suite, said.trim(), output.err_text().trim())));
    }
    let found: Vec<String> = said.lines().filter(|l| part.heads.iter().any(|h| l.starts_with(h))).map(str::to_owned).collect();
    if found.is_empty() { Err(Error::failed(format!("the suite {} printed no figures", part.suite))) } else { Ok(found) }
}
