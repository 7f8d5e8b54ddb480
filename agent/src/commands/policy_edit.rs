//! `cairn policy create`, `delete`: lines are put into the configuration, or taken out of it; all others stay as they are, comments too.
//!
//! Invariants
//! - The new text is checked before it is written: it must say what the old one said, but for this policy. What cannot be edited so is left alone, and told.
//! - The file is replaced whole or not at all, with the owner and mode that it had.

use super::{Done, policy::named};
use crate::{
    cli::{Common, PolicyCreate},
    config::{self, Config},
    failure::{FAILED, Failure, Outcome},
    output,
};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{MetadataExt, fchown},
    path::Path,
};

/// `cairn policy create`
pub fn create(common: &Common, path: &Path, config: &Config, o: &PolicyCreate) -> Outcome<Done> {
    if config.policies.contains_key(&o.policy) {
        return Err(Failure::refused(format!(
            "there is a policy '{}' already; 'cairn policy delete' takes it away, or choose another name",
            output::shown(&o.policy)
        )));
    }
    let old = read(path)?;
    let lines = lines(o);
    let new = inserted(&old, &o.policy, &lines).ok_or_else(|| {
        let block = block(&o.policy, &lines, 2);
        Failure::refused(format!("{}: 'policies:' is not in lines of its own below it; nothing was written. Put this there by hand:\n{block}", path.display()))
    })?;
    let checked =
        config::parse_for_daemon(path, &new).map_err(|e| Failure::usage(format!("this would be wrong, and nothing was written:\n{}", e.lines().join("\n"))))?;
    let mut rest = checked.clone();
    if rest.policies.remove(&o.policy).is_none() || rest != *config {
        return Err(changed_more(path));
    }
    if o.dry_run {
        out!("{}", new.trim_end());
        return Ok(Done::Clean);
    }
    replace(path, &old, &new)?;
    said(common, path, &json!({"created": o.policy}), &format!("policy {} is written", o.policy));
    Ok(Done::Clean)
}

/// `cairn policy delete`
pub fn delete(common: &Common, path: &Path, config: &Config, name: &str) -> Outcome<Done> {
    named(config, name)?;
    let old = read(path)?;
    let by_hand = || Failure::refused(format!("{}: policy '{name}' is not in lines of its own; nothing was written, take it out by hand", path.display()));
    let new = removed(&old, name).ok_or_else(by_hand)?;
    let mut rest = config.clone();
    rest.policies.remove(name);
    if config::parse_for_daemon(path, &new).map_err(|_| by_hand())? != rest {
        return Err(changed_more(path));
    }
    replace(path, &old, &new)?;
    said(common, path, &json!({"deleted": name}), &format!("policy {name} is taken out; its points stay"));
    Ok(Done::Clean)
}

fn said(common: &Common, path: &Path, value: &Value, line: &str) {
    if common.json {
        output::print_json(value);
    } else if !common.quiet {
        out!("{}: {line}; 'cairn daemon --reload' makes the daemon take it", path.display());
    }
}

fn changed_more(path: &Path) -> Failure {
    Failure::refused(format!("{}: the change would touch more than this policy; nothing was written, change the file by hand", path.display()))
}

fn failed(path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(FAILED, format!("{}: {e}; nothing was changed", path.display()))
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|e| failed(path, &e))
}

/// Keys and values as they stand below the policy's name. What JSON quotes YAML understands.
fn lines(o: &PolicyCreate) -> Vec<String> {
    let list = |all: &[String]| Value::from(all.to_vec()).to_string();
    let mut select = Vec::new();
    for (key, all) in [("names", &o.names), ("tags", &o.tags), ("except", &o.except)] {
        if !all.is_empty() {
            select.push(format!("{key}: {}", list(all)));
        }
    }
    let mut out = Vec::new();
    if o.default {
        out.push("default: true".to_owned());
    }
    if !select.is_empty() {
        out.push(format!("select: {{ {} }}", select.join(", ")));
    }
    for (key, all) in [("on", &o.on), ("schedule", &o.schedule), ("stores", &o.stores)] {
        if !all.is_empty() {
            out.push(format!("{key}: {}", list(all)));
        }
    }
    for (key, one) in [("timezone", &o.timezone), ("jitter", &o.jitter), ("window", &o.window), ("rpo", &o.rpo)] {
        out.extend(one.iter().map(|text| format!("{key}: {}", Value::from(text.as_str()))));
    }
    let counts = [
        ("keep_last", o.keep_last),
        ("keep_hourly", o.keep_hourly),
        ("keep_daily", o.keep_daily),
        ("keep_weekly", o.keep_weekly),
        ("keep_monthly", o.keep_monthly),
        ("keep_yearly", o.keep_yearly),
    ];
    let keep: Vec<String> = counts.into_iter().filter_map(|(key, n)| Some(format!("{key}: {}", n?))).collect();
    if !keep.is_empty() {
        out.push(format!("retention: {{ {} }}", keep.join(", ")));
    }
    out.extend(o.verify_percent.map(|n| format!("verify: {{ data_percent_daily: {n} }}")));
    out
}

fn block(name: &str, lines: &[String], indent: usize) -> String {
    let mut out = format!("{:indent$}{name}:\n", "");
    for line in lines {
        writeln!(out, "{:indent$}{line}", "", indent = indent * 2).expect("to memory");
    }
    out
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_text(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start().starts_with('#')
}

/// Where the policies are: the line behind `policies:`, the line behind the last that belongs to them, and their indentation. The error: that line has more in it.
fn place(lines: &[&str]) -> Option<Result<(usize, usize, usize), usize>> {
    let at = lines.iter().position(|line| line.starts_with("policies:"))?;
    let rest = lines[at]["policies:".len()..].trim();
    if !rest.is_empty() && !rest.starts_with('#') {
        return Some(Err(at));
    }
    let below = &lines[at + 1..];
    let end = below.iter().position(|line| is_text(line) && indent_of(line) == 0).map_or(lines.len(), |n| at + 1 + n);
    let indent = lines[at + 1..end].iter().find(|line| is_text(line)).map_or(2, |line| indent_of(line));
    Some(Ok((at + 1, end, indent)))
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The text with the policy in it; none where it must be put there by hand.
fn inserted(old: &str, name: &str, keys: &[String]) -> Option<String> {
    let lines: Vec<&str> = old.lines().collect();
    match place(&lines) {
        None => Some(format!("{}policies:\n{}", joined(&lines), block(name, keys, 2))),
        Some(Ok((begin, _, indent))) => Some(format!("{}{}{}", joined(&lines[..begin]), block(name, keys, indent), joined(&lines[begin..]))),
        Some(Err(at)) => {
            let behind = lines[at].strip_prefix("policies: {}").filter(|rest| !is_text(rest))?;
            Some(format!("{}policies:{behind}\n{}{}", joined(&lines[..at]), block(name, keys, 2), joined(&lines[at + 1..])))
        }
    }
}

/// The text without the policy; none where it must be taken out by hand.
fn removed(old: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = old.lines().collect();
    let (begin, end, indent) = place(&lines)?.ok()?;
    let is_it = |line: &str| {
        let key = line.trim_start().split(':').next().unwrap_or_default().trim_matches(['"', '\'']);
        is_text(line) && indent_of(line) == indent && key == name
    };
    let at = (begin..end).find(|n| is_it(lines[*n]))?;
    let last = (at + 1..end).take_while(|n| !is_text(lines[*n]) || indent_of(lines[*n]) > indent).filter(|n| is_text(lines[*n])).last().unwrap_or(at);
    let rest: Vec<&str> = lines[..at].iter().chain(&lines[last + 1..]).copied().collect();
    let none_left = !lines[begin..at].iter().chain(&lines[last + 1..end]).any(|line| is_text(line));
    if none_left {
        // A key without anything below it is an error.
        let key = rest[begin - 1].replacen("policies:", "policies: {}", 1);
        return Some(format!("{}{key}\n{}", joined(&rest[..begin - 1]), joined(&rest[begin..])));
    }
    Some(joined(&rest))
}

fn replace(path: &Path, old: &str, new: &str) -> Outcome<()> {
    // The file that a link leads to, not the link.
    let path = &path.canonicalize().map_err(|e| failed(path, &e))?;
    let fail = |e: std::io::Error| failed(path, &e);
    let meta = path.metadata().map_err(fail)?;
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create_new(&beside)?;
        file.set_permissions(meta.permissions())?;
        let ours = file.metadata()?;
        if (ours.uid(), ours.gid()) != (meta.uid(), meta.gid()) {
            fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
        }
        file.write_all(new.as_bytes())?;
        file.sync_all()?;
        if fs::read_to_string(path)? != old {
            return Err(std::io::Error::other("somebody else changed it at the same moment; run this again"));
        }
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(|e| {
        // One that was renamed is not there any more.
        let _ = fs::remove_file(&beside);
        fail(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# ours
stores:
  main: { url: /srv }
policies: # see the wiki
    # the first
    a:
        select: { names: [a] } # only it
        stores: [main]

    # the second
    b: { select: { names: [b] }, stores: [main] }
daemon:
  jobs_max: 3
";

    #[test]
    fn lines_are_put_in_and_taken_out_and_no_others_change() {
        let keys = ["default: true".to_owned(), "stores: [\"main\"]".to_owned()];
        let new = inserted(FILE, "c", &keys).expect("there is a place");
        assert_eq!(new, FILE.replace("# see the wiki\n", "# see the wiki\n    c:\n        default: true\n        stores: [\"main\"]\n"));
        assert_eq!(removed(&new, "c").as_deref(), Some(FILE));
        let without = removed(FILE, "a").expect("it is there");
        assert_eq!(without, FILE.replace("    a:\n        select: { names: [a] } # only it\n        stores: [main]\n", ""));
        let none = removed(&without, "b").expect("it is there");
        assert!(none.contains("policies: {} # see the wiki\n") && none.contains("jobs_max: 3"), "{none}");
        assert!(inserted(&none, "c", &keys).expect("there is a place").contains("policies: # see the wiki\n  c:\n    default: true\n"));
        assert_eq!(inserted("stores: {}", "c", &keys).as_deref(), Some("stores: {}\npolicies:\n  c:\n    default: true\n    stores: [\"main\"]\n"));
        for by_hand in ["policies: { a: { select: { names: [a] }, stores: [] } }\n", "policies: &x\n  a: 1\n"] {
            assert_eq!((inserted(by_hand, "c", &keys), removed(by_hand, "a")), (None, None), "{by_hand}");
        }
        assert_eq!(removed(FILE, "main"), None);
    }
}
