//! A second host on this one, as far as libvirt can tell: a libvirtd with a host name, a UUID and folders of its own, for migrations.
//!
//! It lives in mount and host-name namespaces inside the lab's, so it ends with the lab at the latest.

use crate::error::{Error, Result};
use crate::libvirt::virsh_at;
use crate::process::{run, run_ok, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(60);
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Becomes libvirtd; `$1` is an empty folder for all that is its own.
const SCRIPT: &str = r#"set -e
hostname second
mkdir -p "$1/etc/libvirt" "$1/shared"
[ ! -d /var/lib/libvirt/images ] || mount --bind /var/lib/libvirt/images "$1/shared"
[ -z "$2" ] || cp -a "$2" "$1/etc/libvirt/"
for d in etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt var/lib/cairn run; do
  mkdir -p "$1/$d"
  mkdir -p "/$d"
  mount --bind "$1/$d" "/$d"
done
mkdir -p /run/libvirt /run/lock /run/cairn
printf 'security_driver = "none"\nstdio_handler = "file"\n' > /etc/libvirt/qemu.conf
printf 'auth_unix_ro = "none"\nauth_unix_rw = "none"\nhost_uuid = "5ec00d00-0000-4000-8000-000000000002"\nlog_outputs = "3:file:%s"\n' "$1/libvirtd.log" \
  > /etc/libvirt/libvirtd.conf
exec libvirtd -p /run/libvirtd.pid
"#;

/// The second libvirtd.
#[derive(Debug)]
pub struct Second {
    daemon: Child,
    folder: PathBuf,
}

impl Second {
    /// Starts it with its folders below `folder`, which is made, and a copy of the folder of hooks, if one is named.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(folder: &Path, hooks: Option<&Path>) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]).arg(folder).arg(hooks.unwrap_or(Path::new("")));
        command.env("PATH", crate::init::PATH).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = command.spawn().map_err(Error::io("start", "the second libvirtd"))?;
        let mut second = Self { daemon, folder: folder.to_owned() };
        wait_for("start of the second libvirtd", START_LIMIT, Duration::from_millis(50), || {
            if let Some(status) = second.daemon.try_wait().map_err(Error::io("wait for", "the second libvirtd"))? {
                let said = std::fs::read_to_string(folder.join("libvirtd.log")).unwrap_or_default();
                return Err(Error::Command { command: "the second libvirtd".into(), status: status.to_string(), stderr: said });
            }
            // Before its mounts are made, its root shows the first one's socket.
            if !folder.join("run/libvirt/libvirt-sock").exists() {
                return Ok(None);
            }
            Ok(run(&mut second.virsh(&["version"]), CALL_LIMIT)?.status.success().then_some(()))
        })?;
        Ok(second)
    }

    /// Its view of the file system.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.daemon.id()))
    }

    /// Shows it the lab's images in their usual place, as storage does that two hosts share.
    ///
    /// # Errors
    /// They cannot be mounted.
    pub fn share_images(&self) -> Result<()> {
        let script = "mkdir -p /var/lib/libvirt/images && mount --bind \"$1/shared\" /var/lib/libvirt/images";
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.daemon.id().to_string(), "--mount", "sh", "-c", script, "sh"]).arg(&self.folder);
        run_ok(&mut command, CALL_LIMIT).map(drop)
    }

    /// The whole host is lost: its domains and its libvirtd are killed. Its daemon is its owner's.
    ///
    /// # Errors
    /// They are gone already.
    pub fn kill(&mut self) -> Result<()> {
        let folder = self.root().join("run/libvirt/qemu");
        for entry in std::fs::read_dir(&folder).map_err(Error::io("read", &folder))?.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "pid") {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            let pid = text.trim().parse().map_err(|_| Error::answer(path.display().to_string(), text.clone()))?;
            kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|e| Error::io("kill", &path)(e.into()))?;
        }
        self.daemon.kill().map_err(Error::io("kill", "the second libvirtd"))?;
        self.daemon.wait().map(drop).map_err(Error::io("wait for", "the second libvirtd"))
    }

    /// How to reach it from the lab.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.root().join("run/libvirt/libvirt-sock").display())
    }

    /// A virsh command on it.
    #[must_use]
    pub fn virsh(&self, args: &[&str]) -> Command {
        virsh_at(&self.uri(), args)
    }

    /// A command that runs on it: with its folders and its host name.
    #[must_use]
    pub fn inside(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["--target", &self.daemon.id().to_string(), "--mount", "--uts"]).arg(command.get_program()).args(command.get_args());
        entered.envs(command.get_envs().filter_map(|(key, value)| value.map(|value| (key, value))));
        entered
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        // Gone already is as good; domains that are left end with the lab.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
