//! `cairn doctor`

use super::SocketPlace;
use clap::Args;
use std::path::PathBuf;

/// `cairn doctor`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn doctor
  cairn doctor web1 db1 --json
  cairn doctor --config ./cairn.yaml

Nothing is changed by it, and it never hangs: what does not answer within its limit is a finding. Stores are those of the configuration, and --store.

Ends with 0 if all is well, with 3 if there are warnings, with 1 if something failed that a backup needs, with 15 if a domain that was named is not there.")]
pub struct Doctor {
    /// Domains, by name or UUID (default: all)
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Folder for scratch images, as backups are given it
    #[arg(long, value_name = "DIR", env = "CAIRN_SCRATCH_DIR")]
    pub scratch_dir: Option<PathBuf>,
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
}
