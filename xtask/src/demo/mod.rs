//! `cargo xtask demo`: the whole way of a backup, shown and proved on a real domain in a lab.
//!
//! Outside the lab it installs and builds; inside (`__demo`) it plays the story. Whatever differs from its
//! reference ends the story as a failure.

mod proof;
mod scene;
mod story;

use crate::error::{Error, Result};
use crate::say::say;
use crate::{lab, setup, workspace};
use cairn_lab::Options;
use cairn_lab::lab::CAIRN_VARIABLE;
use std::process::{Command, ExitCode};

/// The hidden command that plays the story inside the lab.
pub const INSIDE: &str = "__demo";
const KEEP: &str = "--keep";
const USAGE: &str = "\
usage: cargo xtask demo [--keep]

Installs what is missing, builds, starts a libvirt of its own with a guest in it, backs it up, restores it,
compares every byte, and cleans up. Your own domains are never touched.

  --keep    leave the lab up at the end with a shell in it; it is gone when the shell ends
";

/// The command.
pub fn main(args: &[String]) -> Result<ExitCode> {
    let keep = match args {
        [] => false,
        [arg] if arg == KEEP => true,
        [arg] if arg == "--help" || arg == "-h" => {
            say!("{}", USAGE.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        _ => {
            return Err(Error::Usage(format!("unknown arguments {args:?}\n\n{USAGE}")));
        }
    };
    setup::install_missing()?;
    setup::print_versions();
    let cairn = workspace::cairn(true)?.ok_or_else(|| Error::failed("cargo built no target/debug/cairn"))?;
    let own = std::env::current_exe().map_err(|e| Error::failed(format!("cannot find xtask's own path: {e}")))?;
    let mut command = vec![own.to_string_lossy().into_owned(), INSIDE.to_owned()];
    command.extend(keep.then(|| KEEP.to_owned()));
    let env = vec![(CAIRN_VARIABLE.to_owned(), cairn.to_string_lossy().into_owned())];
    let code = lab::enter(Options::default(), command, env)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The story, inside the lab.
pub fn inside(args: &[String]) -> Result<ExitCode> {
    let keep = args.first().is_some_and(|arg| arg == KEEP);
    let result = scene::play();
    if let Err(error) = &result {
        say!("\ndemo: FAILED: {}", error.report());
    }
    if keep {
        shell();
    }
    if result.is_ok() {
        say!("demo: ok");
    }
    Ok(ExitCode::from(u8::from(result.is_err())))
}

fn shell() {
    say!("\nThe lab stays up for this shell: try `virsh list --all`, `\"$CAIRN\" list`, `ls $LAB_DIR`. It ends with `exit`.");
    let program = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let dir = std::env::var_os("LAB_DIR").map(std::path::PathBuf::from).unwrap_or_default();
    let mut command = Command::new(program);
    command.env("CAIRN_STORE", dir.join(scene::STORE)).env("CAIRN_KEY_FILE", dir.join(format!("{}.key", scene::STORE)));
    // How the shell ended says nothing about the demo.
    let _ = command.status();
}
