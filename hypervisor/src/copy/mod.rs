//! A copy of a domain beside its original: what both cannot share. One definition, for runs and for restores under another name.
//!
//! Invariants
//! - What two domains cannot share is left out, and named: devices of the host, files that no point has a copy of, somebody at the other end of a
//!   socket, arguments of QEMU's by hand.
//! - What each domain can have of its own, the copy has of its own: MAC addresses and the host's ends of interfaces, consoles and channels
//!   ([`console`]), ports and sockets of screens, the folder of its TPM.
//!
//! What it must not do: touch libvirt or files. Name, UUID, firmware's variables and disks are [`crate::restore_xml`]'s.

pub mod console;
mod device;

use std::io;

use roxmltree::Node;

use crate::edits::Edits;
use crate::state_files::child;

/// What a copy has otherwise than its original, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unshared {
    /// Kinds of what it has not.
    pub left_out: Vec<String>,
    /// What leads elsewhere now: `serial 0: a pty of its own, not file /log/web1`.
    pub own: Vec<String>,
}

impl Unshared {
    fn leave_out(&mut self, kind: &str, node: Node<'_, '_>, edits: &mut Edits) {
        if !self.left_out.iter().any(|other| other == kind) {
            self.left_out.push(kind.to_owned());
        }
        edits.push((node.range(), String::new()));
    }
}

/// Makes a domain's XML that of a copy.
///
/// # Errors
/// No randomness.
pub(crate) fn unshare(root: Node<'_, '_>, xml: &str, edits: &mut Edits) -> io::Result<Unshared> {
    let mut told = Unshared::default();
    if let Some(nvram) = child(root, "os").and_then(|os| child(os, "nvram")).filter(|nvram| !matches!(nvram.attribute("type"), None | Some("file"))) {
        // A volume or a device, which no point has a copy of.
        told.leave_out("nvram", nvram, edits);
    }
    // Files, sockets and ports of the host are among them, and nobody knows which.
    root.children().filter(|node| node.has_tag_name("commandline")).for_each(|node| told.leave_out("qemu:commandline", node, edits));
    for device in child(root, "devices").into_iter().flat_map(|devices| devices.children()).filter(Node::is_element) {
        let kind = device.tag_name().name();
        if device::is_of_the_host(device) {
            told.leave_out(kind, device, edits);
            continue;
        }
        match kind {
            "interface" => device::interface(device, edits)?,
            "graphics" => told.own.extend(device::graphics(device, edits)),
            "audio" => told.own.extend(device::audio(device, edits)),
            // libvirt chooses a folder for each domain.
            "tpm" => edits.extend(child(device, "backend").and_then(|backend| child(backend, "source")).map(|source| (source.range(), String::new()))),
            _ => {
                if let Some(own) = console::own(device, xml) {
                    edits.push((device.range(), own));
                    told.own.extend(console::told(device));
                }
            }
        }
    }
    Ok(told)
}

/// Of the kernel's.
pub(crate) fn random() -> io::Result<[u8; 16]> {
    use std::io::Read;
    let mut out = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edits::apply;
    use roxmltree::Document;

    /// As `virsh dumpxml --inactive --security-info` has it.
    const WEB1: &str = include_str!("web1.xml");

    fn copied(xml: &str) -> (String, Unshared) {
        let (document, mut edits) = (Document::parse(xml).expect("XML"), Edits::new());
        let told = unshare(document.root_element(), xml, &mut edits).expect("randomness");
        (apply(xml, edits), told)
    }

    #[test]
    fn nothing_of_the_originals_is_in_a_copy() {
        let (xml, told) = copied(WEB1);
        Document::parse(&xml).expect("still XML");
        for shared in [
            "/var/log/web1",
            "/run/web1",
            "/srv/web1",
            "/srv/tpm",
            "4555",
            "4556",
            "590",
            "5701",
            "ttyUSB0",
            "tap-web1",
            "52:54:00:aa:00:0",
            "09b11c53",
            "qemu:arg",
            "vhost",
            "hostdev",
            "passt.log",
            "portForward",
        ] {
            assert!(WEB1.contains(shared) && !xml.contains(shared), "{shared} in {xml}");
        }
        let left_out = ["qemu:commandline", "filesystem", "interface", "hostdev", "redirdev", "shmem", "rng", "memory", "pstore", "vsock"];
        assert_eq!(told.left_out, left_out);
    }

    #[test]
    fn what_leads_elsewhere_is_told() {
        let (_, told) = copied(WEB1);
        assert_eq!(
            told.own,
            [
                "serial 0: a pty of its own, not file /var/log/web1/serial.log",
                "serial 1: a pty of its own, not tcp 127.0.0.1:4555",
                "serial 2: a pty of its own, not dev /dev/ttyUSB0, without the log file /var/log/web1/usb.log",
                "channel org.qemu.guest_agent.0: a socket of its own, not unix /run/web1/agent.sock",
                "channel own.0: a pty of its own, not pipe /srv/web1/pipe",
                "vnc: a port of its own",
                "spice: a port of its own",
                "vnc: a socket of its own",
                "dbus: a bus of its own",
                "audio 1: nothing, not file /srv/web1/audio.wav",
            ]
        );
    }

    #[test]
    fn what_two_domains_can_have_each_stays() {
        let (xml, _) = copied(WEB1);
        for kept in [
            "/var/lib/libvirt/images/web1.qcow2",
            "<interface type='bridge'>",
            "<source bridge='br0'/>",
            "<interface type='user'>",
            "<virtualport type='openvswitch'>",
            "<model type='virtio'/>",
            "<serial type='pty'>",
            "<target type='serial' port='0'/>",
            "<channel type='unix'>",
            "<channel type='spicevmc'>",
            "<backend type='emulator' version='2.0'>",
            "<encryption secret='",
            "<audio id='1' type='none'",
            "<sound model='ich9'>",
            "<rng model='virtio'>",
            "<memory model='dimm'>",
            "passwd='s3cret'",
        ] {
            assert!(xml.contains(kept), "{kept} not in {xml}");
        }
        assert_eq!((xml.matches("port='-1'").count(), xml.matches("autoport='yes'").count()), (2, 2), "{xml}");
        // There is nothing left to take away, but MAC addresses are new each time.
        let (again, told) = copied(&xml);
        assert_eq!((told, again.len()), (Unshared::default(), xml.len()));
    }

    #[test]
    fn variables_in_a_volume_are_left_out() {
        let (xml, told) = copied("<domain><os><nvram type='block' template='/t.fd'><source dev='/dev/vg/vars'/></nvram></os></domain>");
        assert_eq!((xml.as_str(), told.left_out), ("<domain><os></os></domain>", vec!["nvram".to_owned()]));
        for own in ["<nvram template='/t.fd'>/n.fd</nvram>", "<nvram type='file'><source file='/n.fd'/></nvram>"] {
            assert_eq!(copied(&format!("<domain><os>{own}</os></domain>")).1, Unshared::default());
        }
    }
}
