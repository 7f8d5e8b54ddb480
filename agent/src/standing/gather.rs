//! Asks libvirt, the stores and the daemon, beside each other. What does not answer within its limit has said nothing.

use super::{
    DomainStanding, Judged, Report, StoreStanding,
    judge::{self, AHEAD_MS_MAX, Claim, Found, Standing},
};
use crate::{
    cli::{Common, SocketPlace},
    commands::now_unix_ms,
    config::{self, Config, StoreEntry, Subject, Word},
    context,
    daemon::client::Client,
    doctor::{self, limit::within, store as room},
    failure::{Failure, Outcome},
    run,
    watch::stores::{self, AnsweringStore},
};
use cairn_hypervisor::{Domain, Host, capture::offline::Off, disks::Source, events, metadata::BackupWord};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, UNIX_EPOCH},
};

/// All of it: who asks has a limit of their own.
const GATHER_LIMIT: Duration = Duration::from_secs(40);
/// A libvirtd that is stopped lets callers in and says nothing.
const LIBVIRT_LIMIT: Duration = Duration::from_secs(30);
/// A little more than what is waited for inside.
const STORES_LIMIT: Duration = Duration::from_secs(35);
/// A file server that is gone never answers.
const ROOM_LIMIT: Duration = Duration::from_secs(10);
/// The daemon answers within a second; on a busy host it may take some.
const DAEMON_LIMIT: Duration = Duration::from_secs(20);

/// A domain, as libvirt has it.
pub struct Seen {
    /// UUID.
    pub uuid: String,
    /// It runs.
    pub running: bool,
    /// Nothing has written to its disks from then on; none where that cannot be told.
    pub quiet_since_unix_ms: Option<u64>,
    /// Whatever it does just now: what is promised holds at all times.
    pub subject: Subject,
}

/// What the daemon said.
#[derive(Default)]
pub struct Daemon {
    /// How it is.
    pub health: Value,
    /// Jobs that run.
    pub running: Vec<Value>,
    /// Its records of domains.
    pub domains: Vec<Value>,
}

/// Looks at all of it. Fails only where the configuration cannot be read: what is promised is not known then.
pub fn gather(common: &Common, place: &SocketPlace) -> Outcome<Report> {
    let begun = Instant::now();
    let config = match config::find(common.config.as_deref()) {
        Some(path) => Some(config::load(&path).map_err(|e| Failure::usage(e.lines().join("\n")))?),
        None => None,
    };
    let entries = doctor::stores_of(common, &config);
    let config = config.unwrap_or_default();
    let state_dir = match &config.daemon.state_dir {
        Some(dir) if common.state_dir.is_none() => dir.clone(),
        _ => context::state_dir(common)?,
    };
    let uri = common.connect.clone().or_else(|| config.daemon.connect.clone());
    let (libvirt, answers, rooms, daemon) = std::thread::scope(|scope| {
        let libvirt = scope.spawn(|| libvirt(uri, state_dir));
        let rooms: Vec<_> = entries.iter().map(|(name, entry)| (name.clone(), scope.spawn(|| free(entry)))).collect();
        let daemon = scope.spawn(|| daemon(common, place));
        let answers = answers(common, &entries);
        (joined(libvirt.join()), answers, rooms.into_iter().map(|(name, room)| (name, joined(room.join()))).collect::<BTreeMap<_, _>>(), joined(daemon.join()))
    });
    let (answering, silent) = answers;
    let mut report = Report { now_unix_ms: now_unix_ms(), host: context::host_name(), policies: promises(&config), ..Report::default() };
    let silence = |name: &str| silent.get(name).cloned().unwrap_or_else(|| "it does not answer".into());
    let of_store = |(name, entry): (&String, &StoreEntry)| {
        let answers = answering.iter().find(|store| store.name == *name);
        let room = rooms.get(name).copied().flatten();
        StoreStanding {
            name: name.clone(),
            url: entry.url.clone(),
            points: answers.map(AnsweringStore::points_count),
            damaged: answers.map(AnsweringStore::damaged_count),
            room,
            space: room.map(|(free, size)| room::space_of(free, size, entry.low_space).of_store(name)),
            silent: answers.is_none().then(|| silence(name)),
        }
    };
    report.stores = entries.iter().map(of_store).collect();
    let daemon = match daemon {
        Ok(daemon) => {
            report.health = Some(daemon.health.clone());
            report.running.clone_from(&daemon.running);
            daemon
        }
        Err(why) => {
            report.daemon_silent = Some(why);
            Daemon::default()
        }
    };
    match libvirt {
        Ok((domains, unseen)) => {
            report.unseen.extend(unseen);
            report.domains = domains.into_iter().map(|domain| standing(domain, &config, &answering, &silence, &daemon, (begun, report.now_unix_ms))).collect();
        }
        Err(why) => report.unseen.push(format!("libvirt's domains: {why}")),
    }
    Ok(report)
}

/// What each policy promises; none of one that makes points and promises nothing.
fn promises(config: &Config) -> BTreeMap<String, Option<Duration>> {
    config.policies.iter().map(|(name, policy)| (name.clone(), policy.rpo)).collect()
}

/// How a domain stands, by what was asked.
pub fn standing(
    domain: Seen,
    config: &Config,
    answering: &[AnsweringStore],
    silence: &impl Fn(&str) -> String,
    daemon: &Daemon,
    (begun, now_unix_ms): (Instant, u64),
) -> DomainStanding {
    let record = daemon.domains.iter().find(|record| record["uuid"] == domain.uuid.as_str());
    let known = record.map(points_of).unwrap_or_default();
    let mut found: BTreeMap<String, (Found, Option<Found>)> = BTreeMap::new();
    let judged = claims(config, &domain).into_iter().map(|claim| {
        let (of_store, before) = found.entry(claim.store.clone()).or_insert_with(|| match answering.iter().find(|store| store.name == claim.store) {
            None => (Found::Silent(format!("store {}: {}", claim.store, silence(&claim.store))), None),
            Some(_) if begun.elapsed() > GATHER_LIMIT => (Found::Silent("no time was left to ask for its points".into()), None),
            Some(store) => newest(store, &domain, &known, now_unix_ms),
        });
        let judge = |found: &Found| judge::claim(claim.rpo, found, now_unix_ms, domain.quiet_since_unix_ms);
        // One that is dated ahead is no proof, neither that the promise holds nor that it does not: the one before it may keep it.
        let kept = before.as_ref().map(|found| (judge(found), found)).filter(|((standing, _), _)| *standing == Standing::Kept);
        let ((standing, why), found) = kept.unwrap_or_else(|| (judge(of_store), of_store));
        Judged { found: found.clone(), claim, standing, why }
    });
    let claims = judged.collect();
    DomainStanding { name: domain.subject.name, uuid: domain.uuid, running: domain.running, excluded: domain.subject.word.excluded, claims }
}

/// What policies promise for a domain.
fn claims(config: &Config, domain: &Seen) -> Vec<Claim> {
    let of_policy = |(name, policy): (&str, &config::Policy)| {
        let claim = |store: &String| Claim { policy: name.to_owned(), store: store.clone(), rpo: policy.rpo };
        policy.stores.iter().map(claim).collect::<Vec<_>>()
    };
    config.policies_of(&domain.subject).into_iter().flat_map(of_policy).collect()
}

/// Points that the daemon's record of a domain names, by store: it may have had another name then.
fn points_of(record: &Value) -> Vec<(String, String)> {
    let point = |point: &Value| Some((point["store"].as_str()?.to_owned(), point["id"].as_str()?.to_owned()));
    record["points"].as_array().into_iter().flatten().filter_map(point).collect()
}

/// The newest; besides, where that one is dated ahead of now, the newest that is not.
fn newest(store: &AnsweringStore, domain: &Seen, known: &[(String, String)], now_unix_ms: u64) -> (Found, Option<Found>) {
    let known: Vec<String> = known.iter().filter(|(of, _)| *of == store.name).map(|(_, id)| id.clone()).collect();
    let until = |until_unix_ms: u64| store.newest_of(&domain.uuid, &domain.subject.name, &known, |time_unix_ms| time_unix_ms <= until_unix_ms);
    let point = |(id, time_unix_ms)| Found::Point { id, time_unix_ms };
    let told_until = now_unix_ms.saturating_add(AHEAD_MS_MAX);
    match until(u64::MAX) {
        Some((id, time_unix_ms)) if time_unix_ms > told_until => (point((id, time_unix_ms)), until(told_until).map(point)),
        Some(newest) => (point(newest), None),
        None if store.is_silent() => (Found::Silent(format!("store {} does not answer any more", store.name)), None),
        None => (Found::Nothing, None),
    }
}

/// When an image of a domain that is off was written to last. Only files say so, and the daemon's record does not: it may have slept while the domain ran.
fn quiet_since(domain: &Domain) -> Option<u64> {
    let disks = domain.disks().ok()?;
    let written = disks.iter().filter(|disk| disk.skip.is_none()).map(|disk| match &disk.source {
        Source::File(path) => std::fs::metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok(),
        _ => None,
    });
    let latest = written.collect::<Option<Vec<_>>>()?.into_iter().max()?;
    u64::try_from(latest.as_millis()).ok()
}

fn libvirt(uri: Option<String>, state_dir: PathBuf) -> Result<Domains, String> {
    let asked = within(LIBVIRT_LIMIT, move || {
        let host = events::open(uri.as_deref()).map_err(|e| Failure::from(e).message)?;
        domains(&host, &state_dir)
    });
    asked.unwrap_or_else(Err)
}

/// Domains, and what is told of those that could not be asked.
type Domains = (Vec<Seen>, Vec<String>);

/// Those that policies may take: a run is made of points, and a domain that was migrated away is another host's.
fn domains(host: &Host, state_dir: &Path) -> Result<Domains, String> {
    let (mut all, mut unseen) = (Vec::new(), Vec::new());
    for domain in host.domains().map_err(|e| Failure::from(e).message)? {
        let Ok(name) = domain.name() else { continue };
        // By UUID: what is left of a run may have the name of another domain.
        let is_run = domain.uuid().is_ok_and(|uuid| run::of_domain(state_dir, &uuid).is_some());
        if is_run || crate::boot_proof::is_proof(state_dir, &name) {
            continue;
        }
        match seen(&domain, &name) {
            Ok(seen) => all.extend(seen),
            // One that is gone meanwhile is none.
            Err(_) if domain.uuid().is_err() => {}
            Err(why) => unseen.push(format!("domain {}: {why}", crate::output::shown(&name))),
        }
    }
    all.sort_by(|a, b| a.subject.name.cmp(&b.subject.name));
    Ok((all, unseen))
}

fn seen(domain: &Domain, name: &str) -> Result<Option<Seen>, String> {
    let off = domain.off().map_err(|e| e.to_string())?;
    if off == Some(Off::Migrated) {
        return Ok(None);
    }
    let said = BackupWord::parse(&domain.xml_live().map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let word = Word { policies: said.policies, tags: said.tags, excluded: said.excluded };
    let uuid = domain.uuid().map_err(|e| e.to_string())?;
    let quiet_since_unix_ms = off.and_then(|_| quiet_since(domain));
    Ok(Some(Seen { uuid, running: off.is_none(), quiet_since_unix_ms, subject: Subject { name: name.to_owned(), running: None, word } }))
}

type Answers = (Vec<AnsweringStore>, BTreeMap<String, String>);

/// Stores that answer, and why the others do not.
fn answers(common: &Common, entries: &BTreeMap<String, StoreEntry>) -> Answers {
    let (asked, wanted) = (common.clone(), entries.clone());
    let (answering, said) = within(STORES_LIMIT, move || stores::ask(&asked, &wanted)).unwrap_or_else(|silent| (Vec::new(), vec![silent]));
    let why = |name: &String| said.iter().find_map(|line| Some(line.strip_prefix(&format!("store {name}"))?.trim_start_matches([':', ' ']).to_owned()));
    let silent = entries.keys().filter(|name| !answering.iter().any(|store| store.name == **name));
    let silent = silent.map(|name| (name.clone(), why(name).unwrap_or_else(|| said.first().cloned().unwrap_or_default()))).collect();
    (answering, silent)
}

/// Bytes that are free on a store's file system, and of how many.
fn free(entry: &StoreEntry) -> Option<(u64, u64)> {
    let path = context::store_path(&entry.url).ok()?;
    within(ROOM_LIMIT, move || room::room(&path).ok()).ok().flatten()
}

fn daemon(common: &Common, place: &SocketPlace) -> Result<Daemon, String> {
    let (common, place) = (common.clone(), place.clone());
    let asked = within(DAEMON_LIMIT, move || {
        let client = Client::new(&common, &place)?;
        let list = |value: Value| value.as_array().cloned().unwrap_or_default();
        let health = client.get("/api/v1/health")?;
        Ok::<_, Failure>(Daemon { health, running: list(client.get("/api/v1/jobs?state=running")?), domains: list(client.get("/api/v1/domains")?) })
    });
    asked.map_err(|silent| format!("the daemon: {silent}")).and_then(|answer| answer.map_err(|failure| failure.message))
}

/// A panic goes on here: it is a defect, and its message was printed.
fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
