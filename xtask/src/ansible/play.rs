//! One run of a playbook, and what its recap says.

use crate::error::{Error, Result};
use cairn_lab::process::run;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(900);

/// Counts of a host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ok: u32,
    pub changed: u32,
    pub unreachable: u32,
    pub failed: u32,
}

/// How a run ended.
pub struct Play {
    /// All it said.
    pub text: String,
    pub hosts: BTreeMap<String, Counts>,
}

/// Plays `site.yml` of `project`, with differences and details shown.
pub fn play(tools: &Path, project: &Path, more: &[&str]) -> Result<Play> {
    let mut command = command(tools, project, "ansible-playbook");
    command.args(["site.yml", "-v", "--diff", "--vault-password-file", "password"]).args(more);
    let output = run(&mut command, LIMIT)?;
    let text = format!("{}{}", output.text(), output.err_text());
    let hosts = recap(&text);
    if hosts.is_empty() {
        return Err(Error::failed(format!("ansible-playbook ended with {} and no recap: {text}", output.code())));
    }
    Ok(Play { text, hosts })
}

/// A program of Ansible's, with nothing of this machine's own settings.
pub fn command(tools: &Path, project: &Path, program: &str) -> Command {
    let mut command = Command::new(tools.join(program));
    let home = project.join(".home");
    command.current_dir(project).env_clear().env("PATH", format!("{}:{}", tools.display(), cairn_lab::init::PATH)).env("HOME", &home);
    command.env("ANSIBLE_HOME", home.join("ansible")).env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1").env("NO_COLOR", "1");
    command
}

impl Play {
    /// Every host is through without a failure, and `changed` holds of each.
    pub fn must(&self, what: &str, hosts: &[&str], changed: impl Fn(u32) -> bool) -> Result<()> {
        let good = |name: &&str| self.hosts.get(*name).is_some_and(|c| c.failed == 0 && c.unreachable == 0 && c.ok > 0 && changed(c.changed));
        if self.hosts.len() == hosts.len() && hosts.iter().all(good) {
            return Ok(());
        }
        Err(Error::failed(format!("{what}: {:?}\n{}", self.hosts, self.text)))
    }

    /// It failed, and said so.
    pub fn must_fail(&self, what: &str, words: &[&str]) -> Result<()> {
        let failed = self.hosts.values().any(|counts| counts.failed > 0);
        if failed && words.iter().all(|word| self.text.contains(word)) {
            return Ok(());
        }
        Err(Error::failed(format!("{what}: it does not fail with {words:?}: {:?}\n{}", self.hosts, self.text)))
    }
}

/// Lines as `kvm1 : ok=12 changed=0 unreachable=0 failed=0 ...`, below the word.
fn recap(text: &str) -> BTreeMap<String, Counts> {
    let lines = text.split("PLAY RECAP").nth(1).unwrap_or_default().lines();
    let host = |line: &str| {
        let (name, counts) = line.split_once(" : ").or_else(|| line.split_once(": "))?;
        let count = |key: &str| counts.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
        let counts = Counts { ok: count("ok")?, changed: count("changed")?, unreachable: count("unreachable")?, failed: count("failed")? };
        Some((name.trim().to_owned(), counts))
    };
    lines.filter_map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_recap_alone() {
        let text = "x : ok=9 changed=9 unreachable=9 failed=9\nPLAY RECAP *****\nkvm1                       : ok=30   changed=2    unreachable=0    failed=1    skipped=7\n";
        let counts = Counts { ok: 30, changed: 2, unreachable: 0, failed: 1 };
        assert_eq!(recap(text), BTreeMap::from([("kvm1".to_owned(), counts)]));
        assert!(recap("ERROR! no such file").is_empty());
    }
}
