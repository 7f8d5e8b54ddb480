//! Checks of libvirt and QEMU.

use super::{finding::Finding, limit::within};
use crate::{apparmor, cli::Common, failure::Failure};
use cairn_hypervisor::{
    Host, events,
    host::{LIBVIRT_NBD_RECONNECT, version_text},
};
use std::{path::Path, time::Duration};

/// A daemon of libvirt's that is starting takes some seconds, one that is stopped lets callers in and says nothing.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// libvirt, if it can be asked.
pub struct Connected {
    /// The connection; once its daemon is silent for half a minute, its calls fail.
    pub host: Option<Host>,
    /// Findings.
    pub findings: Vec<Finding>,
}

/// Connects, and asks for versions.
pub fn connect(common: &Common) -> Connected {
    const REMEDY: &str = "'systemctl status libvirtd virtqemud' and 'virsh list' say more; root may always ask it, others need the group libvirt";
    // Answered by the remedy.
    const QUESTION: &str = "; is the daemon running, and may this user open its socket?";
    let uri = common.connect.clone();
    let none = |finding| Connected { host: None, findings: vec![finding] };
    let opened = within(CONNECT_LIMIT, move || {
        let host = events::open(uri.as_deref())?;
        let versions = (host.libvirt_version()?, host.qemu_version()?);
        let refused = host.check_versions().err();
        Ok::<_, Failure>((host, versions, refused))
    });
    let (host, (libvirt, qemu), refused) = match opened {
        Err(silent) => {
            let remedy = "'virsh list' would hang too: see whether it is stopped or overloaded ('systemctl status libvirtd virtqemud'); \
                          'systemctl restart libvirtd' harms no guest";
            return none(Finding::failed("libvirt", format!("libvirt's daemon: {silent}"), remedy));
        }
        Ok(Err(failure)) => return none(Finding::failed("libvirt", failure.message.replacen(QUESTION, "", 1), REMEDY)),
        Ok(Ok(all)) => all,
    };
    let (said, is_old) = (format!("libvirt {}, QEMU {}", version_text(libvirt), version_text(qemu)), refused.is_some());
    let finding = match refused {
        Some(error) => Finding::failed("libvirt", error.to_string(), "upgrade the host (docs/capture.md has the oldest releases that are served)"),
        None if libvirt < LIBVIRT_NBD_RECONNECT => {
            Finding::ok("libvirt", format!("{said}; before 9.2 a run from a point needs a storage daemon in between, which is started by itself"))
        }
        None => Finding::ok("libvirt", said),
    };
    let confined = apparmor::finding(&models(common), Path::new(apparmor::PROFILES));
    Connected { host: (!is_old).then_some(host), findings: std::iter::once(finding).chain(confined).collect() }
}

/// What confines guests. libvirt may take ten seconds for it (docs/lab.md): it is asked apart, and what it does not say is no fault.
fn models(common: &Common) -> Vec<String> {
    let uri = common.connect.clone();
    let asked = within(CONNECT_LIMIT, move || events::open(uri.as_deref()).ok().and_then(|host| host.security_models().ok()));
    asked.ok().flatten().unwrap_or_default()
}

/// QEMU's own programs, without which no scratch image is made and no domain that is off is read.
pub fn tools() -> Vec<Finding> {
    let folders: Vec<_> = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let is_there = |program: &str| folders.iter().any(|folder: &std::path::PathBuf| folder.join(program).is_file());
    let wanted = [
        ("qemu-img", "no domain can be backed up without it", "qemu-utils", "qemu-img"),
        ("qemu-storage-daemon", "domains that are off cannot be backed up or restored in place", "qemu-system-common or qemu-utils", "qemu-kvm-core"),
    ];
    let lost: Vec<Finding> = wanted
        .into_iter()
        .filter(|(program, ..)| !is_there(program))
        .map(|(program, why, debian, fedora)| {
            Finding::failed("qemu", format!("the program {program} is not there: {why}"), format!("install it (Debian: {debian}; Fedora and kin: {fedora})"))
        })
        .collect();
    if lost.is_empty() { vec![Finding::ok("qemu", "qemu-img and qemu-storage-daemon are there")] } else { lost }
}
