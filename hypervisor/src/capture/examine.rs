//! What a backup would find of a domain, asked without changing anything (`cairn doctor`, docs/doctor.md).
//!
//! Invariants
//! - What a disk gets is decided by the very functions that a backup decides with: what is refused there is refused here, in the same words.
//! - Nothing is locked, written, added or removed, and no program that could is started.
//! - QEMU is asked only where the caller says so: the monitor taints a domain ([`Domain::monitor_was_used`]).
//!
//! What it must not do: wait. Whoever calls it gives it a thread and a limit.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::checkpoints::{self, Checkpoint};
use super::error::CaptureError;
use super::lock::DomainLock;
use super::look::{self, Kind, LookOptions, Store};
use super::names::{BitmapName, CheckpointName, Role};
use super::offline;
use super::plan::{Base, decide};
use super::preflight::{can_persist, file_id, is_version_2, refuse_encrypted};
use super::scratch::{FREE_BYTES_MIN, folder_of};
use crate::disks::Disk;
use crate::domain::Domain;
use crate::ffi::{self, LibvirtError};
use crate::qmp::nodes::{ChainNode, Nodes};

/// Where libvirt's daemon keeps the process ids of its QEMUs.
const PID_DIR: &str = "/run/libvirt/qemu";
/// In libvirt's words for a domain whose monitor somebody used.
const MONITOR_USED: &str = "custom monitor";

/// What is known of a domain.
#[derive(Debug)]
pub struct Examined {
    /// There is a QEMU process.
    pub running: bool,
    /// Who works on it now. Jobs and bitmaps are theirs then, and are not judged.
    pub busy: Option<String>,
    /// Disks in the order of the XML.
    pub disks: Vec<ExaminedDisk>,
    /// What dead backups left.
    pub left: Vec<(Kind, String)>,
    /// What libvirt tracks for us (the mode `libvirt-api`).
    pub checkpoints: Vec<Checkpoint>,
    /// A job of somebody else's that a backup would wait for.
    pub foreign_job: Option<CaptureError>,
    /// Whether its QEMU has the scratch folder (or, where there is none yet, the folder above it) at the same path; `None` where that cannot be told.
    pub sees_scratch: Option<bool>,
}

/// A disk.
#[derive(Debug)]
pub struct ExaminedDisk {
    /// As the XML has it, with the reason why it is left out, if it is.
    pub disk: Disk,
    /// What it gets.
    pub gets: Result<Gets, CaptureError>,
}

/// What a disk that is saved gets.
#[derive(Debug, Default)]
pub struct Gets {
    /// A bitmap on it outlives QEMU.
    pub can_persist: bool,
    /// It is qcow2 without room for bitmaps (compat 0.10).
    pub is_version_2: bool,
    /// Virtual size, if that could be had.
    pub size_bytes: Option<u64>,
    /// Where the next backup begins, by store.
    pub bases: Vec<([u8; 4], Base)>,
    /// Bitmaps of ours that QEMU could not store before it died.
    pub inconsistent: Vec<String>,
    /// First four bytes of the ids of stores that have a bitmap on it.
    pub tracked_for: Vec<[u8; 4]>,
    /// Checkpoints of ours that have it, by libvirt's description.
    pub checkpoints: Vec<CheckpointName>,
}

impl Domain {
    /// Somebody has used the running instance's monitor already: to use it again changes nothing. libvirt tells it in words, which a daemon of
    /// another language has otherwise; then it is `false`.
    ///
    /// # Errors
    /// libvirt's.
    pub fn monitor_was_used(&self) -> Result<bool, LibvirtError> {
        Ok(self.is_running()? && ffi::taints(self.raw())?.iter().any(|text| text.contains(MONITOR_USED)))
    }
}

/// Looks.
///
/// # Errors
/// libvirt's and QEMU's. What is wrong with a single disk is told of that disk.
pub fn run(domain: &Domain, options: &LookOptions, stores: &[Store<'_>]) -> Result<Examined, CaptureError> {
    let (name, uuid) = (domain.name()?, domain.uuid()?);
    let running = domain.is_running()?;
    let busy = DomainLock::holder_now(&options.lock_dir, &uuid);
    let asks_qemu = running && options.monitor;
    let (left, foreign_job) = match &busy {
        Some(_) => (Vec::new(), None),
        None => {
            let foreign = if asks_qemu { look::no_foreign_job(domain, &name).err() } else { None };
            (look::would_remove(domain, options, stores)?, foreign)
        }
    };
    let nodes = if asks_qemu { Some(Nodes::query(domain)?) } else { None };
    let checkpoints = checkpoints::ours(domain)?;
    let disk = |disk: Disk| {
        let mut gets = match (&disk.skip, &nodes) {
            (Some(_), _) => Ok(Gets::default()),
            (None, Some(nodes)) => live(&name, &disk, nodes, stores),
            (None, None) if running => unasked(&name, &disk),
            (None, None) => offline::look(domain, &name, &disk).map(|chain| gets(&chain, stores)),
        };
        if let Ok(gets) = &mut gets {
            let of_disk = checkpoints.iter().filter(|checkpoint| checkpoint.disks.contains(&disk.target));
            gets.checkpoints = of_disk.map(|checkpoint| checkpoint.name).collect();
        }
        ExaminedDisk { disk, gets }
    };
    let disks = domain.disks()?.into_iter().map(disk).collect();
    let sees_scratch = if running { sees(&name, &folder_of(&options.scratch_dir, &uuid)) } else { None };
    Ok(Examined { running, busy, disks, left, checkpoints, foreign_job, sees_scratch })
}

fn live(name: &str, disk: &Disk, nodes: &Nodes, stores: &[Store<'_>]) -> Result<Gets, CaptureError> {
    refuse_encrypted(name, disk)?;
    Ok(gets(&nodes.chain(disk)?, stores))
}

/// Of a domain that runs and was never backed up: what its XML and the image's header say.
fn unasked(name: &str, disk: &Disk) -> Result<Gets, CaptureError> {
    refuse_encrypted(name, disk)?;
    let is_version_2 = disk.format == "qcow2" && disk.source.path().is_some_and(is_version_2);
    Ok(Gets { can_persist: disk.format == "qcow2" && !is_version_2, is_version_2, ..Gets::default() })
}

fn gets(chain: &[ChainNode], stores: &[Store<'_>]) -> Gets {
    let all = chain.iter().flat_map(|node| &node.bitmaps);
    let ours = all.filter_map(|bitmap| Some((bitmap, bitmap.name.as_deref()?.parse::<BitmapName>().ok().filter(|name| matches!(name.role, Role::Disk(_)))?)));
    let (mut inconsistent, mut tracked_for) = (Vec::new(), Vec::new());
    for (bitmap, name) in ours {
        if bitmap.inconsistent {
            inconsistent.push(name.to_string());
        } else if !tracked_for.contains(&name.store8) {
            tracked_for.push(name.store8);
        }
    }
    let persists = can_persist(chain);
    Gets {
        can_persist: persists,
        is_version_2: !persists && chain.first().is_some_and(|top| top.driver == "qcow2"),
        size_bytes: chain.first().map(|top| top.size_bytes),
        bases: stores.iter().map(|(store8, catalog)| (*store8, decide(chain, *store8, *catalog, &file_id))).collect(),
        inconsistent,
        tracked_for,
        checkpoints: Vec::new(),
    }
}

/// QEMU lives in a mount namespace of its own: what was mounted after its start is not there.
fn sees(name: &str, folder: &Path) -> Option<bool> {
    let pid: u32 = std::fs::read_to_string(Path::new(PID_DIR).join(format!("{name}.pid"))).ok()?.trim().parse().ok()?;
    // The first that exists, of the folder and those above it.
    let there = folder.ancestors().find(|path| path.is_dir())?;
    let id = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let theirs: PathBuf = Path::new("/proc").join(pid.to_string()).join("root").join(there.strip_prefix("/").ok()?);
    match id(&theirs) {
        Ok(theirs) => Some(id(there).ok()? == theirs),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// Free bytes that a backup wants of its scratch folder before it begins, for disks of that size together.
#[must_use]
pub fn scratch_bytes_min(disks_bytes: u64) -> u64 {
    disks_bytes.min(FREE_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::super::plan::{FullReason, PointStatus, Says};
    use super::*;
    use crate::qmp::nodes::Bitmap;

    fn bitmap(store: u8, inconsistent: bool) -> Bitmap {
        let name = BitmapName { store8: [store; 4], session: [7; 16], role: Role::Disk(0) }.to_string();
        Bitmap { name: Some(name), granularity: 65536, count: 0, recording: true, busy: false, persistent: true, inconsistent }
    }

    #[test]
    fn what_is_on_a_disk_is_told_apart() {
        let of_others = Bitmap { name: Some("somebody's".to_owned()), ..bitmap(1, false) };
        let bitmaps = vec![bitmap(1, false), bitmap(2, true), of_others];
        let chain =
            [ChainNode { name: "n".to_owned(), driver: "qcow2".to_owned(), filename: "/no/such".to_owned(), read_only: false, size_bytes: 1 << 20, bitmaps }];
        let (none, silent) = (Says(PointStatus::NotCommitted, None), Says(PointStatus::Unreachable, None));
        let found = gets(&chain, &[([1; 4], &silent), ([3; 4], &none)]);
        assert_eq!((found.can_persist, found.is_version_2, found.size_bytes), (true, false, Some(1 << 20)));
        assert_eq!((found.tracked_for.as_slice(), found.inconsistent.len()), (&[[1; 4]][..], 1));
        let reasons: Vec<_> = found.bases.iter().map(|(_, base)| base.clone()).collect();
        let none = |reason| Base::None { reason, compare: None };
        assert_eq!(reasons, [none(FullReason::BaseUnknown), none(FullReason::NoBitmap)], "the decision of a backup");
    }

    #[test]
    fn a_small_domain_needs_a_small_scratch() {
        assert_eq!((scratch_bytes_min(4096), scratch_bytes_min(1 << 40)), (4096, FREE_BYTES_MIN));
    }
}
