//! Block nodes: which node is which disk, and the chain of images below it.
//!
//! Node names are not stable and their patterns no contract, so a disk is found by the alias of its device, and the images below it by what
//! `query-named-block-nodes` says of each node.

use serde::Deserialize;
use thiserror::Error;

use super::{QmpError, execute, query};
use crate::disks::Disk;
use crate::domain::Domain;

/// Deepest backing chain that is followed.
pub const CHAIN_DEPTH_MAX: usize = 256;

/// Errors in finding a disk's nodes.
#[derive(Debug, Error)]
pub enum NodesError {
    /// QEMU has no such device.
    #[error("QEMU has no block device for disk {target}; was it detached just now?")]
    NoDevice {
        /// Target.
        target: String,
    },
    /// An image of the chain has no node.
    #[error("the image {filename:?} below disk {target} has no block node in QEMU")]
    NoNode {
        /// Target.
        target: String,
        /// Image.
        filename: String,
    },
    /// QEMU's.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// A dirty bitmap as QEMU shows it. Nameless ones appear during jobs.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Bitmap {
    /// Name.
    #[serde(default)]
    pub name: Option<String>,
    /// Bytes per bit.
    pub granularity: u64,
    /// Dirty bytes.
    #[serde(default)]
    pub count: u64,
    /// Takes up writes.
    #[serde(default)]
    pub recording: bool,
    /// In use by a job or export.
    #[serde(default)]
    pub busy: bool,
    /// Stored in the image.
    #[serde(default)]
    pub persistent: bool,
    /// QEMU died with it open: only removal works.
    #[serde(default)]
    pub inconsistent: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Image {
    filename: String,
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
    #[serde(rename = "backing-image")]
    backing: Option<Box<Image>>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawNode {
    #[serde(rename = "node-name")]
    name: Option<String>,
    #[serde(rename = "drv")]
    driver: String,
    #[serde(rename = "ro")]
    read_only: bool,
    image: Image,
    #[serde(rename = "dirty-bitmaps", default)]
    bitmaps: Vec<Bitmap>,
}

#[derive(Debug, Deserialize)]
struct Device {
    #[serde(default)]
    qdev: Option<String>,
    #[serde(default)]
    inserted: Option<RawNode>,
}

/// A node of a disk's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainNode {
    /// Node name in this QEMU.
    pub name: String,
    /// qcow2, raw, ...
    pub driver: String,
    /// As QEMU names the image.
    pub filename: String,
    /// Cannot be modified; its bitmaps neither.
    pub read_only: bool,
    /// Virtual size.
    pub size_bytes: u64,
    /// Bitmaps on it.
    pub bitmaps: Vec<Bitmap>,
}

/// Drivers that lie over a format node during jobs and show the same image.
const FILTERS: [&str; 7] = ["copy-before-write", "copy-on-read", "throttle", "backup-top", "mirror_top", "commit_top", "preallocate"];
/// Drivers at the bottom of a format node: the same filename, another node. Of a raw image it may be the only one.
const PROTOCOLS: [&str; 5] = ["file", "host_device", "nbd", "rbd", "io_uring"];

/// All nodes of one QEMU, asked for once.
#[derive(Debug)]
pub struct Nodes {
    devices: Vec<Device>,
    nodes: Vec<RawNode>,
}

impl Nodes {
    /// Asks QEMU.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn query(domain: &Domain) -> Result<Self, QmpError> {
        let devices = query(domain, "query-block")?;
        let nodes = execute(domain, "query-named-block-nodes", &serde_json::json!({}))?;
        Ok(Self { devices, nodes })
    }

    /// The chain of a disk, top node first.
    ///
    /// # Errors
    /// [`NodesError`].
    pub fn chain(&self, disk: &Disk) -> Result<Vec<ChainNode>, NodesError> {
        let missing = || NodesError::NoDevice { target: disk.target.clone() };
        let alias = disk.alias.as_deref().ok_or_else(missing)?;
        let device = self.devices.iter().find(|device| device.qdev.as_deref().is_some_and(|qdev| is_device(qdev, alias)));
        let top = device.and_then(|device| device.inserted.as_ref()).ok_or_else(missing)?;
        let mut chain = Vec::new();
        let mut image = Some(&top.image);
        while let Some(current) = image {
            if chain.len() == CHAIN_DEPTH_MAX {
                break;
            }
            let node = self.node_of(top, current, chain.is_empty());
            let node = node.ok_or_else(|| NodesError::NoNode { target: disk.target.clone(), filename: current.filename.clone() })?;
            // While a job runs its filter stands on top and shows what it filters as its backing image: the same node twice.
            if chain.last().is_none_or(|last: &ChainNode| last.name != node.name) {
                chain.push(node);
            }
            image = current.backing.as_deref();
        }
        Ok(chain)
    }

    fn node_of(&self, top: &RawNode, image: &Image, is_top: bool) -> Option<ChainNode> {
        let direct = is_top && !FILTERS.contains(&top.driver.as_str());
        let found = if direct {
            top.name.as_ref().and_then(|name| self.nodes.iter().find(|node| node.name.as_ref() == Some(name)))
        } else {
            let shows = |node: &&RawNode| node.image.filename == image.filename && !FILTERS.contains(&node.driver.as_str());
            let is_protocol = |node: &&RawNode| PROTOCOLS.contains(&node.driver.as_str());
            // A raw image may have no format node: newer libvirt lets the device use the protocol's node.
            let format = self.nodes.iter().filter(shows).find(|node| !is_protocol(node));
            format.or_else(|| self.nodes.iter().filter(shows).find(is_protocol))
        }?;
        Some(ChainNode {
            name: found.name.clone()?,
            driver: found.driver.clone(),
            filename: found.image.filename.clone(),
            read_only: found.read_only,
            size_bytes: image.virtual_size,
            bitmaps: found.bitmaps.clone(),
        })
    }

    /// (node, read-only, bitmap) of every named bitmap in this QEMU.
    pub fn bitmaps(&self) -> impl Iterator<Item = (&str, bool, &Bitmap)> {
        self.nodes.iter().flat_map(|node| {
            let name = node.name.as_deref().unwrap_or_default();
            node.bitmaps.iter().filter(|bitmap| bitmap.name.is_some()).map(move |bitmap| (name, node.read_only, bitmap))
        })
    }
}

/// virtio devices show as `/machine/peripheral/ALIAS/virtio-backend`, others as the alias or `/machine/peripheral/ALIAS`.
fn is_device(qdev: &str, alias: &str) -> bool {
    qdev == alias || qdev.strip_prefix("/machine/peripheral/").is_some_and(|rest| rest.split('/').next() == Some(alias))
}

/// Block jobs that run now: (type, device).
///
/// # Errors
/// [`QmpError`].
pub fn block_jobs(domain: &Domain) -> Result<Vec<(String, String)>, QmpError> {
    #[derive(Deserialize)]
    struct Job {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        device: String,
    }
    let jobs: Vec<Job> = query(domain, "query-block-jobs")?;
    Ok(jobs.into_iter().map(|job| (job.kind, job.device)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(alias: &str) -> Disk {
        let xml = format!("<domain><devices><disk><source file='/x'/><target dev='vda'/><alias name='{alias}'/></disk></devices></domain>");
        crate::disks::parse_disks(&xml).expect("XML").remove(0)
    }

    #[test]
    fn a_device_is_its_alias_and_not_one_that_begins_alike() {
        assert!(is_device("/machine/peripheral/virtio-disk1/virtio-backend", "virtio-disk1"));
        assert!(!is_device("/machine/peripheral/virtio-disk10/virtio-backend", "virtio-disk1"));
        assert!(is_device("scsi0-0-0-0", "scsi0-0-0-0"));
    }

    #[test]
    fn a_chain_is_followed_through_filter_and_backing_file() {
        let text = r##"{"devices":[{"qdev":"/machine/peripheral/d0/virtio-backend","new-field":{"x":1},
            "inserted":{"node-name":"#block123","drv":"copy-before-write","ro":false,
              "image":{"filename":"/top","virtual-size":10,"backing-image":{"filename":"/base","virtual-size":10}}}}],
          "nodes":[
            {"node-name":"p","drv":"file","ro":false,"image":{"filename":"/top","virtual-size":5}},
            {"node-name":"t","drv":"qcow2","ro":false,"image":{"filename":"/top","virtual-size":10},
             "dirty-bitmaps":[{"name":"b","granularity":65536,"recording":true,"busy":false,"persistent":true,"count":0},
                              {"granularity":65536,"recording":true,"busy":true,"persistent":false,"count":0}]},
            {"node-name":"q","drv":"qcow2","ro":true,"image":{"filename":"/base","virtual-size":10}}]}"##;
        #[derive(Deserialize)]
        struct Both {
            devices: Vec<Device>,
            nodes: Vec<RawNode>,
        }
        let both: Both = serde_json::from_str(text).expect("JSON");
        let nodes = Nodes { devices: both.devices, nodes: both.nodes };
        let chain = nodes.chain(&disk("d0")).expect("chain");
        assert_eq!(chain.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["t", "q"]);
        assert!(chain[1].read_only);
        assert_eq!(nodes.bitmaps().count(), 1, "nameless bitmaps are left alone");
        assert!(nodes.chain(&disk("d1")).is_err());
    }

    #[test]
    fn a_raw_image_without_a_format_node_is_found_below_a_filter_too() {
        let raw = r#"{"node-name":"libvirt-1-storage","drv":"file","ro":false,"image":{"filename":"/raw","virtual-size":10},
            "dirty-bitmaps":[{"name":"b","granularity":65536,"recording":true,"busy":false,"persistent":false,"count":0}]}"#;
        let filter = r#"{"node-name":"f","drv":"copy-before-write","ro":false,
            "image":{"filename":"/raw","virtual-size":10,"backing-image":{"filename":"/raw","virtual-size":10}}}"#;
        for inserted in [raw, filter] {
            let device = format!(r#"[{{"qdev":"/machine/peripheral/d0/virtio-backend","inserted":{inserted}}}]"#);
            let nodes =
                Nodes { devices: serde_json::from_str(&device).expect("JSON"), nodes: serde_json::from_str(&format!("[{filter},{raw}]")).expect("JSON") };
            let chain = nodes.chain(&disk("d0")).expect("chain");
            assert_eq!(chain.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["libvirt-1-storage"]);
            assert_eq!(chain[0].bitmaps.len(), 1);
        }
    }
}
