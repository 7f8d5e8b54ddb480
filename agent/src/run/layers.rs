//! Files that external snapshots of a run have laid over its overlays: they hold what the guest wrote since, and are worth nothing without the run.
//!
//! Invariants
//! - A file counts only if its chain of backing files, by the images' own headers, leads to an image of the run, or if libvirt says that the memory of
//!   one of the run's snapshots is in it, and the domain is the run's.
//! - The header of a raw image is the guest's to write: only those that libvirt calls qcow2 are looked into, and as such.
//! - They are recorded before the domain goes, since only the domain knows them, and removed only where they lie beside an overlay: elsewhere somebody
//!   wanted them there.
//!
//! What it must not do: open a backing file.

use super::{
    keep::libvirt,
    record::{Layer, Record},
    teardown::{self, identity},
};
use crate::{
    domain::chain,
    failure::{FAILED, Failure, Outcome},
};
use cairn_hypervisor::{Domain, run::xml};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Images that may lie above each other.
const CHAIN_MAX: usize = 64;

/// Of a domain; those that are there.
pub fn of(domain: &Domain, record: &Record) -> Outcome<Vec<Layer>> {
    let mut disks = Vec::new();
    for text in [domain.xml_live().map_err(|e| libvirt(&e))?, domain.xml_inactive().map_err(|e| libvirt(&e))?] {
        disks.extend(xml::qcow2_files(&text).map_err(|e| Failure::new(FAILED, chain(&e)))?);
    }
    let mut memories = Vec::new();
    for snapshot in domain.snapshots().map_err(|e| libvirt(&e))?.0 {
        disks.extend(snapshot.disk_files);
        memories.extend(snapshot.memory_file);
    }
    let mut out: Vec<Layer> = Vec::new();
    for path in disks.into_iter().map(PathBuf::from) {
        over(&path, &|image| teardown::is_image(record, image), &backing_file).into_iter().for_each(|path| add(&mut out, path));
    }
    // Memory names no disk: it is the run's if the domain is.
    if !memories.is_empty() && (!out.is_empty() || teardown::is_ours(domain, record)?) {
        memories.into_iter().map(PathBuf::from).for_each(|path| add(&mut out, path));
    }
    Ok(out)
}

fn add(layers: &mut Vec<Layer>, path: PathBuf) {
    if let Ok(inode) = identity(&path)
        && !layers.iter().any(|layer| layer.path == path)
    {
        layers.push(Layer { path, inode });
    }
}

/// The files from one down to an image of the run, without that; none where the chain does not lead there.
fn over(path: &Path, is_image: &dyn Fn(&Path) -> bool, below: &dyn Fn(&Path) -> Option<PathBuf>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut at = Some(path.to_path_buf());
    while let Some(path) = at {
        if is_image(&path) {
            return found;
        }
        at = if found.len() < CHAIN_MAX { below(&path) } else { None };
        found.push(path);
    }
    Vec::new()
}

/// What an image's own header names; the file itself is not opened.
fn backing_file(image: &Path) -> Option<PathBuf> {
    if !image.is_file() {
        return None;
    }
    let output = Command::new("qemu-img").args(["info", "-U", "-f", "qcow2", "--output=json"]).arg(image).stdin(Stdio::null()).output().ok()?;
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let name = info["full-backing-filename"].as_str().or_else(|| info["backing-filename"].as_str())?;
    name.starts_with('/').then(|| PathBuf::from(name))
}

/// Whether it goes with the run.
pub fn goes(record: &Record, layer: &Layer) -> bool {
    record.disks.iter().any(|d| d.overlay.parent() == layer.path.parent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_to_the_run_is_a_layer() {
        let is_image = |path: &Path| path == Path::new("/i/run-vda.qcow2");
        let below = |path: &Path| match path.to_str().expect("UTF-8") {
            "/i/s2" => Some(PathBuf::from("/i/s1")),
            "/i/s1" => Some(PathBuf::from("/i/run-vda.qcow2")),
            "/i/loop" => Some(PathBuf::from("/i/loop")),
            _ => None,
        };
        let of = |path: &str| over(Path::new(path), &is_image, &below);
        assert_eq!(of("/i/s2"), [PathBuf::from("/i/s2"), PathBuf::from("/i/s1")]);
        assert!(of("/i/run-vda.qcow2").is_empty() && of("/i/other").is_empty() && of("/i/loop").is_empty());
    }
}
