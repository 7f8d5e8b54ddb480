//! `cairn policy list`, `show`, `check`: what the configuration says, and whom it concerns. No daemon is asked: they work before there is one.

use super::{Done, now_unix_ms, policy_edit};
use crate::{
    cli::{Common, PolicyCommand},
    config::{self, Config, Policy, Retention, Subject, Word},
    context::state_dir,
    daemon::schedule::times,
    failure::{FAILED, Failure, NOT_FOUND, Outcome},
    output::{self, rfc3339},
    run::folder::RunFolder,
};
use cairn_hypervisor::{Host, capture::offline::Off, metadata::BackupWord};
use serde_json::{Value, json};
use std::{error::Error, path::Path};

/// `cairn policy`
pub fn run(common: &Common, command: &PolicyCommand) -> Outcome<Done> {
    let path = config::find(common.config.as_deref()).ok_or_else(|| {
        Failure::new(NOT_FOUND, format!("there is no {}; make it, docs/policies.md has an example, or name a file with --config", config::PATH_DEFAULT))
    })?;
    let config = config::load_for_daemon(&path).map_err(|e| Failure::usage(e.lines().join("\n")))?;
    match command {
        PolicyCommand::List => list(common, &config),
        PolicyCommand::Show(o) => show(common, &config, &o.name),
        PolicyCommand::Check => check(common, &path, &config),
        PolicyCommand::Create(o) => policy_edit::create(common, &path, &config, o),
        PolicyCommand::Delete(o) => policy_edit::delete(common, &path, &config, &o.name),
    }
}

/// The policy of a name.
pub fn named<'a>(config: &'a Config, name: &str) -> Outcome<&'a Policy> {
    let has = || config.policies.keys().cloned().collect::<Vec<_>>().join(", ");
    config.policies.get(name).ok_or_else(|| Failure::not_found(format!("the configuration has no policy '{}'; it has: {}", output::shown(name), has())))
}

fn list(common: &Common, config: &Config) -> Outcome<Done> {
    if common.json {
        output::print_json(&config.policies.iter().map(|(name, policy)| json(name, policy)).collect::<Vec<_>>().into());
        return Ok(Done::Clean);
    }
    let row = |(name, policy): (&String, &Policy)| {
        [name.clone(), selection(policy), when(policy), next(policy).map_or_else(String::new, output::time), policy.stores.join(","), kept(policy), rpo(policy)]
    };
    out!("{}", output::simple_table(&["POLICY", "DOMAINS", "WHEN", "NEXT", "STORES", "KEEPS", "RPO"], &[], config.policies.iter().map(row)));
    Ok(Done::Clean)
}

fn show(common: &Common, config: &Config, name: &str) -> Outcome<Done> {
    let policy = named(config, name)?;
    if common.json {
        output::print_json(&json(name, policy));
        return Ok(Done::Clean);
    }
    let zone = policy.schedule.as_ref().and_then(|s| s.zone.iana_name()).unwrap_or_default().to_owned();
    let jitter = u64::try_from(policy.jitter.as_millis()).unwrap_or(0);
    let window = policy.window.as_ref().map(ToString::to_string).unwrap_or_default();
    for (what, said) in [
        ("domains", selection(policy)),
        ("when", when(policy)),
        ("time zone", zone),
        ("jitter", if jitter > 0 { output::duration(jitter) } else { String::new() }),
        ("window", window),
        ("next", next(policy).map_or_else(String::new, output::time)),
        ("stores", policy.stores.join(", ")),
        ("tags", policy.tags.join(", ")),
        ("keeps", kept(policy)),
        ("rpo", rpo(policy)),
        ("reads", policy.verify.percent_daily.map_or_else(String::new, |n| format!("{n} % of each store a day"))),
        ("limits", limits(policy)),
        ("boots", policy.verify.boot.map_or_else(String::new, |every| format!("each domain's latest point, {}", every.word()))),
    ] {
        if !said.is_empty() {
            out!("{what:<10} {said}");
        }
    }
    Ok(Done::Clean)
}

/// Of a domain that has no jitter.
fn next(policy: &Policy) -> Option<u64> {
    let times = times(policy, "")?;
    crate::schedule::due::Times { jitter_ms: 0, ..times }.next(now_unix_ms())
}

fn selection(policy: &Policy) -> String {
    let mut out: Vec<String> = policy.select.names.iter().map(|p| p.as_str().to_owned()).collect();
    out.extend(policy.select.tags.iter().map(|tag| format!("tag {tag}")));
    if policy.is_default {
        out.push("what no other takes".into());
    }
    out.extend(policy.select.except.iter().map(|p| format!("not {}", p.as_str())));
    if policy.select.state != config::SelectState::Any {
        out.push(format!("while {}", policy.select.state.word()));
    }
    out.join(", ")
}

fn when(policy: &Policy) -> String {
    let crons = policy.schedule.iter().flat_map(|s| s.crons.iter().map(ToString::to_string));
    let events = policy.on.iter().map(|on| format!("on {on}"));
    let all: Vec<String> = crons.chain(events).collect();
    if all.is_empty() { "when asked".into() } else { all.join(", ") }
}

fn kept(policy: &Policy) -> String {
    let short = |option: &String| option.trim_start_matches("--").trim_start_matches("keep-").replacen('=', " ", 1);
    policy.retention.as_ref().map_or_else(|| "everything".into(), |rules| rules.options().iter().map(short).collect::<Vec<_>>().join(", "))
}

fn limits(policy: &Policy) -> String {
    let read = policy.limits.read.iter().map(|(rate, _)| format!("reads at most {rate}"));
    let disks = policy.limits.parallel_disks.iter().map(|n| format!("{n} disks at a time"));
    read.chain(disks).collect::<Vec<_>>().join(", ")
}

fn rpo(policy: &Policy) -> String {
    policy.rpo.map(|rpo| output::duration(u64::try_from(rpo.as_millis()).unwrap_or(u64::MAX))).unwrap_or_default()
}

fn json(name: &str, policy: &Policy) -> Value {
    let patterns = |all: &[glob::Pattern]| all.iter().map(|p| p.as_str().to_owned()).collect::<Vec<_>>();
    let select = &policy.select;
    let schedule = policy.schedule.as_ref();
    let rules = |r: &Retention| {
        json!({
            "keep_last": r.last, "keep_hourly": r.hourly, "keep_daily": r.daily, "keep_weekly": r.weekly, "keep_monthly": r.monthly, "keep_yearly": r.yearly,
            "keep_within": r.within.as_ref().map(|w| &w.0), "keep_tags": r.tags, "min_age": r.min_age.as_ref().map(|m| &m.0),
        })
    };
    json!({
        "name": name, "default": policy.is_default,
        "select": {"names": patterns(&select.names), "tags": select.tags, "except": patterns(&select.except), "state": select.state.word()},
        "on": policy.on.iter().map(|on| on.word()).collect::<Vec<_>>(),
        "schedule": schedule.map(|s| s.crons.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap_or_default(),
        "timezone": schedule.and_then(|s| s.zone.iana_name()), "jitter_s": policy.jitter.as_secs(), "window": policy.window.as_ref().map(ToString::to_string),
        "next": next(policy).map_or(Value::Null, rfc3339), "rpo_s": policy.rpo.map(|rpo| rpo.as_secs()), "stores": policy.stores, "tags": policy.tags,
        "retention": policy.retention.as_ref().map(rules),
        "verify": {"data_percent_daily": policy.verify.percent_daily, "rate": policy.verify.rate, "boot": policy.verify.boot.map(config::Every::word)},
        "limits": {"read": policy.limits.read.as_ref().map(|(rate, _)| rate), "parallel_disks": policy.limits.parallel_disks},
    })
}

/// A domain of this host, with what it says of itself.
struct Found {
    uuid: String,
    subject: Subject,
    disks_excluded: Vec<String>,
}

/// Domains that can be backed up here, as `backup --all` has them.
fn domains(common: &Common, config: &Config) -> Outcome<Vec<Found>> {
    let fail = |e: &dyn Error| Failure::new(FAILED, e.to_string());
    let state_dir = match &config.daemon.state_dir {
        Some(dir) if common.state_dir.is_none() => dir.clone(),
        _ => state_dir(common)?,
    };
    let host = Host::open(common.connect.as_deref().or(config.daemon.connect.as_deref()))?;
    let mut out = Vec::new();
    for domain in host.domains()? {
        let (name, off) = (domain.name().map_err(|e| fail(&e))?, domain.off().map_err(|e| fail(&e))?);
        let is_run = RunFolder::of(&state_dir, &name).is_ok_and(|run| run.exists());
        if crate::boot_proof::is_proof(&state_dir, &name) || is_run || off == Some(Off::Migrated) {
            continue;
        }
        let said = BackupWord::parse(&domain.xml_live().map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
        let word = Word { policies: said.policies, tags: said.tags, excluded: said.excluded };
        let uuid = domain.uuid().map_err(|e| fail(&e))?;
        out.push(Found { uuid, subject: Subject { name, running: Some(off.is_none()), word }, disks_excluded: said.disks_excluded });
    }
    out.sort_by(|a, b| a.subject.name.cmp(&b.subject.name));
    Ok(out)
}

fn check(common: &Common, path: &Path, config: &Config) -> Outcome<Done> {
    let found = domains(common, config)?;
    // Whatever it does just now: state is a matter of each run.
    let taken: Vec<(&Found, Vec<(&str, &'static str)>)> = found
        .iter()
        .map(|one| (one, config.taken_by(&one.subject.clone().in_any_state()).into_iter().map(|(name, _, why)| (name, why.word())).collect()))
        .collect();
    let unprotected: Vec<&Found> = taken.iter().filter(|(one, by)| by.is_empty() && !one.subject.word.excluded).map(|(one, _)| *one).collect();
    let unknown: Vec<(&Found, Vec<&str>)> =
        found.iter().map(|one| (one, config.unknown_to(&one.subject.word))).filter(|(_, names)| !names.is_empty()).collect();
    if common.json {
        let domain = |one: &Found| json!({"name": one.subject.name, "uuid": one.uuid});
        let policy = |name: &String| {
            let mine = taken.iter().filter_map(|(one, by)| {
                let why = by.iter().find(|(policy, _)| policy == name)?.1;
                Some(json!({"name": one.subject.name, "uuid": one.uuid, "by": why, "disks_excluded": one.disks_excluded}))
            });
            json!({"name": name, "domains": mine.collect::<Vec<_>>()})
        };
        let excluded: Vec<Value> = found.iter().filter(|one| one.subject.word.excluded).map(domain).collect();
        output::print_json(&json!({
            "path": path.display().to_string(), "policies": config.policies.keys().map(policy).collect::<Vec<_>>(),
            "unprotected": unprotected.iter().map(|one| domain(one)).collect::<Vec<_>>(), "excluded": excluded,
            "unknown_policies": unknown.iter().map(|(one, names)| json!({"name": one.subject.name, "policies": names})).collect::<Vec<_>>(),
        }));
    } else if !common.quiet {
        let row = |(one, by): &(&Found, Vec<(&str, &'static str)>)| {
            let policies = match by.is_empty() {
                true if one.subject.word.excluded => "none: excluded by its metadata".to_owned(),
                true => "NONE".to_owned(),
                false => by.iter().map(|(name, why)| format!("{name} ({why})")).collect::<Vec<_>>().join(", "),
            };
            [output::shown(&one.subject.name), policies, one.disks_excluded.iter().map(|disk| output::shown(disk)).collect::<Vec<_>>().join(",")]
        };
        out!("{}", output::simple_table(&["DOMAIN", "POLICIES", "DISKS LEFT OUT"], &[], taken.iter().map(row)));
        out!("{}: ok, {} policies, {} domains, {} of them unprotected", path.display(), config.policies.len(), found.len(), unprotected.len());
    }
    for (one, names) in &unknown {
        let names = names.iter().map(|name| output::shown(name)).collect::<Vec<_>>().join(", ");
        say!("cairn: warning: the metadata of {} names what is no policy here: {names}", output::shown(&one.subject.name));
    }
    if !unprotected.is_empty() {
        let names: Vec<String> = unprotected.iter().take(20).map(|one| output::shown(&one.subject.name)).collect();
        say!("cairn: warning: no policy takes {}; a policy with default: true takes what no other does", names.join(", "));
    }
    Ok(if unprotected.is_empty() && unknown.is_empty() { Done::Clean } else { Done::WithWarnings })
}
