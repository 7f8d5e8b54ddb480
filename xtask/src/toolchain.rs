//! The parts of the Rust toolchain that the gates need besides cargo: rustfmt and clippy.
//!
//! rustup's minimal profile leaves them out. Where rustup is there they are added by it; nothing else is
//! installed or changed, the toolchain itself least of all.

use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace::{cargo, root, run_visibly};
use std::process::{Command, Stdio};

/// Subcommand of cargo, and the component that has it.
const PARTS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

/// Adds what is missing.
///
/// # Errors
/// A part is missing and rustup is not there, or failed; the text says what to type.
pub fn complete() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    say!("setup: adding to the Rust toolchain: {}", missing.join(", "));
    let mut add = Command::new("rustup");
    add.args(["component", "add"]).args(&missing).current_dir(root());
    run_visibly(&mut add).map_err(|error| Error::failed(format!("{}; {}", error.report(), remedy(&missing))))?;
    match self::missing()? {
        still if still.is_empty() => Ok(()),
        still => Err(Error::failed(format!("rustup succeeded, but this cargo still lacks {}; {}", still.join(", "), remedy(&still)))),
    }
}

fn missing() -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for (subcommand, component) in PARTS {
        let status = cargo(&[subcommand, "--version"])?.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            missing.push(component);
        }
    }
    Ok(missing)
}

fn remedy(missing: &[&str]) -> String {
    format!("run `rustup component add {}`, with a cargo that rustup installed (https://rustup.rs)", missing.join(" "))
}
