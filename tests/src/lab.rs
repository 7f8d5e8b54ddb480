//! A lab as seen from inside: folders, names, `lab1`.

use crate::domain::Domain;
use crate::error::{Error, Result};
use crate::libvirt::IMAGES;
use std::path::{Path, PathBuf};

/// The domain every lab has, unless it was made without a guest.
pub const DOMAIN: &str = "lab1";
/// Environment variable with the lab's folder; set inside a lab only.
pub const FOLDER_VARIABLE: &str = "CAIRN_LAB";
/// Environment variable with the path of the program under test.
pub const CAIRN_VARIABLE: &str = "CAIRN";
/// Environment variable with the path of the program that libvirt is to run as a hook.
pub const HOOK_VARIABLE: &str = "CAIRN_HOOK";

const XML: &str = include_str!("../guest/lab1.xml");

/// A disk of `lab1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `vda` or `vdb`.
    pub target: &'static str,
    /// `qcow2` or `raw`.
    pub format: &'static str,
    /// The image on the host.
    pub path: PathBuf,
    /// Where its file system is mounted in the guest.
    pub mounted: &'static str,
}

/// The disks of `lab1`, in the guest's order.
#[must_use]
pub fn disks() -> [Disk; 2] {
    let images = Path::new(IMAGES);
    [
        Disk { target: "vda", format: "qcow2", path: images.join("lab1-a.qcow2"), mounted: "/mnt/a" },
        Disk { target: "vdb", format: "raw", path: images.join("lab1-b.raw"), mounted: "/mnt/b" },
    ]
}

/// The definition of `lab1` for a lab in `folder`.
#[must_use]
pub fn domain_xml(folder: &Path) -> String {
    let [a, b] = disks();
    XML.replace("@NAME@", DOMAIN)
        .replace("@BOOT@", &folder.join("boot").to_string_lossy())
        .replace("@VDA@", &a.path.to_string_lossy())
        .replace("@VDB@", &b.path.to_string_lossy())
}

/// The lab this process runs in.
#[derive(Debug, Clone)]
pub struct Lab {
    folder: PathBuf,
}

impl Lab {
    /// The lab around this process.
    ///
    /// # Errors
    /// There is none.
    pub fn here() -> Result<Self> {
        let folder = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from).filter(|folder| folder.join("up").exists());
        folder
            .map(|folder| Self { folder })
            .ok_or_else(|| Error::Missing { what: "a lab around this process".into(), remedy: "run it by `cargo xtask lab -- COMMAND`".into() })
    }

    /// The lab's own folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `LAB_DIR`: for stores, restored images and the like; QEMU's user may write there.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// The domain `lab1`.
    #[must_use]
    pub fn domain(&self) -> Domain {
        Domain::new(DOMAIN)
    }

    /// The domain of the Debian guest; it runs in labs made with `Options::debian`.
    #[must_use]
    pub fn debian(&self) -> Domain {
        Domain::new(crate::debian::DOMAIN)
    }

    /// The program under test.
    ///
    /// # Errors
    /// `CAIRN` is not set or names no file.
    pub fn cairn(&self) -> Result<PathBuf> {
        let path = std::env::var_os(CAIRN_VARIABLE).map(PathBuf::from).filter(|path| path.is_file());
        path.ok_or_else(|| Error::Missing {
            what: "the program under test".into(),
            remedy: "build it with `cargo build -p cairn`, or set CAIRN to its path".into(),
        })
    }

    /// The program that libvirt is to run as a hook.
    ///
    /// # Errors
    /// `CAIRN_HOOK` is not set or names no file.
    pub fn hook(&self) -> Result<PathBuf> {
        let path = std::env::var_os(HOOK_VARIABLE).map(PathBuf::from).filter(|path| path.is_file());
        path.ok_or_else(|| Error::Missing { what: "libvirt's hook".into(), remedy: "build it with `cargo xtask hook`, or set CAIRN_HOOK to its path".into() })
    }
}
