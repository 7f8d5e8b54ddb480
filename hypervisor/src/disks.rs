//! Disks of a domain, as its XML describes them, and which of them are not backed up and why.

use std::fmt;

use roxmltree::{Document, Node};
use thiserror::Error;

use crate::ffi::LibvirtError;
use crate::metadata::BackupWord;

/// Most disks of one domain that are looked at.
pub const DISKS_MAX: usize = 1024;

/// Errors in reading a domain's XML.
#[derive(Debug, Error)]
pub enum DisksError {
    /// Not XML.
    #[error("libvirt's description of the domain cannot be read")]
    Xml(#[from] roxmltree::Error),
    /// A disk without a target.
    #[error("disk {index} of the domain has no target; is this a domain's XML?")]
    NoTarget {
        /// Counted from 0.
        index: usize,
    },
    /// Too many.
    #[error("the domain has more than {DISKS_MAX} disks")]
    TooMany,
    /// libvirt's.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
}

/// Why a disk is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// device='cdrom'
    Cdrom,
    /// device='floppy'
    Floppy,
    /// device='lun': SCSI passthrough has no QEMU block layer in between
    Lun,
    /// Its changes are thrown away at shutdown.
    Transient,
    /// Another domain may write to it at the same time.
    Shareable,
    /// Never written to.
    ReadOnly,
    /// No medium.
    Empty,
    /// The domain's own metadata says so.
    Excluded,
    /// Not asked for.
    NotSelected,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cdrom => "CD-ROM",
            Self::Floppy => "floppy",
            Self::Lun => "SCSI passthrough (lun)",
            Self::Transient => "transient",
            Self::Shareable => "shareable with other domains",
            Self::ReadOnly => "read-only",
            Self::Empty => "no medium",
            Self::Excluded => "excluded by the domain's metadata",
            Self::NotSelected => "not selected",
        })
    }
}

/// Where a disk's content lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Image file.
    File(String),
    /// Block device.
    Block(String),
    /// Volume of a storage pool.
    Volume {
        /// Pool.
        pool: String,
        /// Volume.
        volume: String,
    },
    /// Network storage.
    Network {
        /// rbd, nbd, iscsi, ...
        protocol: String,
        /// Image or export.
        name: String,
    },
    /// Another kind, by libvirt's name.
    Other(String),
    /// No medium.
    None,
}

impl Source {
    /// Path of a file or block device.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            _ => None,
        }
    }
}

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// vda, sdb, ...
    pub target: String,
    /// virtio, scsi, sata, ...
    pub bus: Option<String>,
    /// disk, cdrom, floppy, lun
    pub device: String,
    /// raw, qcow2, ...; libvirt's default is raw.
    pub format: String,
    /// Content.
    pub source: Source,
    /// Alias of the device in the running QEMU.
    pub alias: Option<String>,
    /// Encrypted by QEMU (LUKS).
    pub encrypted: bool,
    /// Why it is left out, if it is.
    pub skip: Option<SkipReason>,
}

/// Disks in the order of the XML.
///
/// # Errors
/// [`DisksError`].
pub fn parse_disks(xml: &str) -> Result<Vec<Disk>, DisksError> {
    let document = Document::parse(xml)?;
    let excluded = BackupWord::of(&document).disks_excluded;
    let devices = document.root_element().children().find(|node| node.has_tag_name("devices"));
    let disks = devices.into_iter().flat_map(|devices| devices.children().filter(|node| node.has_tag_name("disk")));
    let mut out = Vec::new();
    for (index, node) in disks.enumerate() {
        if index == DISKS_MAX {
            return Err(DisksError::TooMany);
        }
        let mut disk = parse_disk(node, index)?;
        // What cannot be saved at all stays that.
        if disk.skip.is_none() && excluded.contains(&disk.target) {
            disk.skip = Some(SkipReason::Excluded);
        }
        out.push(disk);
    }
    Ok(out)
}

fn parse_disk(disk: Node<'_, '_>, index: usize) -> Result<Disk, DisksError> {
    let child = |name: &str| disk.children().find(|node| node.has_tag_name(name));
    let target = child("target").and_then(|node| node.attribute("dev")).ok_or(DisksError::NoTarget { index })?;
    let device = disk.attribute("device").unwrap_or("disk");
    let source_node = child("source");
    let source = parse_source(disk.attribute("type").unwrap_or("file"), source_node);
    let encrypted = child("encryption").is_some() || source_node.is_some_and(|node| node.children().any(|inner| inner.has_tag_name("encryption")));
    Ok(Disk {
        target: target.to_owned(),
        bus: child("target").and_then(|node| node.attribute("bus")).map(str::to_owned),
        device: device.to_owned(),
        format: child("driver").and_then(|node| node.attribute("type")).unwrap_or("raw").to_owned(),
        alias: child("alias").and_then(|node| node.attribute("name")).map(str::to_owned),
        skip: skip_reason(device, &source, |name| child(name).is_some()),
        source,
        encrypted,
    })
}

fn skip_reason(device: &str, source: &Source, has: impl Fn(&str) -> bool) -> Option<SkipReason> {
    match device {
        "cdrom" => Some(SkipReason::Cdrom),
        "floppy" => Some(SkipReason::Floppy),
        "lun" => Some(SkipReason::Lun),
        _ if *source == Source::None => Some(SkipReason::Empty),
        _ if has("transient") => Some(SkipReason::Transient),
        _ if has("shareable") => Some(SkipReason::Shareable),
        _ if has("readonly") => Some(SkipReason::ReadOnly),
        _ => None,
    }
}

fn parse_source(kind: &str, source: Option<Node<'_, '_>>) -> Source {
    let Some(source) = source else { return Source::None };
    let attribute = |name: &str| source.attribute(name).map(str::to_owned);
    match kind {
        "file" => attribute("file").map_or(Source::None, Source::File),
        "block" => attribute("dev").map_or(Source::None, Source::Block),
        "volume" => match (attribute("pool"), attribute("volume")) {
            (Some(pool), Some(volume)) => Source::Volume { pool, volume },
            _ => Source::None,
        },
        "network" => Source::Network { protocol: attribute("protocol").unwrap_or_default(), name: attribute("name").unwrap_or_default() },
        other => Source::Other(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain><devices>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a &amp; b/d.qcow2' index='2'/>
          <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
        <disk type='block' device='disk'><source dev='/dev/vg/lv'/><target dev='vdb' bus='virtio'/></disk>
        <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
        <disk type='file' device='disk'><source file='/s'/><target dev='vdc'/><shareable/></disk>
        <disk type='file' device='disk'><source file='/t'/><target dev='vdd'/><transient/></disk>
        <disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vde'/><readonly/></disk>
        <disk type='network' device='disk'><source protocol='rbd' name='pool/image'><encryption format='luks'/></source><target dev='vdf'/></disk>
        </devices></domain>";

    #[test]
    fn every_kind_of_disk_is_told_apart() {
        let disks = parse_disks(XML).expect("XML");
        let told: Vec<_> = disks.iter().map(|disk| (disk.target.as_str(), disk.format.as_str(), disk.skip)).collect();
        assert_eq!(
            told,
            vec![
                ("vda", "qcow2", None),
                ("vdb", "raw", None),
                ("sda", "raw", Some(SkipReason::Cdrom)),
                ("vdc", "raw", Some(SkipReason::Shareable)),
                ("vdd", "raw", Some(SkipReason::Transient)),
                ("vde", "raw", Some(SkipReason::ReadOnly)),
                ("vdf", "raw", None),
            ]
        );
        assert_eq!(disks[0].source.path(), Some("/a & b/d.qcow2"));
        assert_eq!(disks[0].alias.as_deref(), Some("virtio-disk0"));
        assert_eq!(disks[5].source, Source::Volume { pool: "p".to_owned(), volume: "v".to_owned() });
        assert!(disks[6].encrypted);
    }

    #[test]
    fn the_domain_itself_may_leave_disks_out() {
        let word = "<metadata><c:backup xmlns:c='https://cairn-backup.org/xmlns/domain/1.0'><c:disk target='vdb' exclude='yes'/><c:disk target='sda' exclude='yes'/></c:backup></metadata>";
        let disks = parse_disks(&XML.replace("<domain>", &format!("<domain>{word}"))).expect("XML");
        let told: Vec<_> = disks.iter().take(3).map(|disk| (disk.target.as_str(), disk.skip)).collect();
        assert_eq!(told, [("vda", None), ("vdb", Some(SkipReason::Excluded)), ("sda", Some(SkipReason::Cdrom))]);
    }

    #[test]
    fn what_is_no_domain_is_an_error() {
        assert!(parse_disks("<domain><devices><disk/></devices></domain>").is_err());
        assert!(parse_disks("nonsense").is_err());
        assert!(parse_disks("<domain/>").expect("no disks").is_empty());
    }
}
