//! Ansible and its lint, in the target folder, of the versions that `requirements.txt` names, from Python's own index.

use super::io;
use crate::error::Result;
use crate::say::say;
use crate::workspace::{run_visibly, target};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const REQUIREMENTS: &str = include_str!("requirements.txt");
/// Debian's, for which its `python3-venv` is.
const PYTHON: &str = "/usr/bin/python3";

/// The folder of its programs; made on first use, and anew for other versions.
pub fn ready() -> Result<PathBuf> {
    let folder = target()?.join("tools/ansible");
    let mark = folder.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(folder.join("bin"));
    }
    say!("ansible-try: installing Ansible into {}, once", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| io(&folder, &e))?;
    }
    run_visibly(Command::new(PYTHON).args(["-m", "venv"]).arg(&folder))?;
    let wanted = folder.join("requirements.txt");
    super::write(&wanted, REQUIREMENTS)?;
    run_visibly(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&wanted))?;
    super::write(&mark, REQUIREMENTS)?;
    Ok(folder.join("bin"))
}
