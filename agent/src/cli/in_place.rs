//! Options of `cairn restore` for restoring in place.

use clap::Args;

/// Restoring into the disks that the domain has.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "In place")]
pub struct InPlace {
    /// Write into the domain's own disks, and only what differs; it must be off (--disk then takes a target alone)
    #[arg(long, conflicts_with_all = ["rename", "dir", "format", "pool", "map_path", "map_network", "map_machine", "ignore_missing"])]
    pub in_place: bool,
    /// Shut the domain down first; with --force it is turned off if it does not
    #[arg(long, requires = "in_place")]
    pub stop: bool,
    /// How long it may take to shut down, seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS", requires = "stop", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub stop_limit: u64,
    /// Write nothing; say how much would be written
    #[arg(long, requires = "in_place", conflicts_with_all = ["stop", "start"])]
    pub dry_run: bool,
    /// Read everything back afterwards and compare it with the point
    #[arg(long, requires = "in_place")]
    pub verify: bool,
}
