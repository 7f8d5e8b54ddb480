//! From what is wanted to orders of jobs: which stores, which options, by which policy.
//!
//! Invariants
//! - One event, or one request, is one point of a domain in a store, however many policies want it: a job is for all of them ([`By::all`]).

use super::schedule::Run;
use crate::{
    cli::{Capture, Quiesce},
    config::{BackupLimits, Config, Policy, QuiesceSettings, StoreEntry, Subject, Word},
    failure::{Failure, Outcome},
    jobs::{Kind, Order, record::ASKED},
    points::{check_chosen_name, check_name},
    schedule::Window,
    watch::{Trigger, Wish},
};
use serde::Deserialize;
use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a guest that has just been started may take to bring up its agent: until then nothing can be frozen.
const AGENT_LIMIT: Duration = Duration::from_secs(120);

/// Nobody waits for a job as for a command.
const PRIORITY: &str = "--priority=low";
/// Trigger of what is due by the clock.
const SCHEDULE: &str = "schedule";

/// `POST /api/v1/backups`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupWanted {
    /// Domain, by name or UUID.
    pub domain: Option<String>,
    /// Or an image or a device on this host.
    pub image: Option<PathBuf>,
    /// Name of the image's point.
    pub name: Option<String>,
    /// Name of a store; without one, those of the policy.
    pub store: Option<String>,
    /// Name of a policy; without one, those that take the domain.
    pub policy: Option<String>,
}

/// What all orders share.
#[derive(Debug, Clone, Copy)]
pub struct Ordering<'a> {
    /// The configuration of this moment.
    pub config: &'a Config,
    /// Caches and records.
    pub state_dir: &'a Path,
    /// libvirt's URI.
    pub connect: Option<&'a str>,
}

/// A domain as libvirt knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// In its usual form.
    pub uuid: String,
    /// Of this moment.
    pub name: String,
}

/// What policies say of a point, or nobody.
struct By {
    policies: Vec<String>,
    quiesce: QuiesceSettings,
    tags: Vec<String>,
    windows: Vec<String>,
    limits: BackupLimits,
}

/// A store of the configuration, by name.
type Named<'a> = (&'a str, &'a StoreEntry);
/// A policy of it, by name.
type NamedPolicy<'a> = (&'a str, &'a Policy);

impl<'a> Ordering<'a> {
    /// What policies want of what happened to a domain; nothing, if none does.
    /// `word`: what the domain's metadata says.
    pub fn of_wish(&self, wish: &Wish, word: &Word) -> Vec<Order> {
        // What it does now is what happened to it, and no matter of selection.
        let subject = Subject { word: word.clone(), ..Subject::named(&wish.domain) };
        let policies: Vec<(&str, &Policy)> = self.config.policies_of(&subject).into_iter().filter(|(_, policy)| policy.on.contains(&wish.trigger)).collect();
        let order = |(store, policies): (Named<'_>, Vec<NamedPolicy<'_>>)| {
            self.domain(&wish.domain, Some(&wish.uuid), store, &By::all(&policies), (wish.trigger.word(), &wish.why))
        };
        // What a policy names is there: the configuration was checked.
        self.by_store(&policies).unwrap_or_default().into_iter().map(order).collect()
    }

    /// What is due by the clock.
    pub fn of_schedule(&self, run: &Run<'_>) -> Vec<Order> {
        let order = |(store, policies): (Named<'_>, Vec<NamedPolicy<'_>>)| {
            self.domain(&run.seen.subject.name, Some(&run.seen.uuid), store, &By::all(&policies), (SCHEDULE, &run.why))
        };
        self.by_store(&run.policies).unwrap_or_default().into_iter().map(order).collect()
    }

    /// Each store that is named by any of these policies, with those that name it.
    fn by_store<'p>(&self, policies: &[NamedPolicy<'p>]) -> Outcome<Vec<(Named<'a>, Vec<NamedPolicy<'p>>)>> {
        let mut out: Vec<(Named<'a>, Vec<NamedPolicy<'_>>)> = Vec::new();
        for (name, policy) in policies {
            for store in &policy.stores {
                match out.iter_mut().find(|((known, _), _)| known == store) {
                    Some((_, all)) => all.push((name, policy)),
                    None => out.push((self.store(store)?, vec![(name, policy)])),
                }
            }
        }
        Ok(out)
    }

    /// What somebody asked for.
    /// `known`: the domain, where it was asked for by its UUID; `word`: what its metadata says.
    pub fn of_request(&self, wanted: &BackupWanted, known: Option<&Known>, word: &Word, who: &str) -> Outcome<Vec<Order>> {
        match (&wanted.domain, &wanted.image) {
            (Some(domain), None) if wanted.name.is_none() => {
                let (name, uuid) = known.map_or((domain.as_str(), None), |k| (k.name.as_str(), Some(k.uuid.as_str())));
                self.of_domain((name, uuid, word), wanted, who)
            }
            (None, Some(image)) => self.of_image(image, wanted, who),
            (Some(_), None) => Err(Failure::usage("a name goes with an image; a domain's points have the domain's")),
            _ => Err(Failure::usage("name a domain, or an image; one of them")),
        }
    }

    fn of_domain(&self, (domain, uuid, word): (&str, Option<&str>, &Word), wanted: &BackupWanted, who: &str) -> Outcome<Vec<Order>> {
        check_name(domain)?;
        let store = wanted.store.as_deref().map(|name| self.store(name)).transpose()?;
        let by: Vec<(&str, &Policy)> = match &wanted.policy {
            Some(name) => vec![self.policy(name)?],
            None if store.is_some() => Vec::new(),
            None => self.config.policies_of(&Subject { word: word.clone(), ..Subject::named(domain) }),
        };
        let stores = match store {
            Some(one) => vec![(one, by)],
            None if by.is_empty() => vec![(self.only_store(domain)?, by)],
            None => self.by_store(&by)?,
        };
        Ok(stores.into_iter().map(|(store, by)| self.domain(domain, uuid, store, &By::all(&by), (ASKED, who))).collect())
    }

    fn of_image(&self, image: &Path, wanted: &BackupWanted, who: &str) -> Outcome<Vec<Order>> {
        let name = wanted.name.as_deref().ok_or_else(|| Failure::usage("an image needs a name, which its point is listed under"))?;
        check_chosen_name(name)?;
        if image.as_os_str().as_bytes().contains(&0) {
            return Err(Failure::usage(format!("{:?}: no path has a zero byte in it", image.display().to_string())));
        }
        if !image.is_absolute() {
            return Err(Failure::usage(format!("{}: the path of an image is absolute", image.display())));
        }
        let by = wanted.policy.as_deref().map(|name| self.policy(name)).transpose()?;
        let stores = match (&wanted.store, by) {
            (Some(store), _) => vec![self.store(store)?],
            (None, Some((_, policy))) => policy.stores.iter().map(|s| self.store(s)).collect::<Outcome<Vec<_>>>()?,
            (None, None) => vec![self.only_store(name)?],
        };
        let by = By::all(&by.into_iter().collect::<Vec<_>>());
        let image = image.to_str().ok_or_else(|| Failure::usage(format!("{}: the path of an image is text", image.display())))?;
        let order = |(store, entry): Named<'_>| {
            let mut argv = self.common("backup-image", entry);
            argv.extend(by.tags.iter().map(|tag| format!("--tag={tag}")));
            argv.extend(by.limits.read.iter().map(|(rate, _)| format!("--limit-read={rate}")));
            argv.extend([PRIORITY.into(), format!("--name={name}"), "--".into(), image.to_owned()]);
            self.order(Kind::BackupImage, name, None, store, &by, (ASKED, who), argv)
        };
        Ok(stores.into_iter().map(order).collect())
    }

    fn domain(&self, domain: &str, uuid: Option<&str>, (store, entry): Named<'_>, by: &By, why: (&str, &str)) -> Order {
        let mut argv = self.common("backup", entry);
        argv.extend(self.connect.iter().map(|uri| format!("--connect={uri}")));
        let level = match by.quiesce.level {
            Quiesce::Require => "require",
            Quiesce::Prefer => "prefer",
            Quiesce::Never => "never",
        };
        let capture = |capture| match capture {
            Capture::Live => "--capture=live",
            Capture::LibvirtApi => "--capture=libvirt-api",
        };
        argv.extend(self.config.daemon.capture.map(|wanted| capture(wanted).to_owned()));
        argv.extend([PRIORITY.into(), "--quiesce".into(), level.into()]);
        argv.extend(by.limits.read.iter().map(|(rate, _)| format!("--limit-read={rate}")));
        argv.extend(by.limits.parallel_disks.iter().map(|n| format!("--parallel-disks={n}")));
        if why.0 == Trigger::Started.word() && by.quiesce.level != Quiesce::Never {
            argv.push(format!("--wait-for-agent={}", AGENT_LIMIT.as_secs()));
        }
        argv.extend(by.quiesce.freeze_limit_s.iter().map(|s| format!("--freeze-limit={s}")));
        if !by.quiesce.freeze_mounts.is_empty() {
            argv.push(format!("--freeze-mounts={}", by.quiesce.freeze_mounts.join(",")));
        }
        argv.extend(self.config.daemon.on_stuck_freeze.iter().map(|program| format!("--on-stuck-freeze={}", program.display())));
        argv.extend(by.tags.iter().map(|tag| format!("--tag={tag}")));
        // The UUID outlives a rename that comes before the job's turn.
        argv.extend(["--".into(), uuid.unwrap_or(domain).to_owned()]);
        self.order(Kind::Backup, domain, uuid, store, by, why, argv)
    }

    pub(super) fn common(&self, command: &str, entry: &StoreEntry) -> Vec<String> {
        let mut argv = vec![command.to_owned(), "--json".into(), format!("--store={}", entry.url)];
        argv.extend(entry.key_file.iter().map(|f| format!("--key-file={}", f.display())));
        argv.extend(entry.passphrase_file.iter().map(|f| format!("--passphrase-file={}", f.display())));
        argv.push(format!("--state-dir={}", self.state_dir.display()));
        argv
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of an order")]
    fn order(&self, kind: Kind, domain: &str, uuid: Option<&str>, store: &str, by: &By, (trigger, why): (&str, &str), argv: Vec<String>) -> Order {
        Order {
            kind,
            domain: domain.to_owned(),
            uuid: uuid.map(str::to_owned),
            store: store.to_owned(),
            policies: by.policies.clone(),
            trigger: trigger.to_owned(),
            why: why.to_owned(),
            // Who asks wants it now.
            windows: if trigger == ASKED { Vec::new() } else { by.windows.clone() },
            argv,
            cancel_limit_ms: u64::try_from(self.config.daemon.cancel_limit.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn store(&self, name: &str) -> Outcome<Named<'a>> {
        // CAIRN_STORE is the path for all other commands.
        let found = self.config.stores.get_key_value(name).or_else(|| self.config.stores.iter().find(|(_, entry)| entry.url == name));
        let found = found.map(|(name, entry)| (name.as_str(), entry));
        found.ok_or_else(|| Failure::not_found(format!("the configuration has no store '{name}'; {}", has(self.config.stores.keys()))))
    }

    fn policy(&self, name: &str) -> Outcome<(&'a str, &'a Policy)> {
        let found = self.config.policies.get_key_value(name).map(|(name, policy)| (name.as_str(), policy));
        found.ok_or_else(|| Failure::not_found(format!("the configuration has no policy '{name}'; {}", has(self.config.policies.keys()))))
    }

    /// Where nothing says which store is meant, there must be but one.
    fn only_store(&self, name: &str) -> Outcome<Named<'a>> {
        let mut stores = self.config.stores.iter();
        match (stores.next(), stores.next()) {
            (Some((name, entry)), None) => Ok((name, entry)),
            _ => Err(Failure::not_found(format!("no policy takes '{name}'; name a store or a policy ({})", has(self.config.stores.keys())))),
        }
    }
}

impl By {
    /// All of these; none is nobody. A guest is quiesced once: as the strictest of them wants it (require, prefer, never), the first by name among equals.
    /// The point has the tags of all, and no limit of any is passed.
    fn all(policies: &[(&str, &Policy)]) -> Self {
        let strictness = |level: Quiesce| match level {
            Quiesce::Require => 0,
            Quiesce::Prefer => 1,
            Quiesce::Never => 2,
        };
        let strictest = policies.iter().map(|(_, policy)| &policy.quiesce).min_by_key(|quiesce| strictness(quiesce.level));
        let nobody = QuiesceSettings { level: Quiesce::Prefer, freeze_limit_s: None, freeze_mounts: Vec::new() };
        let mut tags: Vec<String> = Vec::new();
        for tag in policies.iter().flat_map(|(_, policy)| &policy.tags) {
            if !tags.contains(tag) {
                tags.push(tag.clone());
            }
        }
        Self {
            policies: policies.iter().map(|(name, _)| (*name).to_owned()).collect(),
            quiesce: strictest.cloned().unwrap_or(nobody),
            tags,
            windows: windows(policies),
            limits: policies.iter().fold(BackupLimits::default(), |all, (_, policy)| all.and(&policy.limits)),
        }
    }
}

/// When work for these policies may begin: while the window of any is open, and always where one has none.
pub(super) fn windows(policies: &[(&str, &Policy)]) -> Vec<String> {
    let all: Option<Vec<String>> = policies.iter().map(|(_, policy)| policy.window.as_ref().map(Window::record)).collect();
    let mut all = all.unwrap_or_default();
    all.sort();
    all.dedup();
    all
}

fn has<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "it has none".into() } else { format!("it has: {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const TEXT: &str = "\
stores:
  main: { url: /srv/a, key_file: /k }
  far: { url: /srv/b }
policies:
  down:
    select: { names: [\"web*\"] }
    on: [shutdown]
    stores: [main, far]
    quiesce: { level: require, freeze_limit: 5s, freeze_mounts: [/, /srv/x y] }
    tags: [off]
  other:
    select: { names: [\"web*\"] }
    stores: [far]
daemon: { cancel_limit: 7s, on_stuck_freeze: /usr/local/bin/page }
";

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("c");
        std::fs::write(&path, text).expect("writes");
        config::load(&path).expect("reads")
    }

    fn ordering(config: &Config) -> Ordering<'_> {
        Ordering { config, state_dir: Path::new("/s"), connect: Some("test:///default") }
    }

    #[test]
    fn a_wish_is_an_order_for_each_store_of_policies_that_want_it() {
        let config = config(TEXT);
        let wish = Wish { id: 1, domain: "web1".into(), uuid: "u-1".into(), trigger: Trigger::Shutdown, why: "shut down".into() };
        let orders = ordering(&config).of_wish(&wish, &Word::default());
        assert_eq!(orders.iter().map(|o| o.store.as_str()).collect::<Vec<_>>(), ["main", "far"]);
        let line = orders[0].argv.join(" ");
        let wanted = "backup --json --store=/srv/a --key-file=/k --state-dir=/s --connect=test:///default --priority=low --quiesce require --freeze-limit=5 --freeze-mounts=/,/srv/x y --on-stuck-freeze=/usr/local/bin/page --tag=off -- u-1";
        assert_eq!(line, wanted);
        assert_eq!((orders[0].trigger.as_str(), orders[0].policies.join(" "), orders[0].cancel_limit_ms), ("shutdown", "down".to_owned(), 7000));
        assert!(ordering(&config).of_wish(&Wish { trigger: Trigger::Started, ..wish.clone() }, &Word::default()).is_empty());
        assert!(ordering(&config).of_wish(&Wish { domain: "db".into(), ..wish }, &Word::default()).is_empty());
    }

    #[test]
    fn a_site_without_the_monitor_says_so_to_every_backup() {
        let config = config(&TEXT.replace("cancel_limit: 7s", "capture: libvirt-api"));
        let wish = Wish { id: 1, domain: "web1".into(), uuid: "u-1".into(), trigger: Trigger::Shutdown, why: "shut down".into() };
        let orders = ordering(&config).of_wish(&wish, &Word::default());
        assert!(orders.len() == 2 && orders.iter().all(|order| order.argv.iter().any(|arg| arg == "--capture=libvirt-api")));
    }

    #[test]
    fn limits_of_policies_reach_the_job_and_the_lowest_of_several_counts() {
        use clap::Parser;
        let limits = |text: &str, of: &str| text.replacen(of, &format!("{of}    limits: {{ read: 200MiB/s, parallel_disks: 2 }}\n"), 1);
        let limits_of_both = limits(TEXT, "    tags: [off]\n").replace(
            "  other:\n    select: { names: [\"web*\"] }\n",
            "  other:\n    select: { names: [\"web*\"] }\n    limits: { read: 50M, parallel_disks: 4 }\n",
        );
        let of = |text: &str, wanted: BackupWanted| {
            let config = config(text);
            let orders = ordering(&config).of_request(&wanted, None, &Word::default(), "somebody").expect("orders");
            for order in &orders {
                crate::cli::Cli::try_parse_from(std::iter::once("cairn".to_owned()).chain(order.argv.clone()))
                    .unwrap_or_else(|e| panic!("{:?}: {e}", order.argv));
            }
            orders
                .into_iter()
                .map(|o| (o.store, o.argv.into_iter().filter(|arg| arg.contains("limit-read") || arg.contains("parallel")).collect::<Vec<_>>().join(" ")))
        };
        let domain = BackupWanted { domain: Some("web1".into()), ..BackupWanted::default() };
        let told: Vec<(String, String)> = of(&limits_of_both, domain.clone()).collect();
        let line = |rate: &str| format!("--limit-read={rate} --parallel-disks=2");
        assert_eq!(told, [("main".to_owned(), line("200MiB/s")), ("far".to_owned(), line("50M"))], "far is of both policies");
        assert!(of(TEXT, domain).all(|(_, limits)| limits.is_empty()), "no limit is none");
        let image = BackupWanted { image: Some("/x".into()), name: Some("x".into()), policy: Some("down".into()), ..BackupWanted::default() };
        assert!(of(&limits_of_both, image).all(|(_, limits)| limits == "--limit-read=200MiB/s"), "an image is one disk");
    }

    #[test]
    fn a_guest_that_has_just_been_started_has_time_for_its_agent() {
        use clap::Parser;
        let of = |level: &str, trigger: Trigger| {
            let config = config(
                &TEXT
                    .replace("on: [shutdown]", "on: [shutdown, started]")
                    .replace("level: require, freeze_limit: 5s, freeze_mounts: [/, /srv/x y]", &format!("level: {level}")),
            );
            let wish = Wish { id: 1, domain: "web1".into(), uuid: "u-1".into(), trigger, why: "it happened".into() };
            let argv = ordering(&config).of_wish(&wish, &Word::default()).remove(0).argv;
            crate::cli::Cli::try_parse_from(std::iter::once("cairn".to_owned()).chain(argv.clone())).unwrap_or_else(|e| panic!("{argv:?}: {e}"));
            argv.iter().any(|arg| arg == "--wait-for-agent=120")
        };
        for level in ["require", "prefer", "never"] {
            assert_eq!((of(level, Trigger::Started), of(level, Trigger::Shutdown)), (level != "never", false), "{level}");
        }
    }

    #[test]
    fn policies_that_want_the_same_point_get_one() {
        let config = config(&TEXT.replace(
            "  other:\n    select: { names: [\"web*\"] }\n",
            "  other:\n    select: { names: [\"web*\"] }\n    on: [shutdown]\n    tags: [off, gold]\n",
        ));
        let wish = Wish { id: 1, domain: "web1".into(), uuid: "u-1".into(), trigger: Trigger::Shutdown, why: "shut down".into() };
        let wanted = BackupWanted { domain: Some("web1".into()), ..BackupWanted::default() };
        for orders in
            [ordering(&config).of_wish(&wish, &Word::default()), ordering(&config).of_request(&wanted, None, &Word::default(), "somebody").expect("orders")]
        {
            let told: Vec<(&str, String)> = orders.iter().map(|o| (o.store.as_str(), o.policies.join(" "))).collect();
            assert_eq!(told, [("main", "down".to_owned()), ("far", "down other".to_owned())]);
            let line = orders[1].argv.join(" ");
            assert!(line.contains("--quiesce require --freeze-limit=5") && line.contains("--tag=off --tag=gold --"), "the strictest counts: {line}");
        }
        let by_path = BackupWanted { store: Some("/srv/b".into()), ..wanted.clone() };
        assert_eq!(ordering(&config).of_request(&by_path, None, &Word::default(), "somebody").expect("its path is as good as its name")[0].store, "far");
        let far = BackupWanted { store: Some("main".into()), policy: Some("other".into()), ..wanted };
        assert_eq!(ordering(&config).of_request(&far, None, &Word::default(), "somebody").expect("orders")[0].policies, ["other"], "the one that is named");
    }

    #[test]
    fn a_domain_that_is_asked_for_by_its_uuid_has_its_policies() {
        let config = config(TEXT);
        let known = Known { uuid: "0d5a1f00-0000-4000-8000-000000000001".into(), name: "web1".into() };
        let wanted = BackupWanted { domain: Some(known.uuid.clone()), ..BackupWanted::default() };
        let orders = ordering(&config).of_request(&wanted, Some(&known), &Word::default(), "somebody").expect("orders");
        assert_eq!((orders.len(), orders[0].domain.as_str(), orders[0].uuid.as_deref()), (2, "web1", Some(known.uuid.as_str())));
        assert_eq!(orders[0].argv.last(), Some(&known.uuid), "which outlives a rename");
    }

    #[test]
    fn requests_become_orders_that_the_command_line_takes() {
        use clap::Parser;
        let config = config(TEXT);
        let of = |wanted: BackupWanted| ordering(&config).of_request(&wanted, None, &Word::default(), "somebody");
        let domain = |name: &str| BackupWanted { domain: Some(name.into()), ..BackupWanted::default() };
        let image = |path: &str| BackupWanted { image: Some(path.into()), name: Some("-n".into()), store: Some("far".into()), ..BackupWanted::default() };
        assert_eq!(of(domain("web1")).expect("orders").len(), 2, "one for each store, whichever policies take it");
        assert_eq!(of(BackupWanted { policy: Some("other".into()), ..domain("db") }).expect("orders").len(), 1);
        let by_store = of(BackupWanted { store: Some("far".into()), ..domain("db") }).expect("orders");
        assert_eq!((by_store.len(), by_store[0].policies.len()), (1, 0));
        for order in of(domain("web1"))
            .into_iter()
            .chain(of(image("/-x")))
            .flatten()
            .chain(of(BackupWanted { store: Some("far".into()), ..domain("-x") }).expect("orders"))
        {
            crate::cli::Cli::try_parse_from(std::iter::once("cairn".to_owned()).chain(order.argv.clone())).unwrap_or_else(|e| panic!("{:?}: {e}", order.argv));
        }
        for (wanted, code, word) in [
            (domain("db"), crate::failure::NOT_FOUND, "it has: far, main"),
            (BackupWanted { store: Some("x".into()), ..domain("web1") }, crate::failure::NOT_FOUND, "store 'x'"),
            (BackupWanted { policy: Some("x".into()), ..domain("web1") }, crate::failure::NOT_FOUND, "policy 'x'"),
            (BackupWanted::default(), crate::failure::USAGE, "one of them"),
            (BackupWanted { image: Some("/x".into()), ..domain("web1") }, crate::failure::USAGE, "one of them"),
            (BackupWanted { name: Some("x".into()), ..domain("web1") }, crate::failure::USAGE, "name goes with"),
            (BackupWanted { name: None, ..image("/x") }, crate::failure::USAGE, "needs a name"),
            (image("x"), crate::failure::USAGE, "absolute"),
            (domain("a\nb"), crate::failure::USAGE, "control"),
        ] {
            let f = of(wanted.clone()).expect_err("is refused");
            assert!(f.code == code && f.message.contains(word), "{wanted:?}: {f:?}");
        }
    }
}
