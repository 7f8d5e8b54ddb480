//! Step 1: everything that can be known and made while the guest is untouched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_quiesce::QuiescePolicy;
use cairn_quiesce::freeze::{Probe, probe};
use cairn_quiesce::record::{self, RECORD_DIR_DEFAULT};
use cairn_quiesce::scope::{self, Scope};

use super::checkpoints;
use super::cleanup;
use super::error::CaptureError;
use super::live::{CONNECTIONS_TOTAL_MAX, CapturedDisk, LiveOptions, Names};
use super::lock::DomainLock;
use super::look;
use super::nbd_disk::NbdDisk;
use super::options::Tracker;
use super::plan::{Base, CarrierRecord, DiskPlan, PointCatalog, decide};
use super::scratch::{Scratch, folder_of};
use super::sweep;
use crate::disks::{Disk, SkipReason};
use crate::domain::Domain;
use crate::host::{LIBVIRT_VERSION_MIN, QEMU_VERSION_MIN, too_old};
use crate::qmp::nodes::{ChainNode, Nodes, block_jobs};

/// How long a foreign job is waited for.
pub const FOREIGN_JOB_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);

/// A disk that is captured.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) disk: Disk,
    pub(super) ordinal: u32,
    pub(super) chain: Vec<ChainNode>,
    pub(super) base: Base,
    /// A bitmap on it outlives QEMU.
    pub(super) can_persist: bool,
    /// Records what changes after this point; empty if nothing does.
    pub(super) bitmap_name: String,
    /// Device and inode of the top image.
    pub(super) file_id: Option<(u64, u64)>,
    pub(super) scratch_image: PathBuf,
}

impl Chosen {
    pub(super) fn top(&self) -> &ChainNode {
        self.chain.first().expect("a chain has its top node: Nodes::chain")
    }

    pub(super) fn captured(&self, domain: &str, plan: DiskPlan, reader: Arc<NbdDisk>) -> Result<CapturedDisk, CaptureError> {
        let bitmap_name = self.bitmap_name.clone();
        let top = self.top();
        let carrier = CarrierRecord {
            size_bytes: top.size_bytes,
            image_path: self.disk.source.path().unwrap_or(&top.filename).to_owned(),
            device_inode: self.file_id,
            bitmap_name: bitmap_name.clone(),
            marked: Vec::new(),
        };
        if reader.size_bytes() != top.size_bytes {
            return Err(CaptureError::Unsupported {
                domain: domain.to_owned(),
                disk: self.disk.target.clone(),
                problem: format!("it was resized from {} to {} bytes just now; try again", top.size_bytes, reader.size_bytes()),
            });
        }
        Ok(CapturedDisk {
            target: self.disk.target.clone(),
            ordinal: self.ordinal,
            size_bytes: top.size_bytes,
            plan,
            bitmap_name,
            carrier,
            image_format: self.disk.format.clone(),
            images: Vec::new(),
            worthless: Arc::default(),
            reader,
        })
    }
}

/// What was found and made.
pub(super) struct Preflight {
    pub(super) name: String,
    pub(super) lock: DomainLock,
    pub(super) chosen: Vec<Chosen>,
    pub(super) skipped: Vec<(String, SkipReason)>,
    pub(super) scratch: Scratch,
    pub(super) socket: PathBuf,
    /// What the agent can do and what it is to freeze, or why it is not asked.
    pub(super) freezer: Freezer,
    /// The freeze of an earlier backup may still come.
    pub(super) left: bool,
}

pub(super) type Freezer = Result<(Probe, Scope), String>;

impl Preflight {
    pub(super) fn run(domain: &Domain, options: &LiveOptions, catalog: &dyn PointCatalog) -> Result<Self, CaptureError> {
        let (name, uuid) = (domain.name()?, domain.uuid()?);
        let lock = DomainLock::take(&options.lock_dir, &name, &uuid)?;
        let (libvirt, qemu) = domain.versions()?;
        too_old("libvirt", libvirt, LIBVIRT_VERSION_MIN)?;
        too_old("QEMU", qemu, QEMU_VERSION_MIN)?;
        if !domain.is_running()? {
            return Err(CaptureError::NotRunning { domain: name });
        }
        let left = thaw_if_recorded(domain, &uuid);
        sweep::run(domain, options.tracker, options.store8, &folder_of(&options.scratch_dir, &uuid), catalog)?;
        no_foreign_job(domain, &name, options.tracker)?;
        let (disks, skipped) = select(&name, domain.disks()?, options.disks.as_deref())?;
        refuse_too_many(&name, &disks)?;
        let socket = socket_path(domain, &name, &options.qemu_state_dir)?;
        let mut chosen = match options.tracker {
            Tracker::Bitmaps => choose_all(domain, &name, disks, options, catalog)?,
            Tracker::Checkpoints => checkpoints::preflight::choose(domain, &name, disks, options, catalog)?,
        };
        let freezer = ask_agent(domain, &name, options, left)?;
        let total_bytes = chosen.iter().map(|chosen| chosen.top().size_bytes).sum();
        let scratch = Scratch::prepare(&options.scratch_dir, &uuid, total_bytes)?;
        for chosen in &mut chosen {
            chosen.scratch_image = scratch.image(&chosen.disk.target, chosen.top().size_bytes)?;
        }
        Ok(Self { name, lock, chosen, skipped, scratch, socket, freezer, left })
    }
}

/// A freeze of a process that is gone: we hold the lock, so it is nobody's any more. Whether it may still come.
fn thaw_if_recorded(domain: &Domain, uuid: &str) -> bool {
    match look::thaw_recorded(domain, uuid, Path::new(RECORD_DIR_DEFAULT)) {
        None | Some(Ok(0)) => {}
        Some(Ok(count)) => tracing::warn!(count, "an earlier backup left the guest frozen; thawed"),
        Some(Err(error)) => tracing::error!(%error, "an earlier backup may have left the guest frozen, and it does not thaw"),
    }
    record::may_come(Path::new(RECORD_DIR_DEFAULT), uuid)
}

fn choose_all(domain: &Domain, name: &str, disks: Vec<Disk>, options: &LiveOptions, catalog: &dyn PointCatalog) -> Result<Vec<Chosen>, CaptureError> {
    let nodes = Nodes::query(domain)?;
    disks.into_iter().zip(0..).map(|(disk, ordinal)| choose(name, disk, ordinal, &nodes, options, catalog)).collect()
}

fn choose(domain: &str, disk: Disk, ordinal: u32, nodes: &Nodes, options: &LiveOptions, catalog: &dyn PointCatalog) -> Result<Chosen, CaptureError> {
    refuse_encrypted(domain, &disk)?;
    let chain = nodes.chain(&disk)?;
    let base = decide(&chain, options.store8, catalog, &file_id);
    let can_persist = can_persist(&chain);
    let file_id = chain.first().and_then(|top| file_id(&top.filename));
    let bitmap_name = Names { store8: options.store8, session: options.session }.disk(ordinal);
    Ok(Chosen { disk, ordinal, chain, base, can_persist, bitmap_name, file_id, scratch_image: PathBuf::new() })
}

pub(super) fn refuse_encrypted(domain: &str, disk: &Disk) -> Result<(), CaptureError> {
    if disk.encrypted {
        return Err(CaptureError::Unsupported {
            domain: domain.to_owned(),
            disk: disk.target.clone(),
            problem: "QEMU encrypts it (LUKS), and the scratch image would hold plain text; leave it out with --disk".to_owned(),
        });
    }
    Ok(())
}

/// Whether a bitmap outlives QEMU: qcow2 of version 2 cannot store bitmaps; QEMU refuses the transaction then, and all formats but qcow2 have none.
pub(super) fn can_persist(chain: &[ChainNode]) -> bool {
    chain.first().is_some_and(|top| top.driver == "qcow2" && !is_version_2(&top.filename))
}

/// Reads the version out of a qcow2 header; an image that cannot be read is taken for a newer one.
pub(super) fn is_version_2(path: &str) -> bool {
    use std::io::Read;
    const VERSION_2_HEADER: [u8; 8] = [b'Q', b'F', b'I', 0xfb, 0, 0, 0, 2];
    let mut header = [0; 8];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut header)).is_ok() && header == VERSION_2_HEADER
}

/// Device and inode of a file; `None` for what is no file here.
pub(super) fn file_id(path: &str) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    meta.is_file().then(|| (meta.dev(), meta.ino()))
}

fn no_foreign_job(domain: &Domain, name: &str, tracker: Tracker) -> Result<(), CaptureError> {
    let start = Instant::now();
    loop {
        let job = match domain.backup_xml()? {
            Some(xml) if !cleanup::is_ours(&xml) => Some("backup job".to_owned()),
            _ if domain.has_job()? => Some("job (`virsh domjobinfo` tells which)".to_owned()),
            _ => block_job(domain, tracker)?,
        };
        match job {
            None => return Ok(()),
            Some(job) if start.elapsed() > FOREIGN_JOB_LIMIT => return Err(CaptureError::ForeignJob { domain: name.to_owned(), job }),
            Some(_) => std::thread::sleep(POLL),
        }
    }
}

fn block_job(domain: &Domain, tracker: Tracker) -> Result<Option<String>, CaptureError> {
    Ok(match tracker {
        Tracker::Bitmaps => block_jobs(domain)?.into_iter().next().map(|(kind, device)| format!("block job ({kind} {device})")),
        Tracker::Checkpoints => checkpoints::block_job(domain)?.map(|disk| format!("block job (of disk {disk})")),
    })
}

type Selection = (Vec<Disk>, Vec<(String, SkipReason)>);

pub(super) fn select(domain: &str, disks: Vec<Disk>, wanted: Option<&[String]>) -> Result<Selection, CaptureError> {
    let usable: Vec<&str> = disks.iter().filter(|disk| disk.skip.is_none_or(|why| why == SkipReason::Excluded)).map(|disk| disk.target.as_str()).collect();
    for target in wanted.unwrap_or_default() {
        if !usable.contains(&target.as_str()) {
            return Err(CaptureError::NoSuchDisk { domain: domain.to_owned(), disk: target.clone(), available: usable.join(", ") });
        }
    }
    let (mut chosen, mut skipped) = (Vec::new(), Vec::new());
    for disk in disks {
        let selected = wanted.is_none_or(|wanted| wanted.contains(&disk.target));
        match disk.skip {
            // Who asks for it by name wants it.
            Some(SkipReason::Excluded) if wanted.is_some() && selected => chosen.push(Disk { skip: None, ..disk }),
            Some(reason) => skipped.push((disk.target, reason)),
            None if selected => chosen.push(disk),
            None => skipped.push((disk.target, SkipReason::NotSelected)),
        }
    }
    if chosen.is_empty() {
        let skipped: Vec<String> = skipped.iter().map(|(target, reason)| format!("{target}: {reason}")).collect();
        let skipped = if skipped.is_empty() { "it has none at all".to_owned() } else { skipped.join(", ") };
        return Err(CaptureError::NoDisks { domain: domain.to_owned(), skipped });
    }
    Ok((chosen, skipped))
}

/// Each disk needs a connection of its own.
fn refuse_too_many(domain: &str, disks: &[Disk]) -> Result<(), CaptureError> {
    let Some(disk) = disks.get(CONNECTIONS_TOTAL_MAX) else { return Ok(()) };
    let problem = format!("QEMU serves {CONNECTIONS_TOTAL_MAX} disks to a backup at a time, and there are {}; save some of them, by --disk", disks.len());
    Err(CaptureError::Unsupported { domain: domain.to_owned(), disk: disk.target.clone(), problem })
}

/// The domain's private directory, which its security label may write: `domain-<id>-<name>`, the name cut by libvirt.
fn socket_path(domain: &Domain, name: &str, state_dir: &Path) -> Result<PathBuf, CaptureError> {
    let id = domain.id().ok_or_else(|| CaptureError::NotRunning { domain: name.to_owned() })?;
    let prefix = format!("domain-{id}-");
    let failed = |source| CaptureError::File { action: "find the domain's private directory in", path: state_dir.to_owned(), source };
    for entry in std::fs::read_dir(state_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            return Ok(entry.path().join(cleanup::SOCKET_NAME));
        }
    }
    Err(failed(std::io::Error::from(std::io::ErrorKind::NotFound)))
}

/// `left`: the freeze of an earlier backup may still come, and its record is its guard's.
fn ask_agent(domain: &Domain, name: &str, options: &LiveOptions, left: bool) -> Result<Freezer, CaptureError> {
    if options.quiesce == QuiescePolicy::Never {
        return Ok(Err("the policy says never".to_owned()));
    }
    if let Some(reason) = &options.unasked {
        return Ok(Err(reason.clone()));
    }
    let required = options.quiesce == QuiescePolicy::Require;
    if left {
        let reason = "the freeze of a backup that was killed less than a minute ago may still be under way".to_owned();
        return if required { Err(CaptureError::FreezeUnderWay { domain: name.to_owned() }) } else { Ok(Err(reason)) };
    }
    let reason = match probe(domain) {
        Ok(probe) if probe.can_freeze => match scope::choose(&probe, &options.freeze_mounts) {
            // What is not there cannot be frozen: known before anything is done to the guest.
            Ok(scope) if required && scope.lack().is_some() => scope.lack().unwrap_or_default(),
            Ok(scope) => return Ok(Ok((probe, scope))),
            Err(reason) => reason,
        },
        Ok(probe) if probe.is_frozen => format!(
            "the guest is frozen already, by another program or an earlier backup, so its programs wait with every write; if that stays, \
             `virsh domfsthaw {name}` thaws it"
        ),
        Ok(_) => "the guest's agent has freezing disabled".to_owned(),
        Err(failure) => failure.to_string(),
    };
    if required {
        return Err(CaptureError::NotQuiesced { domain: name.to_owned(), reason });
    }
    Ok(Err(reason))
}
