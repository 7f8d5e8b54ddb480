//! What the role promises, step by step; the first thing that is not so ends the trial.
//!
//! The variables are those of `group_vars/cairn.example.yml`, but for the place of the package, and a bind mount in the place of NFS.

use super::hosts::{self, Host, NAMES};
use super::play::{Play, command, play};
use super::{io, write};
use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace;
use cairn_lab::process::{self, run_ok};
use serde_json::json;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);
const CREDENTIALS: &str = "access-4711-nobody-may-see";
const PASSWORD: &str = "the vault of this trial";
const SECRETS: &str = "secrets/main.key secrets/main.recovery";
const DOMAIN: &str = "<domain type='qemu'><name>web1</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os><devices>\
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/web1.qcow2'/><target dev='vda'/></disk>\
    </devices></domain>";

struct Trial<'a> {
    tools: &'a Path,
    project: PathBuf,
    hosts: Vec<Host>,
    /// All that Ansible ever said.
    said: RefCell<String>,
}

/// All of it; a line that sums it up.
pub fn run(tools: &Path, deb: &Path, folder: &Path) -> Result<String> {
    let project = folder.join("project");
    run_ok(Command::new("cp").arg("-a").arg(workspace::root().join("ansible")).arg(&project), LIMIT)?;
    lint(tools, &project)?;
    let began = Instant::now();
    let hosts = hosts::boot(folder)?;
    say!("two hosts were up after {:.1} s", began.elapsed().as_secs_f64());
    let trial = Trial { tools, project, hosts, said: RefCell::default() };
    trial.configure(deb, folder)?;
    let began = Instant::now();
    trial.is_fresh()?;
    trial.is_played()?;
    trial.changes_nothing_again()?;
    trial.delivers_what_was_not()?;
    trial.refuses_what_is_wrong()?;
    trial.reloads()?;
    trial.has_points_of_both()?;
    trial.makes_no_store_in_the_place_of_one()?;
    trial.goes_away()?;
    Ok(format!("lint clean, {} hosts, {} plays in {:.0} s", NAMES.len(), trial.plays(), began.elapsed().as_secs_f64()))
}

fn lint(tools: &Path, project: &Path) -> Result<()> {
    say!("== ansible-lint");
    let output = process::run(command(tools, project, "ansible-lint").args(["--offline", "--strict", "--profile", "production"]), LIMIT)?;
    let said = output.text() + &output.err_text();
    if output.code() == 0 && said.contains("production") { Ok(()) } else { Err(Error::failed(format!("ansible-lint ended with {}: {said}", output.code()))) }
}

impl Trial<'_> {
    fn play(&self, what: &str, more: &[&str]) -> Result<Play> {
        let began = Instant::now();
        let play = play(self.tools, &self.project, more)?;
        *self.said.borrow_mut() += &play.text;
        let counts: Vec<String> = play.hosts.iter().map(|(name, c)| format!("{name} ok={} changed={} failed={}", c.ok, c.changed, c.failed)).collect();
        say!("{what}: {:.0} s, {}", began.elapsed().as_secs_f64(), counts.join(", "));
        Ok(play)
    }

    fn plays(&self) -> usize {
        self.said.borrow().matches("PLAY RECAP").count()
    }

    /// A file of the project.
    fn read(&self, name: &str) -> Result<String> {
        let path = self.project.join(name);
        fs::read_to_string(&path).map_err(|e| io(&path, &e))
    }

    fn vault(&self, action: &str, name: &str) -> Result<()> {
        run_ok(command(self.tools, &self.project, "ansible-vault").args([action, "--vault-password-file", "password", name]), LIMIT)?;
        Ok(())
    }

    fn everywhere(&self, what: &str, line: &str) -> Result<()> {
        self.hosts.iter().try_for_each(|host| host.must(what, line))
    }

    /// No secret in any output. `more` are those that are known by now.
    fn told_no_secret(&self) -> Result<()> {
        let key = self.hosts[0].ok("sed -n 's/^key: //p' /etc/cairn/keys/main.key")?;
        let recovery = self.read("secrets/main.recovery")?;
        let said = self.said.borrow();
        for (what, secret) in [("the key", key.trim()), ("the recovery key", recovery.trim()), ("a file's content", CREDENTIALS)] {
            if secret.len() < 16 || said.contains(secret) {
                return Err(Error::failed(format!("{what} is in Ansible's output, or is none")));
            }
        }
        Ok(())
    }

    fn configure(&self, deb: &Path, folder: &Path) -> Result<()> {
        let vars = self.project.join("group_vars/cairn");
        fs::create_dir(&vars).map_err(|e| io(&vars, &e))?;
        write(&vars.join("main.yml"), &self.read("group_vars/cairn.example.yml")?)?;
        write(&self.project.join("password"), PASSWORD)?;
        write(&vars.join("vault.yml"), &format!("vault_cairn_credentials: {CREDENTIALS}\n"))?;
        self.vault("encrypt", "group_vars/cairn/vault.yml")?;
        let mut inventory = json!({"cairn": {"hosts": {}}});
        for host in &self.hosts {
            let mut own = host.inventory(folder);
            own["cairn_package"] = json!(deb);
            own["cairn_apt_update"] = json!(false);
            own["cairn_mounts"] = json!([{"path": "/mnt/backup", "src": "/shared", "fstype": "none", "options": "bind"}]);
            own["cairn_secret_files"] = json!([{"path": "/etc/cairn/credentials", "content": "{{ vault_cairn_credentials }}"}]);
            inventory["cairn"]["hosts"][host.name] = own;
        }
        write(&self.project.join("inventory.yml"), &inventory.to_string())
    }

    /// `--check` on hosts that have nothing, and refusals that come before anything is made.
    fn is_fresh(&self) -> Result<()> {
        say!("== fresh hosts");
        self.play("--check", &["--check"])?.must("--check of fresh hosts", &NAMES, |_| true)?;
        self.everywhere("--check changes nothing", "! test -e /usr/bin/cairn && ! test -e /etc/cairn && ! test -e /var/cache/cairn-package.deb")?;
        let refused = self.play("no place for keys", &["--limit", "kvm1", "-e", "cairn_secrets_dir="])?;
        refused.must_fail("a store without a place for its keys", &["say by cairn_secrets_dir"])?;
        self.hosts[0].must("no store was made", "test -z \"$(ls -A /shared)\"")
    }

    fn is_played(&self) -> Result<()> {
        say!("== the first time");
        self.play("site.yml", &[])?.must("the first time", &NAMES, |changed| changed > 3)?;
        for unit in ["cairn.service", "cairn.socket", "mnt-backup.mount"] {
            self.everywhere("units run", &format!("systemctl is-enabled {unit} && systemctl is-active {unit}"))?;
        }
        let files = "/etc/cairn/keys/main.key /etc/cairn/credentials";
        self.everywhere("secrets are root's alone", &format!("test \"$(stat -c '%a %U' {files} | sort -u)\" = '600 root'"))?;
        self.everywhere("what was to be delivered is gone", "! test -e /etc/cairn/keys/main.made")?;
        self.everywhere("libvirt's hook", "cairn hook status --json | grep -q '\"current\": *true'")?;
        for name in SECRETS.split(' ') {
            let mode = fs::metadata(self.project.join(name)).map_err(|e| io(Path::new(name), &e))?.permissions().mode();
            if mode & 0o777 != 0o600 {
                return Err(Error::failed(format!("{name} has mode {mode:o}")));
            }
        }
        Ok(())
    }

    fn changes_nothing_again(&self) -> Result<()> {
        say!("== again");
        self.play("site.yml", &[])?.must("the second time", &NAMES, |changed| changed == 0)?;
        self.play("--check", &["--check"])?.must("--check of hosts that are as they should be", &NAMES, |changed| changed == 0)?;
        self.told_no_secret()
    }

    /// A run that was broken off after the store was made, and a host that lost its key. From here on the key comes out of a vault.
    fn delivers_what_was_not(&self) -> Result<()> {
        say!("== keys");
        let before = (self.read("secrets/main.key")?, self.read("secrets/main.recovery")?);
        let made = json!({"recovery_key": before.1.trim()});
        self.hosts[0].ok(&format!("umask 077; echo '{made}' > /etc/cairn/keys/main.made"))?;
        self.hosts[1].ok("rm /etc/cairn/keys/main.key")?;
        for name in SECRETS.split(' ') {
            fs::remove_file(self.project.join(name)).map_err(|e| io(Path::new(name), &e))?;
        }
        self.play("what was not delivered", &[])?.must("delivered", &NAMES, |changed| changed > 0)?;
        if before != (self.read("secrets/main.key")?, self.read("secrets/main.recovery")?) {
            return Err(Error::failed("what was delivered is not what was made"));
        }
        let same = format!("test \"$(cat /etc/cairn/keys/main.key)\" = '{}' && ! test -e /etc/cairn/keys/main.made", before.0.trim());
        self.everywhere("both have the key", &same)?;
        self.vault("encrypt", "secrets/main.key")
    }

    fn refuses_what_is_wrong(&self) -> Result<()> {
        say!("== what is wrong");
        let before = self.hosts[0].ok("cat /etc/cairn/cairn.yaml")?;
        for (what, variables, words) in [
            ("a variable", json!({"cairn_polices": {}}), &["has no variable cairn_polices"][..]),
            ("a key of a store", json!({"cairn_stores": [{"name": "main", "urls": "/x"}]}), &["urls"]),
            ("a key of a policy", json!({"cairn_policies": {"nightly": {"shedule": "@daily"}}}), &["there is no key 'shedule'"]),
            ("a checksum", json!({"cairn_package_checksum": format!("sha256:{}", "0".repeat(64))}), &["and not cairn_package_checksum"]),
        ] {
            self.play(what, &["--limit", "kvm1", "-e", &variables.to_string()])?.must_fail(what, words)?;
        }
        if self.hosts[0].ok("cat /etc/cairn/cairn.yaml")? == before { Ok(()) } else { Err(Error::failed("settings that are wrong are in place")) }
    }

    /// Other settings reload the daemon that runs.
    fn reloads(&self) -> Result<()> {
        say!("== other settings");
        let pid = || self.hosts[0].ok("systemctl show --value --property MainPID cairn.service");
        let before = pid()?;
        let other = json!({"cairn_daemon": {"jobs_max": 3}}).to_string();
        self.play("jobs_max", &["--limit", "kvm1", "-e", &other])?.must("the file, and a reload", &["kvm1"], |changed| changed == 2)?;
        self.hosts[0].must("it is in place", "grep -q 'jobs_max: 3' /etc/cairn/cairn.yaml")?;
        if pid()? == before { Ok(()) } else { Err(Error::failed("the daemon was started anew")) }
    }

    /// A domain of the first host's libvirt, an image of the second's: one list.
    fn has_points_of_both(&self) -> Result<()> {
        say!("== points");
        let [first, second] = self.hosts.as_slice() else { return Err(Error::failed("two hosts")) };
        let image = "/var/lib/libvirt/images/web1.qcow2";
        first.ok(&format!("qemu-img create -q -f qcow2 {image} 64M; qemu-io -c 'write -q -P 7 1M 5M' {image}; chown libvirt-qemu: {image}"))?;
        first.ok(&format!("echo \"{DOMAIN}\" > /root/web1.xml; virsh -q define /root/web1.xml; virsh -q start web1"))?;
        // 3: it has no agent, so the point is as after a power cut.
        first.ok("cairn job run --domain web1 --store main; cairn job log 1 --follow || [ $? = 3 ]")?;
        second.ok("head -c 3000000 /dev/urandom > /srv/files; cairn backup-image /srv/files --name files --store main --quiet")?;
        for host in &self.hosts {
            let list = host.json(&["list", "--store", "main"])?;
            let points = list.as_array().into_iter().flatten().map(|point| (point["host"].as_str(), point["name"].as_str()));
            let points: Vec<_> = points.collect();
            if points != [(Some("kvm1"), Some("web1")), (Some("kvm2"), Some("files"))] {
                return Err(Error::failed(format!("the list of {} has {points:?}: {list:#}", host.name)));
            }
        }
        say!("{}", first.ok("cairn list --store main; virsh list")?.trim_end());
        let verified = self.play("--tags verify", &["--tags", "verify"])?;
        verified.must("it looks and changes nothing", &NAMES, |changed| changed == 0)?;
        if verified.text.contains("CAIRN OK") { Ok(()) } else { Err(Error::failed(format!("kvm1 keeps its promise: {}", verified.text))) }
    }

    fn makes_no_store_in_the_place_of_one(&self) -> Result<()> {
        say!("== a store that is away");
        self.hosts[0].ok("mv /shared/store /shared/away")?;
        let refused = self.play("its key is known", &["--limit", "kvm1"])?;
        refused.must_fail("no second store", &["but a key of it is known"])?;
        self.hosts[0].must("nothing was made", "! test -e /shared/store && mv /shared/away /shared/store")
    }

    fn goes_away(&self) -> Result<()> {
        say!("== absent");
        let absent = ["--limit", "kvm2", "-e", "cairn_state=absent"];
        self.play("absent", &absent)?.must("away", &["kvm2"], |changed| changed > 0)?;
        self.hosts[1].must(
            "program, units, hook and mount are gone",
            "! test -e /usr/bin/cairn && ! systemctl is-active cairn.service && ! mountpoint /mnt/backup && ! test -e /etc/libvirt/hooks/qemu.d/cairn",
        )?;
        self.hosts[1].must("keys and the store stay", "test -s /etc/cairn/keys/main.key && test -e /shared/store/config")?;
        self.play("again", &absent)?.must("away already", &["kvm2"], |changed| changed == 0)?;
        self.told_no_secret()
    }
}
