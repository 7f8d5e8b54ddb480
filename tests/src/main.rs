//! The program behind the suites: init of a lab's namespace, and the helper in the guest.
//!
//! Not for people; they use `cargo xtask lab`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cairn_lab::roles::dispatch().unwrap_or_else(|| {
        eprintln!("cairn-lab is started by the suites; use `cargo xtask lab -- COMMAND`");
        ExitCode::from(2)
    })
}
