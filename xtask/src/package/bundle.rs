//! The bundle for hosts without a network: the `.deb`, all that it depends on in one Debian release, an index that apt takes, and a script.
//!
//! Invariant: apt is asked as for a host on which nothing is installed, with folders of its own, so that the bundle does not depend on this machine.

use super::io;
use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace::{root, run_visibly};
use cairn_lab::debian::sources;
use cairn_lab::process::run_ok;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

/// Makes it for a release; its archive.
pub fn make(deb: &Path, release: &str, out: &Path) -> Result<PathBuf> {
    if release.is_empty() || !release.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Err(Error::Usage(format!("--bundle {release:?}: give the name of a Debian release, for instance trixie")));
    }
    let version = run_ok(Command::new("dpkg-deb").args(["--show", "--showformat", "${Version}_${Architecture}"]).arg(deb), LIMIT)?;
    let name = format!("cairn_{version}_{release}");
    let work = out.join(".bundle.part");
    if work.exists() {
        fs::remove_dir_all(&work).map_err(|e| io(&work, &e))?;
    }
    let bundle = work.join(&name);
    fs::create_dir_all(&bundle).map_err(|e| io(&bundle, &e))?;
    download(deb, release, &work, &bundle)?;
    copy(deb, &bundle.join(deb.file_name().unwrap_or_default()))?;
    let index = run_ok(Command::new("dpkg-scanpackages").args(["--multiversion", "."]).current_dir(&bundle), LIMIT)?;
    fs::write(bundle.join("Packages"), &index).map_err(|e| io(&bundle, &e))?;
    copy(&root().join("packaging/bundle/install.sh"), &bundle.join("install.sh"))?;
    fs::write(bundle.join("RELEASE"), format!("{release}\n")).map_err(|e| io(&bundle, &e))?;
    let archive = out.join(format!("{name}.tar"));
    let files = ["--sort=name", "--owner=root:0", "--group=root:0", "--mode=go-w", "--create", "--file"];
    run_visibly(Command::new("tar").args(files).arg(&archive).arg("--directory").arg(&work).arg(&name))?;
    fs::remove_dir_all(&work).map_err(|e| io(&work, &e))?;
    say!("package: {} packages in the bundle of {release}", index.lines().filter(|line| line.starts_with("Package: ")).count());
    Ok(archive)
}

/// All packages that are needed, into `bundle`.
fn download(deb: &Path, release: &str, work: &Path, bundle: &Path) -> Result<()> {
    let state = work.join("apt");
    for folder in ["state/lists/partial", "cache/archives/partial", "etc"] {
        let folder = state.join(folder);
        fs::create_dir_all(&folder).map_err(|e| io(&folder, &e))?;
    }
    let own = sources::release()?;
    let lines: Vec<String> = sources::lines(&own)?.into_iter().map(|line| line.replace(&format!(" {own}"), &format!(" {release}"))).collect();
    for (name, text) in [("etc/sources.list", lines.join("\n") + "\n"), ("status", String::new())] {
        fs::write(state.join(name), text).map_err(|e| io(&state, &e))?;
    }
    let apt = || -> Result<Command> {
        let mut command = Command::new("apt-get");
        for (option, place) in
            [("Dir::State", "state"), ("Dir::State::status", "status"), ("Dir::Cache", "cache"), ("Dir::Etc::sourcelist", "etc/sources.list")]
        {
            command.arg("-o").arg(format!("{option}={}", state.join(place).display()));
        }
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
        for line in sources::transport()? {
            let line = line.trim_end_matches(';').replacen(' ', "=", 1).replace('"', "");
            command.arg("-o").arg(line);
        }
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    };
    run_visibly(apt()?.arg("update"))?;
    run_visibly(apt()?.args(["install", "--yes", "--download-only", "--no-install-recommends"]).arg(deb))?;
    for entry in fs::read_dir(state.join("cache/archives")).map_err(|e| io(&state, &e))?.flatten() {
        if entry.path().extension().is_some_and(|e| e == "deb") {
            copy(&entry.path(), &bundle.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|e| io(from, &e))
}
