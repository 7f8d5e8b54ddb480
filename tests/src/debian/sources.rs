//! Where this machine's apt takes Debian from, read from apt itself.
//!
//! Mirrors, proxies and keys are whatever the machine has: nothing of them is written here or in any other file of the project.

use crate::error::{Error, Result};
use crate::process::run_ok;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const OS_RELEASE: &str = "/etc/os-release";
/// Of each index that apt has.
const FORMAT: &str = "$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)\t$(REPO_URI)";
const REMEDY: &str = "run `apt-get update` with a source of Debian's `main` in apt's configuration";

/// The release that the host runs, for instance `bookworm`.
///
/// # Errors
/// This is no Debian.
pub fn release() -> Result<String> {
    let text = std::fs::read_to_string(OS_RELEASE).map_err(Error::io("read", OS_RELEASE))?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"').to_owned());
    match (value("ID=").as_deref(), value("VERSION_CODENAME=")) {
        (Some("debian"), Some(release)) => Ok(release),
        _ => Err(Error::Missing { what: format!("a Debian release in {OS_RELEASE}"), remedy: "the Debian guest is made on Debian hosts only".into() }),
    }
}

/// Lines as in `sources.list` for that release and its updates.
///
/// # Errors
/// apt knows none.
pub fn lines(release: &str) -> Result<Vec<String>> {
    let listed = run_ok(Command::new("apt-get").args(["indextargets", "--format", FORMAT, "Created-By: Packages"]).env("LC_ALL", "C"), LIMIT)?;
    let lines = parse(&listed, release);
    // Without the release itself there is no base system; without updates there is an older one.
    if lines.iter().any(|line| line.contains(&format!(" {release} "))) {
        return Ok(lines);
    }
    Err(Error::Missing { what: format!("an index of Debian {release} in apt's lists"), remedy: REMEDY.into() })
}

fn parse(listed: &str, release: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in listed.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [suite, "main", "Debian", uri] = fields.as_slice() else {
            continue;
        };
        // bookworm, bookworm-updates, bookworm-security; no backports, whose packages would be others.
        let kin = suite.strip_prefix(release).is_some_and(|rest| ["", "-updates", "-security", "/updates"].contains(&rest));
        let line = format!("deb {uri} {suite} main");
        if kin && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// What apt needs to reach its sources: proxies and the like, as `apt.conf` has it.
///
/// # Errors
/// apt does not answer.
pub fn transport() -> Result<Vec<String>> {
    let text = run_ok(Command::new("apt-config").arg("dump").env("LC_ALL", "C"), LIMIT)?;
    let wanted = |line: &&str| (line.starts_with("Acquire::http") || line.starts_with("Acquire::https")) && !line.ends_with("\"\";");
    Ok(text.lines().filter(wanted).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_itself_is_taken() {
        let listed = "bookworm\tmain\tDebian\tmirror:/debian/\nbookworm-updates\tmain\tDebian\tmirror:/debian/\n\
             bookworm-security\tmain\tDebian\tmirror:/security/\nbookworm\tmain\tDebian\tmirror:/debian/\n\
             bookworm-backports\tmain\tDebian\tmirror:/debian/\nbookworm\tcontrib\tDebian\tmirror:/debian/\n\
             bookworm\tmain\tOthers\tother:/\nnodistro\tmain\t\tother:/\ntrixie\tmain\tDebian\tmirror:/debian/\n";
        let expected = ["deb mirror:/debian/ bookworm main", "deb mirror:/debian/ bookworm-updates main", "deb mirror:/security/ bookworm-security main"];
        assert_eq!(parse(listed, "bookworm"), expected);
        assert_eq!(parse("", "bookworm"), Vec::<String>::new());
    }
}
