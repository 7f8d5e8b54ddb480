//! The demo's proofs: references that owe nothing to Cairn, and comparisons that end the demo when they fail.

use super::story::tell;
use crate::error::{Error, Result};
use cairn_lab::cairn::{disk, text};
use cairn_lab::reference::{self, Pair};
use cairn_lab::{Cairn, Domain, Lab, filesystem, traces};
use serde_json::Value;
use std::path::Path;

/// Each of two disks may keep one bitmap: the tracker of the last point.
const TRACKERS_MAX: usize = 2;

/// Runs `backup` while nothing changes on the disks, between two references that must be equal.
///
/// Both file systems are mounted read-only meanwhile: the agent still freezes and counts them, but a freeze
/// writes nothing, so the reference is exact and not only "the same but for the superblock's time".
pub fn with_reference(domain: &Domain, folder: &Path, backup: impl FnOnce() -> Result<()>) -> Result<Pair> {
    domain.read_only(true)?;
    let before = reference::take(domain, &folder.join("before"))?;
    backup()?;
    let after = reference::take(domain, &folder.join("after"))?;
    domain.read_only(false)?;
    equal(&before, &after, "the disks changed while nothing was to change them")?;
    let _ = std::fs::remove_dir_all(folder.join("after"));
    Ok(before)
}

/// Both disks are equal, byte for byte.
pub fn equal(a: &Pair, b: &Pair, else_say: &str) -> Result<()> {
    match a.difference(b)? {
        None => Ok(()),
        Some(difference) => Err(Error::failed(format!("{else_say}: {difference}"))),
    }
}

/// The newest point of the domain, which must have been taken frozen, with both disks in that mode.
pub fn newest_point(cairn: &Cairn, domain: &Domain, expected: usize, mode: &str) -> Result<String> {
    let points = cairn.points(domain.name())?;
    if points.len() != expected {
        return Err(Error::failed(format!("`cairn list` shows {} points, not {expected}", points.len())));
    }
    let id = points.last().cloned().unwrap_or_default();
    let point = cairn.point(&id)?;
    let quiesce = level(&point["quiesce"])?;
    if quiesce != "filesystem" && quiesce != "application" {
        return Err(Error::failed(format!("the guest was not frozen for the point: its quiesce is {quiesce:?}")));
    }
    for target in ["vda", "vdb"] {
        let disk = disk(&point, target)?;
        let found = text(disk, "mode")?;
        if found != mode {
            return Err(Error::failed(format!("{target} was read in mode {found:?}, not {mode:?}: {}", disk["reason"])));
        }
        if mode == "incremental" && disk["read"].as_u64() > disk["size"].as_u64().map(|size| size / 2) {
            return Err(Error::failed(format!("an incremental backup read most of {target}: {disk}")));
        }
        let mib = |key: &str| disk[key].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
        tell(&format!("{target}: {mode}, {:.1} MiB read, {:.1} MiB changed, {:.1} MiB stored", mib("read"), mib("changed"), mib("stored")));
    }
    tell(&format!("guest frozen and thawed (quiesce: {quiesce})"));
    Ok(id)
}

/// `quiesce` is a text, or an object that has the text in `level`.
fn level(value: &Value) -> Result<&str> {
    let found = value.as_str().or_else(|| value["level"].as_str());
    found.ok_or_else(|| Error::failed(format!("a point's quiesce should be a text and is {value}")))
}

/// The guest is thawed and running, and QEMU carries nothing of ours but one tracker a disk.
pub fn guest_is_untouched(domain: &Domain) -> Result<()> {
    let state = domain.state()?;
    let frozen = domain.freeze_status()?;
    let traces = traces::look(domain)?;
    if state != "running" || frozen != "thawed" || !traces.only_bitmaps(TRACKERS_MAX) {
        return Err(Error::failed(format!("{} was not left alone: {state}, {frozen}, {traces:?}", domain.name())));
    }
    tell("the guest runs and is thawed; no job, export or stray bitmap is left in QEMU");
    Ok(())
}

/// A point taken under the running writer: one moment on both disks, file systems settled by the freeze.
pub fn one_moment(lab: &Lab, pair: &Pair) -> Result<()> {
    let scratch = lab.dir().join("scratch");
    let (a, b) = filesystem::check_journals(&pair.vda, &pair.vdb, &scratch)?;
    if b == 0 {
        return Err(Error::failed("the writer wrote nothing before the backup"));
    }
    tell(&format!("the writer's last record: {a} on vda, {b} on vdb: one point in time"));
    for (target, image) in [("vda", &pair.vda), ("vdb", &pair.vdb)] {
        let moment = filesystem::moment(image, &scratch)?;
        if !moment.settled || !moment.whole {
            return Err(Error::failed(format!("the file system of {target} is not as a freeze leaves it: {moment:?}")));
        }
    }
    tell("both file systems: clean, journal empty, fsck finds nothing");
    Ok(())
}
