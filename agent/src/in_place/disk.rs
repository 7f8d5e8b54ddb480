//! One disk: found out where it may differ, read, written, closed in good order, read back if asked.

use super::{
    raw,
    record::Record,
    ways::{Way, of_qcow2, united},
};
use crate::{
    cli::Format,
    failure::{DAMAGED, FAILED, Failure, INTERRUPTED, Outcome},
    restore::nbd_image::NbdImage,
};
use cairn_hypervisor::image_tools::{chain::Look, child::qemu_img, daemon::Layer};
use cairn_store::{
    BlockSource, BlockTarget, Point, Progress, Store, StoreError,
    format::register::DiskEntry,
    restore::OnDamage,
    update::{Candidates, Update, UpdateReport},
};
use std::{
    ops::Range,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};
use tokio::runtime::Runtime;

/// A disk that is to be brought to what a point says.
#[derive(Debug)]
pub struct Work {
    /// The disk in the point.
    pub entry: DiskEntry,
    /// Its image today.
    pub path: PathBuf,
    /// The image's format.
    pub format: Format,
    /// It is a block device.
    pub is_device: bool,
    /// Its size today.
    pub size_bytes: u64,
    /// Where to look.
    pub way: Way,
    /// The chain of a qcow2 image.
    layers: Vec<Layer>,
}

/// What is common to all disks of one restore.
pub struct Run<'a> {
    /// The store.
    pub store: &'a Store,
    /// Its points.
    pub points: &'a [Point],
    /// For NBD.
    pub runtime: &'a Runtime,
    /// Counters, and the wish to stop.
    pub progress: &'a Progress,
    /// What to do about damage.
    pub on_damage: OnDamage,
    /// Read all of it back.
    pub verify: bool,
    /// `None`: a dry run.
    pub record: Option<(&'a Path, &'a mut Record)>,
    /// A disk may be other than it was.
    pub touched: bool,
}

/// What was done to a disk, or would be.
#[derive(Debug)]
pub struct DiskReport {
    /// Where something may have differed, bytes.
    pub candidate_bytes: u64,
    /// Read, fetched, written.
    pub done: UpdateReport,
    /// The next backup can be an increment.
    pub chain_kept: bool,
    /// Why all of it was compared although a bitmap was there.
    pub fallback: Option<String>,
    /// Read back and found to be the point's.
    pub verified: bool,
}

impl Work {
    /// Looks at an image; nothing is opened for writing.
    pub fn of(store: &Store, points: &[Point], entry: DiskEntry, path: PathBuf, format: Format, look: Look) -> Outcome<Self> {
        let meta = std::fs::metadata(&path).map_err(|e| Failure::not_found(format!("disk {}: cannot find {}: {e}", entry.target, path.display())))?;
        let is_device = meta.file_type().is_block_device();
        if !is_device && !meta.is_file() {
            return Err(Failure::refused(format!("{} is neither a file nor a block device; nothing was written", path.display())));
        }
        let (size_bytes, layers, way) = match format {
            Format::Qcow2 => of_qcow2(store, points, &path, look)?,
            Format::Raw => {
                let source = raw::open_source(&path)?;
                (BlockSource::size_bytes(&source), Vec::new(), Way::Compare { reason: "a raw image carries no dirty bitmap".into() })
            }
        };
        Ok(Self { entry, path, format, is_device, size_bytes, way, layers })
    }

    /// What would become of the image's size, if it must change; an error where it cannot.
    pub fn resize(&self) -> Outcome<Option<String>> {
        let (now, then) = (self.size_bytes, self.entry.size_bytes);
        let (target, path) = (&self.entry.target, self.path.display());
        match (self.is_device && self.format == Format::Raw, now.cmp(&then)) {
            (_, std::cmp::Ordering::Equal) => Ok(None),
            (true, std::cmp::Ordering::Less) => {
                Err(Failure::refused(format!("disk {target}: the device {path} has {now} bytes, the point {then}; make it larger first (lvextend)")))
            }
            (true, _) => Ok(Some(format!("disk {target}: the device {path} has {now} bytes, the point {then}: the rest of the device becomes zero"))),
            (false, std::cmp::Ordering::Less) => Ok(Some(format!("disk {target}: {path} grows from {now} to {then} bytes, as the point has it"))),
            (false, _) => Ok(Some(format!("disk {target}: {path} shrinks from {now} to {then} bytes, as the point has it"))),
        }
    }

    /// Up to here the disk is brought to the point's content.
    fn end_bytes(&self) -> u64 {
        if self.is_device && self.format == Format::Raw { self.size_bytes.max(self.entry.size_bytes) } else { self.entry.size_bytes }
    }
}

/// Does one disk.
pub fn run_disk(run: &mut Run<'_>, work: &Work) -> Outcome<DiskReport> {
    let mut report = match work.format {
        Format::Raw => raw_disk(run, work),
        Format::Qcow2 => qcow2_disk(run, work),
    }
    .map_err(|f| if run.progress.cancel.load(Ordering::SeqCst) { Failure::new(INTERRUPTED, f.message) } else { f })?;
    if run.verify && run.record.is_some() {
        verify(run, work)?;
        report.verified = true;
    }
    if let Some((state_dir, record)) = &mut run.record {
        record.done(state_dir, &work.entry.target)?;
    }
    Ok(report)
}

fn raw_disk(run: &mut Run<'_>, work: &Work) -> Outcome<DiskReport> {
    let done = if run.record.is_none() {
        update(run, work, &raw::open_source(&work.path)?, None, Candidates::All)?
    } else {
        let mut disk = raw::open(&work.path)?;
        if !work.is_device && work.size_bytes != work.entry.size_bytes {
            disk.resize(&work.path, work.entry.size_bytes)?;
        }
        run.touched = true;
        update(run, work, &disk.source, Some(&disk.target), Candidates::All)?
    };
    Ok(DiskReport { candidate_bytes: work.end_bytes(), done, chain_kept: false, fallback: None, verified: false })
}

fn update(run: &Run<'_>, work: &Work, source: &dyn BlockSource, target: Option<&dyn BlockTarget>, candidates: Candidates<'_>) -> Outcome<UpdateReport> {
    let update = Update { disk: &work.entry, source, target, end_bytes: work.end_bytes(), candidates, on_damage: run.on_damage };
    Ok(run.store.update_disk(&update, run.progress)?)
}

fn qcow2_disk(run: &mut Run<'_>, work: &Work) -> Outcome<DiskReport> {
    let writes = run.record.is_some();
    if writes && work.size_bytes != work.entry.size_bytes {
        let (image, size) = (work.path.display().to_string(), work.entry.size_bytes.to_string());
        let shrink: &[&str] = if work.size_bytes > work.entry.size_bytes { &["--shrink"] } else { &[] };
        // One that shrinks gives up what lies behind the new end before it can fail.
        run.touched |= !shrink.is_empty();
        qemu_img(&[&["resize", "-q", "-f", "qcow2"], shrink, &[&image, &size]].concat(), &work.path).map_err(resize_failed)?;
        run.touched = true;
    }
    let image = NbdImage::open(&work.layers, writes, false, run.runtime)?;
    let done = qcow2_open(run, work, &image);
    // In any case: only an orderly end stores the bitmaps.
    let closed = image.close();
    let mut report = done?;
    closed?;
    report.chain_kept = writes && matches!(of_qcow2(run.store, run.points, &work.path, Look::Alone)?.2, Way::Bitmap { .. });
    Ok(report)
}

/// A bitmap that was in use when QEMU or its host died keeps an image from any other size.
fn resize_failed(e: cairn_hypervisor::image_tools::ToolError) -> Failure {
    let f = Failure::from(e);
    let remedy = if f.message.contains("itmap") { "; 'cairn untrack DOMAIN' removes Cairn's dirty bitmaps, also inconsistent ones" } else { "" };
    Failure { message: f.message + remedy, ..f }
}

fn qcow2_open(run: &mut Run<'_>, work: &Work, image: &NbdImage) -> Outcome<DiskReport> {
    if let Some((state_dir, record)) = &mut run.record {
        record.daemon = Some(image.daemon());
        record.write(state_dir)?;
    }
    let (ranges, fallback) = match &work.way {
        Way::Compare { .. } => (None, None),
        Way::Bitmap { entry, marked, .. } => match candidates(run.store, work, (entry, marked), image) {
            Ok(ranges) => (Some(ranges), None),
            Err(why) => (None, Some(why)),
        },
    };
    let candidates = ranges.as_deref().map_or(Candidates::All, Candidates::Ranges);
    let target: Option<&dyn BlockTarget> = if run.record.is_some() { Some(image) } else { None };
    run.touched |= target.is_some();
    let done = update(run, work, image, target, candidates)?;
    let candidate_bytes = ranges.map_or(work.end_bytes(), |r| r.iter().map(|r| r.end - r.start).sum());
    Ok(DiskReport { candidate_bytes, done, chain_kept: false, fallback, verified: false })
}

/// Where the disk may differ; a bitmap or a tree that cannot be read is no reason to fail, comparing all of it is always right.
fn candidates(store: &Store, work: &Work, (base, marked): (&DiskEntry, &[Range<u64>]), image: &NbdImage) -> Result<Vec<Range<u64>>, String> {
    let mut dirty = image.dirty(&work.layers).map_err(|f| f.message)?;
    dirty.extend_from_slice(marked);
    let dirty = united(dirty, base.size_bytes, [], BlockSource::size_bytes(image));
    if let Some(at) = store.contradiction(base, image, &dirty).map_err(|e| e.to_string())? {
        return Err(format!("the dirty bitmap misses changes, as after a disk was cut short and grew again (first seen at byte {at})"));
    }
    let differing = store.diff(base, &work.entry).and_then(Iterator::collect::<Result<Vec<_>, StoreError>>).map_err(|e| e.to_string())?;
    Ok(united(dirty, base.size_bytes, differing, work.end_bytes()))
}

/// Reads the whole disk back and compares its roots with the point's.
fn verify(run: &Run<'_>, work: &Work) -> Outcome<()> {
    let comparison = match work.format {
        Format::Raw => run.store.compare(&work.entry, &raw::open_source(&work.path)?, run.progress)?,
        Format::Qcow2 => {
            let layers: Vec<Layer> = work.layers.iter().map(|l| Layer { bitmap: None, ..l.clone() }).collect();
            let image = NbdImage::open(&layers, false, false, run.runtime)?;
            let compared = run.store.compare(&work.entry, &image, run.progress);
            let closed = image.close();
            let compared = compared?;
            closed?;
            compared
        }
    };
    let device_is_larger = work.is_device && comparison.other_size.is_some_and(|s| s > work.entry.size_bytes);
    if comparison.ranges.is_empty() && (comparison.other_size.is_none() || device_is_larger) {
        return Ok(());
    }
    let bytes: u64 = comparison.ranges.iter().map(|r| r.end - r.start).sum();
    let code = if run.on_damage == OnDamage::WriteZeros { DAMAGED } else { FAILED };
    Err(Failure::new(
        code,
        format!(
            "disk {}: read back, {} is not what the point says in {} ranges ({bytes} bytes, first at {}); its storage or its host's memory may be bad",
            work.entry.target,
            work.path.display(),
            comparison.ranges.len(),
            comparison.ranges.first().map_or(0, |r| r.start),
        ),
    ))
}
