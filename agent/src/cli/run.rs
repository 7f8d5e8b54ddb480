//! `cairn run`, `runs`, `keep`, `discard`, and the hidden command of their processes.

use crate::commands::{parse_bytes, parse_rate};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// With less no system starts: such a number is a slip, as of a unit that was left away.
const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// As `1GiB`, and no less than any guest needs.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes < MEMORY_BYTES_MIN => Err(format!("'{text}' is less than any guest starts with (16MiB); write 512MiB or 2GiB")),
        bytes => Ok(bytes),
    }
}

/// `cairn run`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn run web1@latest                              a copy, without a network, to look at
  cairn run web1@latest --as web1-test --network lab --wait-agent 120
  cairn run web1@latest --as web1 --keep-identity --network same     the machine itself, after its loss
  cairn run --resume web1-run                        after the host's restart

The domain reads from the store and writes to overlays beside libvirt's images. It is a persistent domain of libvirt's until 'cairn keep' makes it
independent of the store, or 'cairn discard' removes it.")]
pub struct Run {
    /// The point
    #[arg(required_unless_present = "resume")]
    pub point: Option<String>,
    /// Name of the domain (default: the saved one with '-run' behind it)
    #[arg(long = "as", value_name = "NAME")]
    pub rename: Option<String>,
    /// What its interfaces are connected to: none (they are left out), same (as saved), or a network of libvirt's
    #[arg(long, value_name = "none|same|NETWORK", default_value = "none")]
    pub network: String,
    /// Memory other than the saved, 16MiB at least
    #[arg(long, value_name = "BYTES", value_parser = parse_memory)]
    pub memory: Option<u64>,
    /// Folder for the overlays (default: /var/lib/libvirt/images)
    #[arg(long, value_name = "DIR", conflicts_with = "pool")]
    pub dir: Option<PathBuf>,
    /// Storage pool for the overlays
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// Keep UUID, MAC addresses and passed-through devices: the original must not run anywhere
    #[arg(long)]
    pub keep_identity: bool,
    /// Start it without letting its processors run
    #[arg(long)]
    pub paused: bool,
    /// Wait so many seconds at most for its guest agent
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600), conflicts_with = "paused")]
    pub wait_agent: Option<u64>,
    /// Run a point that is known to be damaged; reads of what is damaged pause the guest
    #[arg(long)]
    pub allow_damaged: bool,
    /// Serve a run again and start its domain, after the host's restart
    #[arg(long, value_name = "RUN", conflicts_with_all = ["point", "rename", "dir", "pool", "keep_identity", "memory", "allow_damaged"])]
    pub resume: Option<String>,
    /// What stands between QEMU and the store
    #[arg(long, value_enum, default_value = "auto", hide = true)]
    pub via: ViaChoice,
}

/// What stands between QEMU and the store.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViaChoice {
    /// A storage daemon where libvirt cannot have QEMU wait for a server
    Auto,
    /// Nothing
    Direct,
    /// A storage daemon
    Daemon,
}

/// `cairn runs`
#[derive(Args, Debug)]
#[command(after_help = "Runs whose processes are gone, as after the host's restart, are served again by this.")]
pub struct Runs {
    /// Only this run
    pub name: Option<String>,
}

/// `cairn keep`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn keep web1-run                                fill its overlays from the store, while it runs
  cairn keep web1-run --rate 50MiB --detach          in the background
  cairn keep web1-run --to /srv/images --format raw  to other images, and change over
  cairn keep web1-run --cancel

It goes on by itself: Ctrl-C, or the end of this command, only stops the watching. 'cairn runs' shows how far it is; after a restart of the host
'cairn keep' goes on where it stopped. Afterwards the domain is an ordinary one.")]
pub struct Keep {
    /// The run
    pub name: String,
    /// Copy the disks to this file (of a domain with one disk), into this folder, or into this storage pool, instead of filling the overlays
    #[arg(long, value_name = "PATH|POOL")]
    pub to: Option<String>,
    /// Image format of the copies
    #[arg(long, value_enum, default_value = "qcow2", requires = "to")]
    pub format: super::Format,
    /// Read at most so much a second; 0 is no limit. Asked for again, it changes that of a keep at work
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// Do not wait for the end
    #[arg(long)]
    pub detach: bool,
    /// End a keep that is at work; the run goes on
    #[arg(long, conflicts_with_all = ["to", "rate", "detach"])]
    pub cancel: bool,
}

/// `cairn discard`
#[derive(Args, Debug)]
#[command(after_help = "Several runs are looked at before the first is removed: where one is refused, none is. Files of external snapshots go with the \
run's images where they lie beside them; others are named, and stay.")]
pub struct Discard {
    /// The runs
    #[arg(required = true, value_name = "RUN")]
    pub names: Vec<String>,
    /// Even if its domain runs, or it is being kept
    #[arg(long)]
    pub force: bool,
}

/// The hidden command of a run's processes.
#[derive(Args, Debug)]
pub struct ServeRun {
    /// The run's id
    #[arg(long)]
    pub id: String,
    /// Its name
    #[arg(long)]
    pub name: String,
    /// Serve, instead of supervising
    #[arg(long)]
    pub server: bool,
    /// Standard input is the run's lock
    #[arg(long)]
    pub locked: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_without_its_unit_is_a_slip() {
        assert_eq!(parse_memory("512MiB"), Ok(512 << 20));
        for slip in ["512", "15MiB", "0"] {
            assert!(parse_memory(slip).is_err(), "{slip}");
        }
    }
}
