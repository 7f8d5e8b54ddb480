//! Captures a running domain into flat files, with a catalog in one JSON file: the whole of capture without a store.
//!
//! ```text
//! capture run DOMAIN FOLDER [--quiesce require|prefer|never] [--stop-at STEP] [--disk vda]...
//! capture guard                       (started by `run`)
//! ```
//! FOLDER gets `<session>/<target>.raw` for each point and `catalog.json`. `--stop-at begun|read|committed` ends the process by SIGKILL there;
//! `--hold SECONDS` waits after the capture began, `--hold-file FILE` makes a file there and waits only until somebody removes it. Prints one line
//! of JSON per disk.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cairn_hypervisor::capture::names::{BitmapName, hex};
use cairn_hypervisor::capture::plan::Later;
use cairn_hypervisor::guard::link::GuardCommand;
use cairn_hypervisor::{CarrierRecord, DiskPlan, Host, LiveCapture, LiveOptions, NbdDisk, PointCatalog, PointStatus};
use serde::{Deserialize, Serialize};

type Failure = Box<dyn std::error::Error>;

const STORE: [u8; 4] = *b"exmp";
const PIECE_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedDisk {
    target: String,
    size_bytes: u64,
    image_path: String,
    device_inode: Option<(u64, u64)>,
    bitmap_name: String,
}

/// Points by session, with their order.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Catalog(BTreeMap<String, (u64, Vec<SavedDisk>)>);

impl Catalog {
    fn load(folder: &Path) -> Result<Self, Failure> {
        match std::fs::read(folder.join("catalog.json")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            result => Ok(serde_json::from_slice(&result?)?),
        }
    }

    fn save(&self, folder: &Path) -> Result<(), Failure> {
        let new = folder.join("catalog.new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        Ok(std::fs::rename(new, folder.join("catalog.json"))?)
    }
}

impl PointCatalog for Catalog {
    fn status(&self, session: [u8; 16]) -> PointStatus {
        self.0.get(&hex(&session)).map_or(PointStatus::NotCommitted, |(order, _)| PointStatus::Usable { order: *order })
    }

    fn carrier(&self, session: [u8; 16], ordinal: u32) -> Option<CarrierRecord> {
        let disk = self.0.get(&hex(&session))?.1.get(ordinal as usize)?.clone();
        let (size_bytes, image_path, device_inode, bitmap_name) = (disk.size_bytes, disk.image_path, disk.device_inode, disk.bitmap_name);
        Some(CarrierRecord { size_bytes, image_path, device_inode, bitmap_name, marked: Vec::new() })
    }

    fn later(&self, _bitmap: &BitmapName) -> Option<Later> {
        None
    }
}

#[derive(Debug, Default)]
struct Arguments {
    domain: String,
    folder: PathBuf,
    quiesce: Option<String>,
    stop_at: Option<String>,
    hold: Option<u64>,
    hold_file: Option<PathBuf>,
    scratch: Option<PathBuf>,
    disks: Vec<String>,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().init();
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("guard") => return ExitCode::from(cairn_hypervisor::guard::main()),
        Some("run") => parse(arguments).and_then(|arguments| run(&arguments)),
        _ => Err("usage: capture run DOMAIN FOLDER [--quiesce P] [--stop-at S] [--hold S [--hold-file FILE]] [--scratch DIR] [--disk D]...".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("capture: {error}");
            let mut source = error.source();
            while let Some(inner) = source {
                eprint!(": {inner}");
                source = inner.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// Waits for `longest`, or until somebody removed `file`.
fn hold(longest: Duration, file: Option<&Path>) -> Result<(), Failure> {
    if let Some(file) = file {
        File::create(file)?;
    }
    let start = Instant::now();
    while start.elapsed() < longest && file.is_none_or(Path::exists) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, Failure> {
    let mut next = |what: &str| arguments.next().ok_or_else(|| format!("{what} is missing"));
    let mut out = Arguments { domain: next("DOMAIN")?, folder: next("FOLDER")?.into(), ..Arguments::default() };
    while let Ok(flag) = next("option") {
        match flag.as_str() {
            "--quiesce" => out.quiesce = Some(next("policy")?),
            "--stop-at" => out.stop_at = Some(next("step")?),
            "--hold" => out.hold = Some(next("seconds")?.parse()?),
            "--hold-file" => out.hold_file = Some(next("file")?.into()),
            "--scratch" => out.scratch = Some(next("folder")?.into()),
            "--disk" => out.disks.push(next("target")?),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(out)
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    std::fs::create_dir_all(&arguments.folder)?;
    let mut catalog = Catalog::load(&arguments.folder)?;
    let host = Host::open(None)?;
    host.check_versions()?;
    let domain = host.domain(&arguments.domain)?;
    let mut session = [0; 16];
    getrandom::fill(&mut session).map_err(|error| error.to_string())?;
    let guard = GuardCommand { argv: vec![std::env::current_exe()?.into(), "guard".into()] };
    let mut options = LiveOptions::new(STORE, session, guard);
    if let Some(policy) = &arguments.quiesce {
        options.quiesce = policy.parse()?;
    }
    if let Some(scratch) = &arguments.scratch {
        options.scratch_dir.clone_from(scratch);
    }
    if !arguments.disks.is_empty() {
        options.disks = Some(arguments.disks.clone());
    }
    let start = Instant::now();
    let capture = LiveCapture::begin(&domain, &options, &catalog)?;
    let begun_ms = start.elapsed().as_millis();
    stop_if(arguments, "begun");
    if let Some(seconds) = arguments.hold {
        hold(Duration::from_secs(seconds), arguments.hold_file.as_deref())?;
    }
    let folder = arguments.folder.join(hex(&session));
    std::fs::create_dir_all(&folder)?;
    let mut saved = Vec::new();
    for disk in capture.disks() {
        let start = Instant::now();
        let path = folder.join(format!("{}.raw", disk.target));
        let (mode, ranges) = match &disk.plan {
            DiskPlan::Incremental { base_session, base_ordinal, dirty } => {
                let base = &catalog.0.get(&hex(base_session)).ok_or("base")?.1[*base_ordinal as usize];
                std::fs::copy(arguments.folder.join(hex(base_session)).join(format!("{}.raw", base.target)), &path)?;
                ("incremental".to_owned(), dirty.clone())
            }
            DiskPlan::Compare { reason, .. } => (format!("compare: {reason}"), std::iter::once(0..disk.size_bytes).collect()),
            DiskPlan::Full { reason } => (format!("full: {reason}"), std::iter::once(0..disk.size_bytes).collect()),
        };
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        file.set_len(disk.size_bytes)?;
        let read_bytes = copy(&disk.reader, &file, &ranges)?;
        file.sync_all()?;
        let dirty_bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        println!(
            "{}",
            serde_json::json!({"target": disk.target, "mode": mode, "dirty": dirty_bytes, "read": read_bytes, "ms": start.elapsed().as_millis(),
                "file": path, "bitmap": disk.bitmap_name})
        );
        saved.push(SavedDisk {
            target: disk.target.clone(),
            size_bytes: disk.size_bytes,
            image_path: disk.carrier.image_path.clone(),
            device_inode: disk.carrier.device_inode,
            bitmap_name: disk.bitmap_name.clone(),
        });
    }
    stop_if(arguments, "read");
    let health = capture.health()?;
    let quiesce = capture.quiesce().clone();
    if health != cairn_hypervisor::capture::live::Health::Running {
        return Err(format!("{health:?}").into());
    }
    let order = catalog.0.values().map(|(order, _)| order + 1).max().unwrap_or(0);
    catalog.0.insert(hex(&session), (order, saved));
    catalog.save(&arguments.folder)?;
    stop_if(arguments, "committed");
    let end = Instant::now();
    capture.finish_success()?;
    println!(
        "{}",
        serde_json::json!({"session": hex(&session), "level": quiesce.level, "freeze_ms": quiesce.freeze_ms, "frozen": quiesce.frozen_filesystems,
            "reason": quiesce.reason, "begin_ms": begun_ms, "end_ms": end.elapsed().as_millis(), "ms": start.elapsed().as_millis()})
    );
    Ok(())
}

fn stop_if(arguments: &Arguments, step: &str) {
    if arguments.stop_at.as_deref() == Some(step) {
        std::io::stdout().flush().ok();
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL).ok();
    }
}

/// Copies ranges: zero parts as zero, everything else read. Gives the bytes read.
fn copy(disk: &NbdDisk, file: &File, ranges: &[Range<u64>]) -> Result<u64, Failure> {
    let mut buffer = vec![0; usize::try_from(PIECE_BYTES)?];
    let mut read_bytes = 0;
    for range in ranges {
        for extent in disk.extents(range.clone())? {
            let mut at = extent.range.start;
            while at < extent.range.end {
                let length = (extent.range.end - at).min(PIECE_BYTES);
                let piece = &mut buffer[..usize::try_from(length)?];
                if extent.zero {
                    piece.fill(0);
                } else {
                    disk.read_at(at, piece)?;
                    read_bytes += length;
                }
                file.write_all_at(piece, at)?;
                at += length;
            }
        }
    }
    Ok(read_bytes)
}
