//! The parts a program of ours can play in a lab, chosen by its first argument.
//!
//! Both `xtask` and `cairn-lab` call [`dispatch`] before anything else: the same file is init of the
//! namespace on the host and, copied into the initramfs, the helper in the guest.

use crate::{init, writer};
use std::process::ExitCode;

/// First argument of the namespace's init; the second is its order as JSON.
pub const INIT: &str = "__lab-init";
/// First argument of init's first child, with the same order.
pub const FIRST: &str = "__lab-first";
/// First argument of the guest's helper.
pub const GUEST: &str = "__lab-guest";

/// Plays the part the arguments name; `None` when they name none of ours.
#[must_use]
pub fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    match args.next()?.as_str() {
        INIT => Some(init::main(&args.next().unwrap_or_default())),
        FIRST => Some(init::main_child(&args.next().unwrap_or_default())),
        GUEST => Some(writer::main(&args.collect::<Vec<_>>())),
        _ => None,
    }
}
