//! `cairn untrack`

use clap::Args;

/// `cairn untrack`
#[derive(Args, Debug)]
#[command(
    after_help = "Restore points stay, and nothing that the guest sees is changed. The next backup into each store reads the domain's disks once, stores \
what is new, and tracks again.

QEMU reverts no internal snapshot of a disk that has a dirty bitmap: untrack the domain first. Works on running domains and on those that are off.

Ends with 0 if no bitmap is left, with 3 if one had to stay, with 11 if the domain is busy."
)]
pub struct Untrack {
    /// Domains, by name or UUID
    #[arg(value_name = "DOMAIN", required = true)]
    pub domains: Vec<String>,
    /// Show what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
