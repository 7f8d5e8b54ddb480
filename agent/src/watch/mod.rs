//! The watch: sees what happens to domains, keeps records of them, mends what it may, and asks for points (docs/watch.md).
//!
//! - [`inbox`]: what libvirt's hook tells; [`events`]: what libvirt tells; [`post`]: the queue between them and [`core`], the watch's own thread
//! - [`due`]: when to look; [`child`]: a look's process; [`failing`]: what is told of looks that fail, [`frozen`]: of guests that may stand still; [`reconcile`]: the look itself; [`stores`]: what it asks of stores
//! - [`life`]: what an event means; [`records`]: what is remembered
//!
//! Invariants
//! - Nothing here blocks the daemon: each call returns at once or within its limit.
//! - What it is told are hints; all domains are looked at again and again as well.
//! - It starts no backup by itself: it sends a [`Wish`].

mod child;
mod core;
mod due;
mod events;
mod failing;
mod frozen;
mod inbox;
mod life;
mod post;
pub mod reconcile;
mod records;
pub mod stores;
mod wish;

pub use frozen::Stuck;
pub use records::{Records, Seen};
pub use wish::{Trigger, WISHES_MAX, Wish};

use crate::{
    config::StoreEntry,
    failure::{BUSY, FAILED, Failure, Outcome},
};
use cairn_hook::place::DIR_DEFAULT;
use cairn_quiesce::record::RECORD_DIR_DEFAULT;
use post::{Message, Post};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::Sender;

const POLL: Duration = Duration::from_millis(20);
/// A restart of libvirt's daemon takes seconds, an upgrade perhaps a minute: without it for longer, nobody sees what domains do.
const AWAY_MAX: Duration = Duration::from_secs(180);

/// What it has to know; a reload hands it a new one.
#[derive(Debug, Clone)]
pub struct Settings {
    /// libvirt's URI; none is libvirt's default.
    pub connect: Option<String>,
    /// Folder of records.
    pub state_dir: PathBuf,
    /// Between two looks at all domains.
    pub reconcile_every: Duration,
    /// Folder in which libvirt's hook tells; counts from the start on.
    pub hook_dir: PathBuf,
    /// Stores by name, of which bitmaps may be.
    pub stores: BTreeMap<String, StoreEntry>,
}

/// A running watch.
#[derive(Debug)]
pub struct WatchHandle {
    post: Post,
    shared: core::Shared,
    inbox: inbox::Shared,
    uri: events::Uri,
    settings: Mutex<Settings>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Starts it; libvirt need not be there. Threads of its own, no runtime of the caller's.
pub fn start(settings: Settings, wishes: Sender<Wish>) -> Outcome<WatchHandle> {
    let failed = |e: std::io::Error| Failure::new(FAILED, format!("cannot start the threads of the watch: {e}"));
    let (post, messages) = post::pair();
    let shared = core::Shared::default();
    core::with(&shared, |s| (s.lost, s.lost_at, s.since_unix_ms) = (Some("not connected yet".into()), Some(Instant::now()), crate::commands::now_unix_ms()));
    // The hook's word first: what it tells from now on is not lost, whatever else takes its time.
    let inbox = inbox::start(&settings.hook_dir, post.clone()).map_err(failed)?;
    let uri = events::Uri::of(settings.connect.clone());
    events::start(uri.clone(), post.clone()).map_err(failed)?;
    let kept = Mutex::new(settings.clone());
    let core = core::Core::new(settings, wishes, post.clone(), shared.clone());
    let thread = std::thread::Builder::new().name("watch".into()).spawn(move || core.run(&messages)).map_err(failed)?;
    Ok(WatchHandle { post, shared, inbox, uri, settings: kept, thread: Mutex::new(Some(thread)) })
}

impl WatchHandle {
    /// Other settings from now on.
    pub fn change(&self, settings: Settings) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&settings);
        self.uri.set(settings.connect.clone());
        if self.post.give(Message::Change(Box::new(settings))).is_err() {
            tracing::error!("the watch does not take its new settings; reload once more");
        }
    }

    /// A wish needs no further thought.
    pub fn granted(&self, id: i64) {
        if self.post.give(Message::Granted(id)).is_err() {
            tracing::warn!("the watch has more to do than it can take; a wish may be granted twice");
        }
    }

    /// Looks at this domain, or at all, soon; says what was begun, as `POST /api/v1/reconcile` answers.
    pub fn reconcile(&self, domain: Option<&str>) -> Outcome<Value> {
        let busy = |_| Failure::new(BUSY, "the watch has more to do than it can take; try again");
        self.post.give(Message::Ask(domain.map(str::to_owned))).map_err(busy)?;
        let connected = core::with(&self.shared, |s| s.lost.is_none());
        Ok(json!({"domain": domain, "begun": connected, "waits_for": if connected { Value::Null } else { "libvirt".into() }}))
    }

    /// The records, as `GET /api/v1/domains` answers: an array.
    pub fn domains(&self) -> Outcome<Value> {
        let state_dir = self.settings.lock().unwrap_or_else(PoisonError::into_inner).state_dir.clone();
        Records::open(&state_dir)?.shown()
    }

    /// How it is, as `GET /api/v1/health` has it: `{"libvirt": "connected|..", ...}`.
    pub fn health(&self) -> Value {
        let time = |ms: Option<u64>| ms.map_or(Value::Null, crate::output::rfc3339);
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stores: Vec<&String> = settings.stores.keys().collect();
        let s = core::with(&self.shared, |s| s.clone());
        json!({
            "connect": settings.connect, "state_dir": settings.state_dir.display().to_string(), "reconcile_every_s": settings.reconcile_every.as_secs(),
            "stores": stores,
            "libvirt": if s.lost.is_none() { "connected" } else { "lost" }, "libvirt_problem": s.lost, "libvirt_since": time(Some(s.since_unix_ms)),
            "events": s.events, "missed": self.post.missed_count(), "hook": self.inbox.json(),
            "looks": s.looks, "looking": s.looking, "looked_at_all": time(s.all_unix_ms), "look_problem": s.problem, "looks_failed": s.failing.in_a_row(),
        })
    }

    /// What keeps it from seeing domains, for people.
    pub fn problems(&self) -> Vec<String> {
        let stuck = core::with(&self.shared, |s| s.frozen.clone()).problems(Path::new(RECORD_DIR_DEFAULT));
        self.own_problems().into_iter().map(|(_, words)| words).chain(stuck).collect()
    }

    /// Guests that may stand frozen; none before all domains were looked at.
    pub fn stuck(&self) -> Option<Vec<Stuck>> {
        let state = core::with(&self.shared, |s| s.clone());
        let stuck = state.frozen.stuck(Path::new(RECORD_DIR_DEFAULT));
        (state.all_unix_ms.is_some() || !stuck.is_empty()).then_some(stuck)
    }

    /// What keeps it from seeing domains, but for guests that stand frozen: each with a word that stays the same for as long as it lasts.
    pub fn own_problems(&self) -> Vec<(&'static str, String)> {
        // The hook of the system's libvirt tells root alone.
        let is_wanted = nix::unistd::geteuid().is_root() || self.settings.lock().unwrap_or_else(PoisonError::into_inner).hook_dir != Path::new(DIR_DEFAULT);
        let deaf = if is_wanted { self.inbox.problems() } else { Vec::new() };
        let state = core::with(&self.shared, |s| s.clone());
        let forgetful = state.forgetful.as_ref().map(|why| format!("nothing is remembered of domains: {why}"));
        let away = away(&state, Instant::now()).into_iter().map(|why| ("libvirt", why));
        let deaf = deaf.into_iter().map(|why| ("hook", why));
        let failing = state.failing.problems().into_iter().map(|why| ("looks", why));
        away.chain(deaf).chain(failing).chain(forgetful.map(|why| ("records", why))).collect()
    }

    /// Ends it, within the limit or not at all.
    pub fn stop(&self, limit: Duration) {
        self.post.end();
        let start = Instant::now();
        // A full queue empties; a thread that ended takes nothing.
        while self.post.give(Message::Stop).is_err() && start.elapsed() < limit {
            std::thread::sleep(POLL);
        }
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        while !thread.is_finished() && start.elapsed() < limit {
            std::thread::sleep(POLL);
        }
        if thread.is_finished() && thread.join().is_err() {
            tracing::error!("the watch's thread has panicked");
        }
    }
}

/// That libvirt is away for longer than any restart of it takes.
fn away(state: &core::State, now: Instant) -> Option<String> {
    let (why, since) = (state.lost.as_ref()?, state.lost_at?);
    let gone = now.saturating_duration_since(since);
    (gone > AWAY_MAX).then(|| format!("libvirt has been away for {} minutes: {why}; what happens to domains is not seen until it is back", gone.as_secs() / 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_of_libvirt_is_nothing_and_its_absence_is_told() {
        let since = Instant::now();
        let lost = core::State { lost: Some("refused".into()), lost_at: Some(since), ..core::State::default() };
        assert_eq!(away(&lost, since + AWAY_MAX), None);
        let said = away(&lost, since + AWAY_MAX + Duration::from_secs(61)).expect("too long");
        assert!(said.contains("4 minutes: refused"), "{said}");
        assert_eq!(away(&core::State::default(), since + AWAY_MAX * 2), None, "it is there");
    }
}
