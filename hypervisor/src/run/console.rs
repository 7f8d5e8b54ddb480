//! Character devices of a copy: what its guest says goes to nobody else's file, socket or device.
//!
//! Invariants
//! - The guest's side (device, port, address, alias) stays as it was.
//! - The host's side is a pty of the copy's own, or what libvirt or QEMU makes for it alone. No log file of the original's is written to.
//!
//! What it must not do: touch libvirt or files.

use roxmltree::Node;

use crate::state_files::child;

/// Parts that belong to the guest's side.
const KEPT: [&str; 4] = ["target", "address", "alias", "acpi"];
/// Host's sides that are within QEMU, or go to its own screen.
const INSIDE: [&str; 5] = ["null", "vc", "spicevmc", "spiceport", "qemu-vdagent"];

/// The same device with a pty on the host's side.
pub(super) fn as_pty(device: Node<'_, '_>, xml: &str) -> String {
    with_type(device, "pty", xml)
}

/// What a character device of a copy becomes; `None` where it reaches nothing that is the original's, or is none.
pub(super) fn own(device: Node<'_, '_>, xml: &str) -> Option<String> {
    let kind = device.tag_name().name();
    if !matches!(kind, "serial" | "parallel" | "console" | "channel") {
        return None;
    }
    let reaches_out = ["source", "log"].into_iter().any(|part| child(device, part).is_some());
    match device.attribute("type") {
        Some(inside) if INSIDE.contains(&inside) => child(device, "log").map(|_| with_type(device, inside, xml)),
        Some("unix") if is_libvirts(device) => reaches_out.then(|| with_type(device, "unix", xml)),
        Some("pty") if !reaches_out => None,
        _ => Some(as_pty(device, xml)),
    }
}

/// A channel whose socket libvirt makes in the domain's private folder where the XML names none.
pub(super) fn is_libvirts(device: Node<'_, '_>) -> bool {
    device.has_tag_name("channel") && child(device, "target").is_some_and(|target| target.attribute("type") == Some("virtio"))
}

fn with_type(device: Node<'_, '_>, host_side: &str, xml: &str) -> String {
    let kind = device.tag_name().name();
    let kept: String = device.children().filter(|part| KEPT.contains(&part.tag_name().name())).map(|part| &xml[part.range()]).collect();
    format!("<{kind} type='{host_side}'>{kept}</{kind}>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use roxmltree::Document;

    fn owned(device: &str) -> Option<String> {
        let document = Document::parse(device).expect("XML");
        own(document.root_element(), device)
    }

    #[test]
    fn whatever_reaches_out_becomes_a_pty() {
        let target = "<target type='isa-serial' port='0'/><address type='isa'/>";
        for (host_side, source) in [
            ("file", "<source path='/log/console' append='on'/>"),
            ("dev", "<source path='/dev/ttyS0'/>"),
            ("pipe", "<source path='/srv/pipe'/>"),
            ("tcp", "<source mode='connect' host='h' service='1'/><protocol type='raw'/>"),
            ("udp", "<source mode='bind' host='h' service='1'/><source mode='connect' host='h' service='2'/>"),
            ("unix", "<source mode='bind' path='/run/console'/>"),
            ("stdio", ""),
            ("of a later libvirt", ""),
            ("pty", "<source path='/dev/pts/3'/>"),
            ("pty", "<log file='/log/console' append='on'/>"),
        ] {
            for kind in ["serial", "parallel", "console"] {
                let own = owned(&format!("<{kind} type='{host_side}'>{source}{target}</{kind}>"));
                assert_eq!(own, Some(format!("<{kind} type='pty'>{target}</{kind}>")), "{kind} {host_side}");
            }
        }
        // libvirt's own default.
        assert_eq!(owned("<console><target port='0'/></console>").as_deref(), Some("<console type='pty'><target port='0'/></console>"));
    }

    #[test]
    fn what_is_the_domains_own_stays() {
        for device in [
            "<serial type='pty'><target port='0'/></serial>",
            "<console type='null'><target port='0'/></console>",
            "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
            "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>",
            "<channel type='qemu-vdagent'><source><clipboard copypaste='yes'/></source><target type='virtio' name='com.redhat.spice.0'/></channel>",
            "<redirdev type='spicevmc'/>",
        ] {
            assert_eq!(owned(device), None, "{device}");
        }
    }

    #[test]
    fn channels_keep_their_port_in_the_guest() {
        let target = "<target type='virtio' name='own.0'/>";
        for (channel, host_side) in [
            ("<channel type='unix'><source mode='connect' path='/run/other.sock'/>", "unix"),
            ("<channel type='unix'><log file='/log/channel'/>", "unix"),
            ("<channel type='spicevmc'><log file='/log/channel'/>", "spicevmc"),
            ("<channel type='file'><source path='/log/channel'/>", "pty"),
        ] {
            assert_eq!(owned(&format!("{channel}{target}</channel>")), Some(format!("<channel type='{host_side}'>{target}</channel>")));
        }
        // One that a guest's network leads to: libvirt has no socket of its own for it.
        let forwarded = "<target type='guestfwd' address='10.0.2.1' port='4600'/>";
        let own = owned(&format!("<channel type='unix'><source mode='connect' path='/run/x'/>{forwarded}</channel>"));
        assert_eq!(own, Some(format!("<channel type='pty'>{forwarded}</channel>")));
    }
}
