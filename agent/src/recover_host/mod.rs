//! Many domains at once, in order: `cairn recover-host`.
//!
//! Invariants
//! - What is done is told by the host itself: a domain that came back has the point's id in its metadata. Nothing else has to survive an interruption;
//!   a journal (`restore::Journal`) only saves writing disks twice.
//! - A domain that fails keeps no other from its turn, unless that was asked for.
//! - Before the first byte is written, every domain is looked at, and what this host lacks for any of them is told.

mod choose;
mod list;
mod report;

pub use list::{Entry, LineOptions, parse};
pub use report::{Line, Status, code, json, text};

use crate::{
    cli::{self, Common},
    domain::chain,
    failure::{FAILED, Failure, INTERRUPTED, Outcome},
    output::{self, Bar},
    restore::{self, Journal, Options, Work},
};
use cairn_hypervisor::{Domain, Host, disks::Source, host::HostError, restore_map, storage::PoolKind};
use cairn_quiesce::agent::GuestAgent;
use cairn_store::{Point, Progress, Store, StoreError};
use choose::{Choice, choose, domain_of};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

const POLL_MS: u64 = 200;
/// One question to an agent that may not be there yet.
const PING: &str = r#"{"execute":"guest-ping"}"#;
const PING_LIMIT_S: u16 = 2;

/// What all domains share.
pub struct Recovering<'a> {
    pub common: &'a Common,
    pub store: &'a Store,
    pub points: &'a [Point],
    pub options: &'a cli::RecoverHost,
    pub host: Host,
    /// Folder of journals.
    pub journals: PathBuf,
    pub runtime: &'a Runtime,
    pub progress: &'a Arc<Progress>,
}

/// Entries of the list or of a host.
pub fn entries(store: &Store, points: &[Point], o: &cli::RecoverHost) -> Outcome<Vec<Entry>> {
    let defaults = LineOptions {
        pool: o.elsewhere.pool.clone(),
        dir: o.dir.clone(),
        start: o.start,
        agent_s: o.wait_agent,
        stop_on_error: o.stop_on_error,
        ..LineOptions::default()
    };
    match &o.from_list {
        None => choose::all_of(store, points, o.host.as_deref(), &defaults),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("the list {}: {e}", path.display())))?;
            parse(&text, &defaults).map_err(|f| Failure::new(f.code, format!("{}: {}", path.display(), f.message)))
        }
    }
}

fn is_lost(path: &Path) -> bool {
    !path.try_exists().unwrap_or(true)
}

/// Maps that fit nothing of any domain; none where a domain could not be looked at.
pub fn unused_maps(lines: &[Line]) -> Vec<String> {
    let each: Option<Vec<&Vec<String>>> = lines.iter().map(|line| line.unused_maps.as_ref()).collect();
    let Some((first, others)) = each.as_deref().and_then(<[_]>::split_first) else { return Vec::new() };
    first.iter().filter(|map| others.iter().all(|other| other.contains(map))).cloned().collect()
}

impl Recovering<'_> {
    /// All of them in order; each has a line.
    pub fn run(&self, entries: &[Entry]) -> Vec<Line> {
        let mut lines: Vec<Line> = entries.iter().map(|e| Line::new(&e.what)).collect();
        let mut stopped = false;
        // First look at all: what is missing is mended once, before anything is written.
        for (entry, line) in entries.iter().zip(&mut lines) {
            self.turn(entry, line, true);
            stopped |= line.status == Status::Failed && entry.options.stop_on_error;
        }
        if self.options.dry_run {
            return lines;
        }
        self.tell_looked_at(&lines);
        for (i, entry) in entries.iter().enumerate() {
            if stopped && lines[i].status != Status::Failed {
                lines[i].status = Status::NotTried;
            }
            if stopped || lines[i].status == Status::Failed {
                continue;
            }
            lines[i] = Line::new(&entry.what);
            self.turn(entry, &mut lines[i], false);
            self.tell(&lines[i]);
            let failed = lines[i].status == Status::Failed;
            stopped = (failed && entry.options.stop_on_error) || self.cancelled();
            let was_now = lines[i].status == Status::Restored;
            if was_now && !stopped && i + 1 < entries.len() && self.pause(Duration::from_secs(entry.options.delay_s)).is_err() {
                stopped = true;
            }
        }
        lines
    }

    fn turn(&self, entry: &Entry, line: &mut Line, look_only: bool) {
        if let Err(f) = self.one(entry, line, look_only) {
            line.fail(if self.cancelled() { Failure::new(INTERRUPTED, f.message) } else { f });
        }
    }

    fn one(&self, entry: &Entry, line: &mut Line, look_only: bool) -> Outcome<()> {
        let choice = choose(self.store, self.points, entry, self.options.host.as_deref())?;
        let point = &choice.point;
        line.point = Some((point.id.to_string(), point.summary.time_unix_ms));
        line.warnings.clone_from(&choice.notes);
        line.name = entry.options.rename.clone().unwrap_or_else(|| point.summary.name.clone());
        let lost = match self.earlier(&line.name, &choice)? {
            Some((domain, from, None)) => {
                line.status = Status::Skipped;
                line.message = format!("is here already, restored from point {from}");
                return if look_only { Ok(()) } else { self.complete(entry, &domain, point, line) };
            }
            Some((_, from, Some(disk))) => format!("it was restored from point {from}, and its disk {} is not there any more: ", output::shown(&disk)),
            None => String::new(),
        };
        if let Some(later) = self.moved(&choice)? {
            line.status = Status::Skipped;
            let (host, time) = (output::shown(&later.summary.host), output::time(later.summary.time_unix_ms));
            line.message = format!("has moved to host {host}, which saved it at {time}");
            line.warnings
                .push(format!("{}; if that host is lost as well, 'recover-host --all --host {host}', or a list that names it ('--from-list')", line.message));
            return Ok(());
        }
        let journal = Journal::open(&self.journals, &point.id.to_string(), &line.name);
        let options = self.restore_options(entry)?;
        let work = Work { common: self.common, store: self.store, journal: Some(&journal) };
        let prepared = restore::prepare(work, point, &options).map_err(|f| Failure::new(f.code, format!("{lost}{}", f.message)))?;
        line.unused_maps = prepared.domain.as_ref().map(|d| d.unused_maps.clone());
        line.own = prepared.domain.iter().flat_map(|d| d.own.clone()).collect();
        if look_only {
            line.disks = prepared.plan.disks.iter().map(|d| (d.entry.target.clone(), d.path.display().to_string())).collect();
            line.warnings.extend(prepared.domain.iter().flat_map(|d| d.missing.clone()));
            line.status = Status::Possible;
            return Ok(());
        }
        self.progress.total_bytes.store(0, Ordering::SeqCst);
        self.progress.done_bytes.store(0, Ordering::SeqCst);
        let bar = Bar::start(self.common, &line.name, self.progress);
        let (restored, disks) = prepared.run(self.runtime, self.progress)?;
        drop(bar);
        journal.remove();
        line.disks = disks.iter().map(|d| (d.entry.target.clone(), d.path.display().to_string())).collect();
        line.warnings.extend(restored.warnings);
        line.status = Status::Restored;
        let domain = self.host.domain(&line.name)?;
        self.start(entry, &domain, line)
    }

    /// Whose name a list has is wanted wherever it is; of all domains of a host those that left it are not.
    fn moved(&self, choice: &Choice) -> Outcome<Option<&Point>> {
        if self.options.host.is_none() || self.options.from_list.is_some() { Ok(None) } else { choose::later_elsewhere(self.store, self.points, &choice.point) }
    }

    fn restore_options(&self, entry: &Entry) -> Outcome<Options> {
        Ok(Options {
            rename: entry.options.rename.clone(),
            dir: entry.options.dir.clone(),
            pool: entry.options.pool.clone(),
            force: self.options.force,
            mapping: restore::mapping(&self.options.elsewhere)?,
            ignore_missing: self.options.elsewhere.ignore_missing,
            mark: true,
            // Networks have to be active for a start; the start itself is ours, so that one that fails is told apart from the restore.
            start: entry.options.start,
            ..Options::default()
        })
    }

    /// The domain and the point it was restored from, if it is one that came back; and a disk that it lost since: definitions may outlive images.
    fn earlier(&self, name: &str, choice: &Choice) -> Outcome<Option<(Domain, String, Option<String>)>> {
        let domain = match self.host.domain(name) {
            Ok(domain) => domain,
            Err(HostError::NoDomain { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
        let xml = domain.xml_inactive().map_err(|e| fail(&e))?;
        let from = restore_map::marked(&xml).filter(|from| choice.by_name || *from == choice.point.id.to_string());
        let Some(from) = from else { return Ok(None) };
        // One that runs has its disks, whatever became of their names.
        let lost = if domain.is_running().map_err(|e| fail(&e))? { None } else { self.lost_disk(&domain, &choice.point)? };
        Ok(Some((domain, from, lost)))
    }

    /// The first of the point's disks whose file, device or volume is not there; one that cannot be looked at is taken to be.
    fn lost_disk(&self, domain: &Domain, point: &Point) -> Outcome<Option<String>> {
        let targets: Vec<String> = self.store.disks(point)?.into_iter().map(|entry| entry.target).collect();
        let disks = domain.disks().map_err(|e| Failure::new(FAILED, chain(&e)))?;
        let mut lost = disks.iter().filter(|disk| targets.contains(&disk.target)).filter_map(|disk| match &disk.source {
            Source::File(path) | Source::Block(path) => is_lost(Path::new(path)).then(|| path.clone()),
            Source::Volume { pool, volume } => self.lost_volume(pool, volume).then(|| format!("{pool}/{volume}")),
            _ => None,
        });
        Ok(lost.next())
    }

    fn lost_volume(&self, pool: &str, volume: &str) -> bool {
        let Ok(pool) = self.host.pool(pool) else { return false };
        match (pool.volume_path(volume), &pool.kind) {
            (Ok(Some(path)), _) => is_lost(&path),
            // libvirt may not have looked since somebody put it there.
            (Ok(None), PoolKind::Files(folder)) => is_lost(&folder.join(volume)),
            (Ok(None), PoolKind::Devices) => true,
            (Err(_), _) => false,
        }
    }

    /// What an interruption may have kept from a domain that came back.
    fn complete(&self, entry: &Entry, domain: &Domain, point: &Point, line: &mut Line) -> Outcome<()> {
        let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
        if entry.options.rename.is_none() && domain_of(self.store, point)?.autostart && !domain.autostart().map_err(|e| fail(&e))? {
            domain.set_autostart(true).map_err(|e| fail(&e))?;
        }
        self.start(entry, domain, line)
    }

    fn start(&self, entry: &Entry, domain: &Domain, line: &mut Line) -> Outcome<()> {
        let fail = |e: &dyn std::error::Error| Failure::new(FAILED, format!("it is restored, but: {}", chain(e)));
        let runs = domain.is_running().map_err(|e| fail(&e))?;
        if !runs && entry.options.start {
            domain.start().map_err(|e| fail(&e))?;
        }
        line.started = runs || entry.options.start;
        match entry.options.agent_s {
            Some(limit_s) => self.wait_agent(domain, limit_s),
            None => Ok(()),
        }
    }

    fn wait_agent(&self, domain: &Domain, limit_s: u64) -> Outcome<()> {
        let begin = Instant::now();
        loop {
            match domain.command(PING, PING_LIMIT_S) {
                Ok(_) => return Ok(()),
                Err(e) if begin.elapsed() >= Duration::from_secs(limit_s) => {
                    return Err(Failure::new(FAILED, format!("it is restored and started, but its guest agent did not answer in {limit_s} s ({e})")));
                }
                Err(_) => self.pause(Duration::from_millis(POLL_MS))?,
            }
        }
    }

    fn pause(&self, time: Duration) -> Outcome<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            if self.cancelled() {
                return Err(StoreError::Interrupted.into());
            }
            std::thread::sleep(time.saturating_sub(begin.elapsed()).min(Duration::from_millis(POLL_MS)));
        }
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.progress.cancel.load(Ordering::SeqCst)
    }

    fn tell_looked_at(&self, lines: &[Line]) {
        for line in lines.iter().filter(|l| l.status == Status::Failed) {
            self.tell(line);
        }
    }

    /// As it happens, on stderr: the table comes at the end.
    fn tell(&self, line: &Line) {
        if line.status == Status::Failed {
            say!("cairn: {}: {}", output::shown(&line.name), line.message);
        } else if !self.common.quiet && !self.common.json {
            let status = if line.status == Status::Skipped { line.message.as_str() } else { "restored" };
            say!("cairn: {}: {status}{}", output::shown(&line.name), if line.started { ", runs" } else { "" });
        }
        line.warnings.iter().for_each(|w| say!("cairn: warning: {}: {}", output::shown(&line.name), output::shown(w)));
    }
}
