//! The end of a domain's tracking: every dirty bitmap of ours goes, whichever store's, and whatever else of ours is in its way.
//!
//! For admins who want to revert internal snapshots (QEMU refuses that while a disk has a dirty bitmap), or who leave. The next backup of each store compares
//! everything once and begins anew.
//!
//! Invariants
//! - Under the domain's lock. Bitmaps of others are not touched, by their names.
//! - Nothing is forced: an image that another process has open for writing, or that is read-only in a running domain, is named and left.
//!
//! What it must not do: change a byte that a guest can see.

use std::path::{Path, PathBuf};

use super::cleanup;
use super::error::CaptureError;
use super::lock::{DomainLock, LOCK_DIR_DEFAULT};
use super::look::no_foreign_job;
use super::names::BitmapName;
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
        no_foreign_job(domain, &name)?;
        live(domain, &disks, options, &uuid)
    } else {
        disks.iter().try_fold(Vec::new(), |mut all, disk| {
            all.extend(off(domain, disk, options.dry_run));
            Ok(all)
        })
    }
}

fn live(domain: &Domain, disks: &[Disk], options: &UntrackOptions, uuid: &str) -> Result<Vec<Tracking>, CaptureError> {
    let before = tracked(&Nodes::query(domain)?, disks);
    if options.dry_run {
        return Ok(before);
    }
    let result = cleanup::run(domain, &folder_of(&options.scratch_dir, uuid), &|_, _| true);
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
    let names = node.bitmaps.iter().filter_map(|bitmap| bitmap.name.as_deref()).filter(|name| name.parse::<BitmapName>().is_ok());
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
