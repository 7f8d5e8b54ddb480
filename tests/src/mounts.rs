//! The private view of the host's folders inside a lab.
//!
//! Invariants:
//! - nothing mounted here is seen outside (everything is made private first);
//! - the lab's libvirt starts with none of the user's configuration: with a copy it would define, and
//!   perhaps start, the user's own domains;
//! - no control groups and no `/run` of the host: libvirt would register the lab's domains with the host's
//!   systemd.

use crate::error::{Error, Result};
use crate::folder::set_mode;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that exist wherever libvirt is installed, or are made once and stay empty outside labs.
const PRIVATE: [&str; 6] = ["/etc/libvirt", "/etc/cairn", "/var/lib/libvirt", "/var/lib/cairn", "/var/cache/libvirt", "/var/log/libvirt"];
/// Of the host's `/run`: what name resolution needs where `/etc/resolv.conf` points there.
const RUN_KEPT: [&str; 2] = ["/run/systemd/resolve", "/run/NetworkManager"];

/// Gives this process (and all its children) its own view.
///
/// # Errors
/// Names the mount that failed.
pub fn make_private(host: &Path) -> Result<()> {
    call(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    call(Some(Path::new("proc")), Path::new("/proc"), Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None)?;
    hide_cgroups()?;
    private_run(host)?;
    for target in PRIVATE {
        let own = host.join(target.trim_start_matches('/').replace('/', "_"));
        fs::create_dir_all(&own).map_err(Error::io("create", &own))?;
        set_mode(&own, 0o755)?;
        // The mount point must exist on the host; an empty folder is all that is left of it there.
        fs::create_dir_all(target).map_err(Error::io("create", target))?;
        call(Some(&own), Path::new(target), None, MsFlags::MS_BIND, None)?;
    }
    Ok(())
}

fn private_run(host: &Path) -> Result<()> {
    let kept: Vec<(&str, PathBuf)> = RUN_KEPT.iter().filter(|p| Path::new(p).is_dir()).map(|p| (*p, host.join(p.replace('/', "_")))).collect();
    for (path, aside) in &kept {
        fs::create_dir_all(aside).map_err(Error::io("create", aside))?;
        call(Some(Path::new(path)), aside, None, MsFlags::MS_BIND, None)?;
    }
    call(Some(Path::new("cairn-lab")), Path::new("/run"), Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755,size=256m"))?;
    for dir in ["/run/lock", "/run/libvirt", "/run/cairn"] {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    }
    for (path, aside) in &kept {
        fs::create_dir_all(path).map_err(Error::io("create", *path))?;
        call(Some(aside), Path::new(path), None, MsFlags::MS_BIND, None)?;
    }
    Ok(())
}

/// Detaches every control group mount in this namespace: libvirt then works without.
fn hide_cgroups() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(Error::io("read", "/proc/self/mounts"))?;
    for line in mounts.lines().rev() {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(path), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        if kind == "cgroup" || kind == "cgroup2" {
            umount2(path, MntFlags::MNT_DETACH).map_err(|e| Error::io("unmount in the lab", path)(e.into()))?;
        }
    }
    Ok(())
}

fn call(source: Option<&Path>, target: &Path, kind: Option<&str>, flags: MsFlags, data: Option<&str>) -> Result<()> {
    mount(source, target, kind, flags, data).map_err(|e| Error::io("mount in the lab over", target)(e.into()))
}
