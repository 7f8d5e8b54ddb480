//! What a point's manifest says of a domain: the agent's part of it. Fields are only ever added.

use cairn_hypervisor::{
    CarrierRecord,
    capture::offline::stamp::{Stamp, State},
};
use cairn_store::format::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::{ops::Range, path::PathBuf};

/// Part: XML of the running instance.
pub const PART_ACTIVE_XML: &str = "domain-active.xml";
/// Part: XML of the definition, with secrets.
pub const PART_INACTIVE_XML: &str = "domain-inactive.xml";
/// Part: the firmware's variables.
pub const PART_NVRAM: &str = "nvram";

/// Part: what an older bitmap of a disk had marked at the point, as a JSON array of `[start, end]` in bytes.
pub fn part_marked(target: &str) -> String {
    format!("marked-{target}")
}

/// Of a running domain.
pub const LIVE: &str = "live";
/// Of a domain that was off.
pub const OFFLINE: &str = "offline";

/// Of a running domain, without QEMU's monitor (docs/adr/0024).
pub const LIBVIRT_API: &str = "libvirt-api";

fn live() -> String {
    LIVE.into()
}

/// A domain at its point in time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedDomain {
    /// Always `domain`.
    pub kind: String,
    /// UUID.
    pub uuid: String,
    /// Name.
    pub name: String,
    /// Starts with the host.
    pub autostart: bool,
    /// Has a definition.
    pub persistent: bool,
    /// As libvirt counts versions.
    pub libvirt_version: u32,
    /// As libvirt counts versions.
    pub qemu_version: u32,
    /// How quiet the guest was.
    pub quiesce: SavedQuiesce,
    /// How the point was taken: [`LIVE`], [`OFFLINE`] or [`LIBVIRT_API`].
    #[serde(default = "live")]
    pub capture: String,
    /// Disks of the point, by ordinal.
    pub disks: Vec<SavedDisk>,
    /// Disks that are not in the point.
    pub skipped: Vec<SkippedDisk>,
    /// Files besides disks that are.
    #[serde(default)]
    pub files: Vec<SavedFile>,
    /// Snapshots that the domain had, for information: they are not in the point.
    #[serde(default)]
    pub snapshots: Vec<SavedSnapshot>,
}

/// A file of the host that belongs to the domain; its content is in parts of the manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedFile {
    /// nvram, tpm, kernel, initrd, dtb.
    pub role: String,
    /// Where it was.
    pub path: String,
    /// Of a TPM: its name below the folder of the TPM's state.
    #[serde(default)]
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The owner's name on that host.
    pub user: Option<String>,
    /// The group's name on that host.
    pub group: Option<String>,
    /// Names of its pieces among the manifest's parts, in order.
    pub parts: Vec<String>,
}

/// A snapshot of libvirt's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedSnapshot {
    /// Name.
    pub name: String,
    /// Seconds since 1970.
    pub created: Option<u64>,
    /// State of the domain in it.
    pub state: String,
    /// The one before.
    pub parent: Option<String>,
    /// Some disk of it is an image of its own.
    pub external: bool,
}

/// How quiet the guest was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedQuiesce {
    /// Level reached.
    pub level: String,
    /// How long the guest was frozen, milliseconds.
    pub freeze_ms: u64,
    /// File systems that were.
    pub frozen_filesystems: u32,
    /// Their mount points, where not all were to be frozen. Empty: all, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frozen_mounts: Vec<String>,
    /// Why not more.
    pub reason: Option<String>,
}

/// A disk of the point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedDisk {
    /// vda.
    pub target: String,
    /// Position in the point.
    pub ordinal: u32,
    /// Bytes.
    pub size: u64,
    /// Image path or device.
    pub path: String,
    /// raw, qcow2.
    pub format: String,
    /// Bitmap that the next increment may start from; of [`LIBVIRT_API`] its checkpoint has the same name. Empty if there is none.
    pub bitmap: String,
    /// Device and inode of the image that carries it.
    pub device_inode: Option<(u64, u64)>,
    /// Of a domain that was off, all of whose images are files: these files as they were, top first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<SavedImage>,
}

/// An image file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedImage {
    /// Where.
    pub path: PathBuf,
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last written to, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last changed in any way, nanoseconds since 1970.
    pub ctime_ns: i64,
}

impl SavedImage {
    /// `None` where one of them is no file: nothing outlasts a restart of the host that would tell of writes to a device.
    pub fn all(stamps: &[Stamp]) -> Option<Vec<Self>> {
        let one = |s: &Stamp| match s.state {
            State::File { size_bytes, mtime_ns, ctime_ns } => {
                Some(Self { path: s.path.clone(), device: s.device, inode: s.inode, size: size_bytes, mtime_ns, ctime_ns })
            }
            State::Device { .. } => None,
        };
        stamps.iter().map(one).collect()
    }
}

/// A disk that was left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SkippedDisk {
    /// vda.
    pub target: String,
    /// Why.
    pub reason: String,
}

impl SavedDomain {
    /// `None` for points of images.
    pub fn of(manifest: &Manifest) -> Option<Self> {
        serde_json::from_value(manifest.source.clone()).ok().filter(|s: &Self| s.kind == "domain")
    }
    /// A disk by target.
    pub fn disk(&self, target: &str) -> Option<&SavedDisk> {
        self.disks.iter().find(|d| d.target == target)
    }
}

impl SavedDisk {
    /// For the hypervisor to find the image again. `marked`: what an older bitmap had marked.
    pub fn carrier(&self, marked: Vec<Range<u64>>) -> CarrierRecord {
        CarrierRecord { size_bytes: self.size, image_path: self.path.clone(), device_inode: self.device_inode, bitmap_name: self.bitmap.clone(), marked }
    }
}
