//! A look at a domain between backups: what dead backups left goes, bitmaps that can be no base any more go, a guest that was left frozen is thawed.
//!
//! It does what the pre-flight of the next backup would do, earlier: an inconsistent bitmap makes `blockresize` fail, a stale job keeps the domain from being
//! migrated, a frozen guest stands still (docs/watch.md).
//!
//! Invariants
//! - Under the domain's lock, which it does not wait for. Whose lock it is not, that one's things are left alone.
//! - Nothing of others is touched: bitmaps by name, exports by id, jobs by socket. While a job of somebody else's runs on the domain, QEMU is left alone.
//! - "Not committed" and "forgotten" are believed of stores that answered only. An inconsistent bitmap goes whatever the store says: it is of no use.
//! - Read-only images are not changed; their bitmaps go once they are writable.
//! - QEMU is asked only where the caller says so: the monitor taints a domain, and one that was never backed up, or only in the mode `libvirt-api`, has nothing
//!   of ours in it that libvirt does not tell of.
//!
//! What it must not do: add a bitmap. One that no point names has no base (docs/adr/0018).

use std::fmt;
use std::path::{Path, PathBuf};

use cairn_quiesce::agent::AgentFailure;
use cairn_quiesce::freeze::{THAW_HOOKS_LIMIT_MIN, thaw};
use cairn_quiesce::record::{self, RECORD_DIR_DEFAULT};

use super::checkpoints::{self, Checkpoint};
use super::cleanup;
use super::error::CaptureError;
use super::lock::{DomainLock, LOCK_DIR_DEFAULT};
use super::names::{BitmapName, Role, hex};
use super::plan::PointCatalog;
use super::scratch::{SCRATCH_DIR_DEFAULT, folder_of};
use super::sweep;
use crate::domain::Domain;
use crate::qmp::exports;
use crate::qmp::nodes::{Nodes, block_jobs};

/// A store that answered: the first four bytes of its id, and what it knows.
pub type Store<'a> = ([u8; 4], &'a dyn PointCatalog);

/// How to look.
#[derive(Debug, Clone)]
pub struct LookOptions {
    /// Folder of the domains' locks.
    pub lock_dir: PathBuf,
    /// Folder of scratch images.
    pub scratch_dir: PathBuf,
    /// Folder of the records of open freezes.
    pub record_dir: PathBuf,
    /// QEMU may be asked.
    pub monitor: bool,
}

impl Default for LookOptions {
    fn default() -> Self {
        Self { lock_dir: LOCK_DIR_DEFAULT.into(), scratch_dir: SCRATCH_DIR_DEFAULT.into(), record_dir: RECORD_DIR_DEFAULT.into(), monitor: true }
    }
}

/// What was left of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A guest that was frozen, or may have been.
    Freeze,
    /// An NBD export.
    Export,
    /// libvirt's backup job.
    Job,
    /// Scratch images.
    Scratch,
    /// The frozen copy of a bitmap.
    Copy,
    /// A bitmap that QEMU could not store before it died.
    Inconsistent,
    /// A bitmap whose point was never committed, or is forgotten.
    Dead,
    /// The same of a checkpoint.
    Checkpoint,
}

impl Kind {
    /// A word for records.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Export => "export",
            Self::Job => "job",
            Self::Scratch => "scratch",
            Self::Copy => "copy",
            Self::Inconsistent => "inconsistent-bitmap",
            Self::Dead => "dead-bitmap",
            Self::Checkpoint => "dead-checkpoint",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Freeze => "guest left frozen",
            Self::Export => "export of a dead backup",
            Self::Job => "job of a dead backup",
            Self::Scratch => "scratch of a dead backup",
            Self::Copy => "bitmap copy of a dead backup",
            Self::Inconsistent => "inconsistent bitmap",
            Self::Dead => "bitmap of no point",
            Self::Checkpoint => "checkpoint of no point",
        })
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// It is gone; if not, why.
    pub gone: Result<(), String>,
}

/// A disk whose writes are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// Target.
    pub disk: String,
    /// First four bytes of the store's id.
    pub store8: [u8; 4],
    /// The point since which.
    pub session: [u8; 16],
    /// It outlives a shutdown.
    pub persistent: bool,
}

/// What a look saw and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// What was left, and whether it went.
    pub found: Vec<Found>,
    /// What is recorded now; empty for a domain that is off or was not asked.
    pub tracked: Vec<Tracked>,
}

/// Looks, under the lock.
///
/// # Errors
/// [`CaptureError::Busy`], [`CaptureError::ForeignJob`]: later. Others: libvirt's and QEMU's. What could not be removed is no error but told.
pub fn run(domain: &Domain, options: &LookOptions, stores: &[Store<'_>]) -> Result<Looked, CaptureError> {
    let (name, uuid) = (domain.name()?, domain.uuid()?);
    let _lock = DomainLock::take_for_look(&options.lock_dir, &name, &uuid)?;
    let mut looked = Looked::default();
    match thaw_recorded(domain, &uuid, &options.record_dir) {
        None => {}
        Some(Ok(count)) if record::is_open(&options.record_dir, &uuid) => {
            let gone = Err(format!("{count} were thawed, but a freeze that was asked for less than a minute ago may still come"));
            looked.found.push(Found { kind: Kind::Freeze, name: "file systems".to_owned(), gone });
        }
        Some(Ok(count)) => looked.found.push(Found { kind: Kind::Freeze, name: format!("{count} file systems"), gone: Ok(()) }),
        Some(Err(error)) => looked.found.push(Found { kind: Kind::Freeze, name: "file systems".to_owned(), gone: Err(error.to_string()) }),
    }
    let scratch = folder_of(&options.scratch_dir, &uuid);
    let asks_qemu = options.monitor && domain.is_running()?;
    if asks_qemu {
        no_foreign_job(domain, &name)?;
    }
    let left = left(domain, asks_qemu, &scratch, stores)?;
    if !asks_qemu && !left.is_empty() && domain.is_running()? {
        no_job_that_libvirt_knows(domain, &name)?;
    }
    if !left.is_empty() {
        looked.found.extend(remove(domain, asks_qemu, &scratch, stores, &left)?);
    }
    if domain.is_running()? {
        looked.tracked = tracked(domain, asks_qemu)?;
    }
    Ok(looked)
}

/// What a look would take away, without doing so. It takes no lock: while somebody works on the domain, that one's things are among it.
///
/// # Errors
/// libvirt's and QEMU's.
pub fn would_remove(domain: &Domain, options: &LookOptions, stores: &[Store<'_>]) -> Result<Vec<(Kind, String)>, CaptureError> {
    let uuid = domain.uuid()?;
    let left = left(domain, options.monitor, &folder_of(&options.scratch_dir, &uuid), stores)?;
    let freeze = record::is_open(&options.record_dir, &uuid).then(|| (Kind::Freeze, "file systems".to_owned()));
    Ok(freeze.into_iter().chain(left.into_iter().map(|left| (left.kind, left.name))).collect())
}

/// Thaws a guest whose freezer is gone, where a record says that it may be frozen; the caller holds the domain's lock. A guest that is off is not frozen.
/// Of one whose freeze may still come a thaw proves nothing, whatever it thawed: the record stays, for the guard or the next look.
pub(super) fn thaw_recorded(domain: &Domain, uuid: &str, records: &Path) -> Option<Result<u32, AgentFailure>> {
    if !record::is_open(records, uuid) {
        return None;
    }
    let runs = domain.is_running().unwrap_or(true);
    let thawed = if runs { thaw(domain, THAW_HOOKS_LIMIT_MIN) } else { Ok(0) };
    let noted = match &thawed {
        Ok(_) if runs && record::may_come(records, uuid) => record::date(records, uuid),
        Ok(_) => record::close(records, uuid),
        Err(_) => Ok(()),
    };
    if let Err(error) = noted {
        tracing::warn!(%error, "the record of a freeze stays, and the guest is thawed again next time");
    }
    Some(thawed)
}

/// The same without a question to QEMU: a job that was begun past libvirt is not seen.
pub(super) fn no_job_that_libvirt_knows(domain: &Domain, name: &str) -> Result<(), CaptureError> {
    if no_job_of_libvirt(domain, name)? == Job::Ours {
        return Ok(());
    }
    match checkpoints::block_job(domain)? {
        Some(target) => Err(CaptureError::ForeignJob { domain: name.to_owned(), job: format!("block job ({target})") }),
        None => Ok(()),
    }
}

/// Removing a bitmap below somebody's migration, commit or copy could fail theirs.
pub(super) fn no_foreign_job(domain: &Domain, name: &str) -> Result<(), CaptureError> {
    if no_job_of_libvirt(domain, name)? == Job::Ours {
        return Ok(());
    }
    match block_jobs(domain)?.into_iter().next() {
        Some((kind, device)) => Err(CaptureError::ForeignJob { domain: name.to_owned(), job: format!("block job ({kind} {device})") }),
        None => Ok(()),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Job {
    Ours,
    None,
}

/// The same without a question to QEMU.
fn no_job_of_libvirt(domain: &Domain, name: &str) -> Result<Job, CaptureError> {
    let foreign = |job: &str| Err(CaptureError::ForeignJob { domain: name.to_owned(), job: job.to_owned() });
    match domain.backup_xml()? {
        Some(xml) if cleanup::is_ours(&xml) => Ok(Job::Ours),
        Some(_) => foreign("backup job"),
        None if domain.has_job()? => foreign("job"),
        None => Ok(Job::None),
    }
}

/// Something of ours that nobody needs: kind, and name or (node, bitmap).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    kind: Kind,
    node: Option<String>,
    name: String,
}

fn left(domain: &Domain, asks_qemu: bool, scratch: &Path, stores: &[Store<'_>]) -> Result<Vec<Left>, CaptureError> {
    let mut out = Vec::new();
    let whole = |kind, name: String| Left { kind, node: None, name };
    if scratch.exists() {
        out.push(whole(Kind::Scratch, scratch.display().to_string()));
    }
    if !domain.is_running()? {
        return Ok(out);
    }
    if asks_qemu {
        out.extend(exports::ours(domain)?.into_iter().map(|id| whole(Kind::Export, id)));
    }
    if domain.backup_xml()?.is_some_and(|xml| cleanup::is_ours(&xml)) {
        out.push(whole(Kind::Job, cleanup::SOCKET_NAME.to_owned()));
    }
    let is_stale = |name| stores.iter().any(|(store8, catalog)| checkpoints::is_stale(name, *store8, *catalog));
    let stale = checkpoints::ours(domain)?.into_iter().filter(|checkpoint| is_stale(checkpoint.name));
    out.extend(stale.map(|checkpoint| whole(Kind::Checkpoint, checkpoint.name.to_string())));
    if !asks_qemu {
        return Ok(out);
    }
    let nodes = Nodes::query(domain)?;
    for (node, read_only, bitmap) in nodes.bitmaps() {
        let text = bitmap.name.as_deref().unwrap_or_default();
        let Ok(name) = text.parse::<BitmapName>() else { continue };
        if let Some(kind) = useless(&name, bitmap.inconsistent, stores).filter(|_| !read_only) {
            out.push(Left { kind, node: Some(node.to_owned()), name: text.to_owned() });
        }
    }
    Ok(out)
}

/// Why a bitmap of ours can never be a base again, if so.
fn useless(name: &BitmapName, inconsistent: bool, stores: &[Store<'_>]) -> Option<Kind> {
    let dead = || stores.iter().any(|(store8, catalog)| sweep::is_stale(name, *store8, *catalog));
    match name.role {
        Role::Export => Some(Kind::Copy),
        Role::Disk(_) if inconsistent => Some(Kind::Inconsistent),
        Role::Disk(_) => dead().then_some(Kind::Dead),
    }
}

/// Removes what `left` found; the end of it all is seen by looking again.
fn remove(domain: &Domain, asks_qemu: bool, scratch: &Path, stores: &[Store<'_>], before: &[Left]) -> Result<Vec<Found>, CaptureError> {
    let listed = |node: &str, name: &BitmapName| {
        let name = name.to_string();
        before.iter().any(|left| left.node.as_deref() == Some(node) && left.name == name)
    };
    let is_listed = |checkpoint: &Checkpoint| before.iter().any(|left| left.kind == Kind::Checkpoint && left.name == checkpoint.name.to_string());
    let result = match domain.is_running()? {
        true if asks_qemu => cleanup::run(domain, scratch, &listed).and_then(|()| Ok(checkpoints::remove_all(domain, &is_listed)?)),
        true => checkpoints::clean_up(domain, scratch, &is_listed),
        false => cleanup::run(domain, scratch, &listed),
    };
    let why = result.err().map_or_else(|| "it is still there".to_owned(), |error| error.to_string());
    let after = left(domain, asks_qemu, scratch, stores)?;
    let told = |left: &Left| Found { kind: left.kind, name: left.name.clone(), gone: if after.contains(left) { Err(why.clone()) } else { Ok(()) } };
    Ok(before.iter().map(told).collect())
}

fn tracked(domain: &Domain, asks_qemu: bool) -> Result<Vec<Tracked>, CaptureError> {
    let mut out = Vec::new();
    for Checkpoint { name, disks } in checkpoints::ours(domain)? {
        out.extend(disks.into_iter().map(|disk| Tracked { disk, store8: name.store8, session: name.session, persistent: true }));
    }
    if !asks_qemu {
        return Ok(out);
    }
    let nodes = Nodes::query(domain)?;
    for disk in domain.disks()?.into_iter().filter(|disk| disk.skip.is_none()) {
        // A disk that was detached just now has no node.
        let Ok(chain) = nodes.chain(&disk) else { continue };
        for bitmap in chain.first().map(|top| top.bitmaps.as_slice()).unwrap_or_default() {
            let name = bitmap.name.as_deref().and_then(|text| text.parse::<BitmapName>().ok());
            if let Some(name) = name.filter(|name| bitmap.recording && !bitmap.inconsistent && matches!(name.role, Role::Disk(_))) {
                out.push(Tracked { disk: disk.target.clone(), store8: name.store8, session: name.session, persistent: bitmap.persistent });
            }
        }
    }
    Ok(out)
}

impl Tracked {
    /// The store, as bitmaps name it.
    #[must_use]
    pub fn store(&self) -> String {
        hex(&self.store8)
    }

    /// The point's id.
    #[must_use]
    pub fn point(&self) -> String {
        hex(&self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{PointStatus, Says};
    use super::*;

    #[test]
    fn what_no_store_denies_stays() {
        let name = BitmapName { store8: [1; 4], session: [2; 16], role: Role::Disk(0) };
        let (denies, has, silent) = (Says(PointStatus::NotCommitted, None), Says(PointStatus::Usable { order: 1 }, None), Says(PointStatus::Unreachable, None));
        assert_eq!(useless(&name, false, &[]), None, "no store answered");
        assert_eq!(useless(&name, false, &[([9; 4], &denies)]), None, "another store's");
        assert_eq!(useless(&name, false, &[([9; 4], &denies), ([1; 4], &has)]), None);
        assert_eq!(useless(&name, false, &[([1; 4], &silent)]), None);
        assert_eq!(useless(&name, false, &[([9; 4], &has), ([1; 4], &denies)]), Some(Kind::Dead));
    }

    #[test]
    fn what_is_of_no_use_needs_no_store() {
        let name = BitmapName { store8: [1; 4], session: [2; 16], role: Role::Disk(0) };
        assert_eq!(useless(&name, true, &[]), Some(Kind::Inconsistent));
        assert_eq!(useless(&BitmapName { role: Role::Export, ..name }, false, &[]), Some(Kind::Copy));
    }
}
