//! A machine with a systemd of its own as process 1: this host's Debian, with nothing enabled and nothing configured, in a container beside the lab's libvirt.
//!
//! Its root is this host's, with a layer in memory over it: what is written there is gone with the layer. The lab's folder, its libvirt and its images are
//! shared with it, so a backup of `lab1` that is started in the machine is a real one. [`Machine::of_root`] is one of another root, without a lab.
//!
//! Invariants
//! - Nothing of the host is changed but a control group below the caller's own, which goes with the machine (or, after SIGKILL, with the next one).
//! - The machine has no network and nothing of the host's `/etc/systemd/system`: no service of the host is started a second time.
//! - It runs in the process namespace of the lab, and ends with it.

use crate::cairn;
use crate::error::{Error, Result};
use crate::init::PATH;
use crate::lab::Lab;
use crate::process::{Output, run, wait_for, wait_limit};
use crate::signals::with_empty_mask;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Boots in three seconds on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const END_LIMIT: Duration = Duration::from_secs(30);
/// One command in it.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
const PREFIX: &str = "cairn-lab-";
const REMEDY: &str = "install Debian's systemd-container and dbus (`cargo xtask setup`)";
const UNITS: [&str; 2] = ["cairn.service", "cairn.socket"];
/// Folders of the lab that the machine has as well, in their own places.
const SHARED: [&str; 5] = ["/run/libvirt", "/run/cairn", "/var/lib/libvirt", "/var/lib/cairn", "/etc/cairn"];

/// `$0` is the layer's folder, `$1` the control group below the root of them, the rest systemd-nspawn and its arguments. Whatever kinds of control
/// groups the host has, the machine gets the unified ones. Behind it comes what is done in the root before it boots, then [`LAST`].
const FIRST: &str = r#"set -e
layer=$0 group=$1; shift
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for old in "$(dirname "/sys/fs/cgroup$group")"/cairn-lab-*; do
    [ ! -d "$old" ] || grep -q '^populated 1' "$old/cgroup.events" || find "$old" -depth -type d -exec rmdir {} \;
done
mkdir "/sys/fs/cgroup$group"
echo $$ > "/sys/fs/cgroup$group/cgroup.procs"
mount -t tmpfs -o mode=0755,size=4g tmpfs "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=$LOWER,upperdir=$layer/upper,workdir=$layer/work" overlay "$layer/root"
cd "$layer/root"
: > etc/machine-id
: > etc/fstab
"#;
const OF_HOST: &str = r#"rm -rf etc/systemd/system etc/rc?.d etc/cairn var/log/journal
mkdir -p etc/systemd/system etc/cairn var/lib/cairn var/lib/libvirt var/log/journal
for unit in cairn.service cairn.socket; do cp "$UNITS/$unit" etc/systemd/system/; done
mkdir -p usr/bin
rm -f usr/bin/cairn
cp "$PROGRAM" usr/bin/cairn
"#;
/// Packages start their services there.
const OF_ROOT: &str = "mkdir -p var/log/journal packages\nrm -f usr/sbin/policy-rc.d\n[ -z \"$OWN_NAME\" ] || echo \"$OWN_NAME\" > etc/hostname\n";
const LAST: &str = "cd /\nexec \"$@\"\n";
const LEAVE: &str = r#"mount -t cgroup2 cgroup2 /sys/fs/cgroup && find "/sys/fs/cgroup$0" -depth -type d -exec rmdir {} \;"#;

/// A machine that is up; it ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    nspawn: Child,
    /// Its systemd, as the lab sees it.
    leader: u32,
    log: PathBuf,
    group: PathBuf,
}

impl Machine {
    /// Boots one that has the program under test at `/usr/bin/cairn`, the units as they are shipped, and this configuration in `/etc/cairn`. Nothing of
    /// it is enabled.
    ///
    /// # Errors
    /// systemd-nspawn is not here, or the machine does not come up: its console is quoted.
    pub fn boot(lab: &Lab, config: &str) -> Result<Self> {
        for folder in SHARED {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        fs::write("/etc/cairn/cairn.yaml", config).map_err(Error::io("write", "/etc/cairn/cairn.yaml"))?;
        let name = lab.folder().extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
        if let Some(unit) = UNITS.iter().map(|unit| units.join(unit)).find(|unit| !unit.is_file()) {
            return Err(Error::answer(unit.display().to_string(), "is not there"));
        }
        let (script, log) = ([FIRST, OF_HOST, LAST].concat(), lab.folder().join("log/machine.log"));
        Self::start(&script, &lab.folder().join("machine"), &name, log, |command| {
            // As long as the lab's own work lies there, the machine has it in the same place: stores, keys.
            command.arg(format!("--bind={}", lab.dir().display())).args(SHARED.iter().map(|folder| format!("--bind={folder}")));
            command.env("LOWER", "/").env("UNITS", &units).env("PROGRAM", lab.cairn()?);
            Ok(())
        })
    }

    /// Boots a root of Debian that is not changed by it, with its own services and without a network, and `packages` at `/packages`; `folder` is for its
    /// console and a layer in memory.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn of_root(root: &Path, packages: &Path, folder: &Path) -> Result<Self> {
        Self::of_layers(&[root], None, &format!("--bind-ro={}:/packages", packages.display()), folder)
    }

    /// The same of a root with layers over it, the uppermost first, under a name of its own, and with this option of systemd-nspawn's, by which it is given
    /// what it has in common with others.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn of_layers(layers: &[&Path], name: Option<&str>, option: &str, folder: &Path) -> Result<Self> {
        let script = [FIRST, OF_ROOT, LAST].concat();
        let lower = layers.iter().map(|layer| layer.to_string_lossy()).collect::<Vec<_>>().join(":");
        let machine = format!("{}-{}", name.unwrap_or("root"), std::process::id());
        Self::start(&script, &folder.join("machine"), &machine, folder.join("machine.log"), |command| {
            command.arg(option).env("LOWER", lower).env("OWN_NAME", name.unwrap_or_default());
            Ok(())
        })
    }

    /// Its process 1, as it is known here.
    #[must_use]
    pub fn leader(&self) -> u32 {
        self.leader
    }

    fn start(script: &str, layer: &Path, name: &str, log: PathBuf, more: impl FnOnce(&mut Command) -> Result<()>) -> Result<Self> {
        if !Path::new("/usr/bin/systemd-nspawn").is_file() {
            return Err(Error::Missing { what: "systemd-nspawn".into(), remedy: REMEDY.into() });
        }
        fs::create_dir_all(layer).map_err(Error::io("create", layer))?;
        let group = own_group()?.join(format!("{PREFIX}{name}"));
        let nspawn = spawn(script, layer, &group, name, &log, more)?;
        let mut machine = Self { nspawn, leader: 0, log, group };
        machine.wait_up()?;
        Ok(machine)
    }

    fn wait_up(&mut self) -> Result<()> {
        let pid = self.nspawn.id();
        let said = |log: &Path| fs::read_to_string(log).unwrap_or_default();
        let waited = wait_for("systemd of the machine", BOOT_LIMIT, POLL, || {
            if let Some(status) = self.nspawn.try_wait().map_err(Error::io("wait for", "systemd-nspawn"))? {
                return Err(Error::Command { command: "systemd-nspawn --boot".into(), status: status.to_string(), stderr: said(&self.log) });
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let systemd = |child: &&str| fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm.trim() == "systemd");
            let Some(leader) = children.split_whitespace().find(systemd).and_then(|child| child.parse().ok()) else { return Ok(None) };
            self.leader = leader;
            let state = self.run(&["systemctl", "is-active", "multi-user.target"])?;
            Ok((state.text().trim() == "active").then_some(()))
        });
        waited.map_err(|e| match e {
            Error::Timeout { what, limit, .. } => Error::Timeout { what, limit, hint: format!("; its console:\n{}", said(&self.log)) },
            other => other,
        })
    }

    /// Runs a program in it to its end.
    ///
    /// # Errors
    /// Not startable, or it hangs.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader.to_string(), "--all", "--"]).args(args);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("SYSTEMD_PAGER", "").current_dir("/");
        run(&mut command, COMMAND_LIMIT)
    }

    /// Runs it; anything but 0 is an error with what it said, and what the units said last.
    ///
    /// # Errors
    /// As said.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        if output.code() == cairn::DONE {
            return Ok(output.text());
        }
        let stderr = format!("{}\n{}\n{}", output.text(), output.err_text(), self.journal());
        Err(Error::Command { command: args.join(" "), status: format!("exit code {}", output.code()), stderr })
    }

    /// `cairn ARGS --json` in it.
    ///
    /// # Errors
    /// It failed, or its output is no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.ok(&[&["cairn"], args, &["--json"]].concat())?;
        serde_json::from_str(&text).map_err(|e| Error::answer(format!("cairn {} --json", args.join(" ")), format!("{e} in {text:?}")))
    }

    /// A property of a unit.
    ///
    /// # Errors
    /// systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.ok(&["systemctl", "show", "--value", "--property", name, unit])?.trim().to_owned())
    }

    /// Waits until a property of a unit is so.
    ///
    /// # Errors
    /// It is another after `limit`: it is named, with what the unit said last.
    pub fn wait_property(&self, unit: &str, name: &str, limit: Duration, is: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let waited = wait_for(&format!("{name} of {unit}"), limit, POLL, || {
            last = self.property(unit, name)?;
            Ok(is(&last).then(|| last.clone()))
        });
        waited.map_err(|e| match e {
            Error::Timeout { what, limit, .. } => Error::Timeout { what, limit, hint: format!("; it is {last:?}; {}", self.journal()) },
            other => other,
        })
    }

    /// What units of ours said.
    #[must_use]
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "--quiet", "--output", "cat", "--unit", "cairn*"]).map(|o| o.text()).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its process 1 the kernel kills all of it, and what it holds is in memory; systemd-nspawn ends by itself then. Gone already is as good.
        if let Some(leader) = i32::try_from(self.leader).ok().filter(|leader| *leader > 0) {
            let _ = kill(Pid::from_raw(leader), Signal::SIGKILL);
        }
        if wait_limit(&mut self.nspawn, "systemd-nspawn", END_LIMIT).is_err() {
            let _ = self.nspawn.kill();
        }
        // The kernel needs a moment to end all that was in it.
        let left = wait_for("end of the machine's processes", END_LIMIT, POLL, || {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", LEAVE]).arg(&self.group);
            Ok(run(&mut command, END_LIMIT)?.status.success().then_some(()))
        });
        if let Err(error) = left {
            eprintln!("lab: the control group {} of the machine is left: {}", self.group.display(), error.report());
        }
    }
}

fn spawn(script: &str, layer: &Path, group: &Path, name: &str, log: &Path, more: impl FnOnce(&mut Command) -> Result<()>) -> Result<Child> {
    let file = fs::File::create(log).map_err(Error::io("create", log))?;
    let again = file.try_clone().map_err(Error::io("open again", log))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(layer).arg(group);
    command.args(["systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit", "--private-network", "--link-journal=no", "--timezone=off"]);
    command.args(["--resolv-conf=off", "--console=read-only"]).arg(format!("--machine={PREFIX}{name}")).arg("--directory").arg(layer.join("root"));
    more(&mut command)?;
    command.arg("systemd.unit=multi-user.target").env("PATH", PATH);
    command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").env("SYSTEMD_NSPAWN_LOCK", "0");
    with_empty_mask(&mut command).stdin(Stdio::null()).stdout(file).stderr(again).spawn().map_err(Error::io("start", "unshare"))
}

/// The unified control group of this process, which is where another may be made.
fn own_group() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").map_err(Error::io("read", "/proc/self/cgroup"))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"));
    own.map(PathBuf::from).ok_or_else(|| Error::Missing { what: "unified control groups (cgroup2)".into(), remedy: "boot a kernel that has them".into() })
}
