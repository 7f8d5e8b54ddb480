//! `cairn hook`

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `cairn hook`
#[derive(Subcommand, Debug)]
pub enum HookCommand {
    /// Put the hook where libvirt looks for it, beside those of others
    #[command(after_help = "Run it again after an upgrade. Where libvirt's daemon runs and had no hook before, it must be reloaded; this says so. \
It does nothing to running domains.")]
    Install(HookInstall),
    /// Take the hook away; those of others stay
    Remove(HookPlace),
    /// Show whether libvirt will call the hook
    #[command(
        after_help = "Ends with 0 if libvirt will call it and records reach their place, with 3 if something is in the way, with 15 if it is not installed."
    )]
    Status(HookStatus),
}

/// Where the hook is.
#[derive(Args, Debug)]
pub struct HookPlace {
    /// libvirt's folder of hooks
    #[arg(long, value_name = "DIR", default_value = crate::hook::DIR_DEFAULT)]
    pub dir: PathBuf,
}

/// `cairn hook install`
#[derive(Args, Debug)]
pub struct HookInstall {
    /// Where it goes.
    #[command(flatten)]
    pub place: HookPlace,
    /// The program (default: cairn-hook beside this program, or in /usr/lib/cairn)
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Replace a file of that name that is not Cairn's
    #[arg(long)]
    pub force: bool,
}

/// `cairn hook status`
#[derive(Args, Debug)]
pub struct HookStatus {
    /// Where it should be.
    #[command(flatten)]
    pub place: HookPlace,
    /// The program it should be (default: as with install)
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}
