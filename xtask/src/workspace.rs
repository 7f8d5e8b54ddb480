//! Where things are: the workspace's root, its target folder, cargo, the programs.

use crate::error::{Error, Result};
use cairn_lab::process::{command_line, exit_code};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The workspace's root: the parent of xtask's own folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The target folder this program was built into (`TARGET/debug/xtask`), so that everything shares it.
pub fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| Error::failed(format!("cannot find xtask's own path: {e}")))?;
    own.ancestors().nth(2).map(Path::to_owned).ok_or_else(|| Error::failed("xtask must be run by cargo"))
}

/// `cargo` with the workspace's root and target folder; the cargo that runs us where there is one.
pub fn cargo(args: &[&str]) -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).env("CARGO_TARGET_DIR", target()?);
    Ok(command)
}

/// Runs a program with our standard streams; anything but success is an error that names it.
pub fn run_visibly(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command.status().map_err(|e| Error::failed(format!("cannot start `{line}`: {e}")))?;
    if status.success() { Ok(()) } else { Err(Error::failed(format!("`{line}` failed with exit code {}", exit_code(status)))) }
}

/// The program that suites and the demo try: `CAIRN`, or the debug build, whose arithmetic is checked and which is there in half the time. Where it will
/// be, built or not.
pub fn cairn_path() -> Result<PathBuf> {
    match std::env::var_os(cairn_lab::lab::CAIRN_VARIABLE).map(PathBuf::from) {
        Some(path) => path.canonicalize().map_err(|e| Error::failed(format!("CAIRN={}: {e}; unset it to build the program", path.display()))),
        None => Ok(target()?.join("debug/cairn")),
    }
}

/// The same, built first unless `CAIRN` names another. `None` with `build` off and none built.
pub fn cairn(build: bool) -> Result<Option<PathBuf>> {
    let path = cairn_path()?;
    if build && std::env::var_os(cairn_lab::lab::CAIRN_VARIABLE).is_none() {
        built(&["build", "--locked", "-p", "cairn"])?;
    }
    Ok(path.is_file().then_some(path))
}

/// The program as it is released, for figures: built first unless `CAIRN` names another.
pub fn released() -> Result<PathBuf> {
    if std::env::var_os(cairn_lab::lab::CAIRN_VARIABLE).is_some() {
        return cairn_path();
    }
    built(&["build", "--locked", "--release", "-p", "cairn"])?;
    let path = target()?.join("release/cairn");
    if path.is_file() { Ok(path) } else { Err(Error::failed("cargo built no target/release/cairn")) }
}

fn built(args: &[&str]) -> Result<()> {
    let start = Instant::now();
    run_visibly(&mut cargo(args)?)?;
    if start.elapsed().as_secs() > 2 {
        eprintln!("xtask: built the program in {} s", start.elapsed().as_secs());
    }
    Ok(())
}

/// libvirt's hook as it is shipped, one file without libraries, built first unless `CAIRN_HOOK` names another. `None` with `build` off and none built.
pub fn hook(build: bool) -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os(cairn_lab::lab::HOOK_VARIABLE).map(PathBuf::from) {
        let path = path.canonicalize().map_err(|e| Error::failed(format!("CAIRN_HOOK={}: {e}; unset it to build the program", path.display())))?;
        return Ok(Some(path));
    }
    // Named, so that the flags are for the program alone and not for what builds it.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    if build {
        let mut command = cargo(&["build", "--locked", "--profile", "hook", "-p", "cairn-hook", "--bin", "cairn-hook", "--target", &platform])?;
        command.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
        run_visibly(&mut command)?;
    }
    let path = target()?.join(platform).join("hook/cairn-hook");
    Ok(path.is_file().then_some(path))
}
