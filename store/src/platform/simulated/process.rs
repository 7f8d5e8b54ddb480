//! A process of the simulated world, as the [`Platform`] that its store works on. `create` and the others go through the same steps in the
//! same order as those of [`super::super::LocalPlatform`]; the contract suite holds both to the same promises.
//!
//! Before each step another actor may move, and a fault may come up; see [`SimulatedPlatform::enter`].

use super::{
    BEGIN_UNIX_MS, Fault, IN_FLIGHT_OPERATIONS_MAX, InFlight, OPERATIONS_MAX, OpKind, Operation, State, StorageKind, World,
    disk::{Node, TEMPORARY, parent},
    end_this_process,
};
use crate::{
    Result, StoreError,
    platform::{Created, Deleting, Durability, Platform, too_large},
};
use cairn_store_format::ObjectName;
use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A process of a simulated host.
pub struct SimulatedPlatform {
    world: Arc<World>,
    number: usize,
    own: Mutex<Own>,
}

/// What a process keeps in its own memory.
#[derive(Default)]
struct Own {
    known_dirs: BTreeSet<String>,
    unsynced_dirs: BTreeSet<String>,
}

/// What becomes of an operation.
enum Verdict {
    Go,
    Fail(i32),
    GoAndFail(i32),
    EndInFlight,
}

impl Drop for SimulatedPlatform {
    /// Nobody holds it any more: the process has ended.
    fn drop(&mut self) {
        self.world.lock().end(self.number);
    }
}

impl SimulatedPlatform {
    pub(super) fn new(world: Arc<World>, number: usize) -> Self {
        Self { world, number, own: Mutex::default() }
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Its world.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.world.lock().processes[self.number].operations
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world, as long as this process lives. One that has ended does no more than unwind: what it tries meanwhile fails.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        self.check_alive(self.world.lock())
    }

    fn check_alive<'a>(&self, s: MutexGuard<'a, State>) -> io::Result<MutexGuard<'a, State>> {
        if !s.processes[self.number].ended && !s.schedule.broken {
            return Ok(s);
        }
        drop(s);
        if std::thread::panicking() { Err(io::Error::other("this process has ended")) } else { end_this_process() }
    }

    /// The point before an operation: others may move, time passes, a fault may come up.
    fn enter(&self, kind: OpKind, name: &str, sleep_ms: u64) -> io::Result<(MutexGuard<'_, State>, Verdict)> {
        let mut s = self.check_alive(self.world.pass_turn(self.alive()?, sleep_ms))?;
        s.operations += 1;
        assert!(s.operations < OPERATIONS_MAX, "{OPERATIONS_MAX} operations: something goes round in circles");
        s.now_ms += 1 + s.rng.below(3) as u64;
        s.deliver();
        if let Some((process, operations)) = &mut s.recording
            && *process == self.number
        {
            operations.push(Operation { kind, name: name.to_owned() });
        }
        let p = &mut s.processes[self.number];
        let at = p.operations;
        p.operations += 1;
        let placed = p.faults.remove(&at);
        let rates = s.rates;
        let fault = placed.or_else(|| rates.draw(kind, &mut s.rng));
        s.processes[self.number].faults_met += u64::from(fault.is_some());
        let tag = fault.as_ref().map_or("", Fault::tag);
        let line = format!("process {} op {at} {kind:?} {name} {tag}", self.number);
        s.note(line);
        let verdict = match fault {
            None => Verdict::Go,
            Some(Fault::FailBefore(errno)) => Verdict::Fail(errno),
            Some(Fault::FailAfter(errno)) => Verdict::GoAndFail(errno),
            Some(Fault::CrashInFlight) if kind == OpKind::Link => Verdict::EndInFlight,
            Some(Fault::Crash | Fault::CrashInFlight) => {
                s.end(self.number);
                Verdict::Go
            }
            Some(Fault::PowerLoss(survival)) => {
                let host = s.processes[self.number].host;
                s.power_loss(self.world.kind, host, survival);
                Verdict::Go
            }
            Some(Fault::Delay(ms)) => {
                s = self.world.pass_turn(s, ms);
                Verdict::Go
            }
            Some(Fault::Pause(meanwhile)) => {
                drop(s);
                meanwhile();
                s = self.world.lock();
                Verdict::Go
            }
        };
        Ok((self.check_alive(s)?, verdict))
    }

    /// One operation with its effect on the storage.
    fn step<T>(&self, kind: OpKind, name: &str, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let (mut s, verdict) = self.enter(kind, name, 0)?;
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        let outcome = match verdict {
            Verdict::Fail(errno) => failed(errno),
            Verdict::GoAndFail(errno) => effect(&mut s).and_then(|_| failed(errno)),
            Verdict::Go | Verdict::EndInFlight => effect(&mut s),
        };
        if let Err(e) = &outcome {
            let line = format!("  {e}");
            s.note(line);
        }
        outcome
    }

    /// A file, as this host sees it: on NFS it may go on missing one that it missed before.
    fn look<T>(&self, kind: OpKind, name: &ObjectName, use_file: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
        let nfs = self.world.kind == StorageKind::Nfs;
        self.step(kind, name.as_str(), |s| {
            let host = s.processes[self.number].host;
            if nfs && (s.misses(host, name.as_str()) || s.disk.file(name.as_str()).is_err()) {
                s.missed.insert((host, name.as_str().to_owned()));
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            s.unanswered.remove(name.as_str());
            use_file(s.disk.file(name.as_str())?)
        })
    }

    fn make_dir(&self, dir: &str) -> io::Result<()> {
        if dir.is_empty() || self.own().known_dirs.contains(dir) {
            return Ok(());
        }
        self.make_dir(parent(dir))?;
        match self.step(OpKind::MakeDir, dir, |s| s.disk.make_dir(dir, s.now_ms)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => self.sync_dir(parent(dir))?,
        }
        self.own().known_dirs.insert(dir.to_owned());
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let (mut s, verdict) = self.enter(OpKind::SyncDir, dir, 0)?;
        match verdict {
            Verdict::Go | Verdict::EndInFlight => s.disk.sync_dir(dir),
            // The names stay as they were, seen and not durable: docs/adr/0022.
            Verdict::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
            Verdict::GoAndFail(errno) => s.disk.sync_dir(dir).and(Err(io::Error::from_raw_os_error(errno))),
        }
    }

    fn write_temporary(&self, dir: &str, bytes: &[u8]) -> (String, io::Result<()>) {
        let tmp = match self.alive() {
            Ok(mut s) => format!("{dir}/{TEMPORARY}{:016x}", s.processes[self.number].rng.next_u64()),
            Err(e) => return (String::new(), Err(e)),
        };
        let written = self.step(OpKind::Write, &tmp, |s| {
            let host = s.processes[self.number].host;
            s.looked_afresh(host, dir);
            s.disk.write_new(&tmp, bytes, s.now_ms)
        });
        (tmp, written)
    }

    fn link(&self, tmp: &str, name: &str) -> io::Result<()> {
        let (mut s, verdict) = self.enter(OpKind::Link, name, 0)?;
        let now_ms = s.now_ms;
        let failed = |errno| io::Error::from_raw_os_error(errno);
        let linked = match verdict {
            Verdict::Fail(errno) => return Err(failed(errno)),
            Verdict::EndInFlight => {
                let node = s.disk.node(tmp).expect("it was just written");
                let due_operation = s.operations + s.rng.below(IN_FLIGHT_OPERATIONS_MAX) as u64;
                s.in_flight.push(InFlight { due_operation, name: name.to_owned(), node });
                s.end(self.number);
                drop(self.check_alive(s)?);
                return Err(failed(libc::EIO));
            }
            Verdict::Go => s.disk.link(tmp, name, now_ms),
            Verdict::GoAndFail(errno) => s.disk.link(tmp, name, now_ms).and(Err(failed(errno))),
        };
        match &linked {
            // Whoever was refused has seen it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => drop(s.unanswered.remove(name)),
            _ if s.disk.file(name).is_ok() => drop(s.unanswered.insert(name.to_owned(), self.number)),
            _ => {}
        }
        linked
    }

    fn link_if_absent(&self, tmp: &str, name: &str, bytes: &[u8]) -> io::Result<Created> {
        let Err(e) = self.link(tmp, name) else { return Ok(Created::New) };
        // The echo rule: it may be our own link whose reply was lost.
        match self.step(OpKind::Read, name, |s| s.disk.file(name).cloned()) {
            Ok(there) if *there == *bytes => Ok(Created::New),
            Ok(_) => Ok(Created::Exists),
            Err(_) => Err(e),
        }
    }

    fn create_file(&self, name: &str, bytes: &[u8], durability: Durability) -> io::Result<Created> {
        let dir = parent(name);
        self.make_dir(dir)?;
        let (tmp, written) = self.write_temporary(dir, bytes);
        let synced = written.and_then(|()| self.step(OpKind::SyncFile, &tmp, |s| s.disk.sync_file(&tmp)));
        let linked = synced.and_then(|()| self.link_if_absent(&tmp, name, bytes));
        // What stays is garbage that nothing refers to.
        let _ = self.step(OpKind::Unlink, &tmp, |s| s.disk.unlink(&tmp, s.now_ms));
        let created = linked?;
        match durability {
            Durability::Now => self.sync_dir(dir)?,
            Durability::Deferred => drop(self.own().unsynced_dirs.insert(dir.to_owned())),
        }
        Ok(created)
    }

    fn failed(op: &'static str, name: &str, source: io::Error) -> StoreError {
        StoreError::Storage { op, name: name.to_owned(), source }
    }

    fn gone_is<T>(op: &'static str, name: &str, result: io::Result<T>) -> Result<Option<T>> {
        match result {
            Ok(v) => Ok(Some(v)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Self::failed(op, name, e)),
        }
    }

    /// Names of a folder. What another process has linked and not answered for yet may or may not be there, until somebody has seen it.
    fn listed(&self, dir: &str, want_dirs: bool) -> Result<Vec<String>> {
        let list = |s: &mut State| {
            let host = s.processes[self.number].host;
            s.looked_afresh(host, dir);
            let State { disk, unanswered, rng, .. } = s;
            if !disk.is_dir(dir) {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            let mut out = Vec::new();
            for (name, node) in disk.entries(dir) {
                let shown = unanswered.get(name).is_none_or(|owner| *owner == self.number || rng.chance_ppm(500_000));
                let file = name.rsplit_once('/').map_or(name, |p| p.1);
                if shown && matches!(node, Node::Dir) == want_dirs && !file.starts_with('.') {
                    // What one has seen, all see from then on.
                    unanswered.remove(name);
                    out.push(file.to_owned());
                }
            }
            Ok(out)
        };
        Ok(Self::gone_is("list", dir, self.step(OpKind::List, dir, list))?.unwrap_or_default())
    }
}

impl Platform for SimulatedPlatform {
    fn location(&self) -> String {
        "simulated storage".into()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> Result<Created> {
        let created = self.create_file(name.as_str(), bytes, durability);
        let mut s = self.world.lock();
        if s.unanswered.get(name.as_str()) == Some(&self.number) {
            s.unanswered.remove(name.as_str());
        }
        drop(s);
        created.map_err(|e| Self::failed("write", name.as_str(), e))
    }

    fn cover(&self, name: &ObjectName) {
        self.own().unsynced_dirs.insert(name.dir().to_owned());
    }

    fn barrier(&self) -> Result<()> {
        loop {
            let Some(dir) = self.own().unsynced_dirs.first().cloned() else { return Ok(()) };
            self.sync_dir(&dir).map_err(|e| Self::failed("sync", &dir, e))?;
            self.own().unsynced_dirs.remove(&dir);
        }
    }

    fn read(&self, name: &ObjectName, max: usize) -> Result<Option<Vec<u8>>> {
        let read = |bytes: &[u8]| {
            if bytes.len() > max {
                return Ok(Err(too_large(name, bytes.len(), max)));
            }
            Ok(Ok(bytes.to_vec()))
        };
        Self::gone_is("read", name.as_str(), self.look(OpKind::Read, name, read))?.transpose()
    }

    fn read_at(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let read = |bytes: &[u8]| {
            let start = usize::try_from(offset).ok().filter(|&o| o <= bytes.len());
            Ok(start.and_then(|o| bytes.get(o..o.checked_add(len)?)).map(<[u8]>::to_vec))
        };
        Ok(Self::gone_is("read", name.as_str(), self.look(OpKind::Read, name, read))?.flatten())
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        let size = self.look(OpKind::Stat, name, |bytes| Ok(bytes.len() as u64));
        Self::gone_is("stat", name.as_str(), size)
    }

    fn list(&self, dir: &str) -> Result<Vec<ObjectName>> {
        Ok(self.listed(dir, false)?.iter().filter_map(|f| ObjectName::listed(dir, f)).collect())
    }

    fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        self.listed(dir, true)
    }

    fn now_unix_ms(&self) -> u64 {
        let s = self.world.lock();
        let host = &s.hosts[s.processes[self.number].host];
        (BEGIN_UNIX_MS + s.now_ms).saturating_add_signed(host.skew_ms)
    }

    fn monotonic_ms(&self) -> u64 {
        let s = self.world.lock();
        s.now_ms - s.hosts[s.processes[self.number].host].booted_at_ms
    }

    fn boot(&self) -> String {
        let s = self.world.lock();
        let p = &s.processes[self.number];
        format!("host-{}-boot-{}", p.host, p.boot)
    }

    fn sleep_ms(&self, ms: u64) {
        // A fault while it sleeps has nothing to fail; an end of the process unwinds from here.
        let _ = self.enter(OpKind::Sleep, "", ms);
    }

    fn random(&self, out: &mut [u8]) {
        self.world.lock().processes[self.number].rng.fill(out);
    }

    fn process(&self) -> String {
        format!("{} {}", self.boot(), self.number)
    }

    fn is_gone(&self, process: &str) -> bool {
        let Some((boot, number)) = process.split_once(' ') else { return false };
        if boot != self.boot() {
            return false;
        }
        let s = self.world.lock();
        number.parse::<usize>().ok().and_then(|n| s.processes.get(n)).is_none_or(|p| p.ended)
    }

    fn single_threaded(&self) -> bool {
        true
    }

    fn deleting(&self) -> Option<&dyn Deleting> {
        Some(self)
    }
}

impl Deleting for SimulatedPlatform {
    fn discard(&self, name: &ObjectName, round: u64) -> Result<bool> {
        let trashed = ObjectName::trashed(&format!("{round:08}"), name).expect("a number is a plain folder name");
        self.make_dir(trashed.dir()).map_err(|e| Self::failed("create the folder of", trashed.as_str(), e))?;
        let renamed = self.step(OpKind::Rename, name.as_str(), |s| s.disk.rename(name.as_str(), trashed.as_str(), s.now_ms));
        Ok(Self::gone_is("discard", name.as_str(), renamed)?.is_some())
    }

    fn delete(&self, name: &ObjectName) -> Result<bool> {
        let deleted = self.step(OpKind::Delete, name.as_str(), |s| s.disk.unlink(name.as_str(), s.now_ms));
        Ok(Self::gone_is("delete", name.as_str(), deleted)?.is_some())
    }

    fn delete_temporaries(&self, dir: &str, age_ms_min: u64) -> Result<u64> {
        let old = |s: &mut State| {
            if !s.disk.is_dir(dir) {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            let now_ms = s.now_ms;
            let is_old = |node: &Node| matches!(node, Node::File { modified_ms, .. } if now_ms.saturating_sub(*modified_ms) >= age_ms_min);
            let files = s.disk.entries(dir).filter(|(n, node)| n.rsplit_once('/').is_some_and(|p| p.1.starts_with(TEMPORARY)) && is_old(node));
            Ok(files.map(|(n, _)| n.to_owned()).collect::<Vec<_>>())
        };
        let files = Self::gone_is("list", dir, self.step(OpKind::List, dir, old))?.unwrap_or_default();
        let deleted = files.iter().filter(|f| self.step(OpKind::Unlink, f, |s| s.disk.unlink(f, s.now_ms)).is_ok());
        Ok(deleted.count() as u64)
    }

    fn delete_empty_dir(&self, dir: &str) -> Result<()> {
        self.own().known_dirs.remove(dir);
        match self.step(OpKind::RemoveDir, dir, |s| s.disk.remove_dir(dir, s.now_ms)) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Err(Self::failed("delete", dir, e)),
            _ => Ok(()),
        }
    }

    fn dir_modified_unix_ms(&self, dir: &str) -> Result<Option<u64>> {
        let modified = self.step(OpKind::Stat, dir, |s| s.disk.dir_modified_ms(dir).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT)));
        // The storage's own clock, whatever those of the hosts say.
        Ok(Self::gone_is("stat", dir, modified)?.map(|ms| BEGIN_UNIX_MS + ms))
    }
}
