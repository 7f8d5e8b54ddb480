//! The XML of a run: a saved domain whose disks are qcow2 overlays over NBD exports of its restore point.
//!
//! Invariants
//! - A copy cannot act as its original: unless its identity is to be kept it is what a restore under another name is ([`crate::copy`]), with the
//!   interfaces that were asked for.
//! - A read that fails stops the guest's processors; it never reaches the guest (`error_policy`, `rerror_policy`).
//! - The saved text stays as it is elsewhere: edits are spliced in, as [`crate::restore_xml`] does.
//!
//! What it must not do: touch libvirt or files.

use roxmltree::{Document, Node};

use crate::copy::Unshared;
use crate::edits::{Edits, apply, escape, text_range};
use crate::restore_xml::{NewDisk, RestoreXmlError, Rewrite, moved_nvram, rewrite};
use crate::state_files::child;

/// Driver attributes of a run's disks; all others stay as they were saved.
const DRIVER: [(&str, &str); 6] =
    [("name", "qemu"), ("type", "qcow2"), ("cache", "none"), ("error_policy", "stop"), ("rerror_policy", "stop"), ("discard", "unmap")];
/// Parts of an interface that belong to the guest's side of it; the others name a network.
const INTERFACE_KEPT: [&str; 9] = ["mac", "model", "address", "boot", "rom", "driver", "alias", "acpi", "coalesce"];

/// What the guest is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Nothing: its interfaces are left out.
    None,
    /// What it was connected to.
    Same,
    /// This network of libvirt's, all interfaces.
    Named(String),
}

/// A disk of the run.
#[derive(Debug, Clone)]
pub struct RunDisk {
    /// vda, ...; the export has this name, too.
    pub target: String,
    /// The overlay, qcow2.
    pub overlay: String,
}

/// What is to be made.
#[derive(Debug, Clone)]
pub struct RunXml {
    /// The domain's name.
    pub name: String,
    /// UUID, MAC addresses and devices stay.
    pub keep_identity: bool,
    /// Disks.
    pub disks: Vec<RunDisk>,
    /// Unix socket of the exports.
    pub socket: String,
    /// How long QEMU itself waits for a server that went away; libvirt knows it from 9.2 on.
    pub reconnect_s: Option<u32>,
    /// Network.
    pub network: Network,
    /// Memory other than the saved, KiB.
    pub memory_kib: Option<u64>,
}

/// The result.
#[derive(Debug, Clone)]
pub struct Built {
    /// XML to define.
    pub xml: String,
    /// The domain's UUID.
    pub uuid: String,
    /// Where the firmware's variables belong, if the domain has any.
    pub nvram: Option<String>,
    /// What it has otherwise than its original.
    pub unshared: Unshared,
}

impl RunXml {
    /// Makes the XML from a saved one.
    ///
    /// # Errors
    /// [`RestoreXmlError`].
    pub fn build(&self, saved: &str) -> Result<Built, RestoreXmlError> {
        let disks = self.disks.iter().map(|d| NewDisk { target: d.target.clone(), path: d.overlay.clone(), format: "qcow2".into(), block_device: false });
        let rename = (!self.keep_identity).then(|| self.name.clone());
        let first = rewrite(&self.connected(saved)?, &Rewrite { rename, disks: disks.collect() })?;
        let document = Document::parse(&first.xml)?;
        let root = document.root_element();
        let (mut edits, mut nvram) = (Edits::new(), first.nvram);
        if self.keep_identity {
            nvram = self.rename_only(root, nvram, &mut edits)?;
        }
        self.memory(root, &mut edits)?;
        for disk in devices(root, "disk") {
            self.disk(disk, &first.xml, &mut edits);
        }
        let xml = apply(&first.xml, edits);
        let uuid = uuid_of(&xml)?;
        Ok(Built { xml, uuid, nvram, unshared: first.unshared })
    }

    /// Another name for the same machine.
    fn rename_only(&self, root: Node<'_, '_>, nvram: Option<String>, edits: &mut Edits) -> Result<Option<String>, RestoreXmlError> {
        let name = child(root, "name").ok_or(RestoreXmlError::Missing("name"))?;
        if name.text() == Some(&self.name) {
            return Ok(nvram);
        }
        edits.push((text_range(name).ok_or(RestoreXmlError::Missing("name"))?, escape(&self.name)));
        Ok(nvram.map(|old| moved_nvram(root, &old, &self.name, edits)))
    }

    /// libvirt makes `<memory>` the sum of the NUMA nodes, whatever it says: another number would be dropped without a word.
    fn memory(&self, root: Node<'_, '_>, edits: &mut Edits) -> Result<(), RestoreXmlError> {
        let Some(kib) = self.memory_kib else { return Ok(()) };
        if child(root, "cpu").is_some_and(|cpu| child(cpu, "numa").is_some()) || child(root, "maxMemory").is_some() {
            return Err(RestoreXmlError::DividedMemory);
        }
        for name in ["memory", "currentMemory"] {
            edits.extend(child(root, name).map(|node| (node.range(), format!("<{name} unit='KiB'>{kib}</{name}>"))));
        }
        Ok(())
    }

    fn disk(&self, node: Node<'_, '_>, text: &str, edits: &mut Edits) {
        let target = child(node, "target").and_then(|t| t.attribute("dev"));
        let Some(disk) = self.disks.iter().find(|d| Some(d.target.as_str()) == target) else { return };
        if let Some(driver) = child(node, "driver") {
            let kept = driver.attributes().filter(|a| !DRIVER.iter().any(|d| d.0 == a.name()));
            let ours = DRIVER.iter().map(|(name, value)| format!(" {name}='{value}'"));
            let attributes: String = ours.chain(kept.map(|a| format!(" {}='{}'", a.name(), escape(a.value())))).collect();
            let inner: String = driver.children().map(|c| &text[c.range()]).collect();
            edits.push((driver.range(), format!("<driver{attributes}>{inner}</driver>")));
        }
        let backing = backing_store(&disk.target, &self.socket, self.reconnect_s);
        edits.extend(child(node, "source").map(|source| (source.range().end..source.range().end, backing)));
    }

    /// The saved XML with the interfaces that were asked for. What another network takes the place of is no device of the host's any more.
    fn connected(&self, saved: &str) -> Result<String, RestoreXmlError> {
        let document = Document::parse(saved)?;
        let interfaces = devices(document.root_element(), "interface");
        let edits: Edits = match &self.network {
            Network::Same => Edits::new(),
            Network::None => interfaces.map(|node| (node.range(), String::new())).collect(),
            Network::Named(network) => interfaces.map(|node| (node.range(), on_network(node, network, saved))).collect(),
        };
        Ok(apply(saved, edits))
    }
}

/// The guest's side of an interface, on a network of libvirt's.
fn on_network(node: Node<'_, '_>, network: &str, text: &str) -> String {
    // A host's driver of a device that was passed through.
    let is_guests = |part: &Node<'_, '_>| INTERFACE_KEPT.contains(&part.tag_name().name()) && part.attribute("name") != Some("vfio");
    let kept: String = node.children().filter(is_guests).map(|part| &text[part.range()]).collect();
    format!("<interface type='network'><source network='{}'/>{kept}</interface>", escape(network))
}

fn devices<'a, 'input>(root: Node<'a, 'input>, kind: &'static str) -> impl Iterator<Item = Node<'a, 'input>> {
    child(root, "devices").into_iter().flat_map(|devices| devices.children()).filter(move |node| node.has_tag_name(kind))
}

fn backing_store(target: &str, socket: &str, reconnect_s: Option<u32>) -> String {
    let reconnect = reconnect_s.map_or_else(String::new, |s| format!("<reconnect delay='{s}'/>"));
    format!(
        "<backingStore type='network'><format type='raw'/><source protocol='nbd' name='{}'><host transport='unix' socket='{}'/>{reconnect}</source>\
         <backingStore/></backingStore>",
        escape(target),
        escape(socket)
    )
}

/// A definition with an export below a disk again.
///
/// # Errors
/// [`RestoreXmlError`]; among them that there is no such disk.
pub fn with_backing(xml: &str, target: &str, socket: &str, reconnect_s: Option<u32>) -> Result<String, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let is_it = |node: &Node<'_, '_>| node.has_tag_name("disk") && child(*node, "target").and_then(|t| t.attribute("dev")) == Some(target);
    let disk = document.descendants().find(is_it).ok_or_else(|| RestoreXmlError::NoDisk(target.to_owned()))?;
    let source = child(disk, "source").ok_or(RestoreXmlError::Missing("source of a disk"))?;
    // In the old one's place: an insertion at the edge of what is removed would go with it.
    let place = child(disk, "backingStore").map_or(source.range().end..source.range().end, |old| old.range());
    let edits: Edits = vec![(place, backing_store(target, socket, reconnect_s))];
    Ok(apply(xml, edits))
}

/// The domain's UUID.
///
/// # Errors
/// Not a domain's XML.
pub fn uuid_of(xml: &str) -> Result<String, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let uuid = child(document.root_element(), "uuid").and_then(|n| n.text());
    uuid.map(|text| text.trim().to_owned()).ok_or(RestoreXmlError::Missing("uuid"))
}

/// Whether libvirt kept `<reconnect>`.
///
/// # Errors
/// Not XML.
pub fn knows_reconnect(xml: &str) -> Result<bool, RestoreXmlError> {
    let document = Document::parse(xml)?;
    Ok(document.descendants().any(|node| node.has_tag_name("reconnect")))
}

/// All values of attributes: paths, names, sockets.
///
/// # Errors
/// Not XML.
pub fn attribute_values(xml: &str) -> Result<Vec<String>, RestoreXmlError> {
    let document = Document::parse(xml)?;
    Ok(document.descendants().flat_map(|node| node.attributes().map(|a| a.value().to_owned()).collect::<Vec<_>>()).collect())
}

/// The qcow2 images of all disks, and of what lies below them. Others have no header that anybody but the guest has written.
///
/// # Errors
/// Not XML.
pub fn qcow2_files(xml: &str) -> Result<Vec<String>, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let sources = document.descendants().filter(|node| node.has_tag_name("disk")).flat_map(|disk| disk.descendants()).filter(|n| n.has_tag_name("source"));
    let is_qcow2 = |source: &Node<'_, '_>| {
        let format = source.parent().and_then(|image| child(image, if image.has_tag_name("disk") { "driver" } else { "format" }));
        format.and_then(|format| format.attribute("type")) == Some("qcow2")
    };
    Ok(sources.filter(is_qcow2).filter_map(|source| source.attribute("file")).map(str::to_owned).collect())
}

/// A disk as a definition has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskNow {
    /// File or device.
    pub path: Option<String>,
    /// There is an image below it.
    pub has_backing: bool,
}

/// A disk of some XML; `None` if it has no such disk.
///
/// # Errors
/// Not XML.
pub fn disk_now(xml: &str, target: &str) -> Result<Option<DiskNow>, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let is_it = |node: &Node<'_, '_>| node.has_tag_name("disk") && child(*node, "target").and_then(|t| t.attribute("dev")) == Some(target);
    let Some(disk) = document.descendants().find(is_it) else { return Ok(None) };
    let source = child(disk, "source");
    let path = source.and_then(|s| s.attribute("file").or_else(|| s.attribute("dev"))).map(str::to_owned);
    let has_backing = child(disk, "backingStore").is_some_and(|backing| child(backing, "source").is_some());
    Ok(Some(DiskNow { path, has_backing }))
}

/// A definition with a disk at another place and nothing below it.
///
/// # Errors
/// [`RestoreXmlError`].
pub fn moved_disk(xml: &str, target: &str, path: &str, format: &str, block_device: bool) -> Result<String, RestoreXmlError> {
    let disk = NewDisk { target: target.into(), path: path.into(), format: format.into(), block_device };
    rewrite(xml, &Rewrite { rename: None, disks: vec![disk] }).map(|rewritten| rewritten.xml)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "<domain type='qemu'><name>web</name><uuid>11111111-1111-4111-8111-111111111111</uuid>\
        <memory unit='KiB'>1024</memory><currentMemory unit='KiB'>1024</currentMemory><os><nvram>/n/web_VARS.fd</nvram></os><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='raw' cache='writeback' io='threads' iothread='1'/><source file='/i/a.raw'/>\
        <target dev='vda' bus='virtio'/></disk>\
        <disk type='file' device='cdrom'><source file='/i/cd.iso'/><target dev='sda'/><readonly/></disk>\
        <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='tap7'/><model type='virtio'/></interface>\
        <disk type='file' device='disk'><source file='/i/shared.raw'/><target dev='vdx'/><shareable/></disk><vsock><cid auto='no' address='3'/></vsock>\
        <memory model='nvdimm'><source><path>/i/nv</path></source></memory><input type='evdev'/><input type='tablet'/>\
        <redirdev bus='usb' type='tcp'><source mode='connect' host='h' service='4'/></redirdev><redirdev bus='usb' type='spicevmc'/>\
        <serial type='file'><source path='/log/web.txt' append='on'/><target port='0'/></serial>\
        <serial type='tcp'><source mode='bind' host='127.0.0.1' service='4555'/><target port='1'/></serial>\
        <console type='file'><source path='/log/web.txt' append='on'/><target type='serial' port='0'/></console>\
        <parallel type='dev'><source path='/dev/parport0'/><target port='0'/></parallel>\
        <channel type='unix'><source mode='connect' path='/run/web.sock'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
        <channel type='pipe'><source path='/srv/web.pipe'/><target type='virtio' name='own.0'/></channel>\
        <hostdev mode='subsystem' type='usb'/><filesystem type='mount'/><graphics type='vnc' port='5901' autoport='no'/>\
        <graphics type='vnc' socket='/run/vnc/web.sock'><listen type='socket' socket='/run/vnc/web.sock'/></graphics>\
        <tpm model='tpm-crb'><backend type='emulator'><source type='dir' path='/srv/tpm/web'/></backend></tpm></devices></domain>";

    fn run(keep_identity: bool, network: Network) -> RunXml {
        RunXml {
            name: "web-run".into(),
            keep_identity,
            disks: vec![RunDisk { target: "vda".into(), overlay: "/i/it's.qcow2".into() }],
            socket: "/run/x/nbd.sock".into(),
            reconnect_s: Some(30),
            network,
            memory_kib: Some(4096),
        }
    }

    #[test]
    fn a_copy_shares_nothing_with_its_original() {
        let built = run(false, Network::None).build(SAVED).expect("builds");
        let xml = &built.xml;
        Document::parse(xml).expect("still XML");
        for gone in ["1111", "<interface", "hostdev", "filesystem", "5901", ">1024<", "/i/a.raw", "/i/shared.raw", "vsock", "/i/nv", "evdev"] {
            assert!(!xml.contains(gone), "{gone} in {xml}");
        }
        assert!(xml.contains(">web-run<") && xml.contains(">4096<") && xml.contains("iothread='1'") && xml.contains("cache='none'"), "{xml}");
        assert!(xml.contains("rerror_policy='stop'") && xml.contains("/i/cd.iso") && knows_reconnect(xml).expect("XML"));
        assert_eq!(built.nvram.as_deref(), Some("/n/web-run_VARS.fd"));
        assert_eq!(built.unshared.left_out, ["vsock", "memory", "input", "redirdev", "hostdev", "filesystem"]);
        assert_eq!(built.unshared.own[0], "serial 0: a pty of its own, not file /log/web.txt");
        assert!(xml.contains("tablet"));
        assert!(xml.contains("<listen type='socket' ") && xml.contains("<backend type='emulator'>"), "{xml}");
        for shared in ["/log/web.txt", "4555", "parport0", "/run/web.sock", "web.pipe", "/run/vnc", "/srv/tpm"] {
            assert!(SAVED.contains(shared) && !xml.contains(shared), "{shared} in {xml}");
        }
        let ptys = ["serial", "serial", "console", "parallel", "channel"].map(|kind| format!("<{kind} type='pty'>"));
        assert!(ptys.iter().all(|pty| xml.contains(pty)) && xml.matches("type='pty'").count() == ptys.len(), "{xml}");
        assert!(xml.contains("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"), "libvirt's own socket: {xml}");
        assert_eq!(built.uuid, uuid_of(xml).expect("a uuid"));
        assert_eq!(disk_now(xml, "vda").expect("XML"), Some(DiskNow { path: Some("/i/it's.qcow2".into()), has_backing: true }));
        assert_eq!(disk_now(xml, "vdz").expect("XML"), None);
    }

    #[test]
    fn networks_are_none_the_same_or_one_of_libvirts() {
        let same = run(false, Network::Same).build(SAVED).expect("builds").xml;
        assert!(same.contains("br0") && !same.contains("tap7") && !same.contains("00:00:01"), "{same}");
        let named = run(false, Network::Named("lab".into())).build(SAVED).expect("builds").xml;
        assert!(named.contains("network='lab'") && named.contains("virtio'/></interface>") && !named.contains("br0") && !named.contains("tap7"), "{named}");
        // A device or a socket of the host's is left out where the network is the same, and is none on another one.
        let vhost = "<interface type='vhostuser'><mac address='52:54:00:00:00:02'/><source type='unix' path='/run/vhost' mode='client'/><model type='virtio'/>";
        let passed = "<interface type='hostdev'><mac address='52:54:00:00:00:03'/><driver name='vfio'/><source><address type='pci' bus='6'/></source>";
        let saved = SAVED.replacen("<vsock>", &format!("{vhost}</interface>{passed}</interface><vsock>"), 1);
        let same = run(false, Network::Same).build(&saved).expect("builds");
        assert!(same.xml.matches("<interface").count() == 1 && same.unshared.left_out.contains(&"interface".to_owned()), "{}", same.xml);
        let named = run(false, Network::Named("lab".into())).build(&saved).expect("builds");
        assert!(named.xml.matches("network='lab'").count() == 3 && !named.xml.contains("vfio") && !named.xml.contains("/run/vhost"), "{}", named.xml);
        assert!(!named.unshared.left_out.contains(&"interface".to_owned()) && !named.xml.contains("52:54:00:00:00:0"), "{}", named.xml);
        let none = run(false, Network::None).build(&saved).expect("builds");
        assert!(!none.xml.contains("<interface") && !none.unshared.left_out.contains(&"interface".to_owned()), "told by the option: {}", none.xml);
    }

    #[test]
    fn a_kept_identity_is_the_machine_itself() {
        let built = run(true, Network::Same).build(SAVED).expect("builds");
        let has = |text: &str| built.xml.contains(text);
        assert!(has("/log/web.txt") && has("4555") && has("parport0") && has("/run/web.sock"), "it speaks where it always did: {}", built.xml);
        assert!(has("11111111-1111") && has("00:00:01") && has("tap7") && has("hostdev") && has("5901") && has(">web-run<"), "{}", built.xml);
        assert_eq!((built.nvram.as_deref(), built.uuid.as_str()), (Some("/n/web-run_VARS.fd"), "11111111-1111-4111-8111-111111111111"));
        assert_eq!(built.unshared, Unshared::default());
        let newer = "<nvram type='file'> <source file='/n/web_VARS.fd'/></nvram>";
        let built = run(true, Network::Same).build(&SAVED.replacen("<nvram>/n/web_VARS.fd</nvram>", newer, 1)).expect("builds");
        assert!(built.xml.contains(&newer.replace("web_", "web-run_")), "{}", built.xml);
    }

    #[test]
    fn memory_that_is_divided_is_not_changed() {
        let numa = "<cpu><numa><cell id='0' cpus='0' memory='512' unit='KiB'/><cell id='1' cpus='1' memory='512' unit='KiB'/></numa></cpu><devices>";
        for divided in [SAVED.replacen("<devices>", numa, 1), SAVED.replacen("<memory unit", "<maxMemory slots='2' unit='KiB'>4096</maxMemory><memory unit", 1)]
        {
            let refused = run(false, Network::None).build(&divided).expect_err("libvirt would drop the number");
            assert!(matches!(refused, RestoreXmlError::DividedMemory) && refused.to_string().contains("--memory"), "{refused}");
            let saved = RunXml { memory_kib: None, ..run(false, Network::None) }.build(&divided).expect("as it was saved").xml;
            assert!(saved.contains(">1024<") || saved.contains("'512'"), "{saved}");
        }
    }

    #[test]
    fn images_whose_header_is_the_guests_are_not_looked_into() {
        let xml = "<domain><devices><disk type='file'><driver name='qemu' type='qcow2'/><source file='/i/s1'/><backingStore type='file'><format type='qcow2'/>\
            <source file='/i/run'/><backingStore type='file'><format type='raw'/><source file='/i/base'/></backingStore></backingStore></disk>\
            <disk type='file'><driver name='qemu' type='raw'/><source file='/i/raw'/></disk><disk type='file'><source file='/i/none'/></disk></devices></domain>";
        assert_eq!(qcow2_files(xml).expect("XML"), ["/i/s1", "/i/run"]);
    }

    #[test]
    fn a_moved_disk_has_nothing_below_it() {
        let xml = run(false, Network::None).build(SAVED).expect("builds").xml;
        let moved = moved_disk(&xml, "vda", "/k/a.raw", "raw", false).expect("moves");
        assert_eq!(disk_now(&moved, "vda").expect("XML"), Some(DiskNow { path: Some("/k/a.raw".into()), has_backing: false }));
        assert!(moved.contains("rerror_policy='stop'"), "what is not its place stays");
        let again = with_backing(&moved, "vda", "/run/x/nbd.sock", None).expect("adds");
        assert_eq!(disk_now(&again, "vda").expect("XML"), Some(DiskNow { path: Some("/k/a.raw".into()), has_backing: true }));
        let twice = with_backing(&again, "vda", "/run/y", Some(30)).expect("replaces");
        assert!(!twice.contains("/run/x/nbd.sock") && twice.contains("/run/y") && with_backing(&twice, "vdz", "/x", None).is_err());
    }
}
