//! Two booted hosts, each with systemd, libvirt and an ssh daemon of its own, and one folder that both have at `/shared`.
//!
//! Neither has a network: ssh reaches each through a pipe into its name space. All else is as over a wire: a login, keys, files that are sent.

use super::{io, write};
use crate::error::{Error, Result};
use crate::root;
use cairn_lab::machine::Machine;
use cairn_lab::process::run_ok;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const NAMES: [&str; 2] = ["kvm1", "kvm2"];
const RELEASE: &str = "bookworm";
/// What Ansible wants of a host.
const PACKAGES: [&str; 3] = ["python3", "python3-apt", "openssh-server"];
const LIMIT: Duration = Duration::from_secs(60);

/// One of them.
pub struct Host {
    pub name: &'static str,
    machine: Machine,
}

/// Boots both; `folder` gets their keys, consoles and `inventory.ini`'s lines.
pub fn boot(folder: &Path) -> Result<Vec<Host>> {
    let layers = root::layered(RELEASE, "ansible", &PACKAGES)?;
    let layers: Vec<&Path> = layers.iter().map(|layer| layer.as_path()).collect();
    let shared = folder.join("shared");
    fs::create_dir(&shared).map_err(|e| io(&shared, &e))?;
    run_ok(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join("ssh")), LIMIT)?;
    let public = fs::read_to_string(folder.join("ssh.pub")).map_err(|e| io(folder, &e))?;
    let mut known = String::new();
    let mut hosts = Vec::new();
    for name in NAMES {
        let own = folder.join(name);
        fs::create_dir(&own).map_err(|e| io(&own, &e))?;
        let machine = Machine::of_layers(&layers, Some(name), &format!("--bind={}:/shared", shared.display()), &own)?;
        let host = Host { name, machine };
        host.ok(&format!(
            "install -d -m 0700 /root/.ssh; echo '{}' > /root/.ssh/authorized_keys; systemctl start ssh.service libvirtd.service",
            public.trim()
        ))?;
        known += &format!("{name} {}", host.ok("cat /etc/ssh/ssh_host_ed25519_key.pub")?);
        hosts.push(host);
    }
    write(&folder.join("known_hosts"), &known)?;
    Ok(hosts)
}

impl Host {
    /// A line of shell in it, to a good end; what it said.
    pub fn ok(&self, line: &str) -> Result<String> {
        self.machine.ok(&["sh", "-ec", line]).map_err(|e| Error::failed(format!("{}: {}", self.name, e.report())))
    }

    /// Something that must be so.
    pub fn must(&self, what: &str, line: &str) -> Result<()> {
        self.ok(line).map(drop).map_err(|e| Error::failed(format!("not so: {what}: {}", e.report())))
    }

    pub fn json(&self, args: &[&str]) -> Result<Value> {
        Ok(self.machine.json(args)?)
    }

    /// As an inventory has it.
    pub fn inventory(&self, folder: &Path) -> Value {
        let pipe = format!("nsenter --target {} --all -- busybox nc 127.0.0.1 22", self.machine.leader());
        let (key, known) = (folder.join("ssh"), folder.join("known_hosts"));
        let options = format!("-F /dev/null -o 'ProxyCommand={pipe}' -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes", known.display());
        serde_json::json!({"ansible_ssh_common_args": options, "ansible_ssh_private_key_file": key, "ansible_user": "root"})
    }
}
