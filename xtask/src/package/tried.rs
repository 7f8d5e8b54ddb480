//! The trial of the `.deb`: installed, used, upgraded under a job, removed and purged in a booted root of a Debian release, with that release's own dpkg, apt
//! and systemd.
//!
//! Invariant: the root of [`crate::root`] is not changed; all of it happens in a layer in memory. What is not as docs/install.md promises ends the trial.

use super::{io, tools};
use crate::error::{Error, Result};
use crate::root;
use crate::say::say;
use cairn_lab::machine::Machine;
use cairn_lab::process::{run_ok, wait_for};
use cairn_lab::transcript::{self, Step};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const SERVICE: &str = "cairn.service";
const UNITS: [&str; 2] = [SERVICE, "cairn.socket"];
const HOOK: &str = "/etc/libvirt/hooks/qemu.d/cairn";
/// docs/quick-start.md is typed as it stands there.
const PAGE: &str = "quick-start.md";
/// As the page has it; the package's own takes its place.
const PAGE_VERSION: &str = "0.1.0-1";
/// What people answer apt, and that there is no network.
const APT: &str = "APT::Get::Assume-Yes \"true\"; APT::Install-Recommends \"false\"; APT::Sandbox::User \"root\"; Dpkg::Use-Pty \"0\";";
/// The page's domain: it has no system to boot, so it is saved while it is off.
const DOMAIN: &str = "<domain type='qemu'><name>web1</name><memory unit='MiB'>64</memory><os><type>hvm</type></os><devices>\
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/web1.qcow2'/><target dev='vda' bus='virtio'/></disk>\
</devices></domain>";

/// A machine with the packages at `/packages`: the one that is released, and one of a higher version.
struct Trial {
    machine: Machine,
    version: String,
    newer: String,
}

/// All of it.
pub fn run(stage: &Path, release: &str) -> Result<()> {
    let root = root::ready(release)?;
    let folder = std::env::temp_dir().join(format!("cairn-try-{}", std::process::id()));
    let packages = folder.join("packages");
    fs::create_dir_all(&packages).map_err(|e| io(&packages, &e))?;
    let done = in_root(stage, &root, &packages, &folder);
    fs::remove_dir_all(&folder).map_err(|e| io(&folder, &e))?;
    done.map(|()| say!("package: installed, upgraded, removed and purged on Debian {release}"))
}

fn in_root(stage: &Path, root: &Path, packages: &Path, folder: &Path) -> Result<()> {
    let version = field(&tools::deb(stage, packages, None)?, "Version")?;
    let newer = field(&tools::deb(stage, packages, Some(&format!("{version}+try")))?, "Version")?;
    let trial = Trial { machine: Machine::of_root(root, packages, folder)?, version, newer };
    trial.ok(&format!("echo '{APT}' > /etc/apt/apt.conf.d/90trial"))?;
    trial.installs()?;
    trial.is_used()?;
    trial.is_upgraded_under_a_job()?;
    trial.stays_stopped()?;
    trial.is_removed()?;
    trial.is_purged()?;
    trial.installs()
}

fn field(deb: &Path, name: &str) -> Result<String> {
    Ok(run_ok(Command::new("dpkg-deb").arg("--field").arg(deb).arg(name), LIMIT)?.trim().to_owned())
}

impl Trial {
    fn ok(&self, line: &str) -> Result<String> {
        Ok(self.machine.ok(&["sh", "-ec", line])?)
    }

    /// Something that must be so.
    fn must(&self, what: &str, line: &str) -> Result<()> {
        self.ok(line).map(drop).map_err(|e| Error::failed(format!("not so: {what}: {}", e.report())))
    }

    fn apt(&self, arguments: &str) -> Result<String> {
        let said =
            self.ok(&format!("DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet --no-install-recommends -o APT::Sandbox::User=root {arguments} 2>&1"))?;
        for line in said.lines().filter(|line| line.starts_with("cairn: ")) {
            say!("  {line}");
        }
        Ok(said)
    }

    fn deb(&self, version: &str) -> Result<String> {
        Ok(self.ok(&format!("ls /packages/cairn_{version}_*.deb"))?.trim().to_owned())
    }

    fn installs(&self) -> Result<()> {
        say!("== install");
        let page = transcript::page(PAGE);
        let install = page.first().filter(|step| step.command.starts_with("apt-get install ./cairn_") && step.said.contains("'cairn hook install'"));
        self.types(install.ok_or_else(|| Error::failed(format!("{PAGE} does not begin with the package: {:?}", page[0])))?)?;
        for unit in UNITS {
            self.must("units are enabled and run", &format!("systemctl is-enabled {unit} && systemctl is-active {unit}"))?;
        }
        self.must("the hook is the admin's to install", &format!("! test -e {HOOK}"))?;
        self.must(
            "its configuration is a conffile",
            "dpkg-query --show --showformat '${Conffiles}' cairn | grep -q /etc/cairn/cairn.yaml && cairn daemon --check-config",
        )?;
        self.must("pages", "test -s /usr/share/man/man1/cairn.1.gz && test -s /usr/share/man/man1/cairn-job-run.1.gz")?;
        self.must("completions load", "bash -c '. /usr/share/bash-completion/completions/cairn && complete -p cairn'")?;
        self.must("libvirt's library is wanted of a version", "dpkg-query --show --showformat '${Depends}' cairn | grep -q 'libvirt0 (>= '")?;
        self.must("licences", "zcat /usr/share/doc/cairn/THIRD-PARTY.gz | grep -q '^virt-sys ' && test -s /usr/share/doc/cairn/copyright")?;
        say!("  {}", self.ok("dpkg-query --show --showformat '${Package} ${Version}: ${Depends}\\n' cairn")?.trim());
        Ok(())
    }

    /// A command of the page, which is to say what the page has.
    fn types(&self, step: &Step) -> Result<()> {
        say!("  # {}", step.command.lines().next().unwrap_or_default());
        let command = format!("exec 2>&1\ncd /packages\nexport DEBIAN_FRONTEND=noninteractive\n{}", step.command.replace(PAGE_VERSION, &self.version));
        let done = self.machine.run(&["bash", "-c", &command])?;
        if done.code() != 0 {
            return Err(Error::failed(format!("docs/{PAGE}: `{}` ends in {}: {}", step.command, done.code(), done.text())));
        }
        step.compare(&done.text()).map_err(|why| Error::failed(format!("docs/{PAGE}: {why}")))
    }

    /// The page to its end: a store, a policy, a point by its first run, a check that is content. Then the hook, a doctor who is content, and a point by a job.
    fn is_used(&self) -> Result<()> {
        say!("== use");
        self.ok(&format!("systemctl start libvirtd.service; qemu-img create -q -f qcow2 /var/lib/libvirt/images/web1.qcow2 64M; echo \"{DOMAIN}\" > /srv/web1.xml; virsh define /srv/web1.xml"))?;
        for step in &transcript::page(PAGE)[1..] {
            self.types(step)?;
        }
        // 3: libvirt's daemon is to be reloaded.
        self.ok("cairn hook install || [ $? = 3 ]; systemctl reload libvirtd")?;
        let said = self.machine.run(&["cairn", "doctor", "--json"])?;
        let doctor: Value = serde_json::from_str(&said.text()).map_err(|e| Error::failed(format!("cairn doctor: {e}: {}", said.err_text())))?;
        for check in doctor["checks"].as_array().into_iter().flatten() {
            say!("  {} {}: {}", check["status"].as_str().unwrap_or("?"), check["check"].as_str().unwrap_or("?"), check["found"].as_str().unwrap_or("?"));
            if check["status"] == "failed" {
                return Err(Error::failed(format!("cairn doctor: {check:#}")));
            }
        }
        self.ok("head -c 4194304 /dev/urandom > /srv/image")?;
        self.job_done(self.job("first")?)
    }

    fn job(&self, name: &str) -> Result<i64> {
        let said = self.machine.json(&["job", "run", "--image", "/srv/image", "--name", name, "--store", "main"])?;
        said["jobs"][0]["id"].as_i64().ok_or_else(|| Error::failed(format!("no job in {said:#}")))
    }

    fn job_state(&self, id: i64) -> Result<Value> {
        let all = self.machine.json(&["jobs", "--all"])?;
        let job = all.as_array().and_then(|jobs| jobs.iter().find(|job| job["id"] == id)).cloned();
        job.ok_or_else(|| Error::failed(format!("no job {id} in {all:#}")))
    }

    fn job_done(&self, id: i64) -> Result<()> {
        self.must("the job came to a good end", &format!("cairn job log {id} --follow"))
    }

    fn main_pid(&self) -> Result<String> {
        Ok(self.machine.property(SERVICE, "MainPID")?)
    }

    fn is_upgraded_under_a_job(&self) -> Result<()> {
        say!("== upgrade under a job");
        let id = self.job("second")?;
        let begun = format!("/var/lib/cairn/jobs/{id}/process.json");
        let pid = wait_for("the job's process", LIMIT, POLL / 10, || {
            let said = self.machine.run(&["cat", &begun])?.text();
            let begun: Option<Value> = serde_json::from_str(&said).ok();
            Ok(begun.and_then(|begun| begun["pid"].as_i64()))
        })?;
        self.ok(&format!("kill -STOP {pid}"))?;
        let daemon = self.main_pid()?;
        self.apt(&format!("install {}", self.deb(&self.newer)?))?;
        let now = self.main_pid()?;
        if now == daemon || now == "0" {
            return Err(Error::failed(format!("the daemon was {daemon} and is {now}: it was not started anew")));
        }
        let job = self.job_state(id)?;
        if job["state"] != "running" || job["pid"] != pid {
            return Err(Error::failed(format!("the job did not go on: {job:#}")));
        }
        self.must("the admin's configuration is kept", "grep -q /srv/backup /etc/cairn/cairn.yaml")?;
        self.must("the hook is of this build", "cairn hook status --json | grep -q '\"current\": *true'")?;
        self.ok(&format!("kill -CONT {pid}"))?;
        self.job_done(id)?;
        let points = self.machine.json(&["list", "--store", "main"])?;
        let is_there = |name: &str| points.as_array().is_some_and(|all| all.iter().any(|point| point["name"] == name));
        if ["web1", "first", "second"].into_iter().all(is_there) { Ok(()) } else { Err(Error::failed(format!("three points were made: {points:#}"))) }
    }

    /// An upgrade starts nothing that an admin has stopped, and does not fail of a configuration that is wrong.
    fn stays_stopped(&self) -> Result<()> {
        say!("== upgrade of a stopped one");
        let deb = self.deb(&self.newer)?;
        self.ok("systemctl stop cairn.socket cairn.service")?;
        self.apt(&format!("install --reinstall {deb}"))?;
        self.must("it stays stopped", "! systemctl is-active cairn.service && ! systemctl is-active cairn.socket")?;
        self.ok("systemctl start cairn.service; cp /etc/cairn/cairn.yaml /srv/; echo 'x: 1' >> /etc/cairn/cairn.yaml")?;
        self.apt(&format!("install --reinstall {deb}"))?;
        self.ok("cp /srv/cairn.yaml /etc/cairn/; systemctl reset-failed cairn.service cairn.socket; systemctl start cairn.service; cairn jobs")?;
        Ok(())
    }

    fn is_removed(&self) -> Result<()> {
        say!("== remove");
        self.ok("mkdir -p /var/lib/cairn/runs/web1-run")?;
        let refused = self.machine.run(&["sh", "-c", "DEBIAN_FRONTEND=noninteractive apt-get --yes remove cairn 2>&1"])?;
        if refused.code() == 0 || !refused.text().contains("cairn keep") || !refused.text().contains("web1-run") {
            return Err(Error::failed(format!("a domain runs from a point, and the package goes: {}", refused.text())));
        }
        self.must("nothing was stopped", "systemctl is-active cairn.service && cairn jobs")?;
        self.ok("rmdir /var/lib/cairn/runs/web1-run")?;
        self.apt("remove cairn")?;
        self.must("hook and program are gone", &format!("! test -e {HOOK} && ! test -e /usr/bin/cairn && ! systemctl is-active cairn.service"))?;
        self.must("settings, keys and records stay", "test -s /etc/cairn/cairn.yaml && ls /etc/cairn/keys/*.key && test -d /var/lib/cairn/jobs")
    }

    fn is_purged(&self) -> Result<()> {
        say!("== purge");
        self.ok("echo mine > /var/lib/cairn/mine")?;
        let said = self.apt("purge cairn")?;
        for word in ["/etc/cairn/keys was left", "/var/lib/cairn was left"] {
            if !said.contains(word) {
                return Err(Error::failed(format!("the purge does not say that {word}: {said}")));
            }
        }
        self.must("keys and what is not Cairn's stay", "ls /etc/cairn/keys/*.key && test -s /var/lib/cairn/mine && test -d /srv/backup")?;
        self.must("all else is gone", "! test -e /etc/cairn/cairn.yaml && test \"$(ls -A /var/lib/cairn)\" = mine && ! ls /etc/systemd/system/*/cairn.*")?;
        self.ok("rm -r /etc/cairn/keys /var/lib/cairn").map(drop)
    }
}
