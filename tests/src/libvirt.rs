//! The lab's libvirtd: configuration written by us, started in the background, so that init is its parent.

use crate::error::{Error, Result};
use crate::process::{run, run_ok, wait_for, wait_limit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The connection every program in the lab uses.
pub const URI: &str = "qemu:///system";
/// Where libvirtd writes its process id.
pub const PID_FILE: &str = "/run/libvirtd.pid";
/// Where the lab's images are; the storage pool `default` is the same folder.
pub const IMAGES: &str = "/var/lib/libvirt/images";
/// libvirtd answers within two seconds here; the first start also asks QEMU for its capabilities.
const START_LIMIT: Duration = Duration::from_secs(60);
/// For single virsh calls. libvirt 11.3 without KVM asks QEMU for its capabilities at each definition of a domain: minutes on a busy machine.
pub const CALL_LIMIT: Duration = Duration::from_secs(180);

/// No security driver: the profiles on the host know nothing of a lab's folders. Files instead of virtlogd:
/// two domains of one lab (`lab1` and `deb1`) may name one console file.
const QEMU_CONF: &str = "security_driver = \"none\"\nstdio_handler = \"file\"\n";
/// No policy kit behind the lab's private /run.
const LIBVIRTD_CONF: &str = "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0700\"\nunix_sock_ro_perms = \"0700\"\n";

/// Starts libvirtd in the background and waits until it answers. Gives its version line.
///
/// # Errors
/// Not installed, ended at once (its log is quoted), or silent.
pub fn start(log: &Path) -> Result<String> {
    configure(log)?;
    launch(log)?;
    let version = wait_for("start of the lab's libvirtd", START_LIMIT, Duration::from_millis(20), || {
        let output = run(&mut virsh(&["version"]), CALL_LIMIT)?;
        Ok(output.status.success().then(|| summary(&output.text())))
    })?;
    make_pool()?;
    Ok(version)
}

/// `libvirt 9.0, QEMU 7.2`: what behaviour hangs on.
///
/// # Errors
/// virsh's words.
pub fn version() -> Result<String> {
    let whole = summary(&run_ok(&mut virsh(&["version"]), CALL_LIMIT)?);
    let short =
        |word: &str| if word.starts_with(|c: char| c.is_ascii_digit()) { word.split('.').take(2).collect::<Vec<_>>().join(".") } else { word.to_owned() };
    let comma = |word: &str| if word.ends_with(',') { "," } else { "" };
    Ok(whole.split(' ').map(|word| short(word.trim_end_matches(',')) + comma(word)).collect::<Vec<_>>().join(" "))
}

/// Starts libvirtd in the background; suites that killed it start it again by this.
///
/// # Errors
/// Not installed, or ended at once (its log is quoted).
pub fn launch(log: &Path) -> Result<()> {
    // Its own output goes nowhere: a background process must not hold our pipes.
    let mut command = Command::new("libvirtd");
    command.args(["-d", "-p", PID_FILE]).env("PATH", super::init::PATH).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut starter = command.spawn().map_err(|_| Error::Missing { what: "libvirtd".into(), remedy: "run `cargo xtask setup`".into() })?;
    let status = wait_limit(&mut starter, "libvirtd -d", START_LIMIT)?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(log).unwrap_or_default();
    Err(Error::Command { command: "libvirtd -d".into(), status: status.to_string(), stderr: said })
}

/// libvirtd's process.
///
/// # Errors
/// It has left no process id.
pub fn daemon() -> Result<Pid> {
    let text = fs::read_to_string(PID_FILE).map_err(Error::io("read", PID_FILE))?;
    text.trim().parse().map(Pid::from_raw).map_err(|e| Error::answer(PID_FILE, format!("{e} in {text:?}")))
}

/// Has libvirtd read its configuration anew, as `systemctl reload` does: then it looks for hooks.
///
/// # Errors
/// It is not there.
pub fn reload() -> Result<()> {
    kill(daemon()?, Signal::SIGHUP).map_err(|e| Error::io("signal", "libvirtd")(e.into()))?;
    // It says nothing when it is done, and takes no call in between.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// Ends libvirtd by a signal and starts it again; `log` is where it wrote to.
///
/// # Errors
/// It does not end, or does not come up.
pub fn restart(log: &Path, signal: Signal) -> Result<()> {
    let pid = daemon()?;
    kill(pid, signal).map_err(|e| Error::io("signal", "libvirtd")(e.into()))?;
    wait_for("end of libvirtd", START_LIMIT, Duration::from_millis(20), || Ok(kill(pid, None).is_err().then_some(())))?;
    launch(log)?;
    wait_for("libvirtd", START_LIMIT, Duration::from_millis(50), || Ok(run(&mut virsh(&["version"]), CALL_LIMIT)?.status.success().then_some(())))
}

/// A virsh command on the lab's connection.
#[must_use]
pub fn virsh(args: &[&str]) -> Command {
    virsh_at(URI, args)
}

/// The same on any connection.
#[must_use]
pub fn virsh_at(uri: &str, args: &[&str]) -> Command {
    let mut command = Command::new("virsh");
    command.args(["-q", "-c", uri]).args(args).env("LC_ALL", "C");
    command
}

fn configure(log: &Path) -> Result<()> {
    let libvirtd = format!("{LIBVIRTD_CONF}log_outputs = \"3:file:{}\"\n", log.display());
    for (path, text) in [("/etc/libvirt/qemu.conf", QEMU_CONF), ("/etc/libvirt/libvirtd.conf", &libvirtd)] {
        fs::write(path, text).map_err(Error::io("write", path))?;
    }
    Ok(())
}

fn make_pool() -> Result<()> {
    fs::create_dir_all(IMAGES).map_err(Error::io("create", IMAGES))?;
    crate::folder::set_mode(Path::new(IMAGES), 0o711)?;
    run_ok(&mut virsh(&["pool-define-as", "default", "dir", "--target", IMAGES]), CALL_LIMIT)?;
    run_ok(&mut virsh(&["pool-start", "default"]), CALL_LIMIT)?;
    Ok(())
}

/// From `virsh version`: "libvirt 9.0.0, QEMU 7.2.22".
fn summary(text: &str) -> String {
    let pick = |label: &str| text.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
    match (pick("Using library: libvirt "), pick("Running hypervisor: QEMU ")) {
        (Some(libvirt), Some(qemu)) => format!("libvirt {libvirt}, QEMU {qemu}"),
        _ => text.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_virsh_prints() {
        let text = "Compiled against library: libvirt 9.0.0\nUsing library: libvirt 9.0.0\nUsing API: QEMU 9.0.0\nRunning hypervisor: QEMU 7.2.22\n";
        assert_eq!(summary(text), "libvirt 9.0.0, QEMU 7.2.22");
    }
}
