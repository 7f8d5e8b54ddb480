//! Pages of docs/ that say what the program has: each is held to it here. No lab is needed, but for the program under test.
//!
//! docs/configuration.md is made of the definitions in agent/src/config/{raw,raw_alert}.rs: `CAIRN_WRITE_PAGES=1 cargo test -p cairn-lab --test pages` writes its tables anew.

use cairn_lab::lab::CAIRN_VARIABLE;
use cairn_lab::process::{Output, run};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const BEGIN: &str = "<!-- keys: made of agent/src/config/raw.rs -->\n";
const END: &str = "<!-- end of keys -->\n";
const WRITE: &str = "CAIRN_WRITE_PAGES";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A key of the configuration, as raw.rs has it.
#[derive(Debug, Default, Clone)]
struct Key {
    name: String,
    kind: String,
    what: String,
    /// Of `- type:` and the like.
    said: BTreeMap<String, String>,
}

impl Key {
    fn said(&self, of: &str) -> &str {
        self.said.get(of).unwrap_or_else(|| panic!("raw.rs: {} has no line '/// - {of}: ...'", self.name))
    }

    /// As YAML has it, without the backticks.
    fn example(&self) -> &str {
        let text = self.said("example");
        text.strip_prefix('`').and_then(|text| text.strip_suffix('`')).unwrap_or_else(|| panic!("raw.rs: the example of {} is not in backticks", self.name))
    }
}

/// The fields of each struct, with what is said of them.
fn structs() -> BTreeMap<String, Vec<Key>> {
    let (mut out, mut of, mut key) = (BTreeMap::<String, Vec<Key>>::new(), String::new(), Key::default());
    let source = ["raw", "raw_alert"].map(|file| read(format!("agent/src/config/{file}.rs"))).concat();
    for line in source.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            of = rest.trim_end_matches(" {").to_owned();
        } else if line == "}" {
            of.clear();
        } else if let Some(said) = line.strip_prefix("    /// ").filter(|_| !of.is_empty()) {
            match said.strip_prefix("- ").and_then(|said| said.split_once(": ")) {
                Some((word, text)) => drop(key.said.insert(word.to_owned(), text.to_owned())),
                None => key.what += &format!(" {said}"),
            }
        } else if let Some((name, kind)) = line.strip_prefix("    pub ").and_then(|rest| rest.split_once(": ")).filter(|_| !of.is_empty()) {
            let name = if name == "matching" { "match" } else { name };
            (key.name, key.kind) = (name.to_owned(), kind.trim_end_matches(',').to_owned());
            out.entry(of.clone()).or_default().push(std::mem::take(&mut key));
        }
    }
    out
}

/// Each place of the file with its keys, in their order.
fn places(all: &BTreeMap<String, Vec<Key>>, of: &str, path: &str, out: &mut Vec<(String, Vec<Key>)>) {
    out.push((path.to_owned(), all[of].clone()));
    for key in &all[of] {
        let mut words = key.kind.split(|c: char| !c.is_ascii_alphanumeric());
        let Some(below) = words.find_map(|word| all.get_key_value(word)).map(|found| found.0) else { continue };
        let (dot, name) = (if path.is_empty() { "" } else { "." }, if key.kind.starts_with("BTreeMap") { ".NAME" } else { "" });
        places(all, below, &format!("{path}{dot}{}{name}", key.name), out);
    }
}

fn all_places() -> Vec<(String, Vec<Key>)> {
    let mut out = Vec::new();
    places(&structs(), "RawConfig", "", &mut out);
    assert!(out.len() >= 8, "{out:#?}");
    out
}

fn tables() -> String {
    let mut out = String::new();
    for (path, keys) in all_places() {
        let heading = if path.is_empty() { "At the top".to_owned() } else { format!("`{path}`") };
        write!(out, "\n## {heading}\n\n| key | type | default | what | example |\n|---|---|---|---|---|\n").expect("to memory");
        for key in keys {
            let (kind, default) = (key.said("type"), key.said("default"));
            assert!(!key.what.is_empty() && !key.what.contains('|'), "raw.rs: {:?} of {}", key.what, key.name);
            writeln!(out, "| `{}` | {kind} | {default} | {} | `{}` |", key.name, key.what.trim(), key.example()).expect("to memory");
        }
    }
    out + "\n"
}

#[test]
fn the_page_of_settings_is_made_of_their_definitions() {
    let page = read("docs/configuration.md");
    let (head, rest) = page.split_once(BEGIN).expect("a begin of the tables");
    let (found, tail) = rest.split_once(END).expect("an end of the tables");
    let wanted = tables();
    if std::env::var_os(WRITE).is_some() {
        fs::write(root().join("docs/configuration.md"), format!("{head}{BEGIN}{wanted}{END}{tail}")).expect("written");
        return;
    }
    let odd: Vec<_> = found.lines().zip(wanted.lines()).filter(|(a, b)| a != b).collect();
    assert!(found == wanted, "docs/configuration.md is not what raw.rs says: {WRITE}=1 cargo test -p cairn-lab --test pages\n{odd:#?}");
}

/// What the program says of a configuration.
fn check_config(text: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cairn.yaml");
    fs::write(&path, text).expect("written");
    let program = std::env::var_os(CAIRN_VARIABLE).expect("CAIRN names the program under test");
    run(Command::new(program).args(["daemon", "--check-config", "--config"]).arg(&path), LIMIT).expect("it ends")
}

/// A file in which each key finds what it needs beside it.
fn base() -> Value {
    json!({
        "stores": {"main": {"url": "/srv/backup"}},
        "alerts": {
            "run": {"command": ["/bin/true"]},
            "post": {"mail": {"to": ["a@example.net"], "from": "b@example.net", "server": "smtps://mail.example.net", "user": "c", "password_file": "/etc/cairn/d"}},
            "call": {"webhook": {"url": "https://hooks.example.net"}},
        },
        "policies": {"all": {
            "select": {"names": ["*"]}, "schedule": "0 2 * * *", "stores": ["main"],
            "verify": {"data_percent_daily": 15}, "retention": {"keep_last": 1},
        }},
    })
}

/// A place of the page in that file; of targets of alerts the one to which the key belongs.
fn at<'a>(file: &'a mut Value, path: &str, key: &str) -> &'a mut Value {
    let target = [path, key].iter().find_map(|word| if word.ends_with("mail") { Some("post") } else { word.ends_with("webhook").then_some("call") });
    let path = path.replace("stores.NAME", "stores.main").replace("policies.NAME", "policies.all");
    let path = path.replace("alerts.NAME", &format!("alerts.{}", target.unwrap_or("run")));
    path.split('.').filter(|part| !part.is_empty()).fold(file, |value, part| &mut value[part])
}

#[test]
fn the_program_knows_these_keys_and_no_others() {
    for (path, keys) in all_places() {
        let mut file = base();
        *at(&mut file, &path, "") = json!({"no_such_key": 1});
        let said = check_config(&file.to_string());
        let text = said.err_text();
        let listed = text.split_once("there are: ").unwrap_or_else(|| panic!("{path}: {said:?}")).1;
        let listed = listed.lines().next().unwrap_or_default();
        let mut listed: Vec<&str> = listed.trim().split(", ").collect();
        let mut names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        listed.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, listed, "keys of {path:?}");
    }
}

#[test]
fn examples_of_settings_load() {
    const HERE: &str = "the example";
    for (path, keys) in all_places() {
        for key in keys {
            let mut file = base();
            at(&mut file, &path, &key.name)[&key.name] = HERE.into();
            let text = file.to_string().replace(&format!("{HERE:?}"), key.example());
            let said = check_config(&text);
            // The one program that is named must be there, which it is on hosts of others.
            let is_absent = key.name == "on_stuck_freeze" && said.err_text().matches("cairn.yaml:").count() == 1 && said.err_text().contains("No such file");
            assert!(said.code() == 0 || is_absent, "{path}.{}: {}\n{text}", key.name, said.err_text());
        }
    }
    for page in ["configuration.md", "policies.md", "daemon.md"] {
        let text = read(Path::new("docs").join(page));
        let blocks: Vec<&str> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|block| block.0).collect();
        assert!(!blocks.is_empty(), "{page} has an example");
        for block in blocks {
            let said = check_config(block);
            assert_eq!(said.code(), 0, "{page}: {}\n{block}", said.err_text());
        }
    }
}

#[test]
fn the_page_of_errors_has_every_code_and_kind() {
    let (page, source) = (read("docs/errors.md"), read("agent/src/failure.rs"));
    let codes: Vec<(&str, &str)> = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.strip_suffix(';')?.split_once(": u8 = ")).collect();
    assert!(codes.len() >= 10 && codes.contains(&("INTERRUPTED", "130")), "{codes:?}");
    for (name, code) in codes {
        let kind = source.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(" => \"")?.strip_suffix("\","));
        let kind = match name {
            // No error, and without an object in JSON.
            "WARNINGS" => String::new(),
            "FAILED" => "`failed` ".into(),
            _ => format!("`{}` ", kind.unwrap_or_else(|| panic!("failure.rs has no kind for {name}"))),
        };
        let row = format!("\n| {code} | {kind}| ");
        assert_eq!(page.matches(&row).count(), 1, "docs/errors.md has no row {row:?}");
    }
}

/// All of the sources, values as the page has them: `…`.
fn sources() -> String {
    let mut folders: Vec<PathBuf> = ["agent", "store", "hypervisor", "qga-quiesce"].iter().map(|name| root().join(name).join("src")).collect();
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("sources").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() { folders.push(path) } else { text += &read(&path) }
        }
    }
    // A literal that goes on in the next line.
    let text: String = text.split("\\\n").enumerate().map(|(n, part)| if n == 0 { part } else { part.trim_start() }).collect();
    let mut parts = text.split('{');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}').filter(|(value, _)| !value.contains(['\n', ' '])) {
            Some((_, rest)) => out += &format!("…{rest}"),
            None => out += part,
        }
    }
    out
}

#[test]
fn what_the_page_of_errors_quotes_is_what_the_program_says() {
    let (page, sources) = (read("docs/errors.md"), sources());
    let rows = page.split_once("\n## Store").expect("messages").1.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let (quoted, gone): (Vec<&str>, Vec<&str>) = rows.map(|row| row.0).partition(|message| sources.contains(message));
    assert!(gone.is_empty() && quoted.len() > 30, "nowhere in the sources: {gone:#?}");
}

/// Where a page's links lead: file (empty for the page itself) and heading.
fn links(text: &str) -> Vec<(&str, Option<&str>)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|link| link.0);
    let own = targets.filter(|target| !target.contains("://") && !target.contains(char::is_whitespace));
    own.map(|target| target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading)))).collect()
}

/// The names by which a page's headings are linked.
fn headings(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with('#'));
    let name = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    lines.map(|line| name(line).chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()).collect()
}

#[test]
fn every_page_is_in_the_list_and_no_link_leads_astray() {
    let docs = root().join("docs");
    let mut pages: Vec<_> = fs::read_dir(&docs).expect("docs").map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect();
    let list = read("docs/README.md");
    let listed: Vec<&str> = links(&list).into_iter().map(|link| link.0).collect();
    let names = pages.iter().filter_map(|path| path.file_name()?.to_str()).filter(|name| *name != "README.md");
    let missing: Vec<&str> = names.filter(|name| !listed.contains(name)).collect();
    assert!(missing.is_empty(), "docs/README.md does not name {missing:?}");

    pages.push(root().join("README.md"));
    let mut astray = Vec::new();
    for page in pages {
        let text = read(&page);
        for (file, heading) in links(&text) {
            let target = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            if !target.exists() || heading.is_some_and(|heading| !headings(&read(&target)).iter().any(|name| name == heading)) {
                astray.push(format!("{}: {file}#{}", page.display(), heading.unwrap_or_default()));
            }
        }
    }
    assert!(astray.is_empty(), "{astray:#?}");
}
