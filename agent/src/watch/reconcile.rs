//! The look at domains: what is there, what of it is ours and dead, what the record is to say. `cairn reconcile` runs it, for people and for the daemon.
//!
//! Invariants
//! - It is a process of its own, that may be killed at any moment: all it does is done again by the next (docs/adr/0019).
//! - A domain that runs from a restore point, or proves one, is left alone: those have keepers of their own, which are started again where they are gone.
//! - A domain that has nothing of ours is not touched, and its QEMU is not asked: it would be tainted for nothing.
//! - Records are for people. Without them everything else is done all the same.

use super::{
    life::Sight,
    records::{LookNote, Records},
    stores::{self, AnsweringStore},
};
use crate::{
    cli::Common,
    commands::now_unix_ms,
    config::StoreEntry,
    context,
    domain::chain,
    failure::{Failure, Outcome},
    run::{
        folder::RunFolder,
        launch,
        record::{Record, State},
    },
};
use cairn_hook::clock;
use cairn_hypervisor::{
    Domain, Host,
    capture::{
        checkpoints,
        error::CaptureError,
        look::{self, LookOptions, Looked, Tracked},
        scratch::folder_of,
    },
    disks::Disk,
    events,
    host::HostError,
    metadata::BackupWord,
    phase::Phase,
};
use cairn_quiesce::record;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    time::Duration,
};

/// To connect to libvirt.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// What became of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It came to its end.
    Looked,
    /// There was nothing of ours to look at.
    NothingOfOurs,
    /// It is not ours to look at.
    LeftAlone(String),
    /// Later: somebody works on the domain.
    Busy(String),
    /// libvirt does not know it (any more).
    Gone,
    /// It failed.
    Failed(String),
}

impl Done {
    /// For records and scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Looked => "looked",
            Self::NothingOfOurs => "nothing-of-ours",
            Self::LeftAlone(_) => "left-alone",
            Self::Busy(_) => "busy",
            Self::Gone => "gone",
            Self::Failed(_) => "failed",
        }
    }

    /// More words.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::LeftAlone(why) | Self::Busy(why) | Self::Failed(why) => Some(why),
            Self::Looked | Self::NothingOfOurs | Self::Gone => None,
        }
    }
}

/// What a look at one domain gave.
#[derive(Debug, Clone)]
pub struct Report {
    /// UUID; empty where only a name was given, and nothing has it.
    pub uuid: String,
    /// Name.
    pub name: String,
    /// `running`, `off`.
    pub state: &'static str,
    /// What became of it.
    pub done: Done,
    /// What was found, what is recorded.
    pub looked: Looked,
    /// Its disks, as records have them.
    pub disks: Value,
    /// Its newest point in each store that answered: store, point, time.
    pub points: Vec<(String, String, u64)>,
}

/// What is to be looked at.
pub struct Request<'a> {
    /// Options of the command line.
    pub common: &'a Common,
    /// Stores that bitmaps may be of.
    pub stores: &'a BTreeMap<String, StoreEntry>,
    /// Names or UUIDs; empty for all.
    pub domains: &'a [String],
    /// Somebody asked for just these, so they are looked at whatever is known of them.
    pub insist: bool,
}

/// Looks; gives the reports, and what stores and records have to say.
pub fn run(request: &Request<'_>) -> Outcome<(Vec<Report>, Vec<String>)> {
    let state_dir = context::state_dir(request.common)?;
    let runs = Runs::of(&state_dir);
    // First: a guest that cannot read its point waits for no libvirt.
    let mut warnings = runs.attend();
    let host = events::open_within(request.common.connect.as_deref(), CONNECT_LIMIT)?;
    host.check_versions()?;
    let mut records = Records::open(&state_dir).map_err(|f| warnings.push(f.message)).ok();
    let listed_ns = clock::since_boot_ns();
    let (domains, mut reports) = choose(&host, request.domains)?;
    for gone in &reports {
        note_gone(&mut records, &gone.uuid);
    }
    let (answering, silent) = stores::ask(request.common, request.stores);
    warnings.extend(silent);
    let look = Look { request, runs: &runs, stores: &answering };
    for domain in &domains {
        reports.push(look.at(domain, &mut records));
    }
    if request.domains.is_empty() {
        let uuids: Vec<String> = reports.iter().map(|r| r.uuid.clone()).collect();
        tell(records.as_mut().map(|r| r.only_these(&uuids, now_unix_ms(), listed_ns)));
    }
    Ok((reports, warnings))
}

fn choose(host: &Host, names: &[String]) -> Outcome<(Vec<Domain>, Vec<Report>)> {
    if names.is_empty() {
        return Ok((host.domains()?, Vec::new()));
    }
    let (mut domains, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match host.domain(name) {
            Ok(domain) => domains.push(domain),
            Err(HostError::NoDomain { .. }) => missing.push(Report::of(name.clone(), name.clone(), "gone", Done::Gone)),
            Err(e) => return Err(e.into()),
        }
    }
    Ok((domains, missing))
}

fn note_gone(records: &mut Option<Records>, uuid_or_name: &str) {
    if let Some(records) = records {
        let uuid = records.uuid_of(uuid_or_name).ok().flatten().unwrap_or_else(|| uuid_or_name.to_owned());
        tell(Some(records.gone(&uuid, now_unix_ms())));
    }
}

/// Records that cannot be written are no reason to leave a domain as it is.
fn tell<T>(result: Option<Outcome<T>>) {
    if let Some(Err(f)) = result {
        tracing::warn!("{}", f.message);
    }
}

impl Report {
    fn of(uuid: String, name: String, state: &'static str, done: Done) -> Self {
        Self { uuid, name, state, done, looked: Looked::default(), disks: json!([]), points: Vec::new() }
    }

    /// As `cairn reconcile --json` has it.
    pub fn json(&self) -> Value {
        let points: Vec<Value> = self.points.iter().map(|(store, id, time)| json!({"store": store, "id": id, "time": crate::output::rfc3339(*time)})).collect();
        json!({
            "uuid": self.uuid, "name": self.name, "state": self.state, "outcome": self.done.word(), "why": self.done.why(),
            "found": findings(&self.looked), "disks": self.disks, "points": points,
        })
    }
}

fn findings(looked: &Looked) -> Value {
    let one = |f: &look::Found| {
        let outcome = match &f.gone {
            Ok(()) if f.kind == look::Kind::Freeze => "thawed".to_owned(),
            Ok(()) => "removed".to_owned(),
            Err(why) => format!("still there: {why}"),
        };
        json!({"kind": f.kind.word(), "name": f.name, "outcome": outcome, "gone": f.gone.is_ok()})
    };
    looked.found.iter().map(one).collect::<Vec<_>>().into()
}

struct Look<'a> {
    request: &'a Request<'a>,
    runs: &'a Runs,
    stores: &'a [AnsweringStore],
}

impl Look<'_> {
    /// A domain that goes while it is looked at is no failure.
    fn at(&self, domain: &Domain, records: &mut Option<Records>) -> Report {
        let (Ok(uuid), Ok(name)) = (domain.uuid(), domain.name()) else {
            return Report::of(String::new(), String::new(), "gone", Done::Gone);
        };
        // Taken before libvirt is asked: whatever is told later counts for more.
        let stamp_ns = clock::since_boot_ns();
        let phase = match domain.phase() {
            Ok(phase) => phase,
            Err(e) if e.is_no_domain() => {
                tell(records.as_mut().map(|r| r.gone(&uuid, now_unix_ms())));
                return Report::of(uuid, name, "gone", Done::Gone);
            }
            Err(e) => return Report::of(uuid, name, "unknown", Done::Failed(e.to_string())),
        };
        let state = if matches!(phase, Phase::Running(_)) { "running" } else { "off" };
        let mut report = Report::of(uuid, name, state, Done::Looked);
        if let Some(why) = self.runs.keeper(&report.uuid, &report.name) {
            report.done = Done::LeftAlone(why);
            return report;
        }
        let sight = Sight { phase, stamp_ns, boot: boot(), at_unix_ms: now_unix_ms() };
        tell(records.as_mut().map(|r| r.saw(&report.uuid, &report.name, &sight, "look")));
        let known: Vec<(String, String)> = records.as_mut().and_then(|r| r.points_of(&report.uuid).ok()).unwrap_or_default();
        self.look(domain, &known, &mut report);
        // Its word counts whether or not there is anything of ours.
        let word = domain.xml_live().ok().and_then(|xml| BackupWord::parse(&xml).ok());
        let note = LookNote {
            word,
            outcome: report.done.why().map_or_else(|| report.done.word().to_owned(), |why| format!("{}: {why}", report.done.word())),
            disks: report.disks.as_array().is_some_and(|d| !d.is_empty()).then(|| report.disks.clone()),
            findings: findings(&report.looked),
            frozen: record::is_open(Path::new(record::RECORD_DIR_DEFAULT), &report.uuid),
            points: report.points.clone(),
            at_unix_ms: now_unix_ms(),
        };
        tell(records.as_mut().map(|r| r.looked(&report.uuid, &note)));
        report
    }

    fn look(&self, domain: &Domain, known: &[(String, String)], report: &mut Report) {
        let mut options = LookOptions::default();
        let left = folder_of(&options.scratch_dir, &report.uuid).exists() || record::is_open(&options.record_dir, &report.uuid);
        let of_ours = self.request.insist || left || !known.is_empty() || self.stores.iter().any(|s| s.has_name(&report.name));
        let spared = of_ours && self.spares_monitor(domain, known, report);
        options.monitor = of_ours && !spared;
        let catalogs: Vec<look::Store<'_>> = self.stores.iter().map(|s| (s.store8, s as _)).collect();
        report.done = match look::run(domain, &options, &catalogs) {
            Ok(looked) => {
                report.looked = looked;
                if of_ours { Done::Looked } else { Done::NothingOfOurs }
            }
            Err(e @ (CaptureError::Busy { .. } | CaptureError::ForeignJob { .. })) => Done::Busy(chain(&e)),
            // It ended meanwhile: its end is an event, and that calls for a look.
            Err(_) if report.state == "running" && !domain.is_running().unwrap_or(true) => Done::Busy("it ended while it was looked at".to_owned()),
            Err(e) => Done::Failed(chain(&e)),
        };
        if let Ok(disks) = domain.disks() {
            report.disks = disks.iter().map(|d| self.disk(d, &report.looked.tracked)).collect::<Vec<_>>().into();
        }
        report.points = self.points(report, known);
    }

    /// The domain is backed up without its QEMU's monitor, and nobody has used that yet: what libvirt tells must do.
    fn spares_monitor(&self, domain: &Domain, known: &[(String, String)], report: &Report) -> bool {
        let newest = |s: &AnsweringStore| {
            let ids: Vec<String> = known.iter().filter(|(name, _)| *name == s.name).map(|(_, point)| point.clone()).collect();
            s.spares_monitor(&report.uuid, &report.name, &ids)
        };
        !domain.monitor_was_used().unwrap_or(false) && (checkpoints::ours(domain).is_ok_and(|all| !all.is_empty()) || self.stores.iter().any(newest))
    }

    fn store_name(&self, store8: [u8; 4]) -> Option<&str> {
        self.stores.iter().find(|s| s.store8 == store8).map(|s| s.name.as_str())
    }

    fn disk(&self, disk: &Disk, tracked: &[Tracked]) -> Value {
        let of = |t: &&Tracked| t.disk == disk.target;
        let one = |t: &Tracked| {
            let store = self.store_name(t.store8).map_or_else(|| t.store(), str::to_owned);
            json!({"store": store, "point": t.point(), "persistent": t.persistent})
        };
        json!({
            "target": disk.target, "format": disk.format, "path": disk.source.path(), "left_out": disk.skip.map(|s| s.to_string()),
            "tracked": tracked.iter().filter(of).map(one).collect::<Vec<_>>(),
        })
    }

    fn points(&self, report: &Report, known: &[(String, String)]) -> Vec<(String, String, u64)> {
        let mut out = Vec::new();
        for store in self.stores {
            let recorded = known.iter().filter(|(name, _)| *name == store.name).map(|(_, point)| point.clone());
            let tracked = report.looked.tracked.iter().filter(|t| t.store8 == store.store8).map(Tracked::point);
            let ids: Vec<String> = recorded.chain(tracked).collect();
            out.extend(store.newest(&report.uuid, &report.name, &ids, now_unix_ms()).map(|(id, time)| (store.name.clone(), id, time)));
        }
        out
    }
}

/// The id of this boot of the host.
pub fn boot() -> String {
    clock::boot_id().map(|id| id.to_string()).unwrap_or_default()
}

/// Domains that run from restore points.
struct Runs {
    /// With a record of a run that was made.
    made: Vec<(RunFolder, Record)>,
    names: HashSet<String>,
    uuids: HashSet<String>,
    /// They cannot be listed, so no domain may be taken for none of them.
    problem: Option<String>,
}

impl Runs {
    fn of(state_dir: &Path) -> Self {
        let mut runs = Self { made: Vec::new(), names: HashSet::new(), uuids: HashSet::new(), problem: None };
        match RunFolder::all(state_dir) {
            Ok(folders) => folders.into_iter().for_each(|folder| runs.add(folder)),
            Err(Failure { message, .. }) => runs.problem = Some(message),
        }
        runs
    }

    fn add(&mut self, folder: RunFolder) {
        // One whose record cannot be read has a name all the same.
        self.names.insert(folder.name().to_owned());
        let Ok(record) = folder.record() else { return };
        self.uuids.insert(record.uuid.clone());
        if record.state == State::Ready {
            self.made.push((folder, record));
        }
    }

    /// Supervisor and server bring each other back; of both, whoever looks. What could not be done.
    fn attend(&self) -> Vec<String> {
        let attend = |(folder, record): &(RunFolder, Record)| {
            // One that ended meanwhile is none.
            let failed = launch::ensure_supervisor(folder, record).err().filter(|_| folder.exists());
            failed.map(|f| format!("run '{}' may not be served: {}", crate::output::shown(&record.name), f.message))
        };
        self.made.iter().filter_map(attend).collect()
    }

    /// Why a domain is not ours to look at.
    fn keeper(&self, uuid: &str, name: &str) -> Option<String> {
        if let Some(problem) = &self.problem {
            return Some(format!("whether it runs from a restore point cannot be told: {problem}"));
        }
        (self.uuids.contains(uuid) || self.names.contains(name)).then(|| "it runs from a restore point".to_owned())
    }
}
