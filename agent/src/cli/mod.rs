//! The command line, as clap reads it. One struct a command; nothing here acts.

mod elsewhere;
mod recover_host;

pub use elsewhere::Elsewhere;
pub use recover_host::RecoverHost;

use crate::commands::{parse_bytes, parse_ms, parse_span};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
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

/// Options of every command.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// The store: a directory
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
    /// Watches a backup and thaws the guest if the backup dies (started by backup itself)
    #[command(hide = true)]
    Guard,
}

/// `cairn store`
#[derive(Subcommand, Debug)]
pub enum StoreCommand {
    /// Show what the store is, how much it holds, what is shared and what is waste
    #[command(after_help = "The first call on a host reads all maps, later ones only what is new. UNIQUE is what is free if all points of a name go.")]
    Info,
}

/// Chunk sizes.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileName {
    /// 16-64 KiB
    Small,
    /// 32-128 KiB
    Default,
    /// 128-512 KiB
    Archive,
}

/// `cairn init`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn init /srv/backup
  cairn init /mnt/nfs/backup --key-file /etc/cairn/keys/main.key
  cairn init /srv/lab --no-encryption

The recovery key is printed once. Keep it on paper: without a key file, the passphrase or this key nobody can read the store.")]
pub struct Init {
    /// Where: a directory that does not exist or is empty
    #[arg(value_name = "PATH")]
    pub url: String,
    /// Store everything in the clear
    #[arg(long)]
    pub no_encryption: bool,
    /// Chunk sizes
    #[arg(long, value_enum, default_value = "default")]
    pub profile: ProfileName,
    /// zstd level of data
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=19))]
    pub zstd_level: u8,
}

/// How far the guest must be quiesced.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiesce {
    /// No frozen file systems, no backup
    Require,
    /// Frozen if the guest agent can, else crash-consistent with a warning
    Prefer,
    /// Do not ask the guest agent
    Never,
}

/// `cairn backup`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn backup web1
  cairn backup --all --tag nightly
  cairn backup db1 --disk vda --disk vdb --quiesce require")]
pub struct Backup {
    /// Domains by name or UUID
    #[arg(value_name = "DOMAIN", required_unless_present = "all")]
    pub domains: Vec<String>,
    /// All running domains
    #[arg(long, conflicts_with = "domains")]
    pub all: bool,
    /// Only this disk, by target (vda); may be repeated
    #[arg(long = "disk", value_name = "TARGET")]
    pub disks: Vec<String>,
    /// Whether the guest's file systems must be frozen
    #[arg(long, value_enum, default_value = "prefer")]
    pub quiesce: Quiesce,
    /// Longest time the guest may be frozen, seconds
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub freeze_limit: u64,
    /// Tag for the point; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Folder on a local disk, writable by QEMU, that takes old blocks while the backup runs
    #[arg(long, value_name = "DIR", env = "CAIRN_SCRATCH_DIR")]
    pub scratch_dir: Option<PathBuf>,
}

/// `cairn backup-image`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn backup-image /var/lib/images/template.raw --name template
  cairn backup-image /dev/vg0/data-snap --name data --tag weekly

The source must not change while it is read: take a snapshot of a device that is in use.")]
pub struct BackupImage {
    /// Raw image file or block device
    pub source: PathBuf,
    /// Name that the point is listed under
    #[arg(long)]
    pub name: String,
    /// Tag for the point; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
}

const POINTS: &str =
    "A POINT is NAME@latest, NAME@-1 (the one before), NAME@2026-11-21T02:00 (newest not after), NAME@ID-PREFIX, or an id prefix of 8 or more digits.";

/// `cairn list`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cairn list\n  cairn list web1 --json")]
pub struct List {
    /// Only points of this domain or image
    pub name: Option<String>,
    /// Show forgotten points that may still be taken back
    #[arg(long)]
    pub forgotten: bool,
    /// Show what each point would free if it alone were forgotten
    #[arg(long, conflicts_with = "forgotten")]
    pub sizes: bool,
}

/// `cairn forget`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn forget web1@2026-11-01T02:00
  cairn forget 019abc123456 --force
  cairn forget --undo 019abc123456      until its data is collected; a new point with the same content

Protected points are refused. The space is free after 'cairn gc'.")]
pub struct Forget {
    /// The points
    #[arg(value_name = "POINT", required_unless_present = "undo")]
    pub points: Vec<String>,
    /// Forget young points, too
    #[arg(long)]
    pub force: bool,
    /// Points younger than this need --force
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ms)]
    pub min_age: u64,
    /// Take a forget back
    #[arg(long, value_name = "POINT", conflicts_with = "points")]
    pub undo: Option<String>,
}

/// `cairn prune`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn prune --keep-last 3 --keep-daily 7 --keep-weekly 4 --keep-monthly 12
  cairn prune web1 --keep-within 30d --keep-tag gold --dry-run
  cairn prune --keep-daily 7 --keep-monthly 12 --simulate 400d

A point stays if any rule wants it; --dry-run names the rules. Points are counted by name and host, and the newest good one of each stays anyhow. --keep-within looks back from the newest point.
Protected points stay. The space is free after 'cairn gc'.")]
pub struct Prune {
    /// Only points of these domains or images
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Keep the newest N
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_last: u32,
    /// Keep the newest of each of the last N hours that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_hourly: u32,
    /// Keep the newest of each of the last N days that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_daily: u32,
    /// Keep the newest of each of the last N weeks that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_weekly: u32,
    /// Keep the newest of each of the last N months that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_monthly: u32,
    /// Keep the newest of each of the last N years that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_yearly: u32,
    /// Keep all that are at most so much older than the newest
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub keep_within: Option<jiff::Span>,
    /// Keep all with this tag; may be repeated
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
    /// Never forget points younger than this
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_ms)]
    pub min_age: u64,
    /// Show what would be kept, and why
    #[arg(long)]
    pub dry_run: bool,
    /// Show how many points the rules would keep over so long a future
    #[arg(long, value_name = "TIME", value_parser = parse_ms, conflicts_with = "dry_run")]
    pub simulate: Option<u64>,
    /// Pace of the points that --simulate adds
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_ms)]
    pub every: u64,
}

/// `cairn gc`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn gc --dry-run
  cairn gc
  cairn gc --keep-trash 0s --keep-interrupted 0s    the disk is full: free the space now

Backups, restores and other hosts may go on meanwhile. Backups that began before are waited for.")]
pub struct Gc {
    /// Show what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Longest wait for backups that began before
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = parse_ms)]
    pub wait: u64,
    /// A backup of another host without a sign of life for so long is taken for dead (at least 2h)
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ms)]
    pub dead_after: u64,
    /// Any --dead-after, for tests: what is alive loses its work
    #[arg(long, hide = true)]
    pub even_if_alive: bool,
    /// Keep what interrupted backups stored for so long, so that they can go on
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ms)]
    pub keep_interrupted: u64,
    /// Keep discarded packs in the trash for so long
    #[arg(long, value_name = "TIME", default_value = "3d", value_parser = parse_ms)]
    pub keep_trash: u64,
    /// Rewrite packs of which less than so many percent are used (0: none)
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub repack_below: u8,
    /// Go on although live points refer to what is lost
    #[arg(long)]
    pub accept_loss: bool,
}

/// `cairn note`
#[derive(Args, Debug)]
#[command(after_help = POINTS)]
pub struct Note {
    /// The point
    pub point: String,
    /// The note; empty to remove it
    pub text: String,
}

/// `cairn show`
#[derive(Args, Debug)]
#[command(after_help = POINTS)]
pub struct Show {
    /// The point
    pub point: String,
    /// Show what it would free if it alone, or its name as a whole, were forgotten
    #[arg(long)]
    pub sizes: bool,
}

/// Image format of restored disks.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Sparse raw file
    Raw,
    /// qcow2
    Qcow2,
}

/// `cairn restore`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn restore web1@latest --disk vda=/tmp/vda.raw          one disk to a file
  cairn restore web1@-1 --as web1-copy --dir /var/lib/libvirt/images --start
  cairn restore web1@latest                                   the domain itself, after its loss
  cairn restore data@latest --disk disk0=/dev/vg0/data --force
  cairn restore web1@latest --pool fast                       disks become volumes of a storage pool
  cairn restore web1@latest --map-path /srv/vm=/var/lib/libvirt/images --map-network lan=default      on another host

With only --disk, disks are written and no domain is defined. With --as, or with neither, the domain is defined too.
Nothing that exists is overwritten without --force.")]
pub struct Restore {
    /// The point
    pub point: String,
    /// Define it under this name, with a new UUID and new MAC addresses
    #[arg(long = "as", value_name = "NAME")]
    pub rename: Option<String>,
    /// Restore this disk to this path, or to a volume of a pool (TARGET=POOL/VOLUME); may be repeated
    #[arg(long = "disk", value_name = "TARGET=PATH")]
    pub disks: Vec<String>,
    /// Pool, and what is elsewhere on this host.
    #[command(flatten)]
    pub elsewhere: Elsewhere,
    /// Folder for disks without a path of their own (default: where each disk was)
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Image format (default: as the disk had; raw for images and devices)
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Start the domain afterwards
    #[arg(long)]
    pub start: bool,
    /// Overwrite existing files and devices, redefine a shut-off domain
    #[arg(long)]
    pub force: bool,
    /// Write zeros for what is damaged in the store, name the ranges, and end with code 14
    #[arg(long)]
    pub allow_damaged: bool,
}

/// `cairn verify`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn verify web1@latest --data
  cairn verify --all
  cairn verify --percent 15 --rate 50MiB          every night: all packs once a week, those first that were not looked at for longest
  cairn verify --packs                             all packs and all other objects; without a key as far as checksums go
  cairn verify data@latest --against-disk          is the source still what was saved?

Damage ends in exit code 14 and is recorded in the points. The next backup stores damaged places again, and 'cairn gc' mends older points with that.")]
pub struct Verify {
    /// A point, or a name for all its points
    #[arg(required_unless_present_any = ["all", "packs", "percent"])]
    pub what: Option<String>,
    /// All points
    #[arg(long, conflicts_with = "what")]
    pub all: bool,
    /// Read and prove every chunk
    #[arg(long)]
    pub data: bool,
    /// Check what lies in the store, pack by pack, instead of points
    #[arg(long, conflicts_with_all = ["what", "all", "data"])]
    pub packs: bool,
    /// The same for so many percent of the packs, those first that were not looked at for longest
    #[arg(long, value_name = "N", conflicts_with_all = ["what", "all", "data"], value_parser = clap::value_parser!(u8).range(1..=100))]
    pub percent: Option<u8>,
    /// Read at most so much a second (with --packs or --percent)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub rate: Option<u64>,
    /// Compare the point's disks with their sources, or with TARGET=PATH; may be repeated
    #[arg(long, value_name = "TARGET=PATH", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["all", "packs", "percent", "data"], requires = "what")]
    pub against_disk: Vec<String>,
}

/// `cairn tag`
#[derive(Args, Debug)]
#[command(after_help = POINTS)]
pub struct Tag {
    /// The point
    pub point: String,
    /// Tags to add
    #[arg(required_unless_present = "remove")]
    pub tags: Vec<String>,
    /// Tag to remove; may be repeated
    #[arg(long, value_name = "TAG")]
    pub remove: Vec<String>,
}

/// Commands about one point.
#[derive(Args, Debug)]
#[command(after_help = POINTS)]
pub struct OnePoint {
    /// The point
    pub point: String,
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
            "cairn verify --all --data",
            "cairn verify --percent 15 --rate 50MiB",
            "cairn verify x@latest --against-disk",
            "cairn verify x@latest --against-disk disk0=/x --against-disk vdb=/y",
            "cairn forget a@latest b@-1 --force",
            "cairn prune --keep-last 3 --keep-within 30d --simulate 400d",
            "cairn gc --keep-trash 0s",
            "cairn tag web1@latest --remove old",
            "cairn list web1 --sizes --json",
            "cairn store info --json",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "cairn backup",
            "cairn verify",
            "cairn tag web1@latest",
            "cairn backup a --all",
            "cairn restore web1 --pool p --dir /x",
            "cairn recover-host",
            "cairn recover-host --all --from-list /l",
            "cairn recover-host --all --wait-agent 5",
            "cairn verify --percent 0",
            "cairn verify --against-disk",
            "cairn forget",
            "cairn gc --wait x",
            "cairn list --sizes --forgotten",
            "cairn store",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
