//! Stores as a look asks them: each on a thread of its own, with limits, because one may lie on a server that is gone.
//!
//! Invariants
//! - A store that does not answer in time has said nothing: nobody is told "not committed" because of it. From then on it is not asked again.
//! - Nothing is written to a store: no session is begun for a look.

use crate::{
    cli::Common,
    commands::now_unix_ms,
    config::StoreEntry,
    context,
    domain::{LIBVIRT_API, SavedDomain, Seen, carrier, later},
    failure::Outcome,
    retention::times,
};
use cairn_hypervisor::{
    CarrierRecord, PointCatalog, PointStatus,
    capture::{names::BitmapName, plan::Later},
};
use cairn_store::{Point, PointState, Store, format::SessionId};
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

/// To open a store and list its points; a passphrase takes a second of it.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// For one question more.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Points whose manifests are read to find out whose a renamed domain's are.
const OWNERS_MAX: usize = 32;

/// A store that answered.
pub struct AnsweringStore {
    /// Its name in the configuration, or its place.
    pub name: String,
    /// First four bytes of its id.
    pub store8: [u8; 4],
    points: Arc<Vec<Point>>,
    questions: Sender<Question>,
    silent: AtomicBool,
}

/// What is asked of a store's thread.
enum Question {
    /// What became of a session that is not among the points.
    Status(SessionId, Sender<PointStatus>),
    /// The UUID of a point's domain.
    Owner(SessionId, Sender<Option<String>>),
    /// How a point of a domain was taken.
    Capture(SessionId, Sender<Option<String>>),
    /// What a point recorded of a disk.
    Carrier(SessionId, u32, Sender<Option<CarrierRecord>>),
    /// A point that goes on from a bitmap of a forgotten one.
    Later(BitmapName, Sender<Option<Later>>),
}

/// All stores that answer, and what is wrong with the others.
pub fn ask(common: &Common, stores: &BTreeMap<String, StoreEntry>) -> (Vec<AnsweringStore>, Vec<String>) {
    let begun: Vec<_> = stores.iter().map(|(name, entry)| (name.clone(), begin(common, entry))).collect();
    let (mut answering, mut silent) = (Vec::new(), Vec::new());
    let until = Instant::now() + OPEN_LIMIT;
    for (name, (opened, questions)) in begun {
        match opened.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Ok((store8, points))) => answering.push(AnsweringStore { name, store8, points, questions, silent: AtomicBool::new(false) }),
            Ok(Err(failure)) => silent.push(format!("store {name}: {}", failure.message)),
            Err(RecvTimeoutError::Timeout) => silent.push(format!("store {name} did not answer within {} s", OPEN_LIMIT.as_secs())),
            Err(RecvTimeoutError::Disconnected) => silent.push(format!("store {name} could not be opened")),
        }
    }
    (answering, silent)
}

type Opened = Outcome<([u8; 4], Arc<Vec<Point>>)>;

/// The store's thread; it ends when nobody asks any more.
fn begin(common: &Common, entry: &StoreEntry) -> (Receiver<Opened>, Sender<Question>) {
    let common = Common { store: Some(entry.url.clone()), key_file: entry.key_file.clone(), passphrase_file: entry.passphrase_file.clone(), ..common.clone() };
    let ((opened, result), (questions, asked)) = (channel(), channel());
    std::thread::spawn(move || {
        let (store, points) = match context::open_store(&common).and_then(|store| Ok((Arc::new(store.points_and_damage()?.0), store))) {
            Ok((points, store)) => {
                let id = store.id().0;
                // Whoever waited has given up if this fails, and then nobody asks.
                let _ = opened.send(Ok(([id[0], id[1], id[2], id[3]], Arc::clone(&points))));
                (store, points)
            }
            Err(failure) => {
                let _ = opened.send(Err(failure));
                return;
            }
        };
        let (mut forgotten, seen) = (None, Seen::default());
        for question in asked {
            match question {
                Question::Status(id, answer) => drop(answer.send(status(&store, id, &mut forgotten))),
                Question::Owner(id, answer) => drop(answer.send(saved(&store, &points, id).map(|s| s.uuid))),
                Question::Capture(id, answer) => drop(answer.send(saved(&store, &points, id).map(|s| s.capture))),
                Question::Carrier(id, ordinal, answer) => {
                    let point = points.iter().find(|p| p.id == id);
                    drop(answer.send(point.and_then(|p| carrier(&store, p, ordinal))));
                }
                Question::Later(bitmap, answer) => drop(answer.send(later(&store, &points, None, &bitmap, &seen))),
            }
        }
    });
    (result, questions)
}

/// Of a session that was not among the points when they were listed.
fn status(store: &Store, id: SessionId, forgotten: &mut Option<HashSet<SessionId>>) -> PointStatus {
    match store.has_committed(&id) {
        Ok(false) => return PointStatus::NotCommitted,
        Ok(true) => {}
        Err(e) => {
            tracing::warn!("whether session {id} committed a point: {e}");
            return PointStatus::Unreachable;
        }
    }
    if forgotten.is_none() {
        match store.forgotten_points() {
            Ok(points) => *forgotten = Some(points.iter().map(|p| p.id).collect()),
            Err(e) => tracing::warn!("which points are forgotten: {e}"),
        }
    }
    // Neither listed nor forgotten: it was committed since, or cannot be read. Then its bitmap stays.
    if forgotten.as_ref().is_some_and(|known| known.contains(&id)) { PointStatus::Forgotten } else { PointStatus::Unreachable }
}

fn saved(store: &Store, points: &[Point], id: SessionId) -> Option<SavedDomain> {
    SavedDomain::of(&store.manifest(points.iter().find(|p| p.id == id)?).ok()?)
}

impl AnsweringStore {
    fn question<T>(&self, make: impl FnOnce(Sender<T>) -> Question) -> Option<T> {
        if self.silent.load(Ordering::Relaxed) {
            return None;
        }
        let (answer, answered) = channel();
        let got = self.questions.send(make(answer)).ok().and_then(|()| answered.recv_timeout(ANSWER_LIMIT).ok());
        if got.is_none() {
            tracing::warn!("store {} does not answer any more; what it would have to decide is left as it is", self.name);
            self.silent.store(true, Ordering::Relaxed);
        }
        got
    }

    /// It has stopped answering, and what it did not say is not known.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// A name has points here, whoever's they are.
    pub fn has_name(&self, name: &str) -> bool {
        self.points.iter().any(|p| p.summary.name == name)
    }

    /// Name and time of the point that is dated last.
    pub fn dated_last(&self) -> Option<(&str, u64)> {
        self.points.iter().max_by_key(|p| p.summary.time_unix_ms).map(|p| (p.summary.name.as_str(), p.summary.time_unix_ms))
    }

    /// How many points there are.
    pub fn points_count(&self) -> usize {
        self.points.len()
    }

    /// How many of them are known to be damaged.
    pub fn damaged_count(&self) -> usize {
        self.points.iter().filter(|p| p.state() == PointState::Damaged).count()
    }

    /// The newest undamaged point of a domain was taken without QEMU's monitor (docs/adr/0024); arguments as of [`Self::newest`].
    pub fn spares_monitor(&self, uuid: &str, name: &str, known: &[String]) -> bool {
        let newest = self.newest(uuid, name, known, now_unix_ms()).and_then(|(id, _)| self.points.iter().find(|p| p.id.to_string() == id));
        newest.and_then(|p| self.question(|answer| Question::Capture(p.id, answer))).flatten().is_some_and(|how| how == LIBVIRT_API)
    }

    /// The newest undamaged point of a domain: of this name, or (`known`) the one that a record or a bitmap names. One that is dated well ahead of now is the
    /// newest only where there is no other: it would be for as long as a clock was wrong.
    pub fn newest(&self, uuid: &str, name: &str, known: &[String], now_unix_ms: u64) -> Option<(String, u64)> {
        let believed = self.newest_of(uuid, name, known, |time_unix_ms| !times::is_ahead(time_unix_ms, now_unix_ms));
        believed.or_else(|| self.newest_of(uuid, name, known, |time_unix_ms| times::is_ahead(time_unix_ms, now_unix_ms)))
    }

    /// The same of those whose date will do.
    pub fn newest_of(&self, uuid: &str, name: &str, known: &[String], will_do: impl Fn(u64) -> bool) -> Option<(String, u64)> {
        let candidates = self.points.iter().rev().filter(|p| p.state() != PointState::Damaged && will_do(p.summary.time_unix_ms));
        let is_known = |p: &Point| known.contains(&p.id.to_string());
        let mut asked = 0;
        for p in candidates.filter(|p| is_known(p) || p.summary.name == name) {
            if !is_known(p) {
                // A name is no proof: another machine may have had it.
                asked += 1;
                if asked > OWNERS_MAX {
                    break;
                }
                match self.question(|answer| Question::Owner(p.id, answer)) {
                    Some(owner) if owner.as_deref() == Some(uuid) => {}
                    Some(_) => continue,
                    None => return None,
                }
            }
            return Some((p.id.to_string(), p.summary.time_unix_ms));
        }
        None
    }
}

impl PointCatalog for AnsweringStore {
    fn status(&self, session: [u8; 16]) -> PointStatus {
        let id = SessionId(session);
        match self.points.iter().position(|p| p.id == id) {
            Some(i) if self.points[i].state() == PointState::Damaged => PointStatus::Damaged,
            Some(i) => PointStatus::Usable { order: i as u64 },
            None => self.question(|answer| Question::Status(id, answer)).unwrap_or(PointStatus::Unreachable),
        }
    }

    fn carrier(&self, session: [u8; 16], ordinal: u32) -> Option<CarrierRecord> {
        self.question(|answer| Question::Carrier(SessionId(session), ordinal, answer)).flatten()
    }

    fn later(&self, bitmap: &BitmapName) -> Option<Later> {
        // Silence is not "none": there may be one.
        let unknown = Later { session: bitmap.session, ordinal: 0, status: PointStatus::Unreachable };
        self.question(|answer| Question::Later(*bitmap, answer)).unwrap_or(Some(unknown))
    }
}

/// The stores of the command line and of the configuration, by name.
pub fn configured(common: &Common) -> Outcome<BTreeMap<String, StoreEntry>> {
    let stores = match crate::config::find(common.config.as_deref()) {
        Some(path) => crate::config::load(&path).map_err(|e| crate::failure::Failure::usage(e.to_string()))?.stores,
        None => BTreeMap::new(),
    };
    Ok(with_named(common, stores))
}

/// The one of the command line besides, unless it is among them.
pub fn with_named(common: &Common, mut stores: BTreeMap<String, StoreEntry>) -> BTreeMap<String, StoreEntry> {
    if let Some(url) = &common.store {
        let (key_file, passphrase_file) = (common.key_file.clone(), common.passphrase_file.clone());
        let path = |url: &str| context::store_path(url).ok();
        let same = stores.values().any(|s| path(&s.url) == path(url));
        if !same {
            stores.insert(url.clone(), StoreEntry { url: url.clone(), key_file, passphrase_file, ..StoreEntry::default() });
        }
    }
    stores
}

/// As the daemon hands them to its looks.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct HandedStore {
    url: String,
    key_file: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
}

/// For a look's standard input.
pub fn handed(stores: &BTreeMap<String, StoreEntry>) -> BTreeMap<String, HandedStore> {
    let hand = |s: &StoreEntry| HandedStore { url: s.url.clone(), key_file: s.key_file.clone(), passphrase_file: s.passphrase_file.clone() };
    stores.iter().map(|(name, s)| (name.clone(), hand(s))).collect()
}

/// From a look's standard input.
pub fn taken(stores: BTreeMap<String, HandedStore>) -> BTreeMap<String, StoreEntry> {
    let take = |s: HandedStore| StoreEntry { url: s.url, key_file: s.key_file, passphrase_file: s.passphrase_file, ..StoreEntry::default() };
    stores.into_iter().map(|(name, s)| (name, take(s))).collect()
}
