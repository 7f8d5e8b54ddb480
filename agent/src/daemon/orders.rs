//! From what is wanted to orders of jobs: which stores, which options, by which policy.

use crate::{
    cli::Quiesce,
    config::{Config, Policy, QuiesceSettings, StoreEntry},
    failure::{Failure, Outcome},
    jobs::{Kind, Order, record::ASKED},
    points::check_name,
    watch::Wish,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

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

/// What a policy says of a point, or nobody.
struct By<'a> {
    policy: Option<&'a str>,
    quiesce: QuiesceSettings,
    tags: &'a [String],
}

impl<'a> Ordering<'a> {
    /// What policies want of what happened to a domain; nothing, if none does.
    pub fn of_wish(&self, wish: &Wish) -> Vec<Order> {
        let mut orders = Vec::new();
        for (name, policy) in self.config.policies_of(&wish.domain) {
            if policy.on.contains(&wish.trigger) {
                let stores = policy.stores.iter().filter_map(|store| self.config.stores.get_key_value(store));
                let by = By::policy(name, policy);
                orders.extend(stores.map(|(store, entry)| self.domain(&wish.domain, Some(&wish.uuid), (store, entry), &by, (wish.trigger.word(), &wish.why))));
            }
        }
        orders
    }

    /// What somebody asked for.
    pub fn of_request(&self, wanted: &BackupWanted, who: &str) -> Outcome<Vec<Order>> {
        match (&wanted.domain, &wanted.image) {
            (Some(domain), None) if wanted.name.is_none() => self.of_domain(domain, wanted, who),
            (None, Some(image)) => self.of_image(image, wanted, who),
            (Some(_), None) => Err(Failure::usage("a name goes with an image; a domain's points have the domain's")),
            _ => Err(Failure::usage("name a domain, or an image; one of them")),
        }
    }

    fn of_domain(&self, domain: &str, wanted: &BackupWanted, who: &str) -> Outcome<Vec<Order>> {
        check_name(domain)?;
        let store = wanted.store.as_deref().map(|name| self.store(name)).transpose()?;
        let by: Vec<(&str, &Policy)> = match &wanted.policy {
            Some(name) => vec![self.policy(name)?],
            None if store.is_some() => Vec::new(),
            None => self.config.policies_of(domain),
        };
        let mut orders = Vec::new();
        for (name, policy) in &by {
            let stores = match store {
                Some(one) => vec![one],
                None => policy.stores.iter().map(|s| self.store(s)).collect::<Outcome<Vec<_>>>()?,
            };
            orders.extend(stores.into_iter().map(|store| self.domain(domain, None, store, &By::policy(name, policy), (ASKED, who))));
        }
        if by.is_empty() {
            let store = store.map_or_else(|| self.only_store(domain), Ok)?;
            orders.push(self.domain(domain, None, store, &By::nobody(), (ASKED, who)));
        }
        Ok(orders)
    }

    fn of_image(&self, image: &Path, wanted: &BackupWanted, who: &str) -> Outcome<Vec<Order>> {
        let name = wanted.name.as_deref().ok_or_else(|| Failure::usage("an image needs a name, which its point is listed under"))?;
        check_name(name)?;
        if !image.is_absolute() {
            return Err(Failure::usage(format!("{}: the path of an image is absolute", image.display())));
        }
        let by = wanted.policy.as_deref().map(|name| self.policy(name)).transpose()?;
        let stores = match (&wanted.store, by) {
            (Some(store), _) => vec![self.store(store)?],
            (None, Some((_, policy))) => policy.stores.iter().map(|s| self.store(s)).collect::<Outcome<Vec<_>>>()?,
            (None, None) => vec![self.only_store(name)?],
        };
        let by = by.map_or_else(By::nobody, |(name, policy)| By::policy(name, policy));
        let image = image.to_str().ok_or_else(|| Failure::usage(format!("{}: the path of an image is text", image.display())))?;
        let order = |(store, entry): (&str, &StoreEntry)| {
            let mut argv = self.common("backup-image", entry);
            argv.extend(by.tags.iter().map(|tag| format!("--tag={tag}")));
            argv.extend([format!("--name={name}"), "--".into(), image.to_owned()]);
            self.order(Kind::BackupImage, name, None, store, &by, (ASKED, who), argv)
        };
        Ok(stores.into_iter().map(order).collect())
    }

    fn domain(&self, domain: &str, uuid: Option<&str>, (store, entry): (&str, &StoreEntry), by: &By<'_>, why: (&str, &str)) -> Order {
        let mut argv = self.common("backup", entry);
        argv.extend(self.connect.iter().map(|uri| format!("--connect={uri}")));
        let level = match by.quiesce.level {
            Quiesce::Require => "require",
            Quiesce::Prefer => "prefer",
            Quiesce::Never => "never",
        };
        argv.extend(["--quiesce".into(), level.into()]);
        argv.extend(by.quiesce.freeze_limit_s.iter().map(|s| format!("--freeze-limit={s}")));
        if !by.quiesce.freeze_mounts.is_empty() {
            argv.push(format!("--freeze-mounts={}", by.quiesce.freeze_mounts.join(",")));
        }
        argv.extend(by.tags.iter().map(|tag| format!("--tag={tag}")));
        // The UUID outlives a rename that comes before the job's turn.
        argv.extend(["--".into(), uuid.unwrap_or(domain).to_owned()]);
        self.order(Kind::Backup, domain, uuid, store, by, why, argv)
    }

    fn common(&self, command: &str, entry: &StoreEntry) -> Vec<String> {
        let mut argv = vec![command.to_owned(), "--json".into(), format!("--store={}", entry.url)];
        argv.extend(entry.key_file.iter().map(|f| format!("--key-file={}", f.display())));
        argv.extend(entry.passphrase_file.iter().map(|f| format!("--passphrase-file={}", f.display())));
        argv.push(format!("--state-dir={}", self.state_dir.display()));
        argv
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of an order")]
    fn order(&self, kind: Kind, domain: &str, uuid: Option<&str>, store: &str, by: &By<'_>, (trigger, why): (&str, &str), argv: Vec<String>) -> Order {
        Order {
            kind,
            domain: domain.to_owned(),
            uuid: uuid.map(str::to_owned),
            store: store.to_owned(),
            policy: by.policy.map(str::to_owned),
            trigger: trigger.to_owned(),
            why: why.to_owned(),
        argv.extend(self.config.daemon.on_stuck_freeze.iter().map(|program| format!("--on-stuck-freeze={}", program.display())));
            argv,
            cancel_limit_ms: u64::try_from(self.config.daemon.cancel_limit.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn store(&self, name: &str) -> Outcome<(&'a str, &'a StoreEntry)> {
        let found = self.config.stores.get_key_value(name).map(|(name, entry)| (name.as_str(), entry));
        found.ok_or_else(|| Failure::not_found(format!("the configuration has no store '{name}'; {}", has(self.config.stores.keys()))))
    }

    fn policy(&self, name: &str) -> Outcome<(&'a str, &'a Policy)> {
        let found = self.config.policies.get_key_value(name).map(|(name, policy)| (name.as_str(), policy));
        found.ok_or_else(|| Failure::not_found(format!("the configuration has no policy '{name}'; {}", has(self.config.policies.keys()))))
    }

    /// Where nothing says which store is meant, there must be but one.
    fn only_store(&self, name: &str) -> Outcome<(&'a str, &'a StoreEntry)> {
        let mut stores = self.config.stores.iter();
        match (stores.next(), stores.next()) {
            (Some((name, entry)), None) => Ok((name, entry)),
            _ => Err(Failure::not_found(format!("no policy takes '{name}'; name a store or a policy ({})", has(self.config.stores.keys())))),
        }
    }
}

impl<'a> By<'a> {
    fn policy(name: &'a str, policy: &'a Policy) -> Self {
        Self { policy: Some(name), quiesce: policy.quiesce.clone(), tags: &policy.tags }
    }

    fn nobody() -> Self {
        Self { policy: None, quiesce: QuiesceSettings { level: Quiesce::Prefer, freeze_limit_s: None, freeze_mounts: Vec::new() }, tags: &[] }
    }
}

fn has<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "it has none".into() } else { format!("it has: {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, watch::Trigger};

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
        let orders = ordering(&config).of_wish(&wish);
        assert_eq!(orders.iter().map(|o| o.store.as_str()).collect::<Vec<_>>(), ["main", "far"]);
        let line = orders[0].argv.join(" ");
        let wanted = "backup --json --store=/srv/a --key-file=/k --state-dir=/s --connect=test:///default --quiesce require --freeze-limit=5 --freeze-mounts=/,/srv/x y --on-stuck-freeze=/usr/local/bin/page --tag=off -- u-1";
        assert_eq!(line, wanted);
        assert_eq!((orders[0].trigger.as_str(), orders[0].policy.as_deref(), orders[0].cancel_limit_ms), ("shutdown", Some("down"), 7000));
        assert!(ordering(&config).of_wish(&Wish { trigger: Trigger::Started, ..wish.clone() }).is_empty());
        assert!(ordering(&config).of_wish(&Wish { domain: "db".into(), ..wish }).is_empty());
    }

    #[test]
    fn requests_become_orders_that_the_command_line_takes() {
        use clap::Parser;
        let config = config(TEXT);
        let of = |wanted: BackupWanted| ordering(&config).of_request(&wanted, "somebody");
        let domain = |name: &str| BackupWanted { domain: Some(name.into()), ..BackupWanted::default() };
        let image = |path: &str| BackupWanted { image: Some(path.into()), name: Some("-n".into()), store: Some("far".into()), ..BackupWanted::default() };
        assert_eq!(of(domain("web1")).expect("orders").len(), 3, "every policy that takes it");
        assert_eq!(of(BackupWanted { policy: Some("other".into()), ..domain("db") }).expect("orders").len(), 1);
        let by_store = of(BackupWanted { store: Some("far".into()), ..domain("db") }).expect("orders");
        assert_eq!((by_store.len(), by_store[0].policy.as_deref()), (1, None));
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
