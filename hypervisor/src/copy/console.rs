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

/// Folders in which libvirt makes sockets of channels itself: what a running domain has there is nobody's choice.
const LIBVIRTS: [&str; 2] = ["/var/lib/libvirt/qemu/", "/run/libvirt/qemu/"];

/// The same device with a pty on the host's side.
pub(crate) fn as_pty(device: Node<'_, '_>, xml: &str) -> String {
    with_type(device, "pty", xml)
}

/// What a character device of a copy becomes; `None` where it reaches nothing that is the original's, or is none.
pub(crate) fn own(device: Node<'_, '_>, xml: &str) -> Option<String> {
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
pub(crate) fn is_libvirts(device: Node<'_, '_>) -> bool {
    device.has_tag_name("channel") && child(device, "target").is_some_and(|target| target.attribute("type") == Some("virtio"))
}

/// Where a device of the original leads that a copy has of its own: `serial 0: a pty of its own, not file /log`. `None` where nobody will miss it.
pub(crate) fn told(device: Node<'_, '_>) -> Option<String> {
    let target = child(device, "target");
    let of_target = |name: &str| target.and_then(|target| target.attribute(name));
    // The first console is the first serial port by another name.
    let is_alias = device.has_tag_name("console") && of_target("type") == Some("serial");
    if is_alias && device.parent().is_some_and(|devices| child(devices, "serial").is_some()) {
        return None;
    }
    let host_side = device.attribute("type").unwrap_or("pty");
    let stays = host_side == "pty" || INSIDE.contains(&host_side);
    let place = child(device, "source").map(place).unwrap_or_default();
    let own = match host_side {
        _ if stays => None,
        "unix" if is_libvirts(device) => {
            (!place.is_empty() && !LIBVIRTS.iter().any(|folder| place.starts_with(folder))).then(|| format!("a socket of its own, not unix {place}"))
        }
        _ => Some(format!("a pty of its own, not {host_side} {place}").trim_end().to_owned()),
    };
    let log = child(device, "log").and_then(|log| log.attribute("file")).map(|file| format!("without the log file {file}"));
    let said: Vec<String> = [own, log].into_iter().flatten().collect();
    let which = of_target("name").or_else(|| of_target("port")).or_else(|| of_target("address")).unwrap_or_default();
    let name = format!("{} {which}", device.tag_name().name());
    (!said.is_empty()).then(|| format!("{}: {}", name.trim_end(), said.join(", ")))
}

/// A path, or host and port.
fn place(source: Node<'_, '_>) -> String {
    match (source.attribute("path"), source.attribute("service")) {
        (Some(path), _) => path.to_owned(),
        (None, Some(service)) => format!("{}:{service}", source.attribute("host").unwrap_or_default()),
        (None, None) => source.attribute("channel").unwrap_or_default().to_owned(),
    }
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
    fn what_nobody_will_miss_is_not_told() {
        let said = |xml: &str| told(Document::parse(xml).expect("XML").root_element());
        let agent = |path: &str| format!("<channel type='unix'><source mode='bind' path='{path}'/><target type='virtio' name='a.0'/></channel>");
        for quiet in [
            "<serial type='pty'><source path='/dev/pts/3'/><target port='0'/></serial>",
            "<console><target port='0'/></console>",
            &agent("/var/lib/libvirt/qemu/channel/target/domain-1-web/a.0"),
            &agent("/run/libvirt/qemu/channel/1-web/a.0"),
        ] {
            assert_eq!(said(quiet), None, "{quiet}");
        }
        assert_eq!(said(&agent("/srv/a")).as_deref(), Some("channel a.0: a socket of its own, not unix /srv/a"));
        assert_eq!(said("<parallel type='stdio'><target port='1'/></parallel>").as_deref(), Some("parallel 1: a pty of its own, not stdio"));
        let logged = "<channel type='spicevmc'><log file='/l'/><target type='virtio' name='s.0'/></channel>";
        assert_eq!(said(logged).as_deref(), Some("channel s.0: without the log file /l"));
        // Where it is no other name of a serial port.
        let consoles = "<devices><console type='file'><source path='/l'/><target type='virtio' port='1'/></console></devices>";
        let document = Document::parse(consoles).expect("XML");
        assert_eq!(told(document.root_element().first_child().expect("one")).as_deref(), Some("console 1: a pty of its own, not file /l"));
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
