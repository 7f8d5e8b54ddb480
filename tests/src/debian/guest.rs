//! The domain of the Debian guest, and what suites bring into it.

use crate::debian::{build, cache};
use crate::domain::Domain;
use crate::error::{Error, Result};
use crate::libvirt::IMAGES;
use crate::process::{run, run_ok};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Its name, in labs made with `Options::debian`.
pub const DOMAIN: &str = "deb1";
/// Some forty seconds to the agent on two idle cores; several times that on busy ones.
pub const BOOT_LIMIT: Duration = Duration::from_secs(300);
const XML: &str = include_str!("../../guest/debian/deb1.xml");
const LIMIT: Duration = Duration::from_secs(180);
/// What the agent takes in one command.
const UPLOAD_BYTES_MAX: usize = 1 << 20;

/// The image of its one disk, `vda`, qcow2.
#[must_use]
pub fn disk() -> PathBuf {
    Path::new(IMAGES).join("deb1.qcow2")
}

/// Gives a lab in `folder` the guest's disk, kernel and initrd, of its own.
///
/// # Errors
/// There is no image and none can be made, or no space.
pub fn prepare(folder: &Path) -> Result<()> {
    let image = cache::image()?;
    let boot = folder.join("boot");
    for name in [build::KERNEL, build::INITRD] {
        // libvirt gives what a domain uses to QEMU's user: copies, so that the image's stay as they are.
        let (from, to) = (image.file(name), boot.join(format!("debian-{name}")));
        fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
    }
    fs::create_dir_all(IMAGES).map_err(Error::io("create", IMAGES))?;
    run_ok(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(image.file(build::ROOT)).arg(disk()), LIMIT).map(drop)
}

/// Defines and starts it and waits for its agent.
///
/// # Errors
/// libvirt's, or the agent stays silent; with the end of the console.
pub fn start(folder: &Path) -> Result<()> {
    let domain = Domain::new(DOMAIN);
    let xml = XML.replace("@NAME@", DOMAIN).replace("@BOOT@", &folder.join("boot").to_string_lossy()).replace("@VDA@", &disk().to_string_lossy());
    let path = folder.join("boot/deb1.xml");
    fs::write(&path, xml).map_err(Error::io("write", &path))?;
    domain.virsh_ok(&["define", &path.to_string_lossy()])?;
    domain.start(BOOT_LIMIT)
}

/// Unpacks what a folder of the host holds below `target` in a guest that has tar.
///
/// # Errors
/// It is too much for the agent, or the guest fails.
pub fn upload(domain: &Domain, folder: &Path, target: &str) -> Result<()> {
    let mut pack = Command::new("tar");
    let packed = run(pack.args(["--create", "--owner=0", "--group=0", "--directory"]).arg(folder).arg("."), LIMIT)?;
    if !packed.status.success() {
        return Err(Error::Command { command: format!("tar of {}", folder.display()), status: packed.status.to_string(), stderr: packed.err_text() });
    }
    if packed.stdout.len() > UPLOAD_BYTES_MAX {
        return Err(Error::answer(folder.display().to_string(), format!("is {} bytes, too many for an agent", packed.stdout.len())));
    }
    let file = format!("{target}.tar");
    write_file(domain, &file, &packed.stdout)?;
    domain.sh(&format!("mkdir -p {target} && tar -x -C {target} -f {file} && rm {file}")).map(drop)
}

/// Writes a file in the guest through its agent.
///
/// # Errors
/// The agent's.
pub fn write_file(domain: &Domain, path: &str, bytes: &[u8]) -> Result<()> {
    // virsh takes a command as one argument, which the kernel bounds to 128 KiB.
    const PIECE_BYTES: usize = 48 << 10;
    let handle = domain.agent("guest-file-open", &json!({ "path": path, "mode": "w" }))?;
    for piece in bytes.chunks(PIECE_BYTES) {
        domain.agent("guest-file-write", &json!({ "handle": handle, "buf-b64": STANDARD.encode(piece) }))?;
    }
    domain.agent("guest-file-close", &json!({ "handle": handle })).map(drop)
}
