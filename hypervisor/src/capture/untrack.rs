//! The end of a domain's tracking: every dirty bitmap and every checkpoint of ours goes, whichever store's, and whatever else of ours is in its way.
//!
//! For admins who want to revert internal snapshots (QEMU refuses that while a disk has a dirty bitmap), or who leave. The next backup of each store compares
//! everything once and begins anew.
//!
//! Invariants
//! - Under the domain's lock. Bitmaps and checkpoints of others are not touched, by their names.
//! - The monitor of a running domain that libvirt tracks for us, and whose monitor nobody has used yet, is left alone: only what libvirt knows of goes.
//! - Nothing is forced: an image that another process has open for writing, or that is read-only in a running domain, is named and left.
//!
//! What it must not do: change a byte that a guest can see.

use std::path::{Path, PathBuf};

use super::checkpoints::preflight::image_of;
use super::checkpoints::{self, Checkpoint};
use super::cleanup;
use super::error::CaptureError;
use super::lock::{DomainLock, LOCK_DIR_DEFAULT};
use super::look::{no_foreign_job, no_job_that_libvirt_knows};
use super::names::{CheckpointName, began_at};
use super::scratch::{SCRATCH_DIR_DEFAULT, folder_of};
use crate::disks::{Disk, Source};
use crate::domain::Domain;
use crate::image_tools::chain::{Look, chain, remove_bitmap};
use crate::qmp::nodes::{ChainNode, Nodes};

const READ_ONLY: &str = "its image is read-only while the domain runs; `virsh blockcommit` merges it, or untrack the domain when it is off";

/// Where things are.
#[derive(Debug, Clone)]
pub struct UntrackOptions {
    /// Folder of the domains' locks.
    pub lock_dir: PathBuf,
    /// Folder of scratch images.
    pub scratch_dir: PathBuf,
    /// Tell, and change nothing.
    pub dry_run: bool,
}

impl Default for UntrackOptions {
    fn default() -> Self {
        Self { lock_dir: LOCK_DIR_DEFAULT.into(), scratch_dir: SCRATCH_DIR_DEFAULT.into(), dry_run: false }
    }
}

/// A bitmap of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// Target of the disk.
    pub disk: String,
    /// Image that carries it.
    pub image: String,
    /// Its name.
    pub bitmap: String,
    /// It is gone (or would be); if not, why.
    pub gone: Result<(), String>,
}

/// Removes the bitmaps, and tells of each; none is no error.
///
/// # Errors
/// [`CaptureError::Busy`], [`CaptureError::ForeignJob`]; libvirt's and QEMU's.
pub fn run(domain: &Domain, options: &UntrackOptions) -> Result<Vec<Tracking>, CaptureError> {
    let (name, uuid) = (domain.name()?, domain.uuid()?);
    let _lock = DomainLock::take(&options.lock_dir, &name, &uuid)?;
    let disks = domain.disks()?;
    if domain.is_running()? {
        live(domain, &name, &disks, options, &uuid)
    } else {
        let mut all: Vec<Tracking> = disks.iter().flat_map(|disk| off(domain, disk, options.dry_run)).collect();
        let found = checkpoints::ours(domain)?;
        // Of a checkpoint whose bitmap is gone there is libvirt's description still.
        add_new(&mut all, described(domain, &disks, &found));
        if !options.dry_run {
            checkpoints::remove_all(domain, &|_| true)?;
        }
        Ok(all)
    }
}

fn add_new(all: &mut Vec<Tracking>, more: Vec<Tracking>) {
    for one in more {
        if all.iter().all(|other| (&other.disk, &other.bitmap) != (&one.disk, &one.bitmap)) {
            all.push(one);
        }
    }
}

/// What libvirt says that its checkpoints have.
fn described(domain: &Domain, disks: &[Disk], all: &[Checkpoint]) -> Vec<Tracking> {
    let image = |target: &str| disks.iter().find(|disk| disk.target == target).map(|disk| image_of(domain, disk)).unwrap_or_default();
    let of = |checkpoint: &Checkpoint| {
        let bitmap = checkpoint.name.to_string();
        checkpoint.disks.iter().map(move |disk| (disk.clone(), bitmap.clone())).collect::<Vec<_>>()
    };
    all.iter().flat_map(of).map(|(disk, bitmap)| Tracking { image: image(&disk), disk, bitmap, gone: Ok(()) }).collect()
}

fn live(domain: &Domain, name: &str, disks: &[Disk], options: &UntrackOptions, uuid: &str) -> Result<Vec<Tracking>, CaptureError> {
    let found = checkpoints::ours(domain)?;
    let mut all = described(domain, disks, &found);
    if !options.dry_run && !found.is_empty() {
        no_job_that_libvirt_knows(domain, name)?;
        checkpoints::clean_up(domain, &folder_of(&options.scratch_dir, uuid), &|_| true)?;
    }
    if !found.is_empty() && !domain.monitor_was_used()? {
        tracing::debug!("its monitor is left alone");
        return Ok(all);
    }
    no_foreign_job(domain, name)?;
    add_new(&mut all, by_monitor(domain, disks, options, uuid)?);
    Ok(all)
}

fn by_monitor(domain: &Domain, disks: &[Disk], options: &UntrackOptions, uuid: &str) -> Result<Vec<Tracking>, CaptureError> {
    let before = tracked(&Nodes::query(domain)?, disks);
    if options.dry_run {
        return Ok(before);
    }
    let mut lost = before.iter().filter_map(|one| Some((one, one.bitmap.parse::<CheckpointName>().ok()?)));
    let result = lost.try_for_each(|(one, name)| Ok(checkpoints::remove_lost(domain, name, &one.disk)?));
    let result = cleanup::run(domain, &folder_of(&options.scratch_dir, uuid), &|_, _| true).and(result);
    let after = tracked(&Nodes::query(domain)?, disks);
    let why = result.err().map_or_else(|| "it is still there".to_owned(), |error| error.to_string());
    let told = |one: Tracking| {
        let stays = after.iter().any(|other| other.image == one.image && other.bitmap == one.bitmap);
        let gone = if stays { one.gone.and_then(|()| Err(why.clone())) } else { Ok(()) };
        Tracking { gone, ..one }
    };
    Ok(before.into_iter().map(told).collect())
}

fn tracked(nodes: &Nodes, disks: &[Disk]) -> Vec<Tracking> {
    // A disk without a medium has no node.
    let chains = disks.iter().filter_map(|disk| Some((disk, nodes.chain(disk).ok()?)));
    chains.flat_map(|(disk, chain)| chain.iter().flat_map(|node| ours(disk, node)).collect::<Vec<_>>()).collect()
}

/// Bitmaps of ours of one image; those of read-only ones cannot be removed by QEMU.
fn ours(disk: &Disk, node: &ChainNode) -> Vec<Tracking> {
    let names = node.bitmaps.iter().filter_map(|bitmap| bitmap.name.as_deref()).filter(|name| began_at(name).is_some());
    let gone = if node.read_only { Err(READ_ONLY.to_owned()) } else { Ok(()) };
    names.map(|name| Tracking { disk: disk.target.clone(), image: node.filename.clone(), bitmap: name.to_owned(), gone: gone.clone() }).collect()
}

/// Images of a domain that is off are changed by `qemu-img`, which takes QEMU's own locks on them.
fn off(domain: &Domain, disk: &Disk, dry_run: bool) -> Vec<Tracking> {
    let path = match &disk.source {
        Source::File(path) | Source::Block(path) => Some(PathBuf::from(path)),
        Source::Volume { pool, volume } => domain.volume_path(pool, volume).ok(),
        _ => None,
    };
    // No other format keeps bitmaps while nobody has it open; an image that is not there has none.
    let Some(path) = path.filter(|path| disk.format == "qcow2" && path.exists()) else { return Vec::new() };
    let images = match chain(&path, &disk.format, Look::Shared) {
        Ok(chain) => chain.nodes,
        Err(error) => {
            let image = path.display().to_string();
            return vec![Tracking { disk: disk.target.clone(), image, bitmap: "?".to_owned(), gone: Err(error.to_string()) }];
        }
    };
    let mut all = Vec::new();
    for image in images.iter().filter(|image| image.driver == "qcow2") {
        for one in ours(disk, image) {
            let gone = if dry_run { Ok(()) } else { remove_bitmap(Path::new(&one.image), &one.bitmap).map_err(|error| error.to_string()) };
            all.push(Tracking { gone, ..one });
        }
    }
    all
}
