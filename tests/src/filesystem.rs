//! Looking into the ext4 file systems of raw images with e2fsprogs: was it frozen, is it whole, what is in it.
//!
//! Images are never mounted and never changed: journal replay happens on a copy.

use crate::error::{Error, Result};
use crate::journal;
use crate::process::{Output, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// What an image's file system says about the moment it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Its journal is empty: it was frozen, mounted read-only or unmounted.
    pub settled: bool,
    /// `e2fsck` finds nothing wrong after replaying the journal.
    pub whole: bool,
}

/// Looks at a raw image.
///
/// # Errors
/// No ext4 there, or e2fsprogs are missing.
pub fn moment(image: &Path, scratch: &Path) -> Result<Moment> {
    let header = tool("dumpe2fs", &["-h".into(), image.display().to_string()])?;
    expect_success("dumpe2fs", &header)?;
    let settled = !header.text().contains("needs_recovery");
    let replayed = replay(image, scratch)?;
    let check = tool("e2fsck", &["-fn".into(), replayed.display().to_string()])?;
    fs::remove_file(&replayed).map_err(Error::io("remove", &replayed))?;
    Ok(Moment { settled, whole: check.code() == 0 })
}

/// Reads a file out of a raw image, after journal replay on a copy.
///
/// # Errors
/// No such file or file system.
pub fn read_file(image: &Path, path: &str, scratch: &Path) -> Result<Vec<u8>> {
    let replayed = replay(image, scratch)?;
    let bytes = dump(&replayed, path, scratch);
    fs::remove_file(&replayed).map_err(Error::io("remove", &replayed))?;
    bytes
}

/// Checks the writer's journals in a pair of raw images; gives the numbers of records.
///
/// # Errors
/// Damaged, missing, or not of one point in time.
pub fn check_journals(vda: &Path, vdb: &Path, scratch: &Path) -> Result<(u64, u64)> {
    journal::check_pair(&read_file(vda, "/journal", scratch)?, &read_file(vdb, "/journal", scratch)?)
}

/// A copy whose journal has been replayed.
fn replay(image: &Path, scratch: &Path) -> Result<PathBuf> {
    fs::create_dir_all(scratch).map_err(Error::io("create", scratch))?;
    let copy = scratch.join("replayed.raw");
    let output = run(Command::new("cp").arg("--sparse=always").arg(image).arg(&copy), LIMIT)?;
    expect_success("cp", &output)?;
    let output = tool("e2fsck", &["-p".into(), "-E".into(), "journal_only".into(), copy.display().to_string()])?;
    // 0 nothing to do, 1 replayed (e2fsck(8)).
    if output.code() > 1 {
        return Err(Error::Command { command: "e2fsck -E journal_only".into(), status: output.status.to_string(), stderr: output.text() + &output.err_text() });
    }
    Ok(copy)
}

fn dump(image: &Path, path: &str, scratch: &Path) -> Result<Vec<u8>> {
    let target = scratch.join("dumped");
    // debugfs ends with 0 whatever happened: the file tells.
    if target.exists() {
        fs::remove_file(&target).map_err(Error::io("remove", &target))?;
    }
    let output = tool("debugfs", &["-R".into(), format!("dump \"{path}\" \"{}\"", target.display()), image.display().to_string()])?;
    if output.err_text().contains("not found") || !target.exists() {
        return Err(Error::answer(image.display().to_string(), format!("has no file {path}: {}", output.err_text().trim())));
    }
    fs::read(&target).map_err(Error::io("read", &target))
}

fn tool(name: &str, args: &[String]) -> Result<Output> {
    run(Command::new(name).args(args).env("PATH", super::init::PATH).env("LC_ALL", "C"), LIMIT)
}

fn expect_success(name: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command { command: name.into(), status: output.status.to_string(), stderr: output.err_text() })
}
