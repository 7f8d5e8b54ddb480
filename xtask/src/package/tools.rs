//! cargo-deb and cargo-generate-rpm: of one version, in the target folder, fed with what [`super::stage`] has put together.

use super::{io, stage::PROFILE};
use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace::{cargo, root, run_visibly, target};
use cairn_lab::process::run_ok;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const DEB: Tool = Tool { name: "cargo-deb", version: "3.8.0" };
const RPM: Tool = Tool { name: "cargo-generate-rpm", version: "0.21.1" };
const LIMIT: Duration = Duration::from_secs(600);

struct Tool {
    name: &'static str,
    version: &'static str,
}

impl Tool {
    /// The program; built on first use, some minutes.
    fn program(&self) -> Result<PathBuf> {
        let folder = target()?.join("tools");
        let path = folder.join("bin").join(self.name);
        let is_it = |path: &Path| {
            let said = run_ok(Command::new(path).arg("--version"), LIMIT).unwrap_or_default();
            said.split_whitespace().last() == Some(self.version)
        };
        if is_it(&path) {
            return Ok(path);
        }
        say!("package: building {} {}, once", self.name, self.version);
        let mut install = cargo(&["install", "--locked", "--force", "--version", self.version, self.name, "--root"])?;
        let build = folder.join("build");
        run_visibly(install.arg(&folder).env("CARGO_TARGET_DIR", &build))?;
        fs::remove_dir_all(&build).map_err(|e| io(&build, &e))?;
        if is_it(&path) { Ok(path) } else { Err(Error::failed(format!("cargo installed no {} {}", self.name, self.version))) }
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(self.program()?);
        command.current_dir(root()).env("CARGO_TARGET_DIR", target()?);
        // The same content has the same time, and so is the same package.
        let time = run_ok(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()), LIMIT);
        if let Ok(time) = time {
            command.env("SOURCE_DATE_EPOCH", time.trim());
        }
        Ok(command)
    }
}

/// The `.deb`; with a version of its own where one is given.
pub fn deb(stage: &Path, out: &Path, version: Option<&str>) -> Result<PathBuf> {
    check(stage)?;
    made(out, "deb", |folder| {
        let mut command = DEB.command()?;
        command.args(["--package", "cairn", "--no-build", "--no-strip", "--locked", "--profile", PROFILE, "--output"]).arg(folder);
        if let Some(version) = version {
            // To be tried at once, and thrown away.
            command.args(["--deb-version", version, "--fast"]);
        }
        run_visibly(&mut command)
    })
}

/// The `.rpm`.
pub fn rpm(stage: &Path, out: &Path) -> Result<PathBuf> {
    check(stage)?;
    made(out, "rpm", |folder| {
        let mut command = RPM.command()?;
        command.args(["--package", "agent", "--auto-req", "builtin", "--profile", PROFILE, "--target-dir"]).arg(target()?).arg("--output").arg(folder);
        run_visibly(&mut command)
    })
}

fn check(stage: &Path) -> Result<()> {
    if stage == target()?.join(PROFILE) { Ok(()) } else { Err(Error::failed(format!("packages are made of {PROFILE}/ in the target folder"))) }
}

/// What a packager makes in an empty folder, moved to its place.
fn made(out: &Path, extension: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = out.join(format!(".{extension}.part"));
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| io(&folder, &e))?;
    }
    fs::create_dir_all(&folder).map_err(|e| io(&folder, &e))?;
    make(&folder)?;
    let entries = fs::read_dir(&folder).map_err(|e| io(&folder, &e))?;
    let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    let [file] = files.as_slice() else { return Err(Error::failed(format!("{} packages came of one", files.len()))) };
    let place = out.join(file.file_name().unwrap_or_default());
    fs::rename(file, &place).map_err(|e| io(&place, &e))?;
    fs::remove_dir_all(&folder).map_err(|e| io(&folder, &e))?;
    Ok(place)
}
