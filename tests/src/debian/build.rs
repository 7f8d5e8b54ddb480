//! Makes the Debian guest's image: a root by mmdebstrap, a file system of it by `mke2fs -d`.
//!
//! Invariants: no loop device, no mount on the host (packages are set up in a mount namespace of their own); everything is made in the
//! folder that the caller gives, who puts it in place when it is whole.
//!
//! Must not touch the host's own packages, nor its apt configuration.

use crate::debian::{recipe, sources};
use crate::error::{Error, Result};
use crate::process::{run, run_ok};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The root file system, raw and sparse.
pub const ROOT: &str = "root.raw";
/// The guest's own kernel.
pub const KERNEL: &str = "vmlinuz";
/// The initrd that Debian made for it.
pub const INITRD: &str = "initrd.img";
/// Packages and versions, a line each.
pub const PACKAGES: &str = "packages.txt";
/// Downloading takes most of it where the mirror is slow.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(900);
const LIMIT: Duration = Duration::from_secs(120);
const STDERR_LINES_MAX: usize = 25;

/// Makes the image's files in `folder`.
///
/// # Errors
/// A package of the setup is missing, apt has no sources, the mirror does not answer, no space.
pub fn build(folder: &Path, release: &str) -> Result<()> {
    let root = folder.join("root");
    bootstrap(&root, release)?;
    write_files(&root)?;
    let packages = run_ok(Command::new("dpkg-query").arg("--show").arg(format!("--admindir={}", root.join("var/lib/dpkg").display())), LIMIT)?;
    let list = folder.join(PACKAGES);
    fs::write(&list, packages).map_err(Error::io("write", &list))?;
    for (prefix, name) in [("vmlinuz-", KERNEL), ("initrd.img-", INITRD)] {
        let from = boot_file(&root, prefix)?;
        fs::copy(&from, folder.join(name)).map_err(Error::io("copy", &from))?;
    }
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-L", "debian", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"]).arg(&root);
    run_ok(command.arg(folder.join(ROOT)).arg(format!("{}M", recipe::DISK_MIB)).env("PATH", crate::init::PATH), LIMIT)?;
    fs::remove_dir_all(&root).map_err(Error::io("remove", &root))
}

fn bootstrap(root: &Path, release: &str) -> Result<()> {
    let mut command = Command::new("unshare");
    // What is mounted while packages are set up is gone with the last process of it, however that ends.
    command.args(["--mount", "--propagation", "private", "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]);
    command.arg(format!("--include={}", recipe::PACKAGES.join(",")));
    // Nothing of an image that is not whole is ever used.
    command.arg("--dpkgopt=force-unsafe-io");
    command.args(recipe::LEFT_OUT.map(|glob| format!("--dpkgopt=path-exclude={glob}")));
    command
        .args(["--aptopt=Acquire::Languages \"none\";", "--aptopt=Acquire::Retries \"3\";"])
        .args(sources::transport()?.iter().map(|line| format!("--aptopt={line}")));
    command.arg(format!("--essential-hook={}", before_hook()));
    command.arg(release).arg(root).args(sources::lines(release)?);
    command.env("PATH", crate::init::PATH).env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").env_remove("TMPDIR");
    if !on_path("mmdebstrap") {
        return Err(Error::Missing { what: "mmdebstrap".into(), remedy: "run `cargo xtask setup`".into() });
    }
    let output = run(&mut command, BOOTSTRAP_LIMIT)?;
    if output.status.success() {
        return Ok(());
    }
    let said = output.err_text();
    let lines: Vec<&str> = said.lines().collect();
    let stderr = lines[lines.len().saturating_sub(STDERR_LINES_MAX)..].join("\n  ");
    Err(Error::Command { command: format!("mmdebstrap {release}"), status: output.status.to_string(), stderr })
}

fn on_path(program: &str) -> bool {
    crate::init::PATH.split(':').any(|folder| Path::new(folder).join(program).is_file())
}

/// A shell command that writes the files the kernel's installation needs; mmdebstrap gives the root as `$1`.
fn before_hook() -> String {
    let write = |(path, text): &(&str, &str)| {
        let text = text.replace('\n', "\\n");
        format!("mkdir -p \"$(dirname \"$1/{path}\")\" && printf '{text}' > \"$1/{path}\"")
    };
    recipe::FILES_BEFORE.iter().map(write).collect::<Vec<_>>().join(" && ")
}

fn write_files(root: &Path) -> Result<()> {
    for (name, text) in recipe::FILES {
        let path = root.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    for unit in recipe::MASKED {
        let path = root.join("etc/systemd/system").join(unit);
        // Enabled or not: a link to nothing takes the place of either.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        std::os::unix::fs::symlink("/dev/null", &path).map_err(Error::io("create", &path))?;
    }
    // Made anew by the guest's first boot, so that no two have the same.
    let id = root.join("etc/machine-id");
    fs::write(&id, "").map_err(Error::io("write", &id))
}

/// The one file of that kind below `/boot`.
fn boot_file(root: &Path, prefix: &str) -> Result<PathBuf> {
    let boot = root.join("boot");
    let entries = fs::read_dir(&boot).map_err(Error::io("read", &boot))?.flatten();
    let mut found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path());
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => Err(Error::answer("the guest's root", format!("has no {prefix}* in /boot"))),
        (Some(_), Some(_)) => Err(Error::answer("the guest's root", format!("has more than one {prefix}* in /boot"))),
    }
}
