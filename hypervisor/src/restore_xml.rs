//! A domain's XML made fit for a restore: other paths, and with a new name also a new identity.
//!
//! Edits are made in the text at the places a parser found; everything else stays byte for byte what libvirt wrote, so nothing that we do not
//! know of is lost. What libvirt makes of the result is to be read back after defining it: some versions drop what they do not know.

use std::collections::BTreeMap;
use std::ops::Range;

use roxmltree::{Document, Node};
use thiserror::Error;

use crate::capture::live::escape;

/// Errors of a rewrite.
#[derive(Debug, Error)]
pub enum RestoreXmlError {
    /// Not XML.
    #[error("the domain's description in the restore point cannot be read")]
    Xml(#[from] roxmltree::Error),
    /// Not a domain.
    #[error("the restore point's description is no domain: it has no {missing}")]
    NotADomain {
        /// Element.
        missing: &'static str,
    },
    /// A disk that is not in it.
    #[error("the restore point's domain has no disk {target:?}; it has {available}")]
    NoSuchDisk {
        /// Asked for.
        target: String,
        /// What there is.
        available: String,
    },
    /// No random numbers.
    #[error("the system gives no random numbers for new addresses: {0}")]
    Random(getrandom::Error),
}

/// Where a disk was restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredDisk {
    /// File or device.
    pub path: String,
    /// raw or qcow2.
    pub format: String,
    /// A block device, not a file.
    pub is_block_device: bool,
}

/// What to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// `--as`: another name, and with it a new uuid, new MAC addresses and a new generation id.
    pub new_name: Option<String>,
    /// Disks by target.
    pub disks: BTreeMap<String, RestoredDisk>,
    /// New path of the NVRAM file, if the domain has one.
    pub nvram_path: Option<String>,
    /// Leave out disks that were not restored. Without it they keep the paths they had, which with a new name are those of the original.
    pub drop_other_disks: bool,
}

/// Replacements by place in the text.
#[derive(Default)]
struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    fn replace(&mut self, range: Range<usize>, text: impl Into<String>) {
        self.0.push((range, text.into()));
    }

    /// Sets an attribute, there or not.
    fn attribute(&mut self, node: Node<'_, '_>, name: &str, value: &str) {
        match node.attribute_node(name) {
            Some(attribute) => self.replace(attribute.range_value(), escape(value)),
            None => {
                let at = node.range().start + 1 + node.tag_name().name().len();
                self.replace(at..at, format!(" {name}='{}'", escape(value)));
            }
        }
    }

    /// Replaces an element by text.
    fn element(&mut self, node: Node<'_, '_>, text: impl Into<String>) {
        self.replace(node.range(), text);
    }

    fn apply(mut self, xml: &str) -> String {
        self.0.sort_by_key(|(range, _)| range.start);
        let mut out = String::with_capacity(xml.len());
        let mut done = 0;
        for (range, text) in self.0 {
            // An element that goes takes the edits inside it along.
            if range.start < done {
                continue;
            }
            out.push_str(&xml[done..range.start]);
            out.push_str(&text);
            done = range.end;
        }
        out.push_str(&xml[done..]);
        out
    }
}

/// Rewrites a domain's inactive XML.
///
/// # Errors
/// [`RestoreXmlError`].
pub fn rewrite(xml: &str, what: &Rewrite) -> Result<String, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let domain = document.root_element();
    if !domain.has_tag_name("domain") {
        return Err(RestoreXmlError::NotADomain { missing: "domain" });
    }
    let mut edits = Edits::default();
    if let Some(name) = &what.new_name {
        new_identity(domain, name, &mut edits)?;
    }
    disks(domain, what, &mut edits)?;
    if let Some(path) = &what.nvram_path {
        nvram(domain, path, &mut edits);
    }
    Ok(edits.apply(xml))
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn new_identity(domain: Node<'_, '_>, name: &str, edits: &mut Edits) -> Result<(), RestoreXmlError> {
    let name_node = child(domain, "name").ok_or(RestoreXmlError::NotADomain { missing: "name" })?;
    edits.element(name_node, format!("<name>{}</name>", escape(name)));
    // The id is the running instance's.
    if let Some(id) = domain.attribute_node("id") {
        edits.replace(id.range(), "");
    }
    let uuid = uuid::Uuid::new_v4().to_string();
    if let Some(node) = child(domain, "uuid") {
        edits.element(node, format!("<uuid>{uuid}</uuid>"));
    }
    // libvirt refuses a system uuid that differs from the domain's.
    let is_system_uuid = |node: &Node<'_, '_>| node.has_tag_name("entry") && node.attribute("name") == Some("uuid");
    for entry in domain.descendants().filter(|node| node.parent().is_some_and(|parent| parent.has_tag_name("system")) && is_system_uuid(node)) {
        edits.element(entry, format!("<entry name='uuid'>{uuid}</entry>"));
    }
    // A clone must not keep the generation id: Windows domain controllers go by it.
    if let Some(genid) = child(domain, "genid") {
        edits.element(genid, "<genid/>");
    }
    for interface in domain.descendants().filter(|node| node.has_tag_name("interface")) {
        if let Some(mac) = child(interface, "mac") {
            edits.attribute(mac, "address", &new_mac()?);
        }
        // The tap device's name is the running original's.
        if let Some(target) = child(interface, "target") {
            edits.element(target, "");
        }
    }
    Ok(())
}

/// An address in QEMU's own range.
fn new_mac() -> Result<String, RestoreXmlError> {
    let mut bytes = [0; 3];
    getrandom::fill(&mut bytes).map_err(RestoreXmlError::Random)?;
    Ok(format!("52:54:00:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2]))
}

fn disks(domain: Node<'_, '_>, what: &Rewrite, edits: &mut Edits) -> Result<(), RestoreXmlError> {
    let devices = child(domain, "devices").ok_or(RestoreXmlError::NotADomain { missing: "devices" })?;
    let mut targets = Vec::new();
    for disk in devices.children().filter(|node| node.has_tag_name("disk")) {
        let target = child(disk, "target").and_then(|node| node.attribute("dev")).unwrap_or_default();
        targets.push(target);
        match what.disks.get(target) {
            Some(restored) => one_disk(disk, restored, edits),
            None if what.drop_other_disks && matches!(disk.attribute("device"), None | Some("disk" | "lun")) => edits.element(disk, ""),
            None => {}
        }
    }
    match what.disks.keys().find(|wanted| !targets.contains(&wanted.as_str())) {
        Some(missing) => Err(RestoreXmlError::NoSuchDisk { target: missing.clone(), available: targets.join(", ") }),
        None => Ok(()),
    }
}

fn one_disk(disk: Node<'_, '_>, restored: &RestoredDisk, edits: &mut Edits) {
    let (kind, attribute) = if restored.is_block_device { ("block", "dev") } else { ("file", "file") };
    edits.attribute(disk, "type", kind);
    let source = format!("<source {attribute}='{}'/>", escape(&restored.path));
    let driver = child(disk, "driver");
    match driver {
        Some(driver) => edits.attribute(driver, "type", &restored.format),
        None => {
            let at = child(disk, "target").map_or(disk.range().end, |target| target.range().start);
            edits.replace(at..at, format!("<driver name='qemu' type='{}'/>", escape(&restored.format)));
        }
    }
    match child(disk, "source") {
        Some(node) => edits.element(node, source),
        None => {
            let at = child(disk, "target").map_or(disk.range().end, |target| target.range().start);
            edits.replace(at..at, source);
        }
    }
    // The restored image is whole and plain.
    for name in ["backingStore", "encryption", "mirror"] {
        if let Some(node) = child(disk, name) {
            edits.element(node, "");
        }
    }
}

fn nvram(domain: Node<'_, '_>, path: &str, edits: &mut Edits) {
    let Some(nvram) = child(domain, "os").and_then(|os| child(os, "nvram")) else { return };
    match child(nvram, "source") {
        Some(source) => edits.attribute(source, "file", path),
        None => match nvram.children().find(Node::is_text) {
            Some(text) => edits.replace(text.range(), escape(path)),
            None => edits.element(nvram, format!("<nvram>{}</nvram>", escape(path))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu' id='4'>\n  <name>web &amp; co</name>\n  <uuid>cea3cf91-1ccf-45c7-8e3f-25fb7d872431</uuid>\n  \
        <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>\n  <sysinfo type='smbios'><system><entry name='uuid'>cea3cf91-1ccf-45c7-8e3f-25fb7d872431\
        </entry><entry name='serial'>7</entry></system></sysinfo>\n  <metadata><x:own xmlns:x='urn:x' name=\"keep\"/></metadata>\n  \
        <os><nvram template='/t.fd'>/var/nvram/web.fd</nvram></os>\n  <devices>\n    \
        <disk type='volume' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source pool='p' volume='v'/>\
        <backingStore type='file'><format type='raw'/><source file='/base'/></backingStore><target dev='vda'/></disk>\n    \
        <disk type='file' device='disk'><source file='/b.raw'/><target dev='vdb'/></disk>\n    \
        <disk type='file' device='cdrom'><target dev='sda'/></disk>\n    \
        <interface type='network'><mac address='52:54:00:ca:17:01'/><target dev='vnet3'/></interface>\n  </devices>\n</domain>\n";

    fn restored(path: &str, format: &str) -> RestoredDisk {
        RestoredDisk { path: path.to_owned(), format: format.to_owned(), is_block_device: path.starts_with("/dev/") }
    }

    #[test]
    fn nothing_asked_nothing_changed() {
        assert_eq!(rewrite(XML, &Rewrite::default()).expect("XML"), XML);
    }

    #[test]
    fn a_new_name_is_a_new_identity() {
        let what = Rewrite {
            new_name: Some("copy <1>".to_owned()),
            disks: BTreeMap::from([("vda".to_owned(), restored("/r/a'b.raw", "raw")), ("vdb".to_owned(), restored("/dev/vg/b", "raw"))]),
            nvram_path: Some("/r/nvram.fd".to_owned()),
            drop_other_disks: true,
        };
        let new = rewrite(XML, &what).expect("XML");
        let document = Document::parse(&new).expect("well-formed");
        let text = |name: &str| document.descendants().find(|node| node.has_tag_name(name)).and_then(|node| node.text()).unwrap_or_default().to_owned();
        assert_eq!(text("name"), "copy <1>");
        assert_ne!(text("uuid"), "cea3cf91-1ccf-45c7-8e3f-25fb7d872431");
        assert!(new.contains(&format!("<entry name='uuid'>{}</entry>", text("uuid"))), "{new}");
        assert_eq!(text("nvram"), "/r/nvram.fd");
        for gone in ["52:54:00:ca:17:01", "vnet3", "43dc0cf8", "/base", "pool='p'", "/b.raw", "id='4'"] {
            assert!(!new.contains(gone), "{gone} is still in {new}");
        }
        for kept in ["template='/t.fd'", "<entry name='serial'>7</entry>", "<x:own xmlns:x='urn:x' name=\"keep\"/>", "cache='none'", "cdrom"] {
            assert!(new.contains(kept), "{kept} is lost from {new}");
        }
        let disks = crate::disks::parse_disks(&new).expect("disks");
        assert_eq!(disks[0].source.path(), Some("/r/a'b.raw"));
        assert_eq!(disks[0].format, "raw");
        assert_eq!(disks[1].source, crate::disks::Source::Block("/dev/vg/b".to_owned()));
    }

    #[test]
    fn disks_that_were_not_restored_go_or_stay() {
        let disks = BTreeMap::from([("vdb".to_owned(), restored("/r/b.qcow2", "qcow2"))]);
        let kept = rewrite(XML, &Rewrite { disks: disks.clone(), ..Rewrite::default() }).expect("XML");
        assert!(kept.contains("pool='p'") && kept.contains("<driver name='qemu' type='qcow2'/>"), "{kept}");
        let dropped = rewrite(XML, &Rewrite { disks, drop_other_disks: true, ..Rewrite::default() }).expect("XML");
        assert!(!dropped.contains("pool='p'") && dropped.contains("cdrom"), "{dropped}");
        let wrong = Rewrite { disks: BTreeMap::from([("vdz".to_owned(), restored("/x", "raw"))]), ..Rewrite::default() };
        let error = rewrite(XML, &wrong).expect_err("no vdz");
        assert!(error.to_string().contains("vda, vdb, sda"), "{error}");
    }
}
