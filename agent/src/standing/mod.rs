//! How the host stands: each domain's newest good points beside what policies promise, jobs, stores. `cairn status`, `cairn watch` and `cairn check` show it.
//!
//! - [`gather`]: asks libvirt, stores and the daemon, each beside the others and with a limit; [`judge`]: whether a promise holds
//! - [`page`]: for a terminal; [`plugin`]: for Nagios and its kin
//!
//! Invariants
//! - Nothing is changed, and no domain's QEMU is asked.
//! - What could not be looked at is told as such. It is never well.

pub mod gather;
pub mod judge;
pub mod page;
pub mod plugin;

use crate::{doctor::finding::Finding, output};
use judge::{Claim, Found, Standing};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// All that was seen.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// When.
    pub now_unix_ms: u64,
    /// This host.
    pub host: String,
    /// By name.
    pub domains: Vec<DomainStanding>,
    /// By name.
    pub stores: Vec<StoreStanding>,
    /// Policies by name, and how old a point each lets get.
    pub policies: BTreeMap<String, Option<Duration>>,
    /// Jobs that run, as the API has them.
    pub running: Vec<Value>,
    /// What the daemon says of itself; none where it does not answer.
    pub health: Option<Value>,
    /// Why it does not.
    pub daemon_silent: Option<String>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// A domain.
#[derive(Debug, Clone)]
pub struct DomainStanding {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// It runs.
    pub running: bool,
    /// Its metadata says that no policy is to take it.
    pub excluded: bool,
    /// What is promised, in each store, and how that stands.
    pub claims: Vec<Judged>,
}

/// A promise that was judged.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The promise.
    pub claim: Claim,
    /// What the store has.
    pub found: Found,
    /// How it stands.
    pub standing: Standing,
    /// More words.
    pub why: Option<String>,
}

/// A store.
#[derive(Debug, Clone)]
pub struct StoreStanding {
    /// Name.
    pub name: String,
    /// Place.
    pub url: String,
    /// How many points it has; none where it does not answer.
    pub points: Option<usize>,
    /// How many of them are known to be damaged.
    pub damaged: Option<usize>,
    /// Bytes that are free, and of how many.
    pub room: Option<(u64, u64)>,
    /// What is to be said of that; none where it cannot be told.
    pub space: Option<Finding>,
    /// Why it does not answer.
    pub silent: Option<String>,
}

impl DomainStanding {
    /// The worst of it.
    pub fn standing(&self) -> Standing {
        let none = if self.excluded { Standing::Excluded } else { Standing::Unprotected };
        self.claims.iter().map(|judged| judged.standing).max().unwrap_or(none)
    }
}

impl Report {
    /// Policies are to make points, and nobody does.
    pub fn is_daemon_missed(&self) -> bool {
        self.health.is_none() && !self.policies.is_empty()
    }

    /// As scripts have it.
    pub fn json(&self) -> Value {
        let store = |s: &StoreStanding| {
            json!({
                "name": s.name, "url": s.url, "points": s.points, "damaged": s.damaged, "free": s.room.map(|(free, _)| free), "size": s.room.map(|(_, size)| size),
                "space": s.space.as_ref().map(|f| f.status.word()), "silent": s.silent,
            })
        };
        json!({
            "time": output::rfc3339(self.now_unix_ms), "host": self.host,
            "domains": self.domains.iter().map(|d| self.domain_json(d)).collect::<Vec<_>>(),
            "stores": self.stores.iter().map(store).collect::<Vec<_>>(),
            "jobs": self.running,
            "daemon": self.health.as_ref().map(|h| json!({"status": h["status"], "reasons": h["reasons"], "version": h["version"], "jobs": h["jobs"]})),
            "daemon_silent": self.daemon_silent, "unseen": self.unseen,
        })
    }

    fn domain_json(&self, domain: &DomainStanding) -> Value {
        let judged = |j: &Judged| {
            let (point, time) = match &j.found {
                Found::Point { id, time_unix_ms } => (Some(id), Some(*time_unix_ms)),
                Found::Nothing | Found::Silent(_) => (None, None),
            };
            json!({
                "policy": j.claim.policy, "store": j.claim.store, "rpo_s": j.claim.rpo.map(|rpo| rpo.as_secs()), "point": point,
                "time": time.map(output::rfc3339), "age_s": time.map(|t| self.now_unix_ms.saturating_sub(t) / 1000), "standing": j.standing.word(), "why": j.why,
            })
        };
        json!({
            "name": domain.name, "uuid": domain.uuid, "state": if domain.running { "running" } else { "off" }, "standing": domain.standing().word(),
            "claims": domain.claims.iter().map(judged).collect::<Vec<_>>(),
        })
    }
}
