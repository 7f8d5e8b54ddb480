//! `cairn daemon`, `cairn jobs`, `cairn job`

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Where the daemon listens.
#[derive(Args, Debug, Clone)]
pub struct SocketPlace {
    /// The daemon's socket (default: daemon.socket of the configuration, else /run/cairn/api.sock, or $XDG_RUNTIME_DIR/cairn/api.sock)
    #[arg(long, value_name = "PATH", env = "CAIRN_SOCKET")]
    pub socket: Option<PathBuf>,
}

/// `cairn daemon`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn daemon --check-config
  cairn daemon --config ./cairn.yaml --socket ./api.sock --state-dir ./state
  cairn daemon --reload

It runs in the foreground, for systemd or a terminal. SIGHUP reloads the configuration, SIGTERM and Ctrl-C end it; jobs go on.")]
pub struct Daemon {
    /// Where it listens.
    #[command(flatten)]
    pub place: SocketPlace,
    /// Only check the configuration, and say what is wrong with it
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "reload")]
    #[allow(clippy::option_option, reason = "clap's way to say: given, with a value or without")]
    pub check_config: Option<Option<PathBuf>>,
    /// Have the running daemon read its configuration again
    #[arg(long)]
    pub reload: bool,
}

/// `cairn jobs`
#[derive(Args, Debug)]
pub struct Jobs {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
    /// All that are kept, not only those that wait, run, or ended within a day
    #[arg(long)]
    pub all: bool,
}

/// `cairn job`
#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// Have the daemon take a restore point, as policies say
    #[command(after_help = "Examples:
  cairn job run --domain web1
  cairn job run --domain web1 --policy nightly
  cairn job run --image /dev/vg0/data-snap --name data --store main

Without --policy, the policies that select the domain say into which stores and how; without any, give --store.")]
    Run(JobRun),
    /// End a job: it cleans up, and is ended for good after cancel_limit
    Cancel(JobPlace),
    /// Show what a job said
    Log(JobLog),
}

/// `cairn job run`; the store is the option of all commands, and a name of the configuration.
#[derive(Args, Debug)]
pub struct JobRun {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
    /// Domain by name or UUID
    #[arg(long, value_name = "DOMAIN", required_unless_present = "image", conflicts_with = "image")]
    pub domain: Option<String>,
    /// Raw image file or block device
    #[arg(long, value_name = "PATH", requires = "name")]
    pub image: Option<PathBuf>,
    /// Name that the image's point is listed under
    #[arg(long, requires = "image", conflicts_with = "domain")]
    pub name: Option<String>,
    /// Policy of the configuration
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
}

/// One job.
#[derive(Args, Debug)]
pub struct JobPlace {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
    /// Its number, as in 'cairn jobs'
    #[arg(value_name = "ID")]
    pub id: i64,
}

/// `cairn job log`
#[derive(Args, Debug)]
pub struct JobLog {
    /// Which.
    #[command(flatten)]
    pub job: JobPlace,
    /// Go on until the job ends, and end with 0 only if it was done
    #[arg(short, long)]
    pub follow: bool,
}

/// `cairn job-runner`
#[derive(Args, Debug)]
pub struct JobRunner {
    /// The job's folder
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}
