//! Options of what makes stores and points: `init`, `backup`, `backup-image`.

use crate::{give_way::Priority, read_limit::parse_read_limit};
use cairn_store::DISKS_AT_ONCE_MAX;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

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
    /// zstd level of data: 1 saves a fifth of the CPU time and makes stores 2 % larger
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=19))]
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

/// Who tracks what changes on the disks of running domains.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capture {
    /// Dirty bitmaps that Cairn adds through QEMU's monitor: every kind of disk; libvirt marks the domain as tainted
    #[default]
    Live,
    /// libvirt's checkpoints, without the monitor: qcow2 only, other disks are read whole each time
    LibvirtApi,
}

/// `cairn backup`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn backup web1
  cairn backup --all --tag nightly
  cairn backup db1 --disk vda --disk vdb --quiesce require
  cairn backup db1 --freeze-mounts /var/lib/postgresql,/srv
  cairn backup --all --limit-read 200MiB/s

A domain that is off is read from its images, which nobody is kept from starting it by: should it start, it is backed up while it runs.")]
pub struct Backup {
    /// Domains by name or UUID
    #[arg(value_name = "DOMAIN", required_unless_present = "all")]
    pub domains: Vec<String>,
    /// All domains, those that are off too
    #[arg(long, conflicts_with = "domains")]
    pub all: bool,
    /// Only this disk, by target (vda); may be repeated
    #[arg(long = "disk", value_name = "TARGET")]
    pub disks: Vec<String>,
    /// Who tracks what changes on the disks of a running domain
    #[arg(long, value_enum, default_value = "live", env = "CAIRN_CAPTURE")]
    pub capture: Capture,
    /// Whether the guest's file systems must be frozen (of a domain that is off: whether it must have been shut down)
    #[arg(long, value_enum, default_value = "prefer")]
    pub quiesce: Quiesce,
    /// Freeze only what is mounted at these places in the guest, separated by commas (needs an agent with guest-fsfreeze-freeze-list)
    #[arg(long, value_name = "PATH,...", value_delimiter = ',')]
    pub freeze_mounts: Option<Vec<String>>,
    /// Longest time the guest may be frozen, seconds
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(cairn_quiesce::level::FREEZE_LIMIT_S))]
    pub freeze_limit: u64,
    /// Longest wait for the agent of a guest that has a channel for one, before the backup begins, seconds (a guest that is booting)
    #[arg(long, default_value_t = 0, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=600))]
    pub wait_for_agent: u64,
    /// Called once, with the domain's UUID, if the guest is not thawed within that time (libvirt hangs, its agent is silent)
    #[arg(long, value_name = "PROGRAM", env = "CAIRN_ON_STUCK_FREEZE")]
    pub on_stuck_freeze: Option<PathBuf>,
    /// Tag for the point; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Folder on a local disk, writable by QEMU, that takes old blocks while the backup runs
    #[arg(long, value_name = "DIR", env = "CAIRN_SCRATCH_DIR")]
    pub scratch_dir: Option<PathBuf>,
    /// Whom reading and storing give way to; jobs of the daemon have 'low'
    #[arg(long, value_enum, default_value = "normal")]
    pub priority: Priority,
    /// At most so much is read a second, from all disks together, as 200MiB/s or 50M; at least 1MiB/s. A slower backup needs more scratch
    #[arg(long, value_name = "RATE", value_parser = parse_read_limit)]
    pub limit_read: Option<u64>,
    /// So many disks of a domain are read at the same time
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=DISKS_AT_ONCE_MAX as i64))]
    pub parallel_disks: u8,
}

/// `cairn backup-image`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn backup-image /var/lib/images/template.raw --name template
  cairn backup-image /dev/vg0/data-snap --name data --tag weekly
  rbd diff --from-snap b1 pool/web@b2 --format json | cairn backup-image /dev/rbd0 --name web --changed - --since web@0192f3a1

The source must not change while it is read: take a snapshot of a device that is in use.")]
pub struct BackupImage {
    /// Raw image file or block device
    pub source: PathBuf,
    /// Name that the point is listed under
    #[arg(long)]
    pub name: String,
    /// List of what changed since the point of '--since', as 'rbd diff --format json' prints it; '-' is stdin. Only that is read
    #[arg(long, value_name = "FILE", requires = "since")]
    pub changed: Option<PathBuf>,
    /// Point of this name that the list of '--changed' counts from
    #[arg(long, value_name = "POINT", requires = "changed")]
    pub since: Option<String>,
    /// Tag for the point; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Whom reading and storing give way to; jobs of the daemon have 'low'
    #[arg(long, value_enum, default_value = "normal")]
    pub priority: Priority,
    /// At most so much is read a second, as 200MiB/s or 50M; at least 1MiB/s
    #[arg(long, value_name = "RATE", value_parser = parse_read_limit)]
    pub limit_read: Option<u64>,
}
