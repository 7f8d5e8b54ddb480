//! The file's text: read, parsed, checked; what is wrong is told with its place.

use super::{
    Config,
    blank::{self, Blanked},
    check::{Programs, Wrong, check},
    raw::RawConfig,
    words::{self, Spot},
};
use serde_saphyr::Location;
use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// No configuration that people write is longer.
const BYTES_MAX: u64 = 1 << 20;

/// Why a file is not taken: each thing that is wrong with it, at least one.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub path: PathBuf,
    /// In the order of the file.
    pub errors: Vec<ConfigError>,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Line and column, counted from 1; none where the file as a whole is meant.
    pub at: Option<(u64, u64)>,
    /// What, and what to do.
    pub why: String,
}

impl ConfigErrors {
    fn whole(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), errors: vec![ConfigError { at: None, why: why.into() }] }
    }

    /// A line for each: `FILE:LINE:COLUMN: WHY`, as compilers have it.
    pub fn lines(&self) -> Vec<String> {
        let path = self.path.display();
        let line = |e: &ConfigError| match e.at {
            Some((line, column)) => format!("{path}:{line}:{column}: {}", e.why),
            None => format!("{path}: {}", e.why),
        };
        self.errors.iter().map(line).collect()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("; "))
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    parse(path, &read(path)?, Programs::Unseen)
}

/// The same for who starts the programs that it names: they must be there.
pub fn load_for_daemon(path: &Path) -> Result<Config, ConfigErrors> {
    parse(path, &read(path)?, Programs::There)
}

/// A text that is to be this file.
pub fn parse_for_daemon(path: &Path, text: &str) -> Result<Config, ConfigErrors> {
    parse(path, text, Programs::There)
}

fn read(path: &Path) -> Result<String, ConfigErrors> {
    let failed = |why: String| ConfigErrors::whole(path, why);
    // A pipe would be waited for: what it is comes first.
    let meta = std::fs::metadata(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    if !meta.is_file() {
        return Err(failed("is no file".into()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| failed(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(failed(format!("has more than {BYTES_MAX} bytes; that is no configuration")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
        let (before, column) = valid.rsplit_once('\n').map_or((0, valid.as_str()), |(before, last)| (before.matches('\n').count() + 1, last));
        let at = Some((before as u64 + 1, column.chars().count() as u64 + 1));
        let why = "what stands here is no text in UTF-8; save the file in that encoding".into();
        ConfigErrors { path: path.to_owned(), errors: vec![ConfigError { at, why }] }
    })
}

pub(super) fn parse(path: &Path, text: &str, programs: Programs) -> Result<Config, ConfigErrors> {
    // Nothing but comments is a configuration, too.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Config::default());
    }
    let result = match serde_saphyr::from_str(text) {
        Ok(raw) => check(raw, programs, Blanked::default()).map_err(located),
        Err(e) => Err(all_wrong(text, grammar(text, &e), programs)),
    };
    result.map_err(|mut errors| {
        errors.sort();
        ConfigErrors { path: path.to_owned(), errors }
    })
}

fn located(wrong: Vec<Wrong>) -> Vec<ConfigError> {
    wrong.into_iter().map(|(at, why): Wrong| ConfigError { at: place(at), why }).collect()
}

/// All that is wrong with a text whose grammar is; `first`: what the parser has against it.
fn all_wrong(text: &str, first: ConfigError, programs: Programs) -> Vec<ConfigError> {
    if let Err(e) = blank::outline(text) {
        // No YAML: nothing behind that can be told.
        let broken = grammar(text, &e);
        return if first == broken { vec![first] } else { vec![first, broken] };
    }
    let (mut left, mut blanked, mut errors) = (text.to_owned(), Blanked::default(), Vec::new());
    for _ in 0..blank::ROUNDS_MAX {
        let e = match serde_saphyr::from_str::<RawConfig>(&left) {
            Ok(raw) => {
                errors.extend(check(raw, programs, blanked).map_err(located).err().unwrap_or_default());
                break;
            }
            Err(e) => e,
        };
        let error = grammar(&left, &e);
        let Some(key) = error.at.and_then(|at| blank::find(&left, at, is_missing(&e))) else { break };
        if !blanked.explain(&key) {
            errors.push(error);
        }
        blanked.add(&mut left, key);
    }
    if errors.is_empty() { vec![first] } else { errors }
}

fn is_missing(error: &serde_saphyr::Error) -> bool {
    error.without_snippet().to_string().contains("missing field")
}

/// Without the excerpt of the text that the parser draws: the place says it.
fn grammar(text: &str, error: &serde_saphyr::Error) -> ConfigError {
    let said = error.without_snippet().to_string();
    let said = said.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    let at = error.location().and_then(place);
    ConfigError { at, why: words::say(said, at.map(|at| Spot::of(text, at)).as_ref()) }
}

fn place(at: Location) -> Option<(u64, u64)> {
    (at != Location::UNKNOWN).then(|| (at.line(), at.column()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{Capture, Quiesce},
        config::{Every, Subject},
        watch::Trigger,
    };
    use std::time::Duration;

    const GOOD: &str = "\
stores:
  main: { url: /srv/backup, key_file: /etc/cairn/keys/main.key }
policies:
  nightly:
    select: { names: [\"prod-*\"], except: [prod-test] }
    on: [shutdown]
    stores: [main]
    quiesce: { level: require, freeze_limit: 5s, freeze_mounts: [/, /var/] }
    tags: [gold]
daemon:
  reconcile_every: 2m
  jobs_max: 4
  on_stuck_freeze: /bin/sh
  capture: libvirt-api
";

    const LONG_HOOK_DIR: &str = "hook_dir: /run/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

    fn wrong(text: &str) -> ConfigErrors {
        parse(Path::new("/c"), text, Programs::There).expect_err("is refused")
    }

    #[test]
    fn a_file_is_read() {
        let c = parse(Path::new("/c"), GOOD, Programs::There).expect("reads");
        let policy = &c.policies["nightly"];
        assert_eq!((policy.quiesce.level, policy.quiesce.freeze_limit_s), (Quiesce::Require, Some(5)));
        assert_eq!(policy.quiesce.freeze_mounts, ["/", "/var"]);
        assert_eq!((c.daemon.reconcile_every, c.daemon.jobs_max, c.daemon.cancel_limit), (Duration::from_secs(120), 4, Duration::from_secs(60)));
        assert_eq!(policy.on, [Trigger::Shutdown]);
        assert_eq!((c.daemon.on_stuck_freeze.as_deref(), c.daemon.capture), (Some(Path::new("/bin/sh")), Some(Capture::LibvirtApi)));
        assert_eq!((c.policies_of(&Subject::named("prod-web")).len(), c.policies_of(&Subject::named("prod-test")).len()), (1, 0));
    }

    #[test]
    fn nothing_is_a_configuration() {
        for text in ["", "# nothing yet\n", "\n  # nothing\n\n"] {
            assert_eq!(parse(Path::new("/c"), text, Programs::There).expect("reads"), Config::default());
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let mut odd = Vec::new();
        for (from, to, at, word) in [
            ("quiesce:", "quiesc:", (8, 5), "quiesc"),
            ("    on: [shutdown]", "    schedul: \"0 2 * * *\"", (6, 5), "did you mean 'schedule'"),
            ("    on: [shutdown]", "    schedule: \"0 2 * *\"", (6, 15), "has 4 fields"),
            ("    on: [shutdown]", "    schedule: [\"0 2 * * *\", \"0 25 * * *\"]", (6, 29), "is no hour"),
            ("    on: [shutdown]", "    schedule: []", (6, 15), "is empty"),
            ("    on: [shutdown]", "    timezone: Europe/Atlantis", (6, 15), "is no time zone"),
            ("    on: [shutdown]", "    jitter: 10m", (6, 13), "has no schedule"),
            ("    on: [shutdown]", "    window: 22-6", (6, 13), "22:00-06:00"),
            ("    on: [shutdown]", "    rpo: 1s", (6, 10), "within 60 s"),
            ("    on: [shutdown]", "    retention: { keep_daily: 7, keep_fortnightly: 2 }", (6, 33), "keep_fortnightly"),
            ("    on: [shutdown]", "    retention: { min_age: 1d }", (6, 16), "nothing that is to be kept"),
            ("    on: [shutdown]", "    retention: { keep_within: soon }", (6, 31), "no length of time"),
            ("    on: [shutdown]", "    verify: { data_percent_daily: 101 }", (6, 35), "within 1 and 100"),
            ("    on: [shutdown]", "    verify: { rate: 1MiB }", (6, 21), "give both"),
            ("    on: [shutdown]", "    verify: { boot: hourly }", (6, 21), "there are: daily, weekly, monthly"),
            ("    on: [shutdown]", "    limits: { read: 0 }", (6, 21), "1MiB/s is the least"),
            ("    on: [shutdown]", "    limits: { read: 200KiB/s }", (6, 21), "too little to read a disk with"),
            ("    on: [shutdown]", "    limits: { read: fast }", (6, 21), "write 200MiB/s"),
            ("    on: [shutdown]", "    limits: { parallel_disks: 0 }", (6, 31), "within 1 and 8"),
            ("    on: [shutdown]", "    limits: { parallel_disks: 300 }", (6, 31), "within 1 and 8"),
            ("    on: [shutdown]", "    limits: { write: 200MiB/s }", (6, 15), "there are: read, parallel_disks"),
            ("names: [\"prod-*\"]", "tags: [\"a b\"]", (5, 22), "cannot be a tag of domains"),
            ("names: [\"prod-*\"]", "state: asleep", (5, 22), "there are: any, running, off"),
            ("key_file: /etc/cairn/keys/main.key", "jobs_max: 0", (2, 39), "within 1 and 64"),
            ("key_file: /etc/cairn/keys/main.key", "gc_every: often", (2, 39), "gc_every"),
            ("reconcile_every: 2m", "reconcile_every: soon", (11, 20), "soon"),
            ("reconcile_every: 2m", "reconcile_every: 1s", (11, 20), "5 s"),
            ("reconcile_every: 2m", "socket: run.sock", (11, 11), "absolute"),
            ("stores: [main]", "stores: [other]", (7, 14), "there are: main"),
            ("stores: [main]", "stores: []", (7, 13), "names no store"),
            ("[shutdown]", "[sundown]", (6, 10), "sundown"),
            ("names: [\"prod-*\"]", "names: [\"[\"]", (5, 23), "pattern"),
            ("names: [\"prod-*\"]", "names: []", (5, 22), "selects nothing"),
            ("url: /srv/backup, ", "", (2, 11), "url"),
            ("/srv/backup", "s3://x/y", (2, 16), "s3"),
            ("/srv/backup", "backup", (2, 16), "absolute"),
            ("key_file: /etc/cairn/keys/main.key", "key_file: /k, passphrase_file: /p", (2, 60), "give one"),
            ("jobs_max: 4", "jobs_max: 0", (12, 13), "within 1 and 64"),
            ("jobs_max: 4", "jobs_max: many", (12, 13), "whole number"),
            ("freeze: /bin/sh", "freeze: sh", (13, 20), "absolute"),
            ("freeze: /bin/sh", "freeze: /nowhere/x", (13, 20), "No such file"),
            ("freeze: /bin/sh", "freeze: /etc/passwd", (13, 20), "executed"),
            ("freeze: /bin/sh", "freeze: /etc", (13, 20), "executed"),
            ("freeze_limit: 5s", "freeze_limit: 1h", (8, 46), "whole seconds within 4 s and 60 s"),
            ("freeze_limit: 5s", "freeze_limit: 3s", (8, 46), "whole seconds within 4 s and 60 s"),
            ("freeze_limit: 5s", "freeze_limit: 61s", (8, 46), "60 s"),
            ("[/, /var/]", "[]", (8, 65), "no mount point is named"),
            ("[/, /var/]", "[var]", (8, 65), "write it from /"),
            ("level: require", "level: never", (8, 63), "leave one of them out"),
            ("tags: [gold]", "tags: [\"a\\nb\"]", (9, 11), "tag"),
            ("  main:", "  ma/in:", (2, 10), "cannot be the name"),
            ("daemon:\n", "stores:\n", (10, 1), "duplicate"),
            ("jobs_max: 4", "hook_dir: run/x", (12, 13), "absolute"),
            ("jobs_max: 4", LONG_HOOK_DIR, (12, 13), "at most 84 bytes"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let e = wrong(&GOOD.replace(from, to));
            if !e.errors.iter().any(|e| e.why.contains(word) && e.at == Some(at)) {
                odd.push(format!("{to}: wanted {at:?} {word}, got {e}"));
            }
            assert!(e.lines().iter().all(|line| line.starts_with("/c:")), "{e}");
        }
        assert!(odd.is_empty(), "{odd:#?}");
        assert!(wrong("stores: [").errors[0].at.is_some());
    }

    #[test]
    fn a_policy_says_when_what_is_kept_and_what_is_checked() {
        let more = "    on: [shutdown]\n    schedule: [\"0 2 * * *\", \"@weekly\"]\n    timezone: Europe/Berlin\n    jitter: 30m\n    window: 22:00-06:00\n    rpo: 26h\n    retention: { keep_last: 3, keep_daily: 7, keep_within: 1mo, keep_tags: [gold], min_age: 1d }\n    verify: { data_percent_daily: 15, rate: 50MiB, boot: weekly }\n    limits: { read: 200MiB/s, parallel_disks: 2 }";
        let text = GOOD.replace("    on: [shutdown]", more).replace("key_file: /etc/cairn/keys/main.key", "jobs_max: 1, gc_every: never");
        let c = parse(Path::new("/c"), &text, Programs::There).unwrap_or_else(|e| panic!("{e}"));
        let policy = &c.policies["nightly"];
        let schedule = policy.schedule.as_ref().expect("a schedule");
        assert_eq!((schedule.crons.len(), schedule.zone.iana_name(), policy.jitter), (2, Some("Europe/Berlin"), Duration::from_secs(1800)));
        assert_eq!((policy.window.as_ref().map(ToString::to_string).as_deref(), policy.rpo), (Some("22:00-06:00"), Some(Duration::from_secs(26 * 3600))));
        let options = policy.retention.as_ref().expect("rules").options();
        assert_eq!(options, ["--keep-last=3", "--keep-daily=7", "--keep-within=1mo", "--keep-tag=gold", "--min-age=1d"]);
        assert_eq!(
            (policy.verify.percent_daily, policy.verify.rate.as_deref(), policy.verify.boot.map(Every::word)),
            (Some(15), Some("50MiB"), Some("weekly"))
        );
        assert_eq!((policy.limits.read.clone(), policy.limits.parallel_disks), (Some(("200MiB/s".to_owned(), 200 << 20)), Some(2)));
        assert_eq!((c.stores["main"].jobs_max, c.stores["main"].gc_every), (Some(1), None));
        let second = text.replace("policies:\n", "policies:\n  a: { default: true, stores: [main] }\n  b: { default: true, stores: [main] }\n");
        let e = wrong(&second);
        assert!(e.errors.len() == 1 && e.errors[0].at == Some((5, 6)) && e.errors[0].why.contains("\"a\" is that already"), "{e}");
    }

    #[test]
    fn a_program_that_is_not_here_is_the_daemons_affair() {
        let text = GOOD.replace("/bin/sh", "/nowhere/x");
        let config = parse(Path::new("/c"), &text, Programs::Unseen).expect("a store of it can be used all the same");
        assert_eq!(config.daemon.on_stuck_freeze.as_deref(), Some(Path::new("/nowhere/x")));
    }

    #[test]
    fn all_that_is_wrong_is_told_in_the_order_of_the_file() {
        let text = GOOD.replace("[main]", "[other]").replace("jobs_max: 4", "jobs_max: 65").replace("/srv/backup", "backup");
        let e = wrong(&text);
        let lines: Vec<u64> = e.errors.iter().filter_map(|e| e.at).map(|at| at.0).collect();
        assert_eq!(lines, [2, 7, 12], "{e}");
    }

    #[test]
    fn a_mistake_of_grammar_hides_no_other() {
        let text = "\
stores:
  main: { url: /srv, keyfile: /k }
  far: /srv/b
policies:
  p:
    selct: { names: [\"ü\", b] }
    stores: [main, far]
    schedule: \"0 25 * * *\"
    quiesce: { level: required, freeze_limit: 1h }
  q:
    select: { names: [a] }
    schedul: \"@daily\"
    jitter: 10m
    # nobody's
    retention:
      keep_weeks: 3
    on: [sundown]
  r:
    select: { names: [a] }
daemon:
  jobs_max: 99
  nonsense: 1
";
        let told: Vec<String> = wrong(text).lines().iter().map(|line| line.split(';').next().unwrap_or_default().to_owned()).collect();
        let wanted = [
            "/c:2:22: there is no key 'keyfile' here, did you mean 'key_file'?",
            "/c:3:8: far: takes keys of its own, not a text",
            "/c:6:5: there is no key 'selct' here, did you mean 'select'?",
            "/c:8:15: schedule: ",
            "/c:9:23: 'required' is not known here, did you mean 'require'?",
            "/c:9:47: freeze_limit is \"1h\"",
            "/c:12:5: there is no key 'schedul' here, did you mean 'schedule'?",
            "/c:16:7: there is no key 'keep_weeks' here",
            "/c:17:10: 'sundown' is not known here",
            "/c:19:5: the key 'stores' is missing here",
            "/c:21:13: jobs_max is 99",
            "/c:22:3: there is no key 'nonsense' here",
        ];
        // Not: that p selects nothing, that q has no schedule and no stores, and that there is no store far.
        let fits = told.len() == wanted.len() && told.iter().zip(wanted).all(|(told, wanted)| told.starts_with(wanted));
        assert!(fits, "{told:#?}\n{wanted:#?}");
        // A store that is not there is told beside a mistake elsewhere, and so is a text that is no YAML further down.
        let e = wrong(&GOOD.replace("[main]", "[mian]").replace("jobs_max: 4", "jobs: 4"));
        assert!(e.errors.len() == 2 && e.errors[0].why.contains("there is no store \"mian\"") && e.errors[1].why.contains("'jobs'"), "{e}");
        let e = wrong("nonsense: 1\nstores:\n\tmain: { url: /srv }\n");
        assert!(e.errors.len() == 2 && e.errors[0].at == Some((1, 1)) && e.errors[1].why.contains("use spaces"), "{e}");
        // As many as anybody will mend at once, and it ends.
        let many: String = (0..500).map(|n| format!("nonsense{n}: 1\n")).collect();
        assert_eq!(wrong(&many).errors.len(), blank::ROUNDS_MAX);
    }

    #[test]
    fn what_is_no_such_file_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("c.yaml");
        assert!(load(&path).expect_err("is not there").to_string().contains("c.yaml"));
        assert!(load(dir.path()).expect_err("a folder").to_string().contains("no file"));
        std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).expect("writes");
        assert!(load(&path).expect_err("too long").to_string().contains("more than"));
        std::fs::write(&path, b"stores: {}\n# caf\xe9\n").expect("writes");
        assert!(load(&path).expect_err("no text").to_string().contains("c.yaml:2:6: what stands here is no text in UTF-8"));
        std::fs::write(&path, "x: &a [*a, *a]\nstores: {}\n").expect("writes");
        assert!(load(&path).is_err(), "bombs and unknown keys");
    }
}
