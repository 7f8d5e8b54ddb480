//! The folder in which packages are put together: programs without debug information, manual pages, completions, documentation. `agent/Cargo.toml` says what of
//! it goes where.
//!
//! Invariant: pages and completions are what the packaged program itself says.

use super::{io, notices};
use crate::error::{Error, Result};
use crate::workspace::{self, root};
use cairn_lab::process::run_ok;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Stands for cargo's folder of a profile: packagers look there for what was built (`--profile`).
pub const PROFILE: &str = "package";
const LIMIT: Duration = Duration::from_secs(60);
const SHELLS: [(&str, &str); 3] = [("bash", "cairn.bash"), ("zsh", "_cairn"), ("fish", "cairn.fish")];
const TEXTS: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// Makes it anew, of this program.
pub fn make(program: &Path) -> Result<PathBuf> {
    let hook = workspace::hook(true)?.ok_or_else(|| Error::failed("cargo built no cairn-hook"))?;
    let stage = workspace::target()?.join(PROFILE);
    if stage.exists() {
        fs::remove_dir_all(&stage).map_err(|e| io(&stage, &e))?;
    }
    for folder in ["man", "completions", "doc", "docs/adr"] {
        fs::create_dir_all(stage.join(folder)).map_err(|e| io(&stage, &e))?;
    }
    let own = stage.join("cairn");
    copy(program, &own)?;
    copy(&hook, &stage.join("cairn-hook"))?;
    run_ok(Command::new("strip").args(["--strip-unneeded"]).arg(&own), LIMIT)?;
    // The admin's own settings say nothing about what is packaged.
    let cairn = || {
        let mut command = Command::new(&own);
        command.env_clear().env("PATH", cairn_lab::init::PATH);
        command
    };
    run_ok(cairn().arg("man").arg(stage.join("man")), LIMIT)?;
    for page in files(&stage.join("man"), "1")? {
        gzip(&page)?;
    }
    for (shell, name) in SHELLS {
        let path = stage.join("completions").join(name);
        fs::write(&path, run_ok(cairn().args(["completions", shell]), LIMIT)?).map_err(|e| io(&path, &e))?;
    }
    for name in TEXTS {
        copy(&root().join(name), &stage.join("doc").join(name))?;
    }
    for page in files(&root().join("docs"), "md")? {
        copy(&page, &stage.join("docs").join(page.file_name().unwrap_or_default()))?;
    }
    for page in files(&root().join("docs/adr"), "md")? {
        copy(&page, &stage.join("docs/adr").join(page.file_name().unwrap_or_default()))?;
    }
    let crates = stage.join("doc/THIRD-PARTY");
    fs::write(&crates, notices::text()?).map_err(|e| io(&crates, &e))?;
    gzip(&crates)?;
    gzip(&stage.join("doc/CHANGELOG.md"))?;
    Ok(stage)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|e| io(from, &e))
}

/// Files of a folder with that ending, by name.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| io(folder, &e))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    if found.is_empty() { Err(Error::failed(format!("no *.{extension} in {}", folder.display()))) } else { Ok(found) }
}

/// Without a time in it, so that the same content is the same file.
fn gzip(path: &Path) -> Result<()> {
    Ok(run_ok(Command::new("gzip").args(["-9", "--no-name", "--force"]).arg(path), LIMIT).map(drop)?)
}
