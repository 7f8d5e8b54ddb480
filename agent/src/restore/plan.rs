//! Which disk goes where, in which format; refusals come before a byte is written.

use super::{Journal, Place, Volumes, in_use};
use crate::{
    cli::Format,
    domain::SavedDomain,
    failure::{Failure, Outcome},
};
use cairn_hypervisor::{needs::Problem, restore_map::Mapping};
use cairn_store::{
    Point,
    format::{manifest::Manifest, register::DiskEntry},
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Where devices are.
const DEV: &str = "/dev";
/// Shared memory: a place for files, and known not to last.
const DEV_SHM: &str = "/dev/shm";

/// What was asked for.
pub struct Request<'a> {
    /// The store's folder: what is restored goes elsewhere.
    pub store: &'a Path,
    /// `--disk TARGET=PATH` or `TARGET=POOL/VOLUME`.
    pub disks: &'a [(String, Place)],
    /// `--as`.
    pub rename: Option<&'a str>,
    /// `--dir`.
    pub dir: Option<&'a Path>,
    /// `--format`.
    pub format: Option<Format>,
    /// `--force`.
    pub force: bool,
    /// Disks that go to pools.
    pub volumes: &'a Volumes,
    /// What is elsewhere.
    pub mapping: &'a Mapping,
    /// What an earlier try has put in place.
    pub journal: Option<&'a Journal>,
}

/// One disk's way.
#[derive(Debug)]
pub struct DiskPlan {
    /// The disk in the point.
    pub entry: DiskEntry,
    /// Where it goes.
    pub path: PathBuf,
    /// As what.
    pub format: Format,
    /// `path` is a block device.
    pub device: bool,
    /// The device is still to be made; there is no path yet.
    pub to_make: bool,
    /// An earlier try of this restore put it in place: it is not written again.
    pub whole: bool,
}

/// All disks, and whether a domain is to be defined.
#[derive(Debug)]
pub struct RestorePlan {
    /// In the point's order.
    pub disks: Vec<DiskPlan>,
    /// Define the domain afterwards.
    pub define: bool,
}

/// Decides; nothing is written yet. Folders that are missing are told with all else that is, where a domain is to be defined.
pub fn plan(request: &Request<'_>, point: &Point, entries: &[DiskEntry], manifest: &Manifest, problems: &mut Vec<Problem>) -> Outcome<RestorePlan> {
    let saved = SavedDomain::of(manifest);
    let define = request.rename.is_some() || request.disks.is_empty();
    if define && saved.is_none() {
        return Err(Failure::usage(format!(
            "'{}' is an image, not a domain: give --disk {}=PATH",
            point.summary.name,
            entries.first().map_or("disk0", |d| &d.target)
        )));
    }
    if let Some((target, _)) = request.disks.iter().find(|(t, _)| !entries.iter().any(|e| e.target == *t)) {
        let have: Vec<&str> = entries.iter().map(|e| e.target.as_str()).collect();
        return Err(Failure::not_found(format!("point {} has no disk '{target}', it has {}", point.id, have.join(", "))));
    }
    let mut disks = Vec::new();
    for entry in entries.iter().filter(|e| !request.volumes.unplaced.contains(&e.target)) {
        let original = saved.as_ref().and_then(|s| s.disk(&entry.target));
        let format = request.format.or_else(|| original.map(|d| if d.format == "qcow2" { Format::Qcow2 } else { Format::Raw })).unwrap_or(Format::Raw);
        let volume = request.volumes.of(&entry.target);
        let given = request.disks.iter().find(|d| d.0 == entry.target).map(|d| &d.1);
        let path = match (volume, given) {
            (Some(v), _) => v.path.clone().unwrap_or_default(),
            (None, Some(Place::Path(path) | Place::Volume { or_path: Some(path), .. })) => path.clone(),
            (None, Some(Place::Volume { .. })) => continue,
            (None, None) if !define => continue,
            (None, None) => default_path(request, point, entry, original.map(|d| d.path.as_str()), format)?,
        };
        let to_make = volume.is_some_and(|v| v.path.is_none());
        let device = to_make || fs::metadata(&path).is_ok_and(|m| m.file_type().is_block_device());
        // A device is written as it is, unless qcow2 was asked for by name.
        let format = if device && request.format.is_none() { Format::Raw } else { format };
        if device && format == Format::Qcow2 {
            return Err(Failure::usage(format!("{}: a device is restored raw; leave --format qcow2 away", path.display())));
        }
        let whole = !device && request.journal.is_some_and(|j| j.is_whole(&path));
        disks.push(DiskPlan { entry: entry.clone(), path, format, device, to_make, whole });
    }
    let lost_folders = check_targets(&disks, request)?;
    match lost_folders.first() {
        Some(first) if !define => return Err(Failure::not_found(first.what.clone())),
        _ => problems.extend(lost_folders),
    }
    Ok(RestorePlan { disks, define })
}

fn default_path(request: &Request<'_>, point: &Point, entry: &DiskEntry, original: Option<&str>, format: Format) -> Outcome<PathBuf> {
    let original = original.map(|path| PathBuf::from(request.mapping.path_or_same(path)));
    let original = original.as_deref();
    if request.rename.is_none() && request.dir.is_none() {
        return original
            .map(Path::to_path_buf)
            .ok_or_else(|| Failure::usage(format!("disk {} was no file; give --disk {}=PATH or --dir", entry.target, entry.target)));
    }
    let dir = request.dir.or_else(|| original.and_then(Path::parent)).ok_or_else(|| Failure::usage(format!("give --disk {}=PATH or --dir", entry.target)))?;
    let name = request.rename.unwrap_or(&point.summary.name).replace('/', "_");
    let dir = std::path::absolute(dir).map_err(|e| Failure::usage(format!("{}: {e}", dir.display())))?;
    Ok(dir.join(format!("{name}-{}.{}", entry.target, if format == Format::Qcow2 { "qcow2" } else { "raw" })))
}

/// A file among the devices is a mistyped or missing device: it would fill the host's memory, and the restored disk be gone at the next boot.
fn refuse_device_folder(path: &Path) -> Outcome<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let real = fs::canonicalize(parent).unwrap_or_else(|_| parent.to_path_buf());
    let below_dev = real.starts_with(DEV) && !real.starts_with(DEV_SHM);
    if !below_dev && !is_device_fs(&real) {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{} is not a block device, and what is written below {DEV} is lost; nothing was written (make or activate the device first, as with \
         `lvcreate` or `vgchange -ay`, or give a path of a file elsewhere)",
        path.display()
    )))
}

/// Whatever is written there could replace what points are made of, and collections may take it for a part of the store. Nothing forces that.
pub fn refuse_store_folder(store: &Path, path: &Path) -> Outcome<()> {
    let real = |path: &Path| fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_path_buf());
    // A file that is to be made is where its folder is; one that is there may be a link to elsewhere.
    let places = [real(path), real(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))];
    if places.iter().any(|place| place.starts_with(real(store))) {
        return Err(Failure::refused(format!(
            "{} lies in the store's own folder {}; nothing was written (choose a place outside of the store)",
            path.display(),
            store.display()
        )));
    }
    Ok(())
}

/// The host's devices under another name, such as the /dev of a system that is being rescued.
fn is_device_fs(dir: &Path) -> bool {
    let dev = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    let devices = dev(Path::new(DEV));
    // In some containers /dev is a plain folder of the root file system.
    devices.is_some() && devices != dev(Path::new("/")) && devices == dev(dir)
}

/// Known before anything is written; a device that cannot be asked says why when it is opened.
fn refuse_small_device(path: &Path, needed_bytes: u64) -> Outcome<()> {
    use std::io::Seek;
    let size_bytes = fs::File::open(path).and_then(|mut device| device.seek(std::io::SeekFrom::End(0)));
    match size_bytes {
        Ok(has) if has < needed_bytes => Err(Failure::refused(format!(
            "{} is too small: it has {has} bytes, the disk {needed_bytes}; nothing was written (enlarge it, or give another place)",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Gives the folders that are not there.
fn check_targets(disks: &[DiskPlan], request: &Request<'_>) -> Outcome<Vec<Problem>> {
    let mut lost = Vec::new();
    for (i, d) in disks.iter().enumerate().filter(|(_, d)| !d.to_make && !d.whole) {
        let force = request.force || request.volumes.of(&d.entry.target).is_some_and(|v| v.ours);
        let path = d.path.display();
        if disks[..i].iter().any(|o| o.path == d.path) {
            return Err(Failure::usage(format!("two disks would go to {path}")));
        }
        if !d.device {
            refuse_device_folder(&d.path)?;
            refuse_store_folder(request.store, &d.path)?;
        }
        if d.device {
            refuse_small_device(&d.path, d.entry.size_bytes)?;
        }
        match fs::symlink_metadata(&d.path) {
            Ok(_) if !force => return Err(in_use::exists(&d.path)),
            Ok(m) if !d.device && !m.file_type().is_file() => {
                return Err(Failure::refused(format!("{path} is neither a file nor a block device; nothing was written")));
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let dir = d.path.parent().unwrap_or(Path::new("/"));
                if !dir.is_dir() {
                    let what = format!("there is no folder {} to restore {} to", dir.display(), d.entry.target);
                    lost.push(Problem { what, remedy: format!("make it, give another with --dir or --pool, or --map-path {}=ANOTHER", dir.display()) });
                }
            }
            Err(e) => return Err(Failure::new(crate::failure::FAILED, format!("{path}: {e}"))),
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_too_small_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        file.as_file().set_len(4096).expect("sized");
        let f = refuse_small_device(file.path(), 4097).expect_err("a byte too much");
        assert!(f.code == crate::failure::REFUSED && f.message.contains("4096") && f.message.contains("4097"), "{}", f.message);
        refuse_small_device(file.path(), 4096).expect("fits");
    }

    #[test]
    fn a_file_among_devices_is_refused() {
        for wrong in ["/dev/no-such-disk", "/dev/no-such-group/volume", "/dev/../dev/x"] {
            let f = refuse_device_folder(Path::new(wrong)).expect_err(wrong);
            assert_eq!(f.code, crate::failure::REFUSED);
            assert!(f.message.contains(wrong) && f.message.contains("lvcreate"), "{}", f.message);
        }
        let dir = tempfile::tempdir().expect("temp dir");
        std::os::unix::fs::symlink("/dev", dir.path().join("link")).expect("links");
        assert!(refuse_device_folder(&dir.path().join("link/x")).is_err(), "by another name");
        assert!(refuse_device_folder(&dir.path().join("x")).is_ok());
        assert!(refuse_device_folder(Path::new("/dev/shm/x")).is_ok());
    }
}
