//! A run's XML made fit for a guest that nobody watches and nobody trusts: what reaches out of it is left out.
//!
//! Invariants
//! - Devices stay by a list of what is harmless; whatever is not on it, or of a kind that only later libvirts know, is left out and named.
//! - Consoles are read by who started it: each is a pty ([`crate::copy::console`]). Screens are there and listen nowhere.
//! - No argument of QEMU's by hand, no metadata: nothing that selects domains by it takes the copy for its original.
//! - A guest that crashed stays as it is, to be looked at.
//!
//! What it must not do: touch libvirt or files. Disks of the run are as [`super::xml`] made them.

use roxmltree::{Document, Node};

use crate::copy::console::{as_pty, is_libvirts, own};
use crate::edits::{Edits, apply};
use crate::restore_xml::RestoreXmlError;
use crate::state_files::child;

/// Devices that stay as they are.
const HARMLESS: [&str; 8] = ["emulator", "controller", "memballoon", "watchdog", "panic", "iommu", "hub", "nvram"];
/// What it left out is nothing that anybody would miss in a guest that nobody uses.
const UNMENTIONED: [&str; 6] = ["interface", "sound", "audio", "redirdev", "redirfilter", "graphics"];

/// The result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolated {
    /// XML to define.
    pub xml: String,
    /// Kinds of what was left out, for people.
    pub left_out: Vec<String>,
}

/// What a device becomes.
enum Fate {
    Stays,
    Goes,
    Becomes(String),
    /// The same with these parts of it changed.
    Edited(Edits),
}

/// Isolates a run; `disks` are the targets of the disks that it writes to.
///
/// # Errors
/// [`RestoreXmlError`].
pub fn isolate(xml: &str, disks: &[String]) -> Result<Isolated, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let root = document.root_element();
    let (mut edits, mut left_out) = (Edits::new(), Vec::new());
    for node in root.children().filter(Node::is_element) {
        let (name, foreign) = (node.tag_name().name(), node.tag_name().namespace().is_some());
        match name {
            _ if foreign => {
                left_out.push(format!("qemu:{name}"));
                edits.push((node.range(), String::new()));
            }
            "metadata" => edits.push((node.range(), String::new())),
            "on_crash" => edits.push((node.range(), "<on_crash>preserve</on_crash>".to_owned())),
            "on_poweroff" => edits.push((node.range(), "<on_poweroff>destroy</on_poweroff>".to_owned())),
            _ => {}
        }
    }
    for device in child(root, "devices").into_iter().flat_map(|devices| devices.children()).filter(Node::is_element) {
        let kind = device.tag_name().name();
        match fate(device, disks, xml) {
            Fate::Stays => {}
            Fate::Becomes(text) => edits.push((device.range(), text)),
            Fate::Edited(parts) => edits.extend(parts),
            Fate::Goes => {
                if !UNMENTIONED.contains(&kind) {
                    left_out.push(kind.to_owned());
                }
                edits.push((device.range(), String::new()));
            }
        }
    }
    left_out.sort();
    left_out.dedup();
    Ok(Isolated { xml: apply(xml, edits), left_out })
}

fn fate(device: Node<'_, '_>, disks: &[String], xml: &str) -> Fate {
    let kind = device.tag_name().name();
    let stays = |yes: bool| if yes { Fate::Stays } else { Fate::Goes };
    let backend = |name: &str| child(device, "backend").and_then(|b| b.attribute(name)).unwrap_or_default();
    match kind {
        _ if HARMLESS.contains(&kind) => Fate::Stays,
        "disk" => disk(device, disks),
        "serial" | "console" => Fate::Becomes(as_pty(device, xml)),
        // Sockets of libvirt's own, in the domain's private folder.
        "channel" if device.attribute("type") == Some("unix") && is_libvirts(device) => own(device, xml).map_or(Fate::Stays, Fate::Becomes),
        "graphics" => match device.attribute("type") {
            Some(kind @ ("vnc" | "spice")) => Fate::Becomes(format!("<graphics type='{kind}'><listen type='none'/></graphics>")),
            _ => Fate::Goes,
        },
        // It would need a host's graphics card.
        "video" => {
            let parts = device.descendants().filter(|n| n.has_tag_name("acceleration") || (n.has_tag_name("driver") && n.parent() == Some(device)));
            Fate::Edited(parts.map(|n| (n.range(), String::new())).collect())
        }
        "input" => stays(matches!(device.attribute("type"), Some("mouse" | "tablet" | "keyboard"))),
        "rng" => stays(matches!(backend("model"), "random" | "builtin")),
        "tpm" => stays(backend("type") == "emulator"),
        // A file of the host behind it would be written to.
        "memory" => stays(matches!(device.attribute("model"), Some("dimm" | "virtio-mem")) && !device.descendants().any(|n| n.has_tag_name("path"))),
        _ => Fate::Goes,
    }
}

/// Disks of the run stay, drives with removable media are empty, images that are only read stay.
fn disk(device: Node<'_, '_>, disks: &[String]) -> Fate {
    let target = child(device, "target").and_then(|t| t.attribute("dev")).unwrap_or_default();
    if disks.iter().any(|d| d == target) {
        return Fate::Stays;
    }
    if matches!(device.attribute("device"), Some("cdrom" | "floppy")) {
        let gone = ["source", "backingStore", "mirror"].into_iter().filter_map(|name| child(device, name));
        let mut parts: Edits = gone.map(|n| (n.range(), String::new())).collect();
        parts.extend(device.attribute_node("type").map(|a| (a.range_value(), "file".to_owned())));
        return Fate::Edited(parts);
    }
    let read_only = child(device, "readonly").is_some() && matches!(device.attribute("device"), None | Some("disk"));
    if read_only && device.attribute("type") == Some("file") { Fate::Stays } else { Fate::Goes }
}

/// What a domain's XML says of the ways to see how far its guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visible {
    /// A channel for the guest agent.
    pub agent: bool,
    /// A video device.
    pub screen: bool,
    /// A serial or virtio console.
    pub console: bool,
    /// The host gives it kernel and initrd: it need not read its disks to start.
    pub direct_kernel: bool,
}

/// See [`Visible`].
///
/// # Errors
/// Not XML.
pub fn visible(xml: &str) -> Result<Visible, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let root = document.root_element();
    let has = |wanted: &dyn Fn(Node<'_, '_>) -> bool| child(root, "devices").is_some_and(|devices| devices.children().any(wanted));
    let is_agent = |n: Node<'_, '_>| n.has_tag_name("channel") && child(n, "target").and_then(|t| t.attribute("name")) == Some("org.qemu.guest_agent.0");
    let is_screen = |n: Node<'_, '_>| n.has_tag_name("video") && child(n, "model").and_then(|m| m.attribute("type")) != Some("none");
    Ok(Visible {
        agent: has(&is_agent),
        screen: has(&is_screen),
        console: has(&|n| n.has_tag_name("serial") || n.has_tag_name("console")),
        direct_kernel: child(root, "os").is_some_and(|os| child(os, "kernel").is_some()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>proof</name><uuid>u</uuid>\
        <metadata><cairn:backup xmlns:cairn='https://cairn-backup.org/xmlns/domain/1.0' policy='nightly'/></metadata>\
        <os><type>hvm</type></os><on_poweroff>restart</on_poweroff><on_crash>restart</on_crash><devices><emulator>/usr/bin/qemu</emulator>\
        <disk type='file' device='disk'><source file='/i/proof-vda.qcow2'/><target dev='vda'/></disk>\
        <disk type='network' device='cdrom'><source protocol='http' name='x.iso'><host name='h'/></source><target dev='sda'/><readonly/></disk>\
        <disk type='file' device='disk'><source file='/i/shared.raw'/><target dev='vdc'/><shareable/></disk>\
        <disk type='file' device='disk'><source file='/i/base.raw'/><target dev='vdd'/><readonly/></disk>\
        <disk type='block' device='lun'><source dev='/dev/sdz'/><target dev='sdb'/></disk>\
        <controller type='usb'/><memory model='nvdimm'><source><path>/srv/pm</path></source><target/></memory><memory model='dimm'><target/></memory>\
        <interface type='bridge'><source bridge='br0'/></interface><vsock model='virtio'><cid auto='no' address='3'/></vsock>\
        <hostdev mode='subsystem' type='pci'/><filesystem type='mount'/><shmem name='x'/><redirdev bus='usb' type='tcp'/>\
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
        <channel type='unix'><source mode='connect' path='/run/other.sock'/><target type='virtio' name='own'/></channel>\
        <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>\
        <serial type='tcp'><source mode='connect' host='h' service='1'/><target type='isa-serial' port='0'/><log file='/l'/></serial>\
        <console type='tcp'><source mode='connect' host='h' service='1'/><target type='serial' port='0'/></console>\
        <graphics type='vnc' port='5900' listen='0.0.0.0' passwd='s3cret'/><graphics type='egl-headless'/>\
        <video><driver name='vhostuser'/><model type='virtio' heads='1'><acceleration accel3d='yes'/></model></video>\
        <input type='tablet' bus='usb'/><input type='evdev'><source dev='/dev/input/event1'/></input>\
        <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><rng model='virtio'><backend model='egd' type='tcp'/></rng>\
        <tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm><somethingnew/></devices>\
        <qemu:commandline><qemu:arg value='-netdev'/></qemu:commandline></domain>";

    #[test]
    fn nothing_reaches_out_of_an_isolated_guest() {
        let isolated = isolate(RUN, &["vda".to_owned()]).expect("isolates");
        let xml = &isolated.xml;
        let document = Document::parse(xml).expect("still XML");
        for gone in [
            "cairn:backup",
            "x.iso",
            "shared.raw",
            "/dev/sdz",
            "/srv/pm",
            "br0",
            "vsock",
            "hostdev",
            "filesystem",
            "shmem",
            "redirdev",
            "/run/other.sock",
            "spicevmc",
            "service=",
            "/l'",
            "5900",
            "s3cret",
            "egl",
            "vhostuser",
            "accel3d",
            "evdev",
            "egd",
            "/dev/tpm0",
            "somethingnew",
            "commandline",
        ] {
            assert!(!xml.contains(gone), "{gone} in {xml}");
        }
        for kept in [
            "/i/proof-vda.qcow2",
            "dev='sda'",
            "base.raw",
            "<controller",
            "model='dimm'",
            "org.qemu.guest_agent.0",
            "<serial type='pty'><target type='isa-serial'",
            "<console type='pty'><target type='serial'",
            "<listen type='none'/>",
            "<model type='virtio' heads='1'>",
            "tablet",
            "/dev/urandom",
            "<on_crash>preserve</on_crash>",
            "<on_poweroff>destroy</on_poweroff>",
        ] {
            assert!(xml.contains(kept), "{kept} not in {xml}");
        }
        let cdrom = document.descendants().find(|n| n.has_tag_name("disk") && n.attribute("device") == Some("cdrom")).expect("there");
        assert_eq!((cdrom.attribute("type"), child(cdrom, "source")), (Some("file"), None));
        let left_out = ["channel", "disk", "filesystem", "hostdev", "input", "memory", "qemu:commandline", "rng", "shmem", "somethingnew", "tpm", "vsock"];
        assert_eq!(isolated.left_out, left_out);
        assert_eq!(isolate(xml, &["vda".to_owned()]).expect("again").xml, *xml, "there is nothing left to take away");
    }

    #[test]
    fn what_can_be_seen_of_a_guest_is_known_beforehand() {
        assert_eq!(visible(RUN).expect("XML"), Visible { agent: true, screen: true, console: true, direct_kernel: false });
        let bare = "<domain><os><kernel>/k</kernel></os><devices><video><model type='none'/></video></devices></domain>";
        assert_eq!(visible(bare).expect("XML"), Visible { agent: false, screen: false, console: false, direct_kernel: true });
    }
}
