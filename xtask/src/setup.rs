//! `cargo xtask setup`: installs what is missing, and only that.
//!
//! Invariants: stock packages of the release as it is, apt's sources untouched; what is installed already is
//! not named to apt (it could ask for another version), but for a package from elsewhere that breaks what is to be
//! installed; no daemon of the user is started or restarted.

use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace::run_visibly;
use cairn_lab::initramfs::static_busybox;
use cairn_lab::process::{run, run_ok};
use cairn_lab::signals::{Signals, with_empty_mask};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Package, why, and a test by which something else may serve instead.
struct Need {
    package: &'static str,
    why: &'static str,
    instead: Option<fn() -> bool>,
}

const fn need(package: &'static str, why: &'static str) -> Need {
    Need { package, why, instead: None }
}

const fn need_or(package: &'static str, why: &'static str, instead: fn() -> bool) -> Need {
    Need { package, why, instead: Some(instead) }
}

const NEEDS: [Need; 35] = [
    need_or("gcc", "linking, and the C parts of zstd, SQLite and ring", || on_path("cc")),
    need("libc6-dev", "linking"),
    need_or("pkg-config", "finding libvirt", || on_path("pkg-config")),
    need("libvirt-dev", "building against libvirt"),
    need("libvirt-daemon-system", "the lab's libvirtd"),
    need("libvirt-clients", "virsh"),
    need("qemu-system-x86", "the guests"),
    need("qemu-utils", "qemu-img, qemu-nbd: the references"),
    need("e2fsprogs", "the guests' file systems"),
    need("fdisk", "partition tables in tests"),
    need("kmod", "the guests' modules"),
    need("mount", "small file systems in tests"),
    need_or("linux-image-cloud-amd64", "the guests' kernel", has_kernel),
    need_or("busybox-static", "the guests' programs, without libraries (replaces busybox)", || static_busybox().is_ok()),
    need("qemu-guest-agent", "the guests' agent"),
    need("libnbd-bin", "nbdinfo, nbdcopy: NBD tests"),
    need("nbdkit", "NBD tests"),
    need("fio", "NBD tests: many readers of our server"),
    need_or("openssl", "certificates for NBD tests", || on_path("openssl")),
    need("ovmf", "UEFI guests"),
    need("ceph-mon", "a Ceph cluster in a lab: disks on RBD"),
    need("ceph-osd", "the same"),
    need("ceph-common", "the same: ceph, rbd"),
    need("qemu-block-extra", "QEMU's driver for RBD"),
    need("swtpm", "guests with a TPM"),
    need("swtpm-tools", "making the state of a new TPM"),
    need("mmdebstrap", "making the Debian guest"),
    need("shellcheck", "the guests' scripts are checked"),
    need_or("systemd", "systemd-analyze: the units are checked", || on_path("systemd-analyze")),
    need("systemd-container", "systemd-nspawn: a machine with a systemd of its own"),
    need("dbus", "what that machine's systemd is asked through"),
    need("vagrant", "the playground's file is checked"),
    need("vagrant-libvirt", "the same, for its provider"),
    need("nfs-ganesha", "the NFS suite's server"),
    need("nfs-ganesha-vfs", "what that server exports"),
];

const QUERY_LIMIT: Duration = Duration::from_secs(60);
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Also how a file left by a killed setup is known as ours.
const POLICY_TEXT: &str = "#!/bin/sh\n# Written by cairn's xtask setup for the time of one apt-get: starts no service.\nexit 101\n";

/// The command.
pub fn main(args: &[String]) -> Result<ExitCode> {
    if let Some(arg) = args.first() {
        return Err(Error::Usage(format!("setup takes no argument, and {arg:?} is one")));
    }
    install_missing()?;
    print_versions();
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing; quick and silent when nothing is.
pub fn install_missing() -> Result<()> {
    if !on_path("dpkg-query") {
        let wanted: Vec<&str> = NEEDS.iter().map(|need| need.package).collect();
        let wanted = wanted.join(", ");
        return Err(Error::failed(format!("setup knows Debian and its kin only, and dpkg-query is not here. Install what these packages hold: {wanted}")));
    }
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !is_there(need)).collect();
    if missing.is_empty() {
        say!("setup: all {} packages are there", NEEDS.len());
        return Ok(());
    }
    say!("setup: installing");
    for need in &missing {
        say!("  {:24} {}", need.package, need.why);
    }
    // A Ctrl-C reaches apt-get, which ends in order; we stay to take the guard away again, and end then.
    let signals = Signals::block()?;
    let result = install(&missing);
    signals.release()?;
    result
}

/// Installs those of these packages that are not there, with the same care; quick and silent when all are.
pub fn install_packages(packages: &[&'static str]) -> Result<()> {
    let missing: Vec<Need> = packages.iter().map(|p| need(p, "to compare with")).filter(|n| !is_there(n)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say!("setup: installing {}", missing.iter().map(|n| n.package).collect::<Vec<_>>().join(", "));
    let missing: Vec<&Need> = missing.iter().collect();
    let signals = Signals::block()?;
    let result = install(&missing);
    signals.release()?;
    result
}

fn install(missing: &[&Need]) -> Result<()> {
    let _guard = PolicyGuard::place()?;
    run_visibly(apt_env(Command::new("apt-get").arg("update")))?;
    let mut wanted: Vec<String> = missing.iter().map(|need| need.package.to_owned()).collect();
    // A package from elsewhere may break the release's own (a newer qemu-utils beside the release's qemu-system-common).
    let strangers = strangers(&wanted)?;
    if !strangers.is_empty() {
        say!("setup: apt cannot install these beside what came from elsewhere; put back to the release's version: {}", strangers.join(" "));
        wanted.extend(strangers);
    }
    apt_install(&wanted)?;
    // Or apt has removed such a package: it is installed now as the release has it.
    let removed: Vec<String> = NEEDS.iter().filter(|need| !is_there(need)).map(|need| need.package.to_owned()).collect();
    if !removed.is_empty() {
        apt_install(&removed)?;
    }
    match NEEDS.iter().chain(missing.iter().copied()).find(|need| !is_there(need)) {
        Some(need) => Err(Error::failed(format!("apt-get succeeded, but {} is still not there", need.package))),
        None => Ok(()),
    }
}

/// What breaks these, if anything does, and is newer than all that apt's sources have: each as `PACKAGE=VERSION`, with the newest that they have. All others
/// are left as they are, and apt says why it cannot go on.
fn strangers(wanted: &[String]) -> Result<Vec<String>> {
    let mut tried = Command::new("apt-get");
    apt_env(tried.args(["install", "--simulate", "--no-install-recommends"]).args(wanted));
    let said = run(&mut tried, QUERY_LIMIT)?;
    if said.code() == 0 {
        return Ok(Vec::new());
    }
    Ok(breakers(&said.text()).into_iter().filter_map(|package| older(&package)).collect())
}

/// By apt's words: ` PACKAGE : Breaks: OTHER (< VERSION) but ...`.
fn breakers(said: &str) -> Vec<String> {
    said.lines().filter_map(|line| line.split_once(" : Breaks: ")).map(|(package, _)| package.trim().to_owned()).collect()
}

fn older(package: &str) -> Option<String> {
    let mut query = Command::new("dpkg-query");
    let here = run_ok(query.args(["--show", "--showformat", "${Version}", package]), QUERY_LIMIT).ok()?;
    let table = run_ok(Command::new("apt-cache").args(["madison", package]), QUERY_LIMIT).ok()?;
    let newest = newest(&table)?;
    let newer = Command::new("dpkg").args(["--compare-versions", here.trim(), "gt", newest]).status();
    newer.is_ok_and(|status| status.success()).then(|| format!("{package}={newest}"))
}

/// By the table of `apt-cache madison`: `package | version | source`, newest first.
fn newest(table: &str) -> Option<&str> {
    table.lines().find_map(|line| line.split('|').nth(1)).map(str::trim).filter(|version| !version.is_empty())
}

fn apt_install(packages: &[String]) -> Result<()> {
    let mut install = Command::new("apt-get");
    apt_env(install.args(["install", "--yes", "--no-install-recommends", "--allow-downgrades"]).args(packages));
    run_visibly(&mut install).map_err(|e| Error::failed(format!("{}; see above, mend it and run `cargo xtask setup` again", e.report())))
}

fn apt_env(command: &mut Command) -> &mut Command {
    with_empty_mask(command).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8")
}

fn is_there(need: &Need) -> bool {
    need.instead.is_some_and(|test| test()) || installed(need.package)
}

fn installed(package: &str) -> bool {
    let query = run_ok(Command::new("dpkg-query").args(["--show", "--showformat", "${db:Status-Status}\n", package]), QUERY_LIMIT);
    query.is_ok_and(|text| text.lines().any(|line| line == "installed"))
}

/// Whether a program can be started by its name.
pub fn on_path(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(program).is_file())
}

/// Any kernel will do that has its modules beside it.
fn has_kernel() -> bool {
    let releases = fs::read_dir("/boot").into_iter().flatten().flatten();
    let mut releases = releases.filter_map(|entry| entry.file_name().to_string_lossy().strip_prefix("vmlinuz-").map(str::to_owned));
    releases.any(|release| Path::new("/lib/modules").join(release).join("modules.dep").exists())
}

/// Keeps packages from starting services while they are installed (the admin's own policy, if any, stays).
struct PolicyGuard {
    ours: bool,
}

impl PolicyGuard {
    fn place() -> Result<Self> {
        match fs::read_to_string(POLICY) {
            Ok(text) => {
                return Ok(Self { ours: text == POLICY_TEXT });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::failed(format!("cannot read {POLICY}: {error}"))),
        }
        let write = fs::write(POLICY, POLICY_TEXT).and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)));
        write.map_err(|e| Error::failed(format!("cannot write {POLICY}: {e}; setup must run as root")))?;
        Ok(Self { ours: true })
    }
}

impl Drop for PolicyGuard {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("setup: cannot remove {POLICY}: {error}; remove it by hand, or no service will start on upgrades");
        }
    }
}

/// What everything here will be run with.
pub fn print_versions() {
    for (program, args) in [("libvirtd", ["--version"]), ("virsh", ["--version"]), ("qemu-system-x86_64", ["--version"]), ("qemu-img", ["--version"])] {
        let mut command = Command::new(program);
        command.args(args).env("PATH", cairn_lab::init::PATH);
        let text = run_ok(&mut command, QUERY_LIMIT).unwrap_or_else(|error| error.report());
        say!("  {program:20} {}", text.lines().next().unwrap_or("?"));
    }
    let kernels = fs::read_dir("/boot").into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    for kernel in kernels.filter(|name| name.starts_with("vmlinuz-")) {
        say!("  {:20} {kernel}", "guest kernel");
    }
}

#[cfg(test)]
mod tests {
    use super::{breakers, newest};

    #[test]
    fn only_what_breaks_others_is_put_back() {
        let said = "\
The following packages have unmet dependencies:
 qemu-utils : Breaks: qemu-system-common (< 1:8.0+dfsg-5~) but 1:7.2+dfsg-7+deb12u18+b3 is to be installed
 other : Depends: gone but it is not installable
E: Error, pkgProblemResolver::Resolve generated breaks, this may be caused by held packages.
";
        assert_eq!(breakers(said), ["qemu-utils"]);
        assert!(breakers("E: Unable to locate package x\n").is_empty());
    }

    #[test]
    fn the_newest_version_that_sources_have_is_the_first() {
        let table = "\
 qemu-utils | 1:7.2+dfsg-7+deb12u18+b3 | http://deb.debian.org/debian bookworm/main amd64 Packages
 qemu-utils | 1:7.2+dfsg-7+deb12u15 | http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
";
        assert_eq!(newest(table), Some("1:7.2+dfsg-7+deb12u18+b3"));
        assert_eq!(newest(""), None);
        assert_eq!(newest("N: Unable to locate package x\n"), None);
    }
}
