//! A saved domain's XML, rewritten for its restore: disks at their new places and, under another name, a new identity.
//!
//! Invariants
//! - Only what must change changes: edits are spliced into the saved text, everything else stays byte for byte.
//! - Under another name nothing writable is shared with the original: its disks that were not restored are left out.
//!
//! What it must not do: touch libvirt or files.

use std::ops::Range;

use roxmltree::{Document, Node};

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
    /// New name; then UUID, MAC addresses and NVRAM path are new too.
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
}

/// Ranges of a text and what takes their place.
pub(crate) type Edits = Vec<(Range<usize>, String)>;

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
    if let Some(name) = &change.rename {
        identity(root, name, &mut edits)?;
        if let (Some(node), Some(old)) = (child(root, "os").and_then(|os| child(os, "nvram")), &nvram) {
            let new = sibling_path(old, name);
            let source = child(node, "source").and_then(|source| source.attribute_node("file"));
            edits.extend(source.map(|a| a.range_value()).or_else(|| text_range(node)).map(|r| (r, escape(&new))));
            nvram = Some(new);
        }
    }
    disks(root, change, &mut edits)?;
    Ok(Rewritten { xml: apply(xml, edits), nvram })
}

/// Name, UUID, generation id, MAC addresses, sockets that libvirt makes for each domain.
fn identity(root: Node<'_, '_>, name: &str, edits: &mut Edits) -> Result<(), RestoreXmlError> {
    let named = child(root, "name").ok_or(RestoreXmlError::Missing("name"))?;
    edits.push((text_range(named).ok_or(RestoreXmlError::Missing("name"))?, escape(name)));
    let uuid = new_uuid(random()?);
    if let Some(n) = child(root, "uuid") {
        edits.push((n.range(), format!("<uuid>{uuid}</uuid>")));
    }
    // libvirt refuses an SMBIOS uuid that differs from the domain's.
    let system = child(root, "sysinfo").and_then(|n| child(n, "system"));
    let entry = system.and_then(|n| n.children().find(|e| e.has_tag_name("entry") && e.attribute("name") == Some("uuid")));
    edits.extend(entry.map(|n| (n.range(), format!("<entry name='uuid'>{uuid}</entry>"))));
    edits.extend(child(root, "genid").map(|n| (n.range(), "<genid/>".to_owned())));
    let Some(devices) = child(root, "devices") else { return Ok(()) };
    for interface in devices.children().filter(|n| n.has_tag_name("interface")) {
        if let Some(mac) = child(interface, "mac") {
            let r: [u8; 16] = random()?;
            edits.push((mac.range(), format!("<mac address='52:54:00:{:02x}:{:02x}:{:02x}'/>", r[0], r[1], r[2])));
        }
    }
    for channel in devices.children().filter(|n| n.has_tag_name("channel") && n.attribute("type") == Some("unix")) {
        edits.extend(child(channel, "source").map(|s| (s.range(), String::new())));
    }
    Ok(())
}

fn disks(root: Node<'_, '_>, change: &Rewrite, edits: &mut Edits) -> Result<(), RestoreXmlError> {
    let of = |n: &Node<'_, '_>| child(*n, "target").and_then(|t| t.attribute("dev")).map(str::to_owned);
    let nodes: Vec<_> = child(root, "devices").into_iter().flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk")).collect();
    for new in &change.disks {
        let node = nodes.iter().find(|n| of(n).as_deref() == Some(&new.target)).ok_or_else(|| RestoreXmlError::NoDisk(new.target.clone()))?;
        disk(*node, new, edits);
    }
    if change.rename.is_none() {
        return Ok(());
    }
    for node in nodes {
        let restored = change.disks.iter().any(|d| of(&node).as_deref() == Some(&d.target));
        // Shareable ones, too: whoever shares them has not agreed to one more.
        let writable_disk = matches!(node.attribute("device"), None | Some("disk" | "lun")) && child(node, "readonly").is_none();
        if !restored && writable_disk {
            edits.push((node.range(), String::new()));
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

pub(crate) fn text_range(node: Node<'_, '_>) -> Option<Range<usize>> {
    node.children().find(Node::is_text).map(|t| t.range())
}

pub(crate) fn after_tag_name(node: Node<'_, '_>) -> Range<usize> {
    let at = node.range().start + 1 + node.tag_name().name().len();
    at..at
}

/// Edits inside a removed element go with it; the others are applied from the end on.
pub(crate) fn apply(xml: &str, mut edits: Edits) -> String {
    edits.sort_by_key(|e| (e.0.start, std::cmp::Reverse(e.0.end)));
    let mut out = String::with_capacity(xml.len() + 256);
    let mut at = 0;
    for (range, text) in edits {
        if range.start < at {
            continue;
        }
        out.push_str(&xml[at..range.start]);
        out.push_str(&text);
        at = range.end;
    }
    out.push_str(&xml[at..]);
    out
}

/// `/x/old_VARS.fd` becomes `/x/<name>_VARS.fd`.
pub(crate) fn sibling_path(path: &str, name: &str) -> String {
    let dir = path.rsplit_once('/').map_or("", |p| p.0);
    format!("{dir}/{}_VARS.fd", name.replace('/', "_"))
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;").replace('"', "&quot;")
}

fn random() -> std::io::Result<[u8; 16]> {
    use std::io::Read;
    let mut out = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut out)?;
    Ok(out)
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
        </devices></domain>";

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
    }

    #[test]
    fn the_same_name_keeps_its_identity() {
        let change = Rewrite { rename: None, disks: vec![new("vdb", "/dev/vg/b", true)] };
        let out = rewrite(XML, &change).expect("rewrites");
        let doc = Document::parse(&out.xml).expect("still XML");
        assert!(out.xml.contains("11111111-1111") && out.xml.contains("00:00:01") && out.xml.contains("/i/a.qcow2"));
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
