//! Files of the host that belong to a domain besides its disks: firmware variables, TPM state, a kernel that is booted directly.
//!
//! Invariant: only names are found here, from the domain's XML and libvirt's own folders; nothing is read but folders.
//!
//! What it must not do: touch libvirt, or believe that a file which is named exists.

use std::io;
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

/// Where the system's libvirt keeps the state of emulated TPMs: `<uuid>/tpm2/tpm2-00.permall` (libvirt: `qemu_tpm.c`, swtpm(8)).
pub const TPM_ROOT: &str = "/var/lib/libvirt/swtpm";
/// Files of one TPM that are looked at; swtpm has three at most.
pub const TPM_FILES_MAX: usize = 16;
/// Folders below a TPM's own: one a version.
const TPM_DEPTH_MAX: u32 = 2;
/// swtpm's lock, which means nothing without its process.
const TPM_LOCK: &str = ".lock";

/// What a file is to its domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Variables of UEFI firmware.
    Nvram,
    /// State of an emulated TPM.
    Tpm,
    /// Kernel of a direct boot.
    Kernel,
    /// Initial RAM disk of a direct boot.
    Initrd,
    /// Device tree of a direct boot.
    Dtb,
}

impl Role {
    /// How many roles there are.
    pub const COUNT: usize = 5;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [Self::Nvram, Self::Tpm, Self::Kernel, Self::Initrd, Self::Dtb];

    /// Name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvram => "nvram",
            Self::Tpm => "tpm",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Dtb => "dtb",
        }
    }

    /// From its name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Nvram => "the firmware's variables",
            Self::Tpm => "the TPM's state",
            Self::Kernel => "the kernel",
            Self::Initrd => "the initrd",
            Self::Dtb => "the device tree",
        }
    }
}

/// An emulated TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tpm {
    /// Folder or file that the XML names, where it does (libvirt 10.10).
    pub source: Option<PathBuf>,
    /// Its state is encrypted with a secret of libvirt's, by the secret's UUID.
    pub secret: Option<String>,
}

/// Files that a domain's XML names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateFiles {
    /// Firmware variables.
    pub nvram: Option<String>,
    /// Kernel, initrd, device tree: role and path.
    pub boot: Vec<(Role, String)>,
    /// Emulated TPM.
    pub tpm: Option<Tpm>,
}

/// Reads them out of a domain's XML.
///
/// # Errors
/// Not XML.
pub fn state_files(xml: &str) -> Result<StateFiles, roxmltree::Error> {
    let document = Document::parse(xml)?;
    let root = document.root_element();
    let os = child(root, "os");
    let boot = [(Role::Kernel, "kernel"), (Role::Initrd, "initrd"), (Role::Dtb, "dtb")];
    let text = |name: &str| os.and_then(|os| child(os, name)).and_then(|node| node.text()).map(str::trim).filter(|text| text.starts_with('/'));
    Ok(StateFiles {
        nvram: os.and_then(|os| child(os, "nvram")).and_then(nvram_path),
        boot: boot.into_iter().filter_map(|(role, name)| text(name).map(|path| (role, path.to_owned()))).collect(),
        tpm: child(root, "devices").and_then(|devices| child(devices, "tpm")).and_then(tpm),
    })
}

/// `<nvram>/path</nvram>`, or `<nvram type='file'><source file='/path'/></nvram>` (libvirt 8.5).
pub(crate) fn nvram_path(node: Node<'_, '_>) -> Option<String> {
    let attribute = child(node, "source").and_then(|source| source.attribute("file"));
    attribute.or_else(|| node.text()).map(str::trim).filter(|path| !path.is_empty()).map(str::to_owned)
}

fn tpm(node: Node<'_, '_>) -> Option<Tpm> {
    let backend = child(node, "backend").filter(|backend| backend.attribute("type") == Some("emulator"))?;
    Some(Tpm {
        source: child(backend, "source").and_then(|source| source.attribute("path")).map(PathBuf::from),
        secret: child(backend, "encryption").and_then(|encryption| encryption.attribute("secret")).map(str::to_owned),
    })
}

/// Where the state of a TPM lies: what its XML says, else libvirt's folder for this UUID.
#[must_use]
pub fn tpm_place(tpm: &Tpm, uuid: &str) -> PathBuf {
    tpm.source.clone().unwrap_or_else(|| Path::new(TPM_ROOT).join(uuid))
}

/// Files of a TPM's state, relative to its place, in the order of their names. A place that is a file itself is one, with an empty name.
///
/// # Errors
/// The folder cannot be read, or holds more files than a TPM has.
pub fn tpm_files(place: &Path) -> io::Result<Vec<PathBuf>> {
    if std::fs::metadata(place)?.is_file() {
        return Ok(vec![PathBuf::new()]);
    }
    let mut out = Vec::new();
    collect(place, Path::new(""), TPM_DEPTH_MAX, &mut out)?;
    out.sort();
    Ok(out)
}

fn collect(place: &Path, below: &Path, depth: u32, out: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(place.join(below))? {
        let entry = entry?;
        let (name, kind) = (below.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() && depth > 0 {
            collect(place, &name, depth - 1, out)?;
        } else if kind.is_file() && entry.file_name() != TPM_LOCK {
            if out.len() == TPM_FILES_MAX {
                return Err(io::Error::other(format!("it holds more than {TPM_FILES_MAX} files")));
            }
            out.push(name);
        }
    }
    Ok(())
}

pub(crate) fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|n| n.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_a_domain_are_found() {
        let xml = "<domain><os><kernel>/k</kernel><initrd> /i </initrd><dtb/><nvram template='/t'>/n.fd</nvram></os><devices>\
            <tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption secret='s'/></backend></tpm></devices></domain>";
        let found = state_files(xml).expect("XML");
        assert_eq!(found.nvram.as_deref(), Some("/n.fd"));
        assert_eq!(found.boot, [(Role::Kernel, "/k".to_owned()), (Role::Initrd, "/i".to_owned())]);
        let tpm = found.tpm.expect("a TPM");
        assert_eq!((tpm.secret.as_deref(), tpm_place(&tpm, "u")), (Some("s"), PathBuf::from("/var/lib/libvirt/swtpm/u")));
        let newer = "<domain><os><nvram type='file'><source file='/m.fd'/></nvram></os><devices><tpm><backend type='emulator'>\
            <source type='dir' path='/x'/></backend></tpm></devices></domain>";
        let found = state_files(newer).expect("XML");
        assert_eq!(found.nvram.as_deref(), Some("/m.fd"));
        assert_eq!(tpm_place(&found.tpm.expect("a TPM"), "u"), PathBuf::from("/x"));
        let none = "<domain><os><nvram/></os><devices><tpm><backend type='passthrough'/></tpm></devices></domain>";
        assert_eq!(state_files(none).expect("XML"), StateFiles::default());
    }

    #[test]
    fn a_tpms_files_are_all_but_its_lock() {
        let dir = std::env::temp_dir().join(format!("cairn-tpm-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("tpm2")).expect("a folder");
        for name in ["tpm2/tpm2-00.permall", "tpm2/.lock"] {
            std::fs::write(dir.join(name), "x").expect("written");
        }
        assert_eq!(tpm_files(&dir).expect("readable"), [PathBuf::from("tpm2/tpm2-00.permall")]);
        assert_eq!(tpm_files(&dir.join("tpm2/tpm2-00.permall")).expect("readable"), [PathBuf::new()]);
        for n in 0..TPM_FILES_MAX {
            std::fs::write(dir.join(format!("tpm2/{n}")), "x").expect("written");
        }
        assert!(tpm_files(&dir).is_err(), "no TPM has so many");
        std::fs::remove_dir_all(&dir).expect("our own folder");
        assert!(tpm_files(&dir).is_err(), "it is gone");
    }

    #[test]
    fn roles_keep_their_names() {
        for role in Role::ALL {
            assert_eq!(Role::of(role.name()), Some(role));
        }
        assert_eq!(Role::of("x"), None);
    }
}
