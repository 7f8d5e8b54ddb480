//! The list of a domain's snapshots, for information: what they hold is in images, and is not saved with a point.

use roxmltree::{Document, Node};

use crate::domain::Domain;
use crate::ffi::{LibvirtError, Named};
use crate::state_files::child;

/// More are counted, and not listed.
pub const SNAPSHOTS_MAX: usize = 256;

/// One snapshot as libvirt tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Name.
    pub name: String,
    /// Seconds since 1970.
    pub created_unix_s: Option<u64>,
    /// State of the domain in it: running, shutoff, disk-snapshot, ...
    pub state: String,
    /// Name of the one before.
    pub parent: Option<String>,
    /// Some disk of it is an image of its own.
    pub external: bool,
    /// Files that its disks went on in, where it is external.
    pub disk_files: Vec<String>,
    /// File with the domain's memory.
    pub memory_file: Option<String>,
}

impl Domain {
    /// The first [`SNAPSHOTS_MAX`] snapshots, and how many there are.
    ///
    /// # Errors
    /// libvirt's. One that goes away meanwhile is left out.
    pub fn snapshots(&self) -> Result<(Vec<Snapshot>, usize), LibvirtError> {
        let all = self.raw().list_all_snapshots(0).named("virDomainListAllSnapshots")?;
        let texts = all.iter().take(SNAPSHOTS_MAX).filter_map(|snapshot| snapshot.xml_desc(0).ok());
        Ok((texts.filter_map(|xml| parse(&xml)).collect(), all.len()))
    }
}

fn parse(xml: &str) -> Option<Snapshot> {
    let document = Document::parse(xml).ok()?;
    let root = document.root_element();
    let text = |name: &str| child(root, name).and_then(|node| node.text()).map(str::to_owned);
    let of_disks = || child(root, "disks").into_iter().flat_map(|disks| disks.children()).filter(|disk| disk.attribute("snapshot") == Some("external"));
    let file = |node: Node<'_, '_>| node.attribute("file").map(str::to_owned);
    Some(Snapshot {
        name: text("name")?,
        created_unix_s: text("creationTime").and_then(|seconds| seconds.parse().ok()),
        state: text("state").unwrap_or_default(),
        parent: child(root, "parent").and_then(|node| child(node, "name")).and_then(|node| node.text()).map(str::to_owned),
        external: of_disks().next().is_some(),
        disk_files: of_disks().filter_map(|disk| child(disk, "source").and_then(file)).collect(),
        memory_file: child(root, "memory").and_then(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_from_its_xml() {
        let xml = "<domainsnapshot><name>before</name><creationTime>1700000000</creationTime><state>running</state><parent><name>p</name></parent>\
            <memory snapshot='external' file='/i/web.mem'/><disks><disk name='vda' snapshot='external'><source file='/i/web.s1'/></disk>\
            <disk name='vdb' snapshot='no'/></disks><domain><name>web</name></domain></domainsnapshot>";
        let found = parse(xml).expect("a snapshot");
        assert_eq!((found.name.as_str(), found.created_unix_s, found.parent.as_deref()), ("before", Some(1_700_000_000), Some("p")));
        assert!(found.external);
        assert_eq!((found.disk_files.as_slice(), found.memory_file.as_deref()), (&["/i/web.s1".to_owned()][..], Some("/i/web.mem")));
        assert_eq!(parse("<domainsnapshot/>"), None);
    }
}
