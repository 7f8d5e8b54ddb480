//! A saved domain's XML, rewritten for its restore: disks at their new places and, under another name, a new identity.
//!
//! Invariants
//! - Only what must change changes: edits are spliced into the saved text, everything else stays byte for byte.
//! - Under another name it is a copy, which shares nothing with the original that two domains cannot share ([`crate::copy`]): writable disks of the
//!   original's that were not restored are left out, and so is what leads to its sockets, files, ports and devices.
//!
//! What it must not do: touch libvirt or files.

use roxmltree::{Document, Node};

use crate::copy::{self, Unshared};
use crate::edits::{Edits, after_tag_name, apply, escape, text_range};
use crate::state_files::{child, nvram_path};

/// Why XML cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RestoreXmlError {
    /// Not XML.
    #[error("the saved XML cannot be read")]
    Xml(#[from] roxmltree::Error),
    /// Not a domain's.
    #[error("the saved XML is not a domain's: it has no {0}")]
    Missing(&'static str),
    /// A restored disk that the XML does not have.
    #[error("the saved XML has no disk {0}")]
    NoDisk(String),
    /// Another size was asked for, and it is not one number.
    #[error("its memory is divided among NUMA nodes or can be extended (<numa>, <maxMemory>), so --memory has no one number to change; leave --memory away")]
    DividedMemory,
    /// No randomness.
    #[error("no random numbers for a new identity")]
    Random(#[from] std::io::Error),
}

/// A restored disk.
#[derive(Debug, Clone)]
pub struct NewDisk {
    /// vda, ...
    pub target: String,
    /// Where its image is now.
    pub path: String,
    /// raw or qcow2.
    pub format: String,
    /// The path is a block device.
    pub block_device: bool,
}

/// What is to change.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// New name; then it is a copy: UUID, NVRAM path and all that [`crate::copy`] says are its own.
    pub rename: Option<String>,
    /// Disks that were restored.
    pub disks: Vec<NewDisk>,
}

/// The result.
#[derive(Debug, Clone)]
pub struct Rewritten {
    /// XML to define.
    pub xml: String,
    /// Where the firmware's variables belong, if the domain has any.
    pub nvram: Option<String>,
    /// What a copy has otherwise than its original.
    pub unshared: Unshared,
}

/// Rewrites a domain's XML.
///
/// # Errors
/// [`RestoreXmlError`].
pub fn rewrite(xml: &str, change: &Rewrite) -> Result<Rewritten, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let root = document.root_element();
    if !root.has_tag_name("domain") {
        return Err(RestoreXmlError::Missing("domain element"));
    }
    let mut edits = Edits::new();
    // The number of a running instance means nothing to a definition.
    edits.extend(root.attribute_node("id").map(|id| (id.range(), String::new())));
    let mut nvram = child(root, "os").and_then(|os| child(os, "nvram")).and_then(nvram_path);
    let mut unshared = Unshared::default();
    if let Some(name) = &change.rename {
        identity(root, name, &mut edits)?;
        nvram = nvram.map(|old| moved_nvram(root, &old, name, &mut edits));
        unshared = copy::unshare(root, xml, &mut edits)?;
    }
    disks(root, change, &mut unshared, &mut edits)?;
    Ok(Rewritten { xml: apply(xml, edits), nvram, unshared })
}

/// The firmware's variables beside the old ones, in a file that has the domain's new name.
pub(crate) fn moved_nvram(root: Node<'_, '_>, old: &str, name: &str, edits: &mut Edits) -> String {
    let new = sibling_path(old, name);
    if let Some(node) = child(root, "os").and_then(|os| child(os, "nvram")) {
        let source = child(node, "source").and_then(|source| source.attribute_node("file"));
        edits.extend(source.map(|a| a.range_value()).or_else(|| text_range(node)).map(|range| (range, escape(&new))));
    }
    new
}

/// Name, UUID, generation id.
fn identity(root: Node<'_, '_>, name: &str, edits: &mut Edits) -> Result<(), RestoreXmlError> {
    let named = child(root, "name").ok_or(RestoreXmlError::Missing("name"))?;
    edits.push((text_range(named).ok_or(RestoreXmlError::Missing("name"))?, escape(name)));
    let uuid = new_uuid(copy::random()?);
    if let Some(n) = child(root, "uuid") {
        edits.push((n.range(), format!("<uuid>{uuid}</uuid>")));
    }
    // libvirt refuses an SMBIOS uuid that differs from the domain's.
    let system = child(root, "sysinfo").and_then(|n| child(n, "system"));
    let entry = system.and_then(|n| n.children().find(|e| e.has_tag_name("entry") && e.attribute("name") == Some("uuid")));
    edits.extend(entry.map(|n| (n.range(), format!("<entry name='uuid'>{uuid}</entry>"))));
    edits.extend(child(root, "genid").map(|n| (n.range(), "<genid/>".to_owned())));
    Ok(())
}

fn disks(root: Node<'_, '_>, change: &Rewrite, unshared: &mut Unshared, edits: &mut Edits) -> Result<(), RestoreXmlError> {
    let of = |n: &Node<'_, '_>| child(*n, "target").and_then(|t| t.attribute("dev")).map(str::to_owned);
    let nodes: Vec<_> = child(root, "devices").into_iter().flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk")).collect();
    for new in &change.disks {
        let node = nodes.iter().find(|n| of(n).as_deref() == Some(&new.target)).ok_or_else(|| RestoreXmlError::NoDisk(new.target.clone()))?;
        disk(*node, new, edits);
    }
    if change.rename.is_none() {
        return Ok(());
    }
    let is_restored = |node: &Node<'_, '_>| change.disks.iter().any(|d| of(node).as_deref() == Some(&d.target));
    for node in nodes.iter().filter(|node| child(**node, "readonly").is_none() && !is_restored(node)) {
        match node.attribute("device") {
            // Shareable ones, too: whoever shares them has not agreed to one more.
            None | Some("disk" | "lun") => edits.push((node.range(), String::new())),
            Some("floppy") if child(*node, "source").is_some() => {
                unshared.left_out.push(format!("floppy in {}", of(node).unwrap_or_default()));
                edits.extend(node.attribute_node("type").map(|kind| (kind.range_value(), "file".to_owned())));
                edits.extend(["source", "backingStore", "mirror"].into_iter().filter_map(|name| child(*node, name)).map(|part| (part.range(), String::new())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Type, source and format are new; where the image had a backing chain, the restored one has none.
fn disk(node: Node<'_, '_>, new: &NewDisk, edits: &mut Edits) {
    let (kind, attribute) = if new.block_device { ("block", "dev") } else { ("file", "file") };
    match node.attribute_node("type") {
        Some(a) => edits.push((a.range_value(), kind.to_owned())),
        None => edits.push((after_tag_name(node), format!(" type='{kind}'"))),
    }
    let source = format!("<source {attribute}='{}'/>", escape(&new.path));
    match child(node, "source") {
        Some(s) => edits.push((s.range(), source)),
        None => edits.extend(child(node, "target").map(|t| (t.range().start..t.range().start, source))),
    }
    match child(node, "driver") {
        Some(d) => match d.attribute_node("type") {
            Some(a) => edits.push((a.range_value(), new.format.clone())),
            None => edits.push((after_tag_name(d), format!(" type='{}'", new.format))),
        },
        None => edits.extend(child(node, "target").map(|t| (t.range().start..t.range().start, format!("<driver name='qemu' type='{}'/>", new.format)))),
    }
    for gone in ["backingStore", "encryption", "mirror"] {
        edits.extend(child(node, gone).map(|n| (n.range(), String::new())));
    }
}

/// `/x/old_VARS.fd` becomes `/x/<name>_VARS.fd`.
fn sibling_path(path: &str, name: &str) -> String {
    let dir = path.rsplit_once('/').map_or("", |p| p.0);
    format!("{dir}/{}_VARS.fd", name.replace('/', "_"))
}

/// RFC 9562 version 4.
fn new_uuid(mut r: [u8; 16]) -> String {
    r[6] = 0x40 | (r[6] & 0x0f);
    r[8] = 0x80 | (r[8] & 0x3f);
    let hex: String = r.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu' id='7'><name>web &amp; co</name><uuid>11111111-1111-4111-8111-111111111111</uuid>\
        <os><nvram>/var/lib/n/web_VARS.fd</nvram></os><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='/i/a.qcow2' index='2'/>\
        <backingStore type='file'><source file='/i/base'/></backingStore><target dev='vda' bus='virtio'/></disk>\
        <disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb' bus='virtio'/></disk>\
        <disk type='file' device='cdrom'><source file='/i/cd.iso'/><target dev='sda'/><readonly/></disk>\
        <interface type='network'><mac address='52:54:00:00:00:01'/></interface>\
        <channel type='unix'><source mode='bind' path='/run/x'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
        <serial type='file'><source path='/log/web'/><target port='0'/></serial><hostdev mode='subsystem' type='usb'/></devices></domain>";

    fn new(target: &str, path: &str, block_device: bool) -> NewDisk {
        NewDisk { target: target.into(), path: path.into(), format: "raw".into(), block_device }
    }

    #[test]
    fn another_name_is_another_machine() {
        let change = Rewrite { rename: Some("b<1>".into()), disks: vec![new("vda", "/new/it's a.raw", false)] };
        let out = rewrite(XML, &change).expect("rewrites");
        let doc = Document::parse(&out.xml).expect("still XML");
        let root = doc.root_element();
        assert_eq!(child(root, "name").and_then(|n| n.text()), Some("b<1>"));
        assert!(!out.xml.contains("1111") && !out.xml.contains("00:00:01") && !out.xml.contains("id='7'") && !out.xml.contains("/run/x"));
        assert_eq!(out.nvram.as_deref(), Some("/var/lib/n/b<1>_VARS.fd"));
        let disks: Vec<_> = root.descendants().filter(|n| n.has_tag_name("disk")).collect();
        assert_eq!(disks.len(), 2, "the disk that was not restored would be shared with the original");
        assert_eq!(child(disks[0], "source").and_then(|s| s.attribute("file")), Some("/new/it's a.raw"));
        assert_eq!(child(disks[0], "driver").and_then(|s| s.attribute("type")), Some("raw"));
        assert_eq!(child(disks[0], "driver").and_then(|s| s.attribute("discard")), Some("unmap"));
        assert!(child(disks[0], "backingStore").is_none());
        assert_eq!(disks[1].attribute("device"), Some("cdrom"));
        // What else it does not share: crate::copy.
        assert!(!out.xml.contains("/log/web") && out.xml.contains("<serial type='pty'>"), "{}", out.xml);
        assert_eq!(out.unshared.left_out, ["hostdev"]);
        assert_eq!(out.unshared.own.len(), 2, "{:?}", out.unshared.own);
    }

    #[test]
    fn a_floppy_that_the_original_writes_to_is_not_in_the_copys_drive() {
        let drive = |more: &str| format!("<disk type='block' device='floppy'>{more}<target dev='fda' bus='fdc'/></disk>");
        let with = |drive: &str| XML.replacen("<interface", &format!("{drive}<interface"), 1);
        let copied = |xml: &str| rewrite(xml, &Rewrite { rename: Some("b".into()), disks: vec![] }).expect("rewrites");
        let out = copied(&with(&drive("<source dev='/dev/fd0'/>")));
        assert!(out.xml.contains(&drive("").replace("block", "file")), "{}", out.xml);
        assert!(out.unshared.left_out.contains(&"floppy in fda".to_owned()), "{:?}", out.unshared);
        for shared in [drive("<source dev='/dev/fd0'/><readonly/>"), drive("")] {
            let out = copied(&with(&shared));
            assert!(out.xml.contains(&shared) && out.unshared.left_out == ["hostdev"], "{}", out.xml);
        }
    }

    #[test]
    fn variables_move_wherever_the_definition_names_them() {
        let newer = "<nvram type='file'>\n  <source file='/n/web_VARS.fd'/>\n</nvram>";
        let xml = XML.replace("<nvram>/var/lib/n/web_VARS.fd</nvram>", newer);
        let out = rewrite(&xml, &Rewrite { rename: Some("b".into()), disks: vec![] }).expect("rewrites");
        assert_eq!(out.nvram.as_deref(), Some("/n/b_VARS.fd"));
        assert!(out.xml.contains(&newer.replace("web_VARS", "b_VARS")), "{}", out.xml);
    }

    #[test]
    fn the_same_name_keeps_its_identity() {
        let change = Rewrite { rename: None, disks: vec![new("vdb", "/dev/vg/b", true)] };
        let out = rewrite(XML, &change).expect("rewrites");
        let doc = Document::parse(&out.xml).expect("still XML");
        assert!(out.xml.contains("11111111-1111") && out.xml.contains("00:00:01") && out.xml.contains("/i/a.qcow2"));
        assert!(out.xml.contains("/log/web") && out.xml.contains("hostdev") && out.unshared == Unshared::default());
        assert_eq!(out.nvram.as_deref(), Some("/var/lib/n/web_VARS.fd"));
        let b = doc.descendants().filter(|n| n.has_tag_name("disk")).nth(1).expect("vdb");
        assert_eq!((b.attribute("type"), child(b, "source").and_then(|s| s.attribute("dev"))), (Some("block"), Some("/dev/vg/b")));
        assert!(child(b, "driver").is_some(), "a format is always stated");
        assert!(matches!(rewrite(XML, &Rewrite { rename: None, disks: vec![new("vdz", "/x", false)] }), Err(RestoreXmlError::NoDisk(_))));
        assert!(rewrite("<network/>", &change).is_err() && rewrite("<domain", &change).is_err());
    }

    #[test]
    fn uuids_are_of_version_4() {
        assert_eq!(new_uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
