//! Checks of domains: what each disk gets, what dead backups left, whether the guest can be quiesced.

use super::{
    finding::{Finding, Status},
    limit::within,
};
use crate::{
    commands::now_unix_ms,
    domain::chain,
    failure::Failure,
    in_place::refuse_half_restored,
    output::{self, shown},
    points::SHOWN_ID_DIGITS,
    run::folder::RunFolder,
    watch::stores::AnsweringStore,
};
use cairn_hypervisor::{
    Domain, Host,
    capture::{
        checkpoints,
        error::CaptureError,
        examine::{self, Examined, ExaminedDisk, Gets, scratch_bytes_min},
        look::{Kind, LookOptions, Store},
        names::CheckpointName,
        plan::{Base, FullReason},
        scratch::folder_of,
    },
    disks::{Disk, SkipReason, Source},
    ffi::LibvirtError,
    guard::SCRATCH_PERCENT_MAX,
    host::HostError,
};
use cairn_quiesce::{
    agent::AgentFailure,
    freeze::{is_frozen, probe},
    record,
};
use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// To list all domains; libvirt gives up by itself after half a minute of silence.
const LIST_LIMIT: Duration = Duration::from_secs(45);
/// One domain without its agent.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// A guest's agent: libvirt waits 5 s for its sign of life, and each question has a limit of 5 s. It answers the first or none.
const AGENT_LIMIT: Duration = Duration::from_secs(30);
/// Domains at once: libvirt serves five calls of one client at a time.
const AT_ONCE: usize = 4;
/// Of its disks' size a domain should be able to overwrite so much while a backup reads them.
const SCRATCH_SHARE_PERCENT_MIN: u64 = 10;

/// What all domains have in common.
pub struct Around {
    /// Stores that answer.
    pub stores: Arc<Vec<AnsweringStore>>,
    /// No store is silent, so a bitmap of an unknown store is of none of these.
    pub stores_all_answer: bool,
    /// Folder for scratch images.
    pub scratch_dir: PathBuf,
    /// Room on its file system.
    pub scratch_free_bytes: Option<u64>,
    /// Records of this host.
    pub state_dir: PathBuf,
}

/// All that are named, or all there are; and the names that libvirt does not know.
pub fn all(host: &Arc<Host>, names: &[String], around: &Arc<Around>) -> (Vec<Finding>, Vec<String>) {
    let (lister, wanted) = (Arc::clone(host), names.to_vec());
    let (mut domains, missing) = match within(LIST_LIMIT, move || choose(&lister, &wanted)) {
        Ok(Ok(chosen)) => chosen,
        Ok(Err(failure)) => return (vec![Finding::told("domain", Status::Failed, &failure.message, "see the check 'libvirt'")], Vec::new()),
        Err(silent) => return (vec![Finding::failed("domain", format!("libvirt's list of domains: {silent}"), "see the check 'libvirt'")], Vec::new()),
    };
    domains.sort_by(|a, b| a.0.cmp(&b.0));
    let queue = Mutex::new(domains.into_iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                // The guard of the queue must not live while a domain is looked at.
                while let Some((index, (name, domain))) = { queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() } {
                    let findings = examine(&name, &domain, around);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, findings));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    (done.into_iter().flat_map(|(_, findings)| findings).collect(), missing)
}

type Chosen = (Vec<(String, Domain)>, Vec<String>);

fn choose(host: &Host, names: &[String]) -> Result<Chosen, Failure> {
    let named = |domain: Domain| (domain.name().unwrap_or_else(|_| "?".to_owned()), domain);
    if names.is_empty() {
        return Ok((host.domains()?.into_iter().map(named).collect(), Vec::new()));
    }
    let (mut domains, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match host.domain(name) {
            Ok(domain) => domains.push(named(domain)),
            Err(HostError::NoDomain { .. }) => missing.push(name.clone()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok((domains, missing))
}

/// One domain. Its agent is asked beside: one that is silent takes no time from the rest.
fn examine(name: &str, domain: &Domain, around: &Arc<Around>) -> Vec<Finding> {
    if RunFolder::of(&around.state_dir, name).is_ok_and(|run| run.exists()) {
        return vec![Finding::ok("domain", "it runs from a restore point, and has keepers of its own").of_domain(name)];
    }
    let (agent, silent_agent) = (domain.clone(), |why| {
        vec![Finding::warning("agent", format!("the guest's agent: {why}"), "'virsh qemu-agent-command' would hang too; see whether libvirt answers")]
    });
    let asked = std::thread::spawn(move || within(AGENT_LIMIT, move || quiesce(&agent)));
    let (looked, near) = (domain.clone(), Arc::clone(around));
    let owned = name.to_owned();
    let mut findings = within(LOOK_LIMIT, move || look(&owned, &looked, &near)).unwrap_or_else(|silent| {
        let remedy = format!("see whether libvirt answers ('virsh domstate {name}') and whether the disks of its images do (dmesg)");
        vec![Finding::failed("domain", format!("its disks: {silent}"), remedy)]
    });
    let of_agent = asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).unwrap_or_else(silent_agent);
    findings.extend(of_agent);
    findings.into_iter().map(|f| f.of_domain(name)).collect()
}

fn look(name: &str, domain: &Domain, around: &Around) -> Vec<Finding> {
    let catalogs: Vec<Store<'_>> = around.stores.iter().map(|s| (s.store8, s as _)).collect();
    let mut options = LookOptions { scratch_dir: around.scratch_dir.clone(), ..LookOptions::default() };
    // A domain that was backed up is tainted since.
    let known = |uuid: &str| {
        let left = folder_of(&options.scratch_dir, uuid).exists() || record::is_open(&options.record_dir, uuid);
        left || around.stores.iter().any(|s| s.newest(uuid, name, &[], now_unix_ms()).is_some())
    };
    let is_spared = |domain: &Domain, uuid: &str| {
        let has_checkpoints = !checkpoints::ours(domain)?.is_empty();
        Ok::<_, LibvirtError>(has_checkpoints || around.stores.iter().any(|s| s.spares_monitor(uuid, name, &[])))
    };
    let examined = domain.uuid().and_then(|uuid| Ok((domain.monitor_was_used()? || known(&uuid) && !is_spared(domain, &uuid)?, uuid)));
    let examined = examined.map_err(CaptureError::from).and_then(|(monitor, uuid)| {
        options.monitor = monitor;
        Ok((examine::run(domain, &options, &catalogs)?, uuid))
    });
    let (examined, uuid) = match examined {
        Ok(examined) => examined,
        Err(e) => return vec![unseen(name, &e)],
    };
    let mut out = vec![state(&examined, options.monitor)];
    out.extend(refuse_half_restored(&around.state_dir, &uuid).err().map(|f| Finding::told("restore", Status::Failed, &f.message, "restore it again")));
    out.extend(examined.disks.iter().map(|disk| of_disk(name, disk, &examined, around)));
    out.extend(left(name, &examined, around));
    out.extend(snapshots(name, domain, &examined));
    if examined.running {
        out.extend(scratch(&examined, around));
    }
    out
}

/// The monitor is libvirt's to allow; by polkit it can be forbidden.
fn unseen(name: &str, error: &CaptureError) -> Finding {
    let text = chain(error);
    if text.contains("access denied") || text.contains("read only access") {
        let remedy = "backups talk to QEMU through libvirt's monitor passthrough: allow org.libvirt.api.domain.write, or run cairn as root";
        return Finding::failed("monitor", text, remedy);
    }
    Finding::told("domain", Status::Failed, &text, &format!("'virsh dominfo {name}' and libvirt's log say more"))
}

fn state(examined: &Examined, monitor: bool) -> Finding {
    let found = match (&examined.busy, examined.running, monitor) {
        (Some(who), ..) => format!("process {who} works on it now"),
        (None, false, _) => "it is off; its images are read as they lie there".to_owned(),
        (None, true, true) => "it runs, and its QEMU answers through libvirt's monitor".to_owned(),
        (None, true, false) if !examined.checkpoints.is_empty() => {
            "it runs, and is backed up without QEMU's monitor (libvirt-api), which was not asked for this either".to_owned()
        }
        (None, true, false) => "it runs, and its QEMU was not asked, which would taint it: no backup of it has used the monitor".to_owned(),
    };
    Finding::ok("domain", found)
}

fn of_disk(name: &str, examined: &ExaminedDisk, whole: &Examined, around: &Around) -> Finding {
    const CHECK: &str = "disk";
    let disk = &examined.disk;
    let is = format!("{} on {}", disk.format, disk.bus.as_deref().unwrap_or("an unknown bus"));
    let finding = match (&examined.gets, disk.skip) {
        (_, Some(reason @ (SkipReason::Lun | SkipReason::Shareable | SkipReason::Transient))) => {
            let remedy = "save its content from within the guest; 'cairn backup --disk' with the other disks says so in the point";
            Finding::warning(CHECK, format!("{is}: not saved at all: {reason}"), remedy)
        }
        (_, Some(reason)) => Finding::ok(CHECK, format!("{is}: left out: {reason}")),
        (Err(error), None) => refused(name, &is, error),
        (Ok(gets), None) => {
            let ways = ways(gets, whole, around);
            // What QEMU calls inconsistent while somebody has the image open is only in use.
            if !gets.inconsistent.is_empty() {
                let remedy = if whole.running {
                    format!("'cairn reconcile {name}' removes it")
                } else {
                    format!("'cairn untrack {name}' removes it; the next start and backup do, too")
                };
                let found = format!("{is}: an inconsistent bitmap, QEMU ended without storing it: resizing the disk fails; {ways}");
                Finding::warning(CHECK, found, remedy)
            } else if gets.is_version_2 {
                let path = disk.source.path().unwrap_or("IMAGE");
                let found = format!("{is} of version 2 (compat 0.10), which cannot store bitmaps: after each shutdown it is compared as a whole; {ways}");
                Finding::warning(CHECK, found, format!("while the domain is off: 'qemu-img amend -f qcow2 -o compat=1.1 {path}'"))
            } else if let Some(stranger) = gets.tracked_for.iter().find(|s| around.stores_all_answer && !around.stores.iter().any(|a| a.store8 == **s)) {
                let id: String = stranger.iter().map(|byte| format!("{byte:02x}")).collect();
                let found = format!("{is}: tracked for a store ({id}...) that is none of those here; {ways}");
                Finding::warning(CHECK, found, format!("name that store with --store or in the configuration; or end its tracking: 'cairn untrack {name}'"))
            } else {
                Finding::ok(CHECK, format!("{is}: {ways}"))
            }
        }
    };
    finding.of_disk(&disk.target)
}

/// The words in which a backup refuses it.
fn refused(name: &str, is: &str, error: &CaptureError) -> Finding {
    const CHECK: &str = "disk";
    let otherwise = match error {
        CaptureError::Image { .. } => "bring the image back, or leave the disk out with --disk".to_owned(),
        CaptureError::Written { .. } => "end what writes to it: a backup would be of no moment at all".to_owned(),
        _ => format!("'virsh domblklist {name} --details' shows the disks"),
    };
    // What a backup says of itself is no remedy.
    let text = chain(error).replacen("; nothing was saved", "", 1);
    Finding::told(CHECK, Status::Failed, &format!("{is}: not saved: {text}"), &otherwise)
}

/// What the disk gets, by store.
fn ways(gets: &Gets, whole: &Examined, around: &Around) -> String {
    let lasting = if gets.can_persist { "incremental, also after a shutdown" } else { "incremental while its QEMU runs, compared as a whole after that" };
    let store = |store8: &[u8; 4]| around.stores.iter().find(|s| s.store8 == *store8).map_or("?", |s| s.name.as_str());
    let since = |name: &CheckpointName| {
        let id: String = name.session.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}: libvirt has a checkpoint of point {}, from which '--capture libvirt-api' goes on", store(&name.store8), &id[..SHOWN_ID_DIGITS])
    };
    if !gets.checkpoints.is_empty() {
        return gets.checkpoints.iter().map(since).collect::<Vec<_>>().join("; ");
    }
    if gets.bases.is_empty() && !whole.checkpoints.is_empty() {
        return "libvirt has no checkpoint of it: '--capture libvirt-api' compares it as a whole".to_owned();
    }
    if gets.bases.is_empty() {
        return format!("the first backup reads it in full, later ones are {lasting}");
    }
    let one = |(store8, base): &([u8; 4], Base)| {
        let way = match base {
            Base::Bitmap { session, .. } => {
                let id: String = session.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("incremental since point {}", &id[..SHOWN_ID_DIGITS])
            }
            Base::None { reason: FullReason::NoBitmap, .. } if whole.running => format!("read in full next ({}), then {lasting}", FullReason::NoBitmap),
            Base::None { reason: FullReason::NoBitmap, .. } => {
                format!("read in full next ({}), unless nobody wrote to it since the last point", FullReason::NoBitmap)
            }
            Base::None { reason, .. } => format!("compared as a whole next ({reason}), then {lasting}"),
        };
        format!("{}: {way}", store(store8))
    };
    gets.bases.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn left(name: &str, examined: &Examined, around: &Around) -> Vec<Finding> {
    let reconcile = format!("'cairn reconcile {name}' takes it away now; so do the daemon's next look and the next backup");
    let one = |(kind, what): &(Kind, String)| match kind {
        // The disk's own line has it.
        Kind::Inconsistent => None,
        Kind::Freeze => {
            let found = "a backup that died may have left its guest frozen: its programs wait with every write";
            Some(Finding::failed("left", found, format!("'cairn reconcile {name}' thaws it")))
        }
        // A look finds only what lies in the usual folder.
        Kind::Scratch if around.scratch_dir != *cairn_hypervisor::capture::scratch::SCRATCH_DIR_DEFAULT => {
            Some(Finding::warning("left", format!("{kind}: {what}"), "the next backup with this --scratch-dir takes it away"))
        }
        _ => Some(Finding::warning("left", format!("{kind}: {what}"), reconcile.clone())),
    };
    let job = examined.foreign_job.as_ref().map(|e| Finding::told("job", Status::Warning, &chain(e), "wait for its end"));
    examined.left.iter().filter_map(one).chain(job).collect()
}

/// With a dirty bitmap on a disk QEMU refuses to go back to an internal snapshot.
fn snapshots(name: &str, domain: &Domain, examined: &Examined) -> Option<Finding> {
    const CHECK: &str = "snapshot";
    let is_tracked =
        examined.disks.iter().any(|d| d.gets.as_ref().is_ok_and(|g| !(g.tracked_for.is_empty() && g.inconsistent.is_empty() && g.checkpoints.is_empty())));
    let internal = match domain.snapshots() {
        Ok((all, _)) => all.into_iter().filter(|s| !s.external).map(|s| shown(&s.name)).collect::<Vec<_>>(),
        Err(e) => return Some(Finding::warning(CHECK, chain(&e), format!("'virsh snapshot-list {name}' says more"))),
    };
    if internal.is_empty() || !is_tracked {
        return None;
    }
    let found =
        format!("it has internal snapshots ({}) and is tracked: QEMU refuses to revert to them (\"Device has active dirty bitmaps\")", internal.join(", "));
    Some(Finding::warning(CHECK, found, format!("before a revert: 'cairn untrack {name}'; the next backup compares its disks and tracks again")))
}

/// Whether what the guest overwrites during a backup has room.
fn scratch(examined: &Examined, around: &Around) -> Option<Finding> {
    const CHECK: &str = "scratch";
    let dir = around.scratch_dir.display();
    if examined.sees_scratch == Some(false) {
        let found = format!("its QEMU does not see {dir}: the file system was mounted after the domain's start");
        return Some(Finding::failed(CHECK, found, "take another folder (--scratch-dir), or shut the domain down and start it"));
    }
    let free = around.scratch_free_bytes?;
    let sizes = examined.disks.iter().filter(|d| d.disk.skip.is_none()).map(|d| size(&d.disk, d.gets.as_ref().ok()));
    let total: u64 = sizes.flatten().sum();
    if total == 0 {
        return None;
    }
    // Of what is free, as the guard reckons.
    let room = free / 100 * SCRATCH_PERCENT_MAX;
    let found = format!(
        "a backup is ended when the guest overwrites more than {} while it is read; its disks have {}",
        output::bytes(room.min(total)),
        output::bytes(total)
    );
    let remedy = format!("free some space on the file system of {dir}, or take another folder (--scratch-dir)");
    Some(if free < scratch_bytes_min(total) {
        Finding::failed(
            CHECK,
            format!("{} free, and a backup begins with {} only; {found}", output::bytes(free), output::bytes(scratch_bytes_min(total))),
            remedy,
        )
    } else if room < total / 100 * SCRATCH_SHARE_PERCENT_MIN {
        Finding::warning(CHECK, found, remedy)
    } else {
        Finding::ok(CHECK, found)
    })
}

/// As QEMU says, or of an image that was not asked for as much as its file has.
fn size(disk: &Disk, gets: Option<&Gets>) -> Option<u64> {
    let of_file = || match &disk.source {
        Source::File(path) => std::fs::metadata(path).ok().map(|meta| meta.len()),
        _ => None,
    };
    gets.and_then(|gets| gets.size_bytes).or_else(of_file)
}

/// Asks the agent what a backup would ask it; nothing of a domain that is off.
fn quiesce(domain: &Domain) -> Vec<Finding> {
    const CHECK: &str = "agent";
    const INSTALL: &str = "install qemu-guest-agent in the guest and give the domain its channel (docs/quiesce.md); until then points are crash-consistent";
    const ALLOW: &str =
        "in the guest, allow guest-fsfreeze-freeze, -thaw and -status (qemu-ga's configuration, block-rpcs); until then points are crash-consistent";
    if !domain.is_running().unwrap_or(false) {
        return Vec::new();
    }
    // A frozen agent has freezing disabled, so that is asked first.
    let found = match probe(domain).and_then(|probe| Ok((is_frozen(domain)?, probe))) {
        Ok((true, _)) => Finding::warning(
            CHECK,
            "the guest's file systems are frozen at this moment",
            "that is a backup's freeze, over in a second; if it stays: 'cairn reconcile', or 'virsh domfsthaw' for another program's",
        ),
        Ok((false, probe)) if !probe.can_freeze => Finding::warning(CHECK, "the guest's agent answers, and has freezing disabled", ALLOW),
        Err(AgentFailure::Refused(why)) => Finding::warning(CHECK, format!("the guest's agent refuses what a freeze needs: {why}"), ALLOW),
        Ok((false, _)) => Finding::ok(CHECK, "the guest's agent answers and can freeze"),
        Err(AgentFailure::Absent(why)) => Finding::warning(CHECK, format!("the guest has no running agent ({why})"), INSTALL),
        Err(AgentFailure::Silent(why) | AgentFailure::Away(why) | AgentFailure::Closed(why)) => Finding::warning(
            CHECK,
            format!("the guest's agent does not answer ({why})"),
            "see in the guest whether qemu-guest-agent runs, and restart it; until then points are crash-consistent",
        ),
        Err(e) => Finding::warning(CHECK, e.to_string(), "restart qemu-guest-agent in the guest; until then points are crash-consistent"),
    };
    vec![found]
}
