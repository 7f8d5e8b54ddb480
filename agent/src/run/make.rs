//! Making a run. M1: refuse what cannot work · M2: the folder (its name is ours now) and the record of all that will be made · M3: overlays ·
//! M4: firmware's variables · M5: the definition, read back: does libvirt know `<reconnect>`? TPM state, which libvirt removes with the definition · M6: supervisor, server, storage daemon, until the
//! point is served · M7: start · M8: the record says `Ready`.
//!
//! Whatever fails takes all of it away again; what a crash leaves is named by the record, and `discard` removes it.

use super::{
    again,
    copy::qemu_img_create,
    daemon::RECONNECT_S,
    folder::{RunFolder, RunLock, RunSockets, failed, sync_folder},
    keep::libvirt,
    launch, log,
    record::{Key, Phase, Proof, Record, RunDisk, State, VERSION, Via},
    server,
    status::Status,
    teardown,
};
use crate::{
    apparmor,
    cli::{self, Common, ViaChoice},
    commands::now_unix_ms,
    context,
    domain::{self, FileContext, Files, SavedDomain, chain},
    failure::{DAMAGED, FAILED, Failure, INTERRUPTED, Outcome},
    output, points,
};
use cairn_hypervisor::{
    Domain, Host,
    host::{HostError, LIBVIRT_NBD_RECONNECT},
    restore_map::{self, Mapping},
    restore_xml::RestoreXmlError,
    run::{Built, Network, RunXml, driver, isolate::isolate, xml},
    state_files::{Role, state_files},
};
use cairn_store::{PointState, Store, format::manifest::Manifest};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Where overlays go unless told otherwise.
const IMAGES: &str = "/var/lib/libvirt/images";
/// Until the point is served: the store is opened, which may be slow, and QEMU's tools started.
pub const SERVED_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of the domain, if not the usual one.
    pub name: Option<String>,
    /// none, same, or a network of libvirt's.
    pub network: String,
    /// Memory other than the saved, bytes.
    pub memory_bytes: Option<u64>,
    /// Folder for the overlays.
    pub dir: Option<PathBuf>,
    /// Pool for the overlays.
    pub pool: Option<String>,
    /// UUID, MAC addresses and passed-through devices stay.
    pub keep_identity: bool,
    /// Started without letting its processors run.
    pub paused: bool,
    /// Also of a point that is known to be damaged.
    pub allow_damaged: bool,
    /// What stands between QEMU and the store.
    pub via: ViaChoice,
    /// For a boot proof: isolated, and gone with whoever asked for it.
    pub proof: Option<Proof>,
}

impl From<&cli::Run> for Request {
    fn from(o: &cli::Run) -> Self {
        Self {
            name: o.rename.clone(),
            network: o.network.clone(),
            memory_bytes: o.memory,
            dir: o.dir.clone(),
            pool: o.pool.clone(),
            keep_identity: o.keep_identity,
            paused: o.paused,
            allow_damaged: o.allow_damaged,
            via: o.via,
            proof: None,
        }
    }
}

/// What was made.
pub struct Made {
    /// Its record.
    pub record: Record,
    /// Its domain, started.
    pub domain: Domain,
    /// What people should know.
    pub warnings: Vec<String>,
    /// What a copy has of its own where the original has something of the host's.
    pub own: Vec<String>,
    /// Of a boot proof: as long as it is held, the run stays.
    pub owner: Option<RunLock>,
}

/// What the point says, before anything is made.
struct Origin {
    xml: String,
    manifest: Manifest,
    saved: SavedDomain,
    warnings: Vec<String>,
}

/// How it is started, and what takes it back.
struct Start<'a> {
    paused: bool,
    cancel: &'a AtomicBool,
}

/// Makes a run and starts its domain.
pub fn make(common: &Common, o: &Request, spec: &str, cancel: &AtomicBool) -> Outcome<Made> {
    // M1
    let state_dir = absolute(&context::state_dir(common)?)?;
    let (store_path, key) = store_and_key(common)?;
    let store = server::open_store(&store_path, &key, &state_dir)?;
    let points = store.points()?;
    let point = points::select(&points, spec)?;
    if point.state() == PointState::Damaged && !o.allow_damaged {
        return Err(Failure::new(DAMAGED, format!("point {} is known to be damaged; run another one, or this with --allow-damaged", point.id)));
    }
    let _pin = store.pin(&[point.id])?;
    let origin = origin(&store, point)?;
    let name = o.name.clone().unwrap_or_else(|| if o.keep_identity { origin.saved.name.clone() } else { format!("{}-run", origin.saved.name) });
    let folder = RunFolder::of(&state_dir, &name)?;
    if folder.exists() {
        // Says what to do about it.
        folder.create()?;
    }
    let host = super::connect(common.connect.as_deref())?;
    host.check_versions()?;
    refuse_taken(&host, &name, o.keep_identity)?;
    let images = images_folder(&host, o)?;
    let owner = host.qemu_owner()?;
    let mut disks = Vec::new();
    for entry in store.disks(point)? {
        let overlay = images.join(format!("{}-{}.qcow2", name.replace('/', "_"), entry.target));
        if fs::symlink_metadata(&overlay).is_ok() {
            return Err(Failure::refused(format!("{} exists; nothing was made (give another name with --as, or another place with --dir)", overlay.display())));
        }
        // A point of a domain that has no such disk in its definition is refused when its XML is made.
        let driver = driver::options(&origin.xml, &entry.target).ok();
        disks.push(RunDisk {
            target: entry.target,
            size_bytes: entry.size_bytes,
            overlay,
            inode: None,
            filled: false,
            driver,
            phase: Phase::Overlay,
            copy: None,
        });
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    let sockets = RunSockets::of(&id);
    // Older ones refuse it, as their schema does, or drop it without a word where they do not look.
    let can_wait = host.libvirt_version()? >= LIBVIRT_NBD_RECONNECT;
    let direct = o.via == ViaChoice::Direct || (o.via == ViaChoice::Auto && can_wait);
    let network = match o.network.as_str() {
        "none" => Network::None,
        "same" => Network::Same,
        name => Network::Named(name.to_owned()),
    };
    let mut wanted = RunXml {
        name: name.clone(),
        keep_identity: o.keep_identity,
        disks: disks.iter().map(xml_disk).collect(),
        socket: path_text(&if direct { sockets.server() } else { sockets.daemon() })?,
        reconnect_s: (direct && can_wait).then_some(RECONNECT_S),
        network,
        memory_kib: o.memory_bytes.map(|bytes| bytes / 1024),
    };
    let broken = |e: RestoreXmlError| match e {
        RestoreXmlError::DividedMemory => Failure::refused(format!("'{}': {e}; nothing was made", output::shown(&origin.saved.name))),
        _ => Failure::new(FAILED, format!("cannot make the domain's XML: {}", chain(&e))),
    };
    let mut built = wanted.build(&origin.xml).map_err(broken)?;
    let (xml, lost_media) = restore_map::without_lost_media(&built.xml, |path| Path::new(path).exists()).map_err(broken)?;
    built.xml = xml;
    if o.proof.is_some() {
        let targets: Vec<String> = disks.iter().map(|d| d.target.clone()).collect();
        let isolated = isolate(&built.xml, &targets).map_err(broken)?;
        built.xml = isolated.xml;
    }
    refuse_taken(&host, &built.uuid, o.keep_identity)?;
    refuse_networks(&host, &built.xml)?;
    refuse_variables(built.nvram.as_deref(), o.keep_identity)?;
    let files = Files::prepare(&FileContext {
        store: &store,
        manifest: &origin.manifest,
        saved: &origin.saved,
        xml: &built.xml,
        nvram: built.nvram.as_deref(),
        rename: (!o.keep_identity).then_some(name.as_str()),
        mapping: &Mapping::default(),
        force: false,
        roles: &[Role::Nvram, Role::Tpm],
    })?;
    refuse_lacks(&host, &built.xml, files.path(Role::Nvram).is_some())?;
    // Where libvirt chooses the firmware itself, the definition does not say where its variables are; libvirt may make them although the point has none.
    let nvram = files.path(Role::Nvram).map(Path::to_path_buf).or_else(|| built.nvram.clone().map(PathBuf::from));
    let mut record = Record {
        version: VERSION,
        id,
        name,
        uuid: built.uuid.clone(),
        connect: common.connect.clone(),
        store: store_path,
        key,
        state_dir,
        point: point.id.to_string(),
        point_name: point.summary.name.clone(),
        created_unix_ms: now_unix_ms(),
        via: if direct { Via::Direct } else { Via::Daemon },
        network: o.network.clone(),
        nvram,
        nvram_inode: None,
        autostart: o.keep_identity && origin.saved.autostart,
        owner,
        disks,
        state: State::Making,
        layers: Vec::new(),
        proof: o.proof,
    };
    folder.create()?; // M2
    let owner = o.proof.map(|_| folder.own()).transpose()?;
    let made = (|| {
        folder.save(&record)?;
        build(&host, &folder, &mut record, &mut wanted, &built, &files, &Start { paused: o.paused, cancel })
    })();
    match made {
        Ok((domain, mut warnings)) => {
            // A guest in isolation is to lack its media, too.
            let media = lost_media.iter().filter(|_| record.proof.is_none());
            let media = media.map(|(target, path)| format!("the medium {path} of drive {target} is not on this host: the drive is empty"));
            warnings.splice(..0, origin.warnings.into_iter().chain(media));
            Ok(Made { record, domain, warnings, own: built.unshared.own, owner })
        }
        Err(f) => Err(undo(&folder, &record, f)),
    }
}

/// M3 to M8.
fn build(
    host: &Host,
    folder: &RunFolder,
    record: &mut Record,
    wanted: &mut RunXml,
    built: &Built,
    files: &Files,
    start: &Start<'_>,
) -> Outcome<(Domain, Vec<String>)> {
    let cancel = start.cancel;
    for disk in &mut record.disks {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&disk.overlay).map_err(|e| failed("create", &disk.overlay, &e))?;
        disk.inode = Some(teardown::identity(&disk.overlay).map_err(|e| failed("look at", &disk.overlay, &e))?);
    }
    folder.save(record)?;
    let mut warnings = files.write(&[Role::Nvram], false)?; // M4
    interrupted(cancel)?;
    // M5
    let mut domain = host.define(&built.xml)?;
    if wanted.reconnect_s.is_some() && !xml::knows_reconnect(&domain.xml_inactive().map_err(|e| libvirt(&e))?).map_err(|e| Failure::new(FAILED, chain(&e)))? {
        // What libvirt made of it is what counts.
        record.via = Via::Daemon;
        folder.save(record)?;
        wanted.socket = path_text(&RunSockets::of(&record.id).daemon())?;
        wanted.reconnect_s = None;
        domain = host.define(&relocated(&built.xml, record)?)?;
    }
    warnings.extend(files.write(&[Role::Tpm], false)?);
    for disk in &record.disks {
        let uri = record.backing_uri(&disk.target);
        qemu_img_create(&["-u", "-F", "raw", "-b", &uri], &disk.overlay, disk.size_bytes)?;
        super::copy::sync(&disk.overlay)?;
    }
    launch::ensure_supervisor(folder, record)?; // M6
    wait_served(folder, record, Some(cancel))?;
    interrupted(cancel)?;
    let started = if start.paused { domain.start_paused() } else { domain.start() };
    started.map_err(|e| apparmor::does_not_start(host, &e))?; // M7
    interrupted(cancel)?;
    again::remember(folder, &domain)?;
    // libvirt may have made them just now.
    record.nvram_inode = record.nvram.as_ref().and_then(|path| teardown::identity(path).ok());
    record.state = State::Ready;
    folder.save(record)?; // M8
    // A guest in isolation is to lack it.
    if record.proof.is_none() {
        let left_out = |kind: &String| format!("its {kind} is left out: a copy cannot share it with the original (--keep-identity keeps it)");
        warnings.extend(built.unshared.left_out.iter().map(left_out));
    }
    Ok((domain, warnings))
}

/// The same definition with the storage daemon's socket and without what libvirt does not know.
fn relocated(xml: &str, record: &Record) -> Outcome<String> {
    let sockets = RunSockets::of(&record.id);
    let (from, to) = (path_text(&sockets.server())?, path_text(&sockets.daemon())?);
    Ok(xml.replace(&format!("socket='{from}'"), &format!("socket='{to}'")).replace(&format!("<reconnect delay='{RECONNECT_S}'/>"), ""))
}

/// After Ctrl-C all of it is taken away.
fn interrupted(cancel: &AtomicBool) -> Outcome<()> {
    if cancel.load(Ordering::SeqCst) { Err(Failure::new(INTERRUPTED, "interrupted; what was made is taken away")) } else { Ok(()) }
}

/// Waits until the point is served.
pub fn wait_served(folder: &RunFolder, record: &Record, cancel: Option<&AtomicBool>) -> Outcome<()> {
    let (sockets, start) = (RunSockets::of(&record.id), Instant::now());
    loop {
        let status = Status::read(&sockets);
        if status.as_ref().is_some_and(|s| s.served) {
            return Ok(());
        }
        cancel.map_or(Ok(()), interrupted)?;
        let problem = status.and_then(|s| s.problem);
        // A server that fails at once fails again; what it said is worth more than a long wait.
        let limit = if problem.is_some() { SERVED_LIMIT / 8 } else { SERVED_LIMIT };
        if start.elapsed() > limit {
            let why = problem.or_else(|| log::last_line(folder)).unwrap_or_else(|| "its processes say nothing".into());
            return Err(Failure::new(FAILED, format!("the point is not served after {} s: {why}", limit.as_secs())));
        }
        std::thread::sleep(POLL);
    }
}

/// Takes away what was made; the failure says so if that fails, too.
fn undo(folder: &RunFolder, record: &Record, f: Failure) -> Failure {
    match super::discard(folder, record) {
        Ok(()) => f,
        Err(e) => Failure::new(
            f.code,
            format!("{}; and what was made could not be removed ({}): run 'cairn discard {}'", f.message, e.message, output::shown(&record.name)),
        ),
    }
}

fn origin(store: &Store, point: &cairn_store::Point) -> Outcome<Origin> {
    let manifest = store.manifest(point)?;
    let saved = SavedDomain::of(&manifest).ok_or_else(|| {
        Failure::usage(format!("'{}' is an image, not a domain; 'cairn restore' writes it to a file or device", output::shown(&point.summary.name)))
    })?;
    let xml = domain::saved_xml(store, &manifest)?.ok_or_else(|| Failure::new(DAMAGED, format!("point {} has no domain XML", point.id)))?;
    let warnings = domain::missing(&saved, true);
    Ok(Origin { xml, manifest, saved, warnings })
}

/// What opens the store must be a file that is there tomorrow: the server starts again by itself.
fn store_and_key(common: &Common) -> Outcome<(PathBuf, Key)> {
    let url = common.store.as_deref().ok_or_else(|| Failure::usage("no store was named; use --store PATH or set CAIRN_STORE"))?;
    let path = context::store_path(url)?;
    let (id, encrypted) = Store::identify(&path)?;
    let lasting = |path: &Path| -> Outcome<PathBuf> {
        let path = absolute(path)?;
        if !fs::metadata(&path).is_ok_and(|m| m.is_file()) || path.starts_with("/dev") || path.starts_with("/proc") {
            return Err(Failure::refused(format!("{} is no file that stays: a run opens the store again by itself; give a key file", path.display())));
        }
        Ok(path)
    };
    let key = match (&common.key_file, &common.passphrase_file) {
        (Some(file), _) => Key::File(lasting(file)?),
        (None, Some(file)) => Key::Passphrase(lasting(file)?),
        (None, None) if encrypted => Key::File(context::default_key_file(&id)?).filter_there()?,
        (None, None) => Key::None,
    };
    Ok((path, key))
}

impl Key {
    /// A default that is not there is no key at all.
    fn filter_there(self) -> Outcome<Self> {
        match &self {
            Self::File(path) if !path.is_file() => Err(Failure::new(
                crate::failure::WRONG_KEY,
                format!(
                    "this store is encrypted and there is no key file {}; a run opens the store again by itself: give --key-file or --passphrase-file",
                    path.display()
                ),
            )),
            _ => Ok(self),
        }
    }
}

fn refuse_taken(host: &Host, name: &str, keep_identity: bool) -> Outcome<()> {
    match host.domain(name) {
        Err(HostError::NoDomain { .. }) => return Ok(()),
        Err(e) => return Err(e.into()),
        Ok(_) => {}
    }
    let name = output::shown(name);
    let remedy = match keep_identity {
        true => format!(
            "if the point is to take its place, shut it down and remove its definition first: `virsh undefine '{name}'`, with --nvram where it has variables of \
             firmware; for a copy beside it leave --keep-identity away"
        ),
        false => "choose another name with --as".to_owned(),
    };
    Err(Failure::refused(format!("domain {name} exists; nothing was made ({remedy})")))
}

fn refuse_variables(path: Option<&str>, keep_identity: bool) -> Outcome<()> {
    let Some(path) = path.filter(|path| fs::symlink_metadata(path).is_ok()) else { return Ok(()) };
    let remedy = match keep_identity {
        true => "move them away: the point's own are put there; `virsh undefine --nvram` removes them with a definition",
        false => "give another name with --as",
    };
    Err(Failure::refused(format!("the firmware's variables {path} exist; nothing was made ({remedy})")))
}

/// What else it would not start without. `has_variables`: those of its firmware come from the point.
fn refuse_lacks(host: &Host, xml: &str, has_variables: bool) -> Outcome<()> {
    let problems = host.problems(xml, true)?.into_iter().filter(|p| !(has_variables && p.is_template()));
    let boot = state_files(xml).map(|files| files.boot).unwrap_or_default();
    let lost = boot.into_iter().filter(|(_, path)| !Path::new(path).exists());
    let lost = lost.map(|(role, path)| format!("{} {path} of its direct boot is not on this host", role.text()));
    let lacking: Vec<String> = problems.map(|p| p.what).chain(lost).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let what = output::shown(&lacking.join("; "));
    Err(Failure::refused(format!(
        "{what}; nothing was made (a run takes these from the host: put them there, or use 'cairn restore', which brings files of a direct boot back and can map the rest)"
    )))
}

/// Without its networks it would not start: said before anything is made.
fn refuse_networks(host: &Host, xml: &str) -> Outcome<()> {
    let lacking: Vec<String> = host.network_problems(xml).into_iter().map(|p| p.what).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let what = output::shown(&lacking.join(", "));
    Err(Failure::refused(format!("{what}; nothing was made ('--network none' leaves interfaces out, '--network NAME' connects them to another network)")))
}

fn images_folder(host: &Host, o: &Request) -> Outcome<PathBuf> {
    let dir = match (&o.dir, &o.pool) {
        (Some(dir), _) => absolute(dir)?,
        (None, Some(pool)) => PathBuf::from(host.pool_folder(pool)?),
        (None, None) => PathBuf::from(IMAGES),
    };
    if !dir.is_dir() {
        return Err(Failure::not_found(format!("there is no folder {} for the overlays; give one with --dir", dir.display())));
    }
    sync_folder(&dir)?;
    Ok(dir)
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path).map_err(|e| Failure::usage(format!("'{}': {e}", path.display())))
}

fn path_text(path: &Path) -> Outcome<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("{} is not UTF-8", path.display())))
}

fn xml_disk(d: &RunDisk) -> cairn_hypervisor::run::RunDisk {
    cairn_hypervisor::run::RunDisk { target: d.target.clone(), overlay: d.overlay.display().to_string() }
}
