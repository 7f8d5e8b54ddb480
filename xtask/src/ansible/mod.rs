//! `cargo xtask ansible-try`: the role of `ansible/`, checked by ansible-lint and played on two booted hosts.
//!
//! Invariants: nothing is installed on this machine but Debian's packages of [`NEEDS`]; Ansible is in the target folder, of the versions in
//! `requirements.txt`; the hosts are layers in memory over the root of [`crate::root`] and are gone with the command.

mod hosts;
mod play;
mod trial;
mod venv;

use crate::error::{Error, Result};
use crate::say::say;
use crate::{package, setup, workspace};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask ansible-try [--package DEB]

Checks ansible/ by ansible-lint (profile production), packs the program (a debug build, or the one that CAIRN names),
boots two hosts with a libvirt each, plays ansible/site.yml on them again and again and looks at what came of it.
With --package that one is installed, and nothing is built. The first time makes a root of Debian 12 and installs Ansible into the target folder: some minutes.
";
const NEEDS: [&str; 3] = ["python3-venv", "openssh-client", "busybox-static"];

/// The command.
pub fn main(args: &[String]) -> Result<ExitCode> {
    let deb = match args {
        [] => None,
        [arg] if arg == "--help" || arg == "-h" => {
            say!("{}", USAGE.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        [option, deb] if option == "--package" => Some(fs::canonicalize(deb).map_err(|e| io(Path::new(deb), &e))?),
        _ => return Err(Error::Usage(format!("ansible-try takes --package and nothing else\n\n{USAGE}"))),
    };
    say!("{}", try_it(deb)?);
    Ok(ExitCode::SUCCESS)
}

/// All of it, with a package of this checkout unless there is one; a line that sums it up.
pub fn try_it(deb: Option<PathBuf>) -> Result<String> {
    setup::install_packages(&NEEDS)?;
    let tools = venv::ready()?;
    let folder = std::env::temp_dir().join(format!("cairn-ansible-{}", std::process::id()));
    fs::create_dir(&folder).map_err(|e| io(&folder, &e))?;
    let done = deb.map_or_else(|| made(&folder), Ok).and_then(|deb| trial::run(&tools, &deb, &folder));
    fs::remove_dir_all(&folder).map_err(|e| io(&folder, &e))?;
    done
}

fn made(folder: &Path) -> Result<PathBuf> {
    let program = workspace::cairn(true)?.ok_or_else(|| Error::failed("cargo built no cairn"))?;
    package::deb_of(&program, folder)
}

/// An error that names the file.
fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| io(path, &e))
}
