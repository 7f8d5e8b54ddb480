//! `cairn recover-host`

use super::Elsewhere;
use clap::{ArgGroup, Args};
use std::path::PathBuf;

/// `cairn recover-host`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("which").required(true).args(["from_list", "all"])), after_help = "Examples:
  cairn recover-host --from-list /etc/cairn/recovery.list --dry-run
  cairn recover-host --from-list /etc/cairn/recovery.list
  cairn recover-host --all --host old-host --pool default --map-network lan=default --start

The list has one domain a line: a name for its latest good point, or a POINT, then options.
  defaults pool=fast start=yes            # for the lines below
  db1 agent=120                           # start it and wait up to 120 s for its guest agent
  web1@2026-11-21 delay=10                # 10 s before the next one
  \"web 2\" as=web2 start=no stop_on_error=yes
Options: as, pool, dir, start, agent, delay, stop_on_error. Run it again after an interruption: what is done is skipped.")]
pub struct RecoverHost {
    /// List of domains, restored in its order
    #[arg(long, value_name = "FILE")]
    pub from_list: Option<PathBuf>,
    /// All domains of the store, by name
    #[arg(long)]
    pub all: bool,
    /// Only points that this host took
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Check everything, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Start each domain, unless its line says otherwise
    #[arg(long)]
    pub start: bool,
    /// Wait so long for each started domain's guest agent, seconds
    #[arg(long, value_name = "SECONDS", requires = "start", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait_agent: Option<u64>,
    /// End with the first domain that fails
    #[arg(long)]
    pub stop_on_error: bool,
    /// Folder for disks, unless a line says otherwise (default: where each disk was)
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Pool, and what is elsewhere on this host.
    #[command(flatten)]
    pub elsewhere: Elsewhere,
    /// Overwrite existing files and devices, redefine shut-off domains
    #[arg(long)]
    pub force: bool,
}
