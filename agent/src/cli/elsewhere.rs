//! Options of restores to another place: other storage, other paths, other networks.

use clap::Args;

/// Where things are on this host.
#[derive(Args, Debug, Clone, Default)]
pub struct Elsewhere {
    /// Storage pool for disks without a place of their own
    #[arg(long, value_name = "POOL", conflicts_with = "dir")]
    pub pool: Option<String>,
    /// What was below OLD is below NEW here: disks, emulator, firmware, kernel, and all other paths of the domain; may be repeated
    #[arg(long, value_name = "OLD=NEW")]
    pub map_path: Vec<String>,
    /// Connect interfaces of this network, bridge or device to another one; may be repeated
    #[arg(long, value_name = "OLD=NEW")]
    pub map_network: Vec<String>,
    /// Use another machine type; may be repeated
    #[arg(long, value_name = "OLD=NEW")]
    pub map_machine: Vec<String>,
    /// Define the domain although this host lacks what it needs (networks, firmware, ...)
    #[arg(long)]
    pub ignore_missing: bool,
}
