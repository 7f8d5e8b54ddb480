//! What a run is: `run.json` in its folder, and what is wanted of it: `wish.json`.
//!
//! Invariants
//! - A record names everything that is made *before* it is made: who finds it after a crash knows what may be there.
//! - Files are replaced whole: temporary file, fsync, rename, fsync of the folder.
//! - Fields are only ever added; a record of a newer version is refused by name.

use super::folder::RunSockets;
use crate::failure::{Failure, Outcome};
use cairn_hypervisor::run::driver::DriverOption;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of the record.
pub const VERSION: u32 = 1;

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// 32 hex digits; names its sockets and processes.
    pub id: String,
    /// The domain's name, and the run's.
    pub name: String,
    /// The domain's UUID.
    pub uuid: String,
    /// libvirt's URI, if one was given.
    pub connect: Option<String>,
    /// The store's folder.
    pub store: PathBuf,
    /// What opens it.
    pub key: Key,
    /// Caches and records of this host.
    pub state_dir: PathBuf,
    /// The point's id.
    pub point: String,
    /// The point's name.
    pub point_name: String,
    /// When it began.
    pub created_unix_ms: u64,
    /// What QEMU reads from.
    pub via: Via,
    /// none, same, or a network's name.
    pub network: String,
    /// File of the firmware's variables that was made for it.
    pub nvram: Option<PathBuf>,
    /// Their device and inode, once the run is made.
    #[serde(default)]
    pub nvram_inode: Option<(u64, u64)>,
    /// The machine itself, which its host started by itself: so it does again once it is kept.
    #[serde(default)]
    pub autostart: bool,
    /// User and group of QEMU.
    pub owner: Option<(u32, u32)>,
    /// Disks.
    pub disks: Vec<RunDisk>,
    /// How far it is.
    pub state: State,
    /// Files of external snapshots that go with the run, found when it began to be taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// It is a boot proof: isolated, and taken away once whoever made it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// A file that an external snapshot laid over an image of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// File.
    pub path: PathBuf,
    /// Device and inode.
    pub inode: (u64, u64),
}

/// What a boot proof's run has besides: somebody holds a lock in its folder for as long as it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// A supervisor that lives for longer ends the run, held or not.
    pub limit_s: u64,
}

/// What opens the store, by file: a server that starts again asks nobody.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// Not encrypted.
    None,
    /// Key file.
    File(PathBuf),
    /// File with a passphrase.
    Passphrase(PathBuf),
}

/// What QEMU's overlays read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Our server: QEMU itself waits for one that went away.
    Direct,
    /// A storage daemon that waits for our server.
    Daemon,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Being made; if nobody does, it was interrupted.
    Making,
    /// Made.
    Ready,
}

/// A disk of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunDisk {
    /// vda.
    pub target: String,
    /// Bytes.
    pub size_bytes: u64,
    /// qcow2 image that takes what the guest writes.
    pub overlay: PathBuf,
    /// Device and inode of the overlay, once it is made: only that file is ever removed.
    pub inode: Option<(u64, u64)>,
    /// A keep in place has filled the overlay, and all of it is on the disk.
    #[serde(default)]
    pub filled: bool,
    /// Driver options that the domain had where the run has its own; a kept domain gets them back.
    #[serde(default)]
    pub driver: Option<Vec<DriverOption>>,
    /// How far a `keep --to` is.
    #[serde(default)]
    pub phase: Phase,
    /// Where a `keep --to` copies it.
    #[serde(default)]
    pub copy: Option<Destination>,
}

/// How far a disk of `keep --to` is. docs/run.md says why no crash between two of them loses a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The overlay is the disk.
    #[default]
    Overlay,
    /// The overlay is the disk; a copy is made.
    Copying,
    /// We stop the guest's processors, or have: both are equal, or about to be.
    Pivoting {
        /// Whether the guest ran before.
        resume: bool,
    },
    /// The copy is the disk, and the definition says so.
    Pivoted,
}

/// An image that a disk is copied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// vda.
    pub target: String,
    /// File; must not exist when it is asked for.
    pub path: PathBuf,
    /// raw or qcow2.
    pub format: String,
    /// Device and inode, once it is made.
    #[serde(default)]
    pub inode: Option<(u64, u64)>,
}

/// What is wanted of a run besides running.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Make it an ordinary domain.
    Keep {
        /// When it was asked for: tells an old answer from one to this.
        asked_unix_ms: u64,
        /// Limit, bytes a second; 0 for none.
        bytes_per_s: u64,
        /// Other images for its disks; empty: the overlays become whole.
        to: Vec<Destination>,
    },
    /// End a keep that runs; go on as a run.
    Cancel,
    /// Take it away.
    Discard,
}

impl Record {
    /// A boot proof is nobody's machine.
    pub fn refuse_proof(&self) -> Outcome<()> {
        match self.proof {
            None => Ok(()),
            Some(_) => {
                Err(Failure::refused(format!("'{}' is a boot proof and goes by itself; 'cairn run' makes a domain to keep", crate::output::shown(&self.name))))
            }
        }
    }

    /// What a disk's overlay reads from, as QEMU writes it.
    pub fn backing_uri(&self, target: &str) -> String {
        let sockets = RunSockets::of(&self.id);
        let socket = if self.via == Via::Direct { sockets.server() } else { sockets.daemon() };
        format!("nbd+unix:///{target}?socket={}", socket.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_first_version_are_read() {
        let text = r#"{"version":1,"id":"0123456789abcdef0123456789abcdef","name":"web-run","uuid":"u","connect":null,"store":"/s","key":{"file":"/k"},
            "state_dir":"/var/lib/cairn","point":"p","point_name":"web","created_unix_ms":1,"via":"daemon","network":"none","nvram":null,"owner":[64055,109],
            "disks":[{"target":"vda","size_bytes":4096,"overlay":"/i/web-run-vda.qcow2","inode":[1,2]}],"state":"ready","a-later-field":1}"#;
        let record: Record = serde_json::from_str(text).expect("reads");
        assert_eq!((record.disks[0].phase, record.via, record.state), (Phase::Overlay, Via::Daemon, State::Ready));
        let pivoting = serde_json::to_string(&Phase::Pivoting { resume: true }).expect("writes");
        assert_eq!(pivoting, r#"{"pivoting":{"resume":true}}"#, "part of the format");
    }
}
