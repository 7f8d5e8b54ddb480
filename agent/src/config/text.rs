//! The file's text: read, parsed, and checked for what its grammar cannot say.

use super::{Config, Policy};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// No configuration that people write is longer.
const BYTES_MAX: u64 = 1 << 20;
/// Looking at all domains without a pause would be all that libvirt does.
const RECONCILE_EVERY_MIN: Duration = Duration::from_secs(5);
const JOBS_MAX_MAX: usize = 64;

/// Why a file is not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Line and column, counted from 1, where the text is wrong.
    pub at: Option<(u64, u64)>,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, at, why } = self;
        match at {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {why}", path.display()),
            None => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let failed = |why: String| ConfigError { path: path.to_owned(), at: None, why };
    let meta = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?;
    if !meta.is_file() || meta.len() > BYTES_MAX {
        return Err(failed(format!("is no file of at most {BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    // Nothing but comments is a configuration, too.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Config::default());
    }
    let wrong = |e: serde_saphyr::Error| {
        let at = e.location().map(|l| (l.line(), l.column()));
        // What follows the first line is the text around it, which the place already names.
        let said = e.to_string();
        let why = said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        ConfigError { path: path.to_owned(), at, why }
    };
    let config: Config = serde_saphyr::from_str(text).map_err(wrong)?;
    check(&config).map_err(|(key, why)| ConfigError { path: path.to_owned(), at: place(text, &key), why })?;
    Ok(config)
}

/// What the grammar cannot say: the keys that lead to what is wrong, and why.
fn check(config: &Config) -> Result<(), (Vec<String>, String)> {
    let key = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
    for (name, store) in &config.stores {
        if store.url.is_empty() {
            return Err((key(&["stores", name, "url"]), format!("store {name:?} has an empty url")));
        }
        if store.key_file.is_some() && store.passphrase_file.is_some() {
            return Err((key(&["stores", name, "passphrase_file"]), format!("store {name:?} has a key file and a passphrase file; give one")));
        }
    }
    for (name, policy) in &config.policies {
        check_policy(config, policy).map_err(|(last, why)| (key(&["policies", name, last]), format!("policy {name:?}: {why}")))?;
    }
    if config.daemon.reconcile_every < RECONCILE_EVERY_MIN {
        return Err((key(&["daemon", "reconcile_every"]), format!("reconcile_every is shorter than {} s", RECONCILE_EVERY_MIN.as_secs())));
    }
    if !(1..=JOBS_MAX_MAX).contains(&config.daemon.jobs_max) {
        return Err((key(&["daemon", "jobs_max"]), format!("jobs_max is not within 1 and {JOBS_MAX_MAX}")));
    }
    Ok(())
}

fn check_policy(config: &Config, policy: &Policy) -> Result<(), (&'static str, String)> {
    if policy.select.names.is_empty() {
        return Err(("select", "it selects nothing; names: [\"*\"] takes all domains".into()));
    }
    for pattern in policy.select.names.iter().chain(&policy.select.except) {
        glob::Pattern::new(pattern).map_err(|e| ("select", format!("{pattern:?} is no pattern: {e}")))?;
    }
    if policy.stores.is_empty() {
        return Err(("stores", "it names no store".into()));
    }
    if let Some(unknown) = policy.stores.iter().find(|s| !config.stores.contains_key(*s)) {
        let known: Vec<&str> = config.stores.keys().map(String::as_str).collect();
        return Err(("stores", format!("there is no store {unknown:?} (there are: {})", known.join(", "))));
    }
    crate::points::check_tags(&policy.tags).map_err(|f| ("tags", f.message))
}

/// Line and column of a key, by its indentation: good enough to find it, and only for people.
fn place(text: &str, keys: &[String]) -> Option<(u64, u64)> {
    let (mut wanted, mut depth, mut found) = (keys.iter().peekable(), None::<usize>, None);
    for (number, line) in text.lines().enumerate() {
        let Some(key) = wanted.peek() else { break };
        let indent = line.len() - line.trim_start().len();
        let is_key = line
            .trim_start()
            .trim_start_matches(['"', '\''])
            .strip_prefix(key.as_str())
            .is_some_and(|rest| rest.trim_start_matches(['"', '\'']).starts_with(':'));
        if is_key && depth.is_none_or(|d| indent > d) {
            depth = Some(indent);
            found = Some((number as u64 + 1, indent as u64 + 1));
            wanted.next();
        }
    }
    found
}

/// `10s`, `5m`, `1h`.
pub fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    crate::commands::parse_ms(&text).map(Duration::from_millis).map_err(D::Error::custom)
}

/// The same where it may be left out.
pub fn optional_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
stores:
  main: { url: /srv/backup, key_file: /etc/cairn/keys/main.key }
policies:
  nightly:
    select: { names: [\"prod-*\"], except: [prod-test] }
    on: [shutdown]
    stores: [main]
    quiesce: { level: require, freeze_limit: 5s }
    tags: [gold]
daemon:
  reconcile_every: 2m
";

    fn wrong(text: &str) -> ConfigError {
        parse(Path::new("/c"), text).expect_err("is refused")
    }

    #[test]
    fn a_file_is_read() {
        let c = parse(Path::new("/c"), GOOD).expect("reads");
        let policy = &c.policies["nightly"];
        assert_eq!((policy.quiesce.level.word(), policy.quiesce.freeze_limit), ("require", Some(Duration::from_secs(5))));
        assert_eq!((c.daemon.reconcile_every, c.daemon.jobs_max), (Duration::from_secs(120), 2));
        assert_eq!(c.policies_of("prod-web").count(), 1);
        assert!(parse(Path::new("/c"), "# nothing yet\n").expect("reads").stores.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (from, to, at, word) in [
            ("quiesce:", "quiesc:", (8, 5), "quiesc"),
            ("reconcile_every: 2m", "reconcile_every: soon", (11, 20), "soon"),
            ("stores: [main]", "stores: [other]", (7, 5), "main"),
            ("[shutdown]", "[sundown]", (6, 10), "sundown"),
            ("names: [\"prod-*\"]", "names: [\"[\"]", (5, 5), "pattern"),
            ("url: /srv/backup, ", "", (2, 9), "url"),
            ("reconcile_every: 2m", "jobs_max: 0", (11, 3), "jobs_max"),
        ] {
            let e = wrong(&GOOD.replace(from, to));
            assert!(e.why.contains(word), "{to}: {e}");
            let (line, column) = e.at.unwrap_or_else(|| panic!("{to}: no place: {e}"));
            assert_eq!(line, at.0, "{to}: {e}");
            assert!(column.abs_diff(at.1) <= 12, "{to}: {e}");
            assert!(e.to_string().starts_with("/c:"), "{e}");
        }
        assert!(wrong("stores: [").at.is_some());
    }
}
