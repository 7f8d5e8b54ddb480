//! Devices of a copy, but for consoles and channels.

use std::io;

use roxmltree::{Attribute, Node};

use super::random;
use crate::edits::Edits;
use crate::state_files::child;

/// Something of the host's that two domains cannot share, or of the original's that the copy would write to.
pub(super) fn is_of_the_host(device: Node<'_, '_>) -> bool {
    let kind = device.attribute("type").unwrap_or_default();
    match device.tag_name().name() {
        "hostdev" | "filesystem" | "shmem" | "vsock" | "lease" | "pstore" => true,
        // A file's content, of which no point has a copy.
        "memory" => matches!(device.attribute("model"), Some("nvdimm" | "virtio-pmem")),
        "input" => matches!(kind, "evdev" | "passthrough"),
        // Somebody's at the other end of a socket; spicevmc goes through the copy's own screen.
        "redirdev" | "smartcard" => !kind.is_empty() && kind != "spicevmc",
        "rng" => child(device, "backend").is_some_and(|b| b.attribute("model") == Some("egd")),
        "tpm" => child(device, "backend").is_some_and(|b| matches!(b.attribute("type"), Some("passthrough" | "external"))),
        // The same: a device of the host's, or a socket whose other end takes one guest.
        "interface" => {
            let passed_through = kind == "direct" && child(device, "source").and_then(|s| s.attribute("mode")) == Some("passthrough");
            passed_through || matches!(kind, "hostdev" | "vdpa" | "vhostuser" | "server" | "client" | "udp")
        }
        _ => false,
    }
}

fn gone(attribute: Attribute<'_, '_>) -> (std::ops::Range<usize>, String) {
    (attribute.range(), String::new())
}

/// Another MAC address; and nothing that names the original's end of it on the host.
pub(super) fn interface(device: Node<'_, '_>, edits: &mut Edits) -> io::Result<()> {
    if let Some(mac) = child(device, "mac") {
        let r = random()?;
        edits.push((mac.range(), format!("<mac address='52:54:00:{:02x}:{:02x}:{:02x}'/>", r[0], r[1], r[2])));
    }
    // libvirt chooses another name for the host's end of it.
    edits.extend(child(device, "target").map(|target| (target.range(), String::new())));
    // Who it is for a switch; libvirt makes new ones.
    let parameters = child(device, "virtualport").and_then(|port| child(port, "parameters"));
    edits.extend(parameters.into_iter().flat_map(|p| ["interfaceid", "instanceid"].map(|id| p.attribute_node(id))).flatten().map(gone));
    // Ports of the host that lead to the original's guest, and the log of passt, which waits at them.
    edits.extend(device.children().filter(|part| part.has_tag_name("portForward")).map(|part| (part.range(), String::new())));
    edits.extend(child(device, "backend").and_then(|backend| backend.attribute_node("logFile")).map(gone));
    Ok(())
}

/// A port that is taken would keep the copy from starting, and QEMU takes over a socket that is: libvirt makes one of the copy's own where none is named, and
/// a bus, on which one name is one QEMU's.
pub(super) fn graphics(device: Node<'_, '_>, edits: &mut Edits) -> Option<String> {
    let mut own = None;
    let with_sockets = std::iter::once(device).chain(device.children().filter(|n| n.has_tag_name("listen")));
    for socket in with_sockets.filter_map(|n| n.attribute_node("socket")) {
        edits.push(gone(socket));
        own = Some("socket");
    }
    if let Some(bus) = device.attribute_node("address").filter(|_| device.attribute("type") == Some("dbus")) {
        edits.push(gone(bus));
        own = Some("bus");
    }
    let is_auto = device.attribute("autoport") == Some("yes");
    // libvirt chooses the others itself then, and a definition has none.
    let ports: &[&str] = if is_auto { &["websocket"] } else { &["port", "tlsPort", "websocket"] };
    for port in ports.iter().filter_map(|name| device.attribute_node(*name)).filter(|port| port.value() != "-1") {
        edits.push((port.range_value(), "-1".to_owned()));
        own = Some("port");
    }
    if !is_auto {
        edits.extend(device.attribute_node("autoport").map(|a| (a.range_value(), "yes".to_owned())));
    }
    own.map(|what| format!("{}: a {what} of its own", device.attribute("type").unwrap_or("screen")))
}

/// Sounds go nowhere instead of into the original's file; a sound card that names the backend still finds it.
pub(super) fn audio(device: Node<'_, '_>, edits: &mut Edits) -> Option<String> {
    let kind = device.attribute_node("type").filter(|kind| kind.value() == "file")?;
    let path = device.attribute_node("path")?;
    edits.push((kind.range_value(), "none".to_owned()));
    edits.push(gone(path));
    Some(format!("audio {}: nothing, not file {}", device.attribute("id").unwrap_or_default(), path.value()))
}
