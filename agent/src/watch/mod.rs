//! The watch: sees what happens to domains, keeps records of them, mends what it may, and asks for points.
//!
//! Invariants
//! - Nothing here blocks the daemon: each call returns at once or within its limit.
//! - What it is told are hints; all domains are looked at again and again as well.
//! - It starts no job by itself: it sends a [`Wish`].

mod wish;

pub use wish::{Trigger, WISHES_MAX, Wish};

use crate::{config::StoreEntry, failure::Outcome};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc::Sender;

/// What it has to know; a reload hands it a new one.
#[derive(Debug, Clone)]
pub struct Settings {
    /// libvirt's URI; none is libvirt's default.
    pub connect: Option<String>,
    /// Folder of records.
    pub state_dir: PathBuf,
    /// Between two looks at all domains.
    pub reconcile_every: Duration,
    /// Stores by name, of which bitmaps may be.
    pub stores: BTreeMap<String, StoreEntry>,
}

/// A running watch.
#[derive(Debug)]
pub struct WatchHandle {
    settings: Mutex<Settings>,
    _wishes: Sender<Wish>,
}

/// Starts it; libvirt need not be there. Threads of its own, no runtime of the caller's.
pub fn start(settings: Settings, wishes: Sender<Wish>) -> Outcome<WatchHandle> {
    Ok(WatchHandle { settings: Mutex::new(settings), _wishes: wishes })
}

impl WatchHandle {
    /// Other settings from now on.
    pub fn change(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Looks at this domain, or at all, soon; says what was begun, as `POST /api/v1/reconcile` answers.
    pub fn reconcile(&self, domain: Option<&str>) -> Outcome<Value> {
        Ok(json!({"domain": domain, "begun": false}))
    }

    /// The records, as `GET /api/v1/domains` answers: an array.
    pub fn domains(&self) -> Outcome<Value> {
        Ok(json!([]))
    }

    /// How it is, as `GET /api/v1/health` has it: `{"libvirt": "connected|..", ...}`.
    pub fn health(&self) -> Value {
        let s = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let stores: Vec<&String> = s.stores.keys().collect();
        json!({"connect": s.connect, "state_dir": s.state_dir.display().to_string(), "reconcile_every_s": s.reconcile_every.as_secs(), "stores": stores})
    }

    /// Ends it, within the limit or not at all.
    pub fn stop(&self, limit: Duration) {
        let _ = limit;
    }
}
