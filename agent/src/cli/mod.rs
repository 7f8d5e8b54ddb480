//! The command line, as clap reads it. One struct a command; nothing here acts.

mod alert;
mod backup;
mod boot;
mod daemon;
mod diff;
mod doctor;
mod elsewhere;
mod export;
mod hook;
mod in_place;
mod pages;
mod points;
mod policy;
mod reconcile;
mod recover_host;
mod restore;
mod retention;
mod run;
mod standing;
mod untrack;

pub use alert::{AlertCommand, AlertList, AlertSilence, AlertTest};
pub use backup::{Backup, BackupImage, Capture, Init, ProfileName, Quiesce};
pub use boot::Boot;
pub use daemon::{Daemon, JobCommand, JobLog, JobPlace, JobRun, JobRunner, Jobs, SocketPlace};
pub use diff::Diff;
pub use doctor::Doctor;
pub use elsewhere::Elsewhere;
pub use export::Export;
pub use hook::{HookCommand, HookInstall, HookPlace, HookStatus};
pub use in_place::InPlace;
pub use pages::{Completions, Man, ShellName};
pub use points::{List, Note, OnePoint, Show, Tag};
pub use policy::{PolicyCommand, PolicyCreate};
pub use reconcile::Reconcile;
pub use recover_host::RecoverHost;
pub use restore::{Format, Restore, Verify};
pub use retention::{Forget, Gc, Prune};
pub use run::{Discard, Keep, Run, Runs, ServeRun, ViaChoice};
pub use standing::{Check, Status, Watch};
pub use untrack::Untrack;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done with warnings; 10 no such store; 11 busy; 12 wrong key; \
13 refused by a safety rule; 14 damaged data met; 15 no such point, domain, disk or source; 130 interrupted.";

/// Backup for plain libvirt/KVM hosts.
#[derive(Parser, Debug)]
#[command(name = "cairn", version, about, after_help = EXIT_CODES, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// From the arguments and the environment. What opens a store is one thing: a passphrase that was asked for by hand wins over a key file that the
    /// environment names. `init` makes a key file besides a passphrase, and takes both.
    pub fn parse_given() -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches()?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|e| e.format(&mut Self::command()))?;
        let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        if given("passphrase_file") && !given("key_file") && !matches!(cli.command, Command::Init(_)) {
            cli.common.key_file = None;
        }
        Ok(cli)
    }
}

/// Options of every command.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// The store: a directory, or the name of one in the configuration
    #[arg(long, global = true, env = "CAIRN_STORE", value_name = "PATH")]
    pub store: Option<String>,
    /// Key file (init creates it; default: STORE-ID.key below /etc/cairn/keys, or the user's configuration folder)
    #[arg(long, global = true, env = "CAIRN_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// File whose first line is the passphrase
    #[arg(long, global = true, env = "CAIRN_PASSPHRASE_FILE", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// libvirt connection, as in virsh
    #[arg(short = 'c', long, global = true, env = "LIBVIRT_DEFAULT_URI", value_name = "URI")]
    pub connect: Option<String>,
    /// Folder for caches and records of this host; may be deleted at any time
    #[arg(long, global = true, env = "CAIRN_STATE_DIR", value_name = "DIR", hide_short_help = true)]
    pub state_dir: Option<PathBuf>,
    /// Configuration (default: /etc/cairn/cairn.yaml, if it is there)
    #[arg(long, global = true, env = "CAIRN_CONFIG", value_name = "FILE", hide_short_help = true)]
    pub config: Option<PathBuf>,
    /// Print JSON on stdout; errors are a JSON object on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress, results only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more on stderr (repeat for still more)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// All commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a store
    Init(Init),
    /// Take a restore point of running domains now
    Backup(Backup),
    /// Take a restore point of a raw image file or a block device
    BackupImage(BackupImage),
    /// List restore points
    List(List),
    /// Show one restore point
    Show(Show),
    /// Restore a domain or single disks
    Restore(Restore),
    /// Restore many domains in order, as after the loss of a host
    RecoverHost(RecoverHost),
    /// Show where the disks of two restore points differ
    Diff(Diff),
    /// Hand a disk of a restore point out as a raw stream, an image, or over NBD
    Export(Export),
    /// Run a domain straight from a restore point
    Run(Run),
    /// List the domains that run from restore points
    Runs(Runs),
    /// Make a run an ordinary domain, while it runs
    Keep(Keep),
    /// Remove a run with all that it wrote
    Discard(Discard),
    /// Check that restore points can be read, and with --data that every chunk is what it was
    Verify(Verify),
    /// Add or remove tags of a restore point
    Tag(Tag),
    /// Replace the note of a restore point
    Note(Note),
    /// Forget restore points
    Forget(Forget),
    /// Forget what retention rules do not keep
    Prune(Prune),
    /// Free the space of what no restore point uses
    Gc(Gc),
    /// Refuse to forget a restore point
    Protect(OnePoint),
    /// Allow a protected restore point to be forgotten again
    Unprotect(OnePoint),
    /// The store as a whole
    Store {
        /// What about it.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// The hook by which libvirt tells Cairn at once what happens to domains
    Hook {
        /// What to do with it.
        #[command(subcommand)]
        command: HookCommand,
    },
    /// Check host, stores and domains, and say what is wrong and how to mend it
    Doctor(Doctor),
    /// Show how domains, stores and jobs stand
    Status(Status),
    /// Show the same again and again
    Watch(Watch),
    /// Say as a Nagios plugin whether every policy's promise holds
    Check(Check),
    /// Look at domains: take away what dead backups left, thaw what they froze
    Reconcile(Reconcile),
    /// Watch this host's domains and run its jobs, in the foreground
    Daemon(Daemon),
    /// List the daemon's jobs
    Jobs(Jobs),
    /// Start, end, or look at one of the daemon's jobs
    Job {
        /// What to do.
        #[command(subcommand)]
        command: JobCommand,
    },
    /// What is wrong, and who is told: by mail, webhook or program
    Alert {
        /// What to do.
        #[command(subcommand)]
        command: AlertCommand,
    },
    /// Print what a shell needs to complete commands and options
    Completions(Completions),
    /// Print or write the manual pages
    Man(Man),
    /// Policies: which domains are saved when, and what is kept
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Runs the command of a job and writes down how it ended (started by the daemon itself)
    #[command(hide = true)]
    JobRunner(JobRunner),
    /// End the tracking of domains: remove their dirty bitmaps
    Untrack(Untrack),
    /// Watches a backup and thaws the guest if the backup dies (started by backup itself)
    #[command(hide = true)]
    Guard,
    /// Serves a run, and keeps it served (started by run itself)
    #[command(hide = true)]
    ServeRun(ServeRun),
}

/// `cairn store`
#[derive(Subcommand, Debug)]
pub enum StoreCommand {
    /// Show what the store is, how much it holds, what is shared and what is waste
    #[command(after_help = "The first call on a host reads all maps, later ones only what is new. UNIQUE is what is free if all points of a name go.")]
    Info,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usual_lines_parse() {
        for line in [
            "cairn init /srv/b --key-file /k",
            "cairn backup web1 db1 --tag x --quiesce never",
            "cairn --store /s list --json",
            "cairn restore web1@-1 --as b --disk vda=/x --disk vdb=/y --format qcow2 --force",
            "cairn restore web1 --pool p --disk vda=q/v --map-path /a=/b --map-network lan=default --map-machine pc=q35 --ignore-missing",
            "cairn recover-host --from-list /l --dry-run --json",
            "cairn recover-host --all --host h --pool p --map-path /a=/b --start --wait-agent 60 --stop-on-error",
            "cairn restore web1@-1 --in-place --disk vda --stop --stop-limit 10 --start --force",
            "cairn restore web1@-1 --in-place --dry-run",
            "cairn diff a@-1 a@latest --disk vda --ranges --json",
            "cairn export a@latest --disk vda --raw -",
            "cairn export a@latest --nbd tcp://h:1 --tls-cert c --tls-key k --tls-ca a",
            "cairn verify --all --data",
            "cairn verify --percent 15 --rate 50MiB",
            "cairn verify x@latest --against-disk",
            "cairn verify x@latest --against-disk disk0=/x --against-disk vdb=/y",
            "cairn verify a b@-1 --boot --boot-timeout 90s --boot-level screen --boot-script /x --boot-script-timeout 1m --memory 1GiB --dir /y",
            "cairn verify --all --boot --boot-exec true --json",
            "cairn show a --screenshot /x.png --console",
            "cairn forget a@latest b@-1 --force",
            "cairn prune --keep-last 3 --keep-within 30d --simulate 400d",
            "cairn gc --keep-trash 0s",
            "cairn tag web1@latest --remove old",
            "cairn list web1 --sizes --json",
            "cairn store info --json",
            "cairn run web1@latest --as b --network lab --memory 2GiB --wait-agent 60",
            "cairn run --resume web1-run",
            "cairn keep web1-run --to /srv/x --format raw --rate 50MiB --detach",
            "cairn keep web1-run --cancel",
            "cairn discard a b --force",
            "cairn hook install --dir /d --binary /b --force --json",
            "cairn hook status --json",
            "cairn hook remove --dir /d",
            "cairn reconcile",
            "cairn reconcile web1 db1 --json",
            "cairn doctor",
            "cairn doctor web1 db1 --json --scratch-dir /x --socket /y",
            "cairn daemon --check-config",
            "cairn daemon --check-config /x --json",
            "cairn daemon --config /x --socket /y --state-dir /z -c test:///default",
            "cairn daemon --reload --socket /y",
            "cairn jobs --all --json --socket /y",
            "cairn job run --domain a --policy b --store c --json",
            "cairn job run --image /x --name b",
            "cairn job cancel 7",
            "cairn job log 7 --follow",
            "cairn completions fish",
            "cairn status --json --socket /y",
            "cairn watch --every 2",
            "cairn check --policy a --policy b --unprotected-ok",
            "cairn alert list --json --socket /y",
            "cairn alert test",
            "cairn alert test ops",
            "cairn alert silence rpo:nightly:u:main --for 4h",
            "cairn man /x --json",
            "cairn man",
            "cairn policy list --json",
            "cairn policy show nightly --config /x",
            "cairn policy check -c test:///default",
            "cairn policy create nightly --name web* --name db* --to main --schedule @daily --keep-daily 7 --rpo 26h",
            "cairn policy create rest --default --to main --to far --on shutdown --window 22:00-06:00 --dry-run",
            "cairn policy delete nightly",
            "cairn prune --keep-last 1 --host h --ignore-missing web1",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "cairn backup",
            "cairn completions",
            "cairn watch --every 0",
            "cairn alert",
            "cairn alert silence x",
            "cairn alert silence x --for soon",
            "cairn check web1",
            "cairn completions tcsh",
            "cairn restore web1 --pool p --dir /x",
            "cairn recover-host",
            "cairn recover-host --all --from-list /l",
            "cairn recover-host --all --wait-agent 5",
            "cairn restore a --in-place --pool p",
            "cairn restore a --stop",
            "cairn restore a --in-place --as b",
            "cairn restore a --in-place --dry-run --start",
            "cairn diff a",
            "cairn export a",
            "cairn export a --raw x --nbd y",
            "cairn export a --nbd y --tls-cert c",
            "cairn verify",
            "cairn tag web1@latest",
            "cairn backup a --all",
            "cairn verify --percent 0",
            "cairn verify a --boot --data",
            "cairn verify a --boot-exec true",
            "cairn verify a --memory 1GiB",
            "cairn verify --boot",
            "cairn verify a --boot --boot-timeout soon",
            "cairn verify --against-disk",
            "cairn forget",
            "cairn gc --wait x",
            "cairn list --sizes --forgotten",
            // An empty word at its end, as of a variable that is not set.
            "cairn prune --keep-tag ",
            "cairn store",
            "cairn run",
            "cairn run web1 --resume x",
            "cairn run web1 --dir /x --pool y",
            "cairn keep",
            "cairn keep x --format raw",
            "cairn keep x --cancel --detach",
            "cairn discard",
            "cairn hook",
            "cairn hook remove --force",
            "cairn daemon --reload --check-config",
            "cairn job",
            "cairn job run",
            "cairn job run --image /x",
            "cairn job run --domain a --name b",
            "cairn job run --domain a --image /x --name b",
            "cairn job cancel",
            "cairn job log x",
            "cairn policy",
            "cairn policy show",
            "cairn policy create x --to main",
            "cairn policy create x --default",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
