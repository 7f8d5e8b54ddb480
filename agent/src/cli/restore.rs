//! Options of what reads points: `restore`, `verify`.

use super::{Boot, Elsewhere, InPlace};
use crate::commands::parse_bytes;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

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
  cairn restore web1@-1 --in-place --stop --start             into the disks it has, writing only what differs

With only --disk, disks are written and no domain is defined. With --as, or with neither, the domain is defined too.
Nothing that exists is overwritten without --force.")]
pub struct Restore {
    /// The point
    pub point: String,
    /// Define it under this name: a copy, with a UUID, MAC addresses and consoles of its own, that may run beside the original
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
    /// In place.
    #[command(flatten)]
    pub in_place: InPlace,
}

/// `cairn verify`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn verify web1@latest --data
  cairn verify --all
  cairn verify --percent 15 --rate 50MiB          every night: all packs once a week, those first that were not looked at for longest
  cairn verify --packs                             all packs and all other objects; without a key as far as checksums go
  cairn verify data@latest --against-disk          is the source still what was saved?
  cairn verify --all --boot                        does the latest point of each domain boot? In isolation; 'cairn show POINT' has the verdict
  cairn verify web1@-1 --boot --boot-script /etc/cairn/check-web

Damage ends in exit code 14 and is recorded in the points. The next backup stores damaged places again, and 'cairn gc' mends older points with that.")]
pub struct Verify {
    /// Points, or names for all their points (with --boot: for their latest)
    #[arg(required_unless_present_any = ["all", "packs", "percent"], value_name = "POINT|NAME")]
    pub what: Vec<String>,
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
    /// Boot proof.
    #[command(flatten)]
    pub boot: Boot,
}
