//! What a domain needs of its host besides disks: emulator, machine type, networks, firmware, devices. All that is missing is found at once,
//! before anything is written.
//!
//! Invariants
//! - Each problem names the thing, and what to do about it.
//! - What cannot be told is no problem: libvirt has the last word when the domain is defined and started.

use std::path::Path;

use roxmltree::{Document, Node};
use virt_sys as sys;

use crate::ffi::Named;
use crate::host::{Host, HostError};
use crate::state_files::child;

/// Network interfaces of this host.
const INTERFACES: &str = "/sys/class/net";
/// PCI devices of this host.
const PCI_DEVICES: &str = "/sys/bus/pci/devices";
/// Machine types that a message lists.
const LISTED_MAX: usize = 6;

/// Something that is not as the domain needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is missing.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// Kind of file that firmware's variables are made from.
const TEMPLATE: &str = "firmware's template of variables";

impl Problem {
    /// It is of no weight for a domain that has its variables already.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.what.contains(TEMPLATE)
    }
}

fn problem(what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem { what: what.into(), remedy: remedy.into() }
}

impl Host {
    /// What this host lacks for a domain with this XML. `start`: it is to be started, too, so networks must be active.
    ///
    /// # Errors
    /// libvirt's, if its capabilities cannot be asked for.
    pub fn problems(&self, xml: &str, start: bool) -> Result<Vec<Problem>, HostError> {
        let Ok(document) = Document::parse(xml) else {
            return Ok(vec![problem("the domain's XML cannot be read", "take another point")]);
        };
        let root = document.root_element();
        let capabilities = self.connection().capabilities().named("virConnectGetCapabilities")?;
        let mut out = machine(root, &capabilities);
        out.extend(firmware(root));
        let devices: Vec<Node<'_, '_>> = child(root, "devices").into_iter().flat_map(|devices| devices.children()).filter(Node::is_element).collect();
        for device in &devices {
            match device.tag_name().name() {
                "interface" => out.extend(self.interface(*device, start)),
                "hostdev" => out.extend(hostdev(*device)),
                "filesystem" => out.extend(filesystem(*device)),
                "tpm" => out.extend(self.tpm_secret(*device)),
                _ => {}
            }
        }
        out.dedup();
        Ok(out)
    }

    /// What this host lacks for the interfaces of a domain that is to be started.
    #[must_use]
    pub fn network_problems(&self, xml: &str) -> Vec<Problem> {
        let Ok(document) = Document::parse(xml) else { return Vec::new() };
        let mut out: Vec<Problem> =
            document.descendants().filter(|node| node.has_tag_name("interface")).filter_map(|node| self.interface(node, true)).collect();
        out.dedup();
        out
    }

    fn interface(&self, node: Node<'_, '_>, start: bool) -> Option<Problem> {
        let source = child(node, "source")?;
        match node.attribute("type") {
            Some("network") => self.network(source.attribute("network")?, start),
            Some("bridge") => device_there(source.attribute("bridge")?, "bridge"),
            Some("direct") => device_there(source.attribute("dev")?, "network device"),
            _ => None,
        }
    }

    fn network(&self, name: &str, start: bool) -> Option<Problem> {
        match self.connection().lookup_network_by_name(name).named("virNetworkLookupByName") {
            Ok(network) if start && !network.is_active().unwrap_or(true) => {
                Some(problem(format!("network {name} is not active"), format!("`virsh net-start {name}`, or --map-network {name}=ANOTHER")))
            }
            Err(error) if error.code == sys::VIR_ERR_NO_NETWORK => Some(problem(
                format!("there is no network {name} on this host"),
                format!("define it (`virsh net-define`), or --map-network {name}=ANOTHER (`virsh net-list --all`)"),
            )),
            _ => None,
        }
    }

    fn tpm_secret(&self, node: Node<'_, '_>) -> Option<Problem> {
        let secret = child(child(node, "backend")?, "encryption")?.attribute("secret")?;
        match self.connection().lookup_secret_by_uuid_string(secret).named("virSecretLookupByUUIDString") {
            Err(error) if error.code == sys::VIR_ERR_NO_SECRET => Some(problem(
                format!("the TPM's state is encrypted with libvirt's secret {secret}, which this host does not have"),
                "define it (`virsh secret-define`, `virsh secret-set-value`); it is in no restore point",
            )),
            _ => None,
        }
    }
}

fn device_there(name: &str, kind: &str) -> Option<Problem> {
    let there = Path::new(INTERFACES).join(name).exists();
    (!there).then(|| problem(format!("there is no {kind} {name} on this host"), format!("make it, or --map-network {name}=ANOTHER")))
}

/// Emulator, architecture, acceleration, machine type.
fn machine(root: Node<'_, '_>, capabilities: &str) -> Vec<Problem> {
    let mut out = Vec::new();
    if let Some(path) = child(root, "devices").and_then(|devices| child(devices, "emulator")).and_then(|node| node.text()).map(str::trim)
        && !Path::new(path).exists()
    {
        out.push(problem(format!("the emulator {path} is not there"), format!("install it, or --map-path {path}=/usr/bin/qemu-system-...")));
    }
    let Some(kind) = child(root, "os").and_then(|os| child(os, "type")) else { return out };
    let Ok(host) = Document::parse(capabilities) else { return out };
    let Some(arch_name) = kind.attribute("arch") else { return out };
    let Some(arch) = host.descendants().find(|node| node.has_tag_name("arch") && node.attribute("name") == Some(arch_name) && in_guest(*node)) else {
        out.push(problem(format!("libvirt finds no QEMU for {arch_name} here"), "install the emulator of that architecture (Debian: qemu-system-x86 and kin)"));
        return out;
    };
    let virt = root.attribute("type").unwrap_or_default();
    if !arch.children().any(|node| node.has_tag_name("domain") && node.attribute("type") == Some(virt)) {
        out.push(problem(
            format!("this host cannot run domains of type {virt}"),
            "for kvm: switch virtualisation on in the firmware and load the module (`modprobe kvm_intel` or `kvm_amd`; /dev/kvm must be there)",
        ));
    }
    out.extend(kind.attribute("machine").and_then(|name| machine_there(name, arch)));
    out
}

fn in_guest(arch: Node<'_, '_>) -> bool {
    arch.parent().is_some_and(|guest| guest.has_tag_name("guest"))
}

fn machine_there(name: &str, arch: Node<'_, '_>) -> Option<Problem> {
    let machines: Vec<Node<'_, '_>> = arch.descendants().filter(|node| node.has_tag_name("machine")).collect();
    let known = |node: &Node<'_, '_>| node.text() == Some(name) || node.attribute("canonical") == Some(name);
    if machines.is_empty() || machines.iter().any(known) {
        return None;
    }
    // The same board of another release: pc-q35-10.0 for pc-q35-7.2.
    let family = name.rsplit_once('-').map_or(name, |(family, _)| family);
    let mut near: Vec<&str> = machines.iter().filter_map(Node::text).filter(|text| text.starts_with(family)).take(LISTED_MAX).collect();
    near.dedup();
    let have = if near.is_empty() { String::new() } else { format!(" (here are {})", near.join(", ")) };
    Some(problem(format!("this host's QEMU has no machine type {name}"), format!("install a QEMU that has it, or --map-machine {name}=ANOTHER{have}")))
}

fn firmware(root: Node<'_, '_>) -> Vec<Problem> {
    let Some(os) = child(root, "os") else { return Vec::new() };
    let loader = child(os, "loader").and_then(|node| node.text()).map(str::trim);
    let template = child(os, "nvram").and_then(|node| node.attribute("template"));
    let files = [("firmware", loader), (TEMPLATE, template)];
    let lost = files.into_iter().filter_map(|(what, path)| Some((what, path.filter(|path| path.starts_with('/') && !Path::new(path).exists())?)));
    lost.map(|(what, path)| {
        problem(format!("the {what} {path} is not there"), format!("install it (Debian: ovmf; Fedora and kin: edk2-ovmf), or --map-path {path}=ANOTHER"))
    })
    .collect()
}

fn filesystem(node: Node<'_, '_>) -> Option<Problem> {
    let path = child(node, "source")?.attribute("dir")?;
    (!Path::new(path).exists())
        .then(|| problem(format!("the folder {path}, which the guest mounts, is not there"), format!("make it, or --map-path {path}=ANOTHER")))
}

fn hostdev(node: Node<'_, '_>) -> Option<Problem> {
    if node.attribute("type") != Some("pci") {
        return None;
    }
    let address = child(child(node, "source")?, "address")?;
    let part = |name: &str| address.attribute(name).and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    let name = format!("{:04x}:{:02x}:{:02x}.{:x}", part("domain").unwrap_or(0), part("bus")?, part("slot")?, part("function")?);
    let there = Path::new(PCI_DEVICES).join(&name).exists();
    (!there).then(|| problem(format!("there is no PCI device {name} here"), "restore with --ignore-missing and change the domain with `virsh edit`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPABILITIES: &str = "<capabilities><host><cpu><arch>x86_64</arch></cpu></host><guest><os_type>hvm</os_type><arch name='x86_64'>\
        <machine canonical='pc-q35-7.2'>q35</machine><machine>pc-q35-7.2</machine><machine>pc-q35-6.2</machine><domain type='qemu'/></arch></guest>\
        </capabilities>";

    fn of(xml: &str) -> Vec<String> {
        let document = Document::parse(xml).expect("XML");
        let root = document.root_element();
        machine(root, CAPABILITIES).into_iter().chain(firmware(root)).map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn what_the_host_has_is_no_problem() {
        for machine in ["q35", "pc-q35-7.2"] {
            let xml = format!("<domain type='qemu'><os><type arch='x86_64' machine='{machine}'>hvm</type></os></domain>");
            assert_eq!(of(&xml), Vec::<String>::new());
        }
    }

    #[test]
    fn everything_missing_is_named_at_once() {
        let xml = "<domain type='kvm'><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type><loader>/no/such/CODE.fd</loader>\
            <nvram template='/no/such/VARS.fd'>/n</nvram></os><devices><emulator>/no/such/qemu</emulator></devices></domain>";
        let found = of(xml);
        assert_eq!(found.len(), 5, "{found:#?}");
        for (text, word) in found.iter().zip(["--map-path /no/such/qemu=", "kvm", "pc-q35-7.2, pc-q35-6.2", "CODE.fd", "VARS.fd"]) {
            assert!(text.contains(word), "{text}");
        }
        let other = of("<domain type='qemu'><os><type arch='aarch64' machine='virt'>hvm</type></os></domain>");
        assert!(other[0].contains("aarch64"), "{other:?}");
    }

    #[test]
    fn devices_that_are_not_here_are_named() {
        let xml = "<d><filesystem><source dir='/no/such/dir'/></filesystem><hostdev type='pci'><source>\
            <address domain='0x0000' bus='0xfe' slot='0x1f' function='0x7'/></source></hostdev></d>";
        let document = Document::parse(xml).expect("XML");
        let nodes: Vec<_> = document.root_element().children().collect();
        assert!(filesystem(nodes[0]).expect("missing").what.contains("/no/such/dir"));
        assert!(hostdev(nodes[1]).expect("missing").what.contains("0000:fe:1f.7"));
        assert!(device_there("no-such-bridge", "bridge").expect("missing").remedy.contains("--map-network"));
        assert_eq!(device_there("lo", "network device"), None);
    }
}
