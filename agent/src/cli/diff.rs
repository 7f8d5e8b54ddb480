//! Options of `cairn diff`.

use clap::Args;

/// `cairn diff`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn diff web1@-1 web1@latest
  cairn diff web1@latest web2@latest --disk vda --ranges
  cairn diff web1@2026-11-20 web1@latest --json

Only maps are read, so it takes as long as there are differences. Ranges are as fine as chunks are (32 to 128 KiB): what is in none is equal.
Ends with 0 if all disks are equal, with 3 if any differs or is in one point only.")]
pub struct Diff {
    /// A point
    #[arg(value_name = "A")]
    pub a: String,
    /// Another point
    #[arg(value_name = "B")]
    pub b: String,
    /// Only this disk, by target; may be repeated
    #[arg(long = "disk", value_name = "TARGET")]
    pub disks: Vec<String>,
    /// Show each range
    #[arg(long)]
    pub ranges: bool,
}
