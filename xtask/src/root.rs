//! `cargo xtask test --root RELEASE`: the suites of the lab with libvirt and QEMU of another Debian release.
//!
//! Invariants: everything is built outside, by this machine's tools; the root is a cache outside of the project, put in place only when it is
//! whole; what is mounted for a suite is seen by that suite alone and gone with it. The root becomes the *root of the mounts*, not a mere chroot:
//! with a chroot, libvirt 11 leaves QEMU's own `/dev` without a single device.
//!
//! Must not write anything of this machine's mirrors into the project, nor install anything on the machine itself.

use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace::{self, cargo, run_visibly};
use cairn_lab::debian::sources;
use cairn_lab::lab::{CAIRN_VARIABLE, HOOK_VARIABLE};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a lab needs to run: `setup`'s list without what builds Rust. The C compiler makes the libraries by which suites hold programs up (`cairn_lab::stall`).
const PACKAGES: [&str; 31] = [
    "gcc",
    "libc6-dev",
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-utils",
    "linux-image-cloud-amd64",
    "busybox-static",
    "qemu-guest-agent",
    "libnbd-bin",
    "nbdkit",
    "e2fsprogs",
    "fdisk",
    "kmod",
    "mount",
    "procps",
    "xz-utils",
    "zstd",
    "openssl",
    "ovmf",
    "ceph-mon",
    "ceph-osd",
    "ceph-common",
    "qemu-block-extra",
    "swtpm",
    "swtpm-tools",
    "genisoimage",
    "systemd",
    "systemd-container",
    "dbus",
];
/// Where roots are kept; removed by hand, at any time when none is in use.
const CACHE: &str = "/var/tmp/cairn-roots";
/// `$0` is the root, `$1` the workspace, `$2` the target folder, the rest what is to be run. The machine's own name is in the root's file of hosts,
/// so that nothing in it asks a name server for that.
const ENTER: &str = r#"set -e
root=$0 workspace=$1 target=$2; shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
echo "127.0.0.1 localhost $(uname -n)" > "$root/etc/hosts"
: > "$root/etc/resolv.conf"
mkdir -p "$root$workspace" "$root$target" "$root/mnt/old"
mount --bind -o ro "$workspace" "$root$workspace"
mount --bind "$target" "$root$target"
cd "$root"
pivot_root . mnt/old
cd "$workspace"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umount -l /mnt/old
exec "$@"
"#;

/// Runs the suites that `wanted` names (all without any) in the root; gives a line for each, and whether all passed.
///
/// # Errors
/// The root cannot be made, the build fails, or there is no such suite.
pub fn suites(release: &str, wanted: &[String]) -> Result<(Vec<String>, bool)> {
    let root = ready(release)?;
    let program = workspace::cairn(true)?.ok_or_else(|| Error::failed("cargo built no target/debug/cairn"))?;
    let hook = workspace::hook(true)?.ok_or_else(|| Error::failed("cargo built no cairn-hook"))?;
    let built = executables()?;
    if let Some(name) = wanted.iter().find(|name| !built.iter().any(|(suite, _)| suite == *name)) {
        let names: Vec<&str> = built.iter().map(|(suite, _)| suite.as_str()).collect();
        return Err(Error::Usage(format!("there is no suite {name:?}; there are {}", names.join(", "))));
    }
    let (mut lines, mut passed) = (Vec::new(), true);
    for (suite, binary) in built.iter().filter(|(suite, _)| wanted.is_empty() || wanted.contains(suite)) {
        say!("\n== {suite}, in {}", root.display());
        let mut command = enter(&root)?;
        command.arg(binary).args(["--test-threads", "1"]).env(CAIRN_VARIABLE, &program).env(HOOK_VARIABLE, &hook);
        let status = command.status().map_err(|e| Error::failed(format!("cannot start unshare: {e}")))?;
        passed &= status.success();
        lines.push(format!("{suite:20} {}", if status.success() { "passed" } else { "FAILED" }));
    }
    Ok((lines, passed))
}

/// `$0` is the layer, `$1` the root, the rest packages; `APT` has options of apt's.
const LAYER: &str = r#"set -e
layer=$0 lower=$1; shift
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=$lower,upperdir=$layer/upper,workdir=$layer/work" overlay "$layer/root"
cd "$layer/root"
mount -t proc proc proc
mount --rbind /dev dev
mount --bind /etc/resolv.conf etc/resolv.conf
mount -t tmpfs tmpfs run
chroot . apt-get $APT update
chroot . apt-get $APT install --yes --no-install-recommends -o DPkg::Options::=--force-unsafe-io "$@"
chroot . apt-get clean
rm -rf var/lib/apt/lists
cd /
"#;

/// A layer over the root with further packages, made on first use and anew where the root is younger: what lies over what, the uppermost first.
///
/// # Errors
/// As [`ready`].
pub fn layered(release: &str, name: &str, packages: &[&str]) -> Result<[PathBuf; 2]> {
    const STATUS: &str = "var/lib/dpkg/status";
    let root = ready(release)?;
    let layer = Path::new(CACHE).join(format!("{release}.{name}"));
    let age = |folder: &Path| std::fs::metadata(folder.join(STATUS)).and_then(|status| status.modified()).ok();
    if age(&layer) > age(&root) {
        return Ok([layer, root]);
    }
    say!("adding {} to the root of Debian {release}, once", packages.join(", "));
    let part = Path::new(CACHE).join(format!("{release}.{name}.{}.part", std::process::id()));
    let io = |e: std::io::Error| Error::failed(format!("cannot make {}: {e}", layer.display()));
    std::fs::create_dir_all(&part).map_err(io)?;
    let options: Vec<String> =
        sources::transport()?.into_iter().map(|line| format!("-o {}", line.trim_end_matches(';').replacen(' ', "=", 1).replace('"', ""))).collect();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", LAYER]).arg(&part).arg(&root).args(packages);
    command.env("APT", options.join(" ")).env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").env("PATH", cairn_lab::init::PATH);
    let made = run_visibly(&mut command).and_then(|()| {
        if layer.exists() {
            std::fs::remove_dir_all(&layer).map_err(io)?;
        }
        std::fs::rename(part.join("upper"), &layer).map_err(io)
    });
    std::fs::remove_dir_all(&part).map_err(io)?;
    made.map(|()| [layer, root])
}

fn enter(root: &Path) -> Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER]).arg(root).arg(workspace::root()).arg(workspace::target()?);
    Ok(command)
}

/// The root, made on first use.
///
/// # Errors
/// That is no name of a release, or the root cannot be made.
pub fn ready(release: &str) -> Result<PathBuf> {
    if release.is_empty() || !release.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Err(Error::Usage(format!("{release:?}: give the name of a Debian release, for instance trixie")));
    }
    let root = Path::new(CACHE).join(release);
    if root.is_dir() {
        return Ok(root);
    }
    say!("making a root of Debian {release} in {}, once: some minutes", root.display());
    let part = Path::new(CACHE).join(format!("{release}.{}.part", std::process::id()));
    std::fs::create_dir_all(CACHE).map_err(|e| Error::failed(format!("cannot create {CACHE}: {e}")))?;
    // This machine's own sources, of the other release.
    let own = sources::release()?;
    let lines = sources::lines(&own)?.into_iter().map(|line| line.replace(&format!(" {own}"), &format!(" {release}")));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "mmdebstrap", "--mode=root", "--variant=apt", "--format=directory"]);
    command.arg(format!("--include={}", PACKAGES.join(","))).arg("--dpkgopt=force-unsafe-io");
    command.args(sources::transport()?.iter().map(|line| format!("--aptopt={line}")));
    command.arg(release).arg(&part).args(lines).env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").env_remove("TMPDIR");
    let made = run_visibly(&mut command)
        .and_then(|()| std::fs::rename(&part, &root).map_err(|e| Error::failed(format!("cannot rename {} to {}: {e}", part.display(), root.display()))));
    if made.is_err() {
        // What is left of a root that failed is of no use; that it failed is what counts.
        let _ = std::fs::remove_dir_all(&part);
    }
    made.map(|()| root)
}

/// Name and binary of each suite of the lab, and what they need besides.
fn executables() -> Result<Vec<(String, PathBuf)>> {
    run_visibly(&mut cargo(&["build", "--locked", "-p", "cairn-lab", "-p", "cairn-hypervisor", "--bins", "--examples"])?)?;
    let mut command = cargo(&["test", "--locked", "--no-run", "--message-format", "json", "-p", "cairn-lab", "-p", "cairn-hypervisor", "--tests"])?;
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| Error::failed(format!("cannot start cargo: {e}")))?;
    if !output.status.success() {
        return Err(Error::failed("the suites do not build"));
    }
    Ok(suites_in(&String::from_utf8_lossy(&output.stdout)))
}

fn suites_in(messages: &str) -> Vec<(String, PathBuf)> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let suite = |message: serde_json::Value| {
        let target = &message["target"];
        let is_suite = target["kind"].as_array()?.iter().any(|kind| kind == "test");
        let binary = message["executable"].as_str().filter(|_| is_suite)?;
        Some((target["name"].as_str()?.to_owned(), PathBuf::from(binary)))
    };
    messages.filter_map(suite).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_taken_from_what_cargo_built() {
        let text = "{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"test\"],\"name\":\"run\"},\"executable\":\"/t/run-1\"}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"bin\"],\"name\":\"cairn-lab\"},\"executable\":\"/t/cairn-lab\"}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"lib\"],\"name\":\"x\"},\"executable\":null}\nnot JSON\n";
        assert_eq!(suites_in(text), [("run".to_owned(), PathBuf::from("/t/run-1"))]);
    }

    #[test]
    fn a_release_is_a_word() {
        for name in ["", "../x", "Trixie", "a b"] {
            assert!(matches!(suites(name, &[]), Err(Error::Usage(_))), "{name:?}");
        }
    }
}
