//! What jobs do: the store's own work on a real directory, and the very code of `cairn prune`, `gc` and `verify`. Only a guest's disk is a piece of memory, and a
//! point that would be booted is read whole instead.

use super::{sky::Sky, slow, storage::Storage};
use crate::{
    cli::{Cli, Command, Common, Prune, Verify},
    commands::{
        Done,
        retention::{At, gc_options, prune_at},
    },
    context::host_name,
    failure::{FAILED, Failure, Outcome},
    jobs::{Kind, Order},
};
use cairn_store::{BlockSource, DiskJob, Extent, OpenOptions, Plan, PointInfo, Progress, Store, scrub::ScrubOptions, verify::Verifier};
use clap::Parser;
use jiff::tz::TimeZone;
use serde_json::json;
use std::{
    collections::{BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    io,
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

const IMAGE_BYTES: usize = 96 << 10;
const BLOCK_BYTES: usize = 4 << 10;

/// A domain of the host.
#[derive(Debug)]
pub struct Machine {
    pub uuid: String,
    pub name: String,
    pub tags: Vec<String>,
    pub is_here: bool,
    image: Vec<u8>,
}

impl Machine {
    pub fn new(number: usize, name: &str, tags: &[&str]) -> Self {
        let uuid = format!("0d5a1f00-0000-4000-8000-{number:012}");
        let seed = u8::try_from(number).expect("few machines");
        Self { uuid, name: name.into(), tags: tags.iter().map(|t| (*t).into()).collect(), is_here: true, image: vec![seed + 1; IMAGE_BYTES] }
    }
}

/// A point that is in a store, or was.
#[derive(Debug, Clone)]
pub struct Taken {
    pub id: String,
    pub store: usize,
    pub uuid: String,
    pub name: String,
    pub policies: Vec<String>,
    /// By the host's clock.
    pub date: u64,
    /// When its job began, truly.
    pub at: u64,
    /// First job of those that tried.
    pub root: i64,
    /// The job came to its end and said so.
    pub is_told: bool,
    pub is_gone: bool,
    content: u64,
}

/// Work on a store that came to a good end.
#[derive(Debug, Clone)]
pub struct Upkeep {
    pub kind: Kind,
    pub name: String,
    pub store: usize,
    pub at: u64,
}

struct Image(Vec<u8>);

impl BlockSource for Image {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { range, zero: false }])
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("fits");
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
    fn parallel(&self) -> usize {
        1
    }
}

/// A job as its process has it.
pub struct Task<'a> {
    pub id: i64,
    pub root: i64,
    pub order: &'a Order,
    /// When it began, truly and by the host's clock.
    pub begun: (u64, u64),
    /// It is killed at this operation.
    pub killed_at: Option<u64>,
}

/// The processes of jobs, and what the model knows of their work.
pub struct Works {
    pub sky: Arc<Sky>,
    pub roots: Vec<PathBuf>,
    pub names: Vec<String>,
    pub state_dir: PathBuf,
    pub zone: TimeZone,
    pub machines: Vec<Machine>,
    pub taken: Vec<Taken>,
    pub upkeep: Vec<Upkeep>,
    /// Parsed orders: most of them come again and again.
    parsed: HashMap<Vec<String>, Arc<Cli>>,
}

pub fn content(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl Works {
    pub fn new(sky: Arc<Sky>, roots: Vec<PathBuf>, names: Vec<String>, state_dir: PathBuf, zone: TimeZone, machines: Vec<Machine>) -> Self {
        Self { sky, roots, names, state_dir, zone, machines, taken: Vec::new(), upkeep: Vec::new(), parsed: HashMap::new() }
    }

    /// Does the work of a job: exit code, message, point.
    pub fn run(&mut self, task: &Task<'_>) -> (i32, Option<String>, Option<String>) {
        let store = self.names.iter().position(|name| *name == task.order.store).expect("a store of ours");
        let done = match task.order.kind {
            Kind::Backup => self.backup(task, store).map(|id| (0, Some(id))),
            Kind::BackupImage => unreachable!("policies save domains"),
            _ => self.keep_up(task, store).map(|code| (code, None)),
        };
        match done {
            Ok((code, point)) => {
                if matches!(code, 0 | 3) && task.order.kind != Kind::Backup && task.killed_at.is_none() {
                    self.upkeep.push(Upkeep { kind: task.order.kind, name: task.order.domain.clone(), store, at: task.begun.0 });
                }
                (code, None, point)
            }
            Err(f) => {
                self.learn(task, store);
                (f.code.into(), Some(f.message), None)
            }
        }
    }

    fn open(&self, store: usize, task: &Task<'_>) -> Outcome<(Store, Arc<Storage>)> {
        let storage = Arc::new(Storage::open(&self.roots[store], &self.sky, store, format!("job {}", task.id))?);
        if let Some(operations) = task.killed_at {
            storage.kill_after(operations);
        }
        let options = OpenOptions { credential: None, state_dir: self.state_dir.clone(), host: host_name() };
        Ok((Store::open_on(storage.clone(), options)?, storage))
    }

    fn backup(&mut self, task: &Task<'_>, store: usize) -> Outcome<String> {
        let uuid = task.order.uuid.as_deref().expect("orders of schedules have one");
        let number = self.machines.iter().position(|m| m.uuid == uuid).expect("a machine of ours");
        if self.sky.state().libvirt_away {
            return Err(Failure::new(FAILED, "cannot connect to libvirt"));
        }
        if !self.machines[number].is_here {
            return Err(Failure::not_found("no such domain"));
        }
        let (block, fill) = {
            let mut state = self.sky.state();
            (usize::try_from(state.rng.between(0, (IMAGE_BYTES / BLOCK_BYTES) as u64)).expect("small"), state.rng.next())
        };
        let machine = &mut self.machines[number];
        machine.image[block * BLOCK_BYTES..][..8].copy_from_slice(&fill.to_le_bytes());
        let (store_open, _) = self.open(store, task)?;
        let machine = &self.machines[number];
        let disks = [DiskJob { target: "vda".into(), source: Arc::new(Image(machine.image.clone())), plan: Plan::Full { reason: "no bitmap".into() } }];
        let info = || info(machine, task.begun.1);
        let outcome = store_open.begin()?.backup(&disks, info, &Progress::default(), || Ok(()))?;
        let id = outcome.id.to_string();
        let taken = self.taken_by(task, store, number, id.clone(), task.killed_at.is_none());
        self.taken.push(taken);
        Ok(id)
    }

    fn taken_by(&self, task: &Task<'_>, store: usize, machine: usize, id: String, is_told: bool) -> Taken {
        let machine = &self.machines[machine];
        Taken {
            id,
            store,
            uuid: machine.uuid.clone(),
            name: machine.name.clone(),
            policies: task.order.policies.clone(),
            date: task.begun.1,
            at: task.begun.0,
            root: task.root,
            is_told,
            is_gone: false,
            content: content(&machine.image),
        }
    }

    /// Who fails may have committed: a point that nobody was told of is a point.
    fn learn(&mut self, task: &Task<'_>, store: usize) {
        let healthy = Task { killed_at: None, ..*task };
        let Ok((open, _)) = self.open(store, &healthy) else { return };
        let Ok((points, _)) = open.points_from_storage() else { return };
        for point in points {
            let id = point.id.to_string();
            if !self.taken.iter().any(|t| t.id == id) {
                let number = self.machines.iter().position(|m| Some(&m.uuid) == task.order.uuid.as_ref()).expect("of the job that failed");
                let taken = self.taken_by(task, store, number, id, false);
                self.sky.note(format_args!("job {} had committed {}", task.id, taken.id));
                self.taken.push(taken);
            }
        }
    }

    fn parse(&mut self, argv: &[String]) -> Arc<Cli> {
        let parse = || Arc::new(Cli::try_parse_from(std::iter::once("cairn".to_owned()).chain(argv.iter().cloned())).expect("an order is a command line"));
        if argv.iter().any(|arg| arg == "--boot") {
            return parse();
        }
        self.parsed.entry(argv.to_vec()).or_insert_with(parse).clone()
    }

    fn keep_up(&mut self, task: &Task<'_>, store: usize) -> Outcome<i32> {
        let cli = self.parse(&task.order.argv);
        let (open, _) = self.open(store, task)?;
        let common = Common { json: false, quiet: true, ..cli.common.clone() };
        match &cli.command {
            Command::Prune(o) => self.prune(task, &open, store, (&common, o)),
            Command::Gc(o) => {
                let report = open.collect(&gc_options(o), &Progress::default())?;
                assert!(report.damaged_points.is_empty(), "a collection finds points that refer to what is lost: {:?}", report.damaged_points);
                Ok(0)
            }
            Command::Verify(o) if o.boot.boot => self.boot(&open, o),
            Command::Verify(o) => {
                let percent = o.percent.expect("of policies");
                let report = open.scrub(&ScrubOptions { percent, rate_bytes_max: o.rate }, &Progress::default())?;
                assert!(report.finding_count == 0, "a check finds damage: {:?}", report.findings);
                assert!(report.packs * 100 >= report.packs_total * u64::from(percent), "{} of {} packs are no {percent} %", report.packs, report.packs_total);
                Ok(0)
            }
            other => panic!("policies ask for nothing like {other:?}"),
        }
    }

    /// For a boot, the point is read whole.
    fn boot(&self, open: &Store, o: &Verify) -> Outcome<i32> {
        if self.sky.state().libvirt_away {
            return Err(Failure::new(FAILED, "cannot connect to libvirt"));
        }
        let [id] = &o.what[..] else { panic!("one point is booted: {:?}", o.what) };
        let all = open.points()?;
        let point = all.iter().find(|p| p.id.to_string() == *id).ok_or_else(|| Failure::not_found("no such point"))?;
        let report = open.verify_point(point, true, &Verifier::new(open)?, &Progress::default())?;
        assert!(report.damage_count == 0, "point {id} is damaged: {:?}", report.damage);
        Ok(0)
    }

    /// What goes is held against the slow rules; nothing else may.
    fn prune(&mut self, task: &Task<'_>, open: &Store, store: usize, (common, o): (&Common, &Prune)) -> Outcome<i32> {
        let now = self.sky.clock();
        let before: BTreeSet<String> = self.taken.iter().filter(|t| t.store == store && !t.is_gone).map(|t| t.id.clone()).collect();
        let going = self.going(store, o, now);
        let done = prune_at(common, o, open, &At { now_unix_ms: now, zone: self.zone.clone() });
        // Of one that was killed nobody can ask with the same process.
        let healthy = Task { killed_at: None, ..*task };
        let live: BTreeSet<String> = match self.open(store, &healthy)?.0.points_from_storage() {
            Ok((points, _)) => points.iter().map(|p| p.id.to_string()).collect(),
            Err(e) => return Err(e.into()),
        };
        let gone: BTreeSet<String> = before.difference(&live).cloned().collect();
        assert!(gone.is_subset(&going), "a prune takes what the rules keep: {:?} of {:?}", gone.difference(&going).collect::<Vec<_>>(), task.order.argv);
        assert!(live.is_subset(&before), "points that nobody took: {:?}", live.difference(&before).collect::<Vec<_>>());
        for taken in self.taken.iter_mut().filter(|t| gone.contains(&t.id)) {
            taken.is_gone = true;
        }
        let code = match done? {
            Done::Clean => 0,
            Done::WithWarnings => 3,
            Done::Code(code) => code.into(),
        };
        assert!(
            code != 0 || gone == going || task.killed_at.is_some(),
            "a prune leaves what no rule keeps: {:?} of {:?}",
            going.difference(&gone).collect::<Vec<_>>(),
            task.order.argv
        );
        Ok(code)
    }

    /// What no rule keeps, by the slow rules.
    pub fn going(&self, store: usize, o: &Prune, now: u64) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for name in &o.names {
            let mut mine: Vec<&Taken> = self.taken.iter().filter(|t| t.store == store && !t.is_gone && t.name == *name).collect();
            mine.sort_by(|a, b| (a.date, &a.id).cmp(&(b.date, &b.id)));
            let dates: Vec<u64> = mine.iter().map(|t| t.date).collect();
            let kept = slow::kept(&dates, o, &self.zone, now);
            out.extend(mine.iter().zip(kept).filter(|(t, kept)| !kept && o.uuids.contains(&t.uuid)).map(|(t, _)| t.id.clone()));
        }
        out
    }

    /// Each point that is to be there is, and has what the guest's disk had.
    pub fn read_all(&self) {
        for store in 0..self.roots.len() {
            let open = Store::open(&self.roots[store], OpenOptions { credential: None, state_dir: self.state_dir.clone(), host: host_name() }).expect("opens");
            let points = open.points_from_storage().expect("lists").0;
            let mine: Vec<&Taken> = self.taken.iter().filter(|t| t.store == store && !t.is_gone).collect();
            assert_eq!(points.len(), mine.len(), "points in {}", self.names[store]);
            for taken in mine {
                let point = points.iter().find(|p| p.id.to_string() == taken.id).expect("a point that nobody forgot");
                let disk = open.disks(point).expect("has disks").remove(0);
                let target = super::memory::Memory::new(IMAGE_BYTES);
                open.restore_disk(&disk, &target, cairn_store::restore::OnDamage::Stop, &Progress::default()).expect("restores");
                assert_eq!(content(&target.into_bytes()), taken.content, "content of {}", taken.id);
            }
        }
    }
}

fn info(machine: &Machine, date: u64) -> PointInfo {
    let quiesce = json!({"level": "crash", "freeze_ms": 0, "frozen_filesystems": 0, "reason": null});
    let source = json!({
        "kind": "domain", "uuid": machine.uuid, "name": machine.name, "autostart": false, "persistent": true, "libvirt_version": 1, "qemu_version": 1,
        "quiesce": quiesce, "disks": [], "skipped": [],
    });
    PointInfo {
        name: machine.name.clone(),
        time_unix_ms: date,
        quiesce: "crash".into(),
        tags: vec![],
        warnings: vec![],
        source,
        parts: vec![],
        cairn_version: "simulation".into(),
    }
}
