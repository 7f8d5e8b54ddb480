//! The tidy check: what a reviewer would otherwise have to say again and again.
//!
//! Looks at every file of the checkout but build folders and git's own; says file, line and rule.

use crate::error::{Error, Result};
use crate::workspace;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const RUST_LINES_MAX: usize = 600;
const FILE_BYTES_MAX: u64 = 1 << 20;
const DEPTH_MAX: u32 = 16;
/// Files in which white space and words are looked at.
const TEXT: [&str; 9] = ["rs", "toml", "md", "sh", "xml", "yaml", "yml", "json", "html"];
/// Data that is large or odd on purpose.
const DATA_FOLDERS: [&str; 3] = ["testdata", "corpus", "golden"];
/// In parts, so that this file does not contain them.
const FORBIDDEN: [(&str, &str); 6] = [
    (concat!("/wo", "rk/"), "a path of somebody's machine"),
    (concat!("/ho", "me/"), "a path of somebody's machine"),
    (concat!("FIX", "ME"), "finish it, or open an issue"),
    (concat!("XX", "X:"), "finish it, or open an issue"),
    (concat!("todo", "!("), "finish it"),
    (concat!("unimplemented", "!("), "finish it"),
];
/// What must be there, and words it must have.
const REQUIRED: [(&str, &[&str]); 5] = [
    ("README.md", &["cargo xtask demo", "cargo xtask test"]),
    ("CHANGELOG.md", &["## Unreleased"]),
    ("LICENSE-APACHE", &["Apache License"]),
    ("LICENSE-MIT", &["Permission is hereby granted"]),
    (".ci/run", &["cargo xtask test"]),
];

/// The command.
pub fn main(args: &[String]) -> Result<ExitCode> {
    if let Some(arg) = args.first() {
        return Err(Error::Usage(format!("tidy takes no argument, and {arg:?} is one")));
    }
    check().map(|()| ExitCode::SUCCESS)
}

/// Checks the checkout; the error lists everything found.
pub fn check() -> Result<()> {
    let root = workspace::root();
    let mut found = Vec::new();
    for path in files(root)? {
        found.extend(check_file(root, &path)?);
    }
    for (name, words) in REQUIRED {
        found.extend(check_required(name, words, fs::read_to_string(root.join(name)).ok().as_deref()));
    }
    if found.is_empty() { Ok(()) } else { Err(Error::failed(format!("not tidy:\n  {}", found.join("\n  ")))) }
}

fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|e| Error::failed(format!("cannot read {}: {e}", folder.display())))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && depth < DEPTH_MAX && !name.starts_with("target") && name != ".git" {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn check_file(root: &Path, path: &Path) -> Result<Vec<String>> {
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let is_data = name.split('/').any(|part| DATA_FOLDERS.contains(&part));
    let size = fs::metadata(path).map_err(|e| Error::failed(format!("cannot look at {name}: {e}")))?.len();
    if size > FILE_BYTES_MAX && !is_data {
        return Ok(vec![format!("{name}: {size} bytes; large files do not belong into the repository")]);
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if is_data || !TEXT.contains(&extension) {
        return Ok(Vec::new());
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(check_text(&name, &text)),
        Err(error) => Ok(vec![format!("{name}: no UTF-8 text: {error}")]),
    }
}

fn check_text(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.ends_with([' ', '\t', '\r']) {
            found.push(format!("{name}:{number}: white space at the end of the line"));
        }
        for (word, why) in FORBIDDEN.iter().filter(|(word, _)| line.contains(word)) {
            found.push(format!("{name}:{number}: {word:?}: {why}"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(format!("{name}: no line end at the end of the file"));
    }
    if name.ends_with(".rs") {
        found.extend(check_rust(name, text));
    }
    if name.ends_with("Cargo.toml") && !text.contains("[workspace") && !text.contains("[lints]\nworkspace = true") {
        found.push(format!("{name}: `[lints] workspace = true` is missing"));
    }
    found
}

fn check_rust(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > RUST_LINES_MAX {
        found.push(format!("{name}: {lines} lines; split it, {RUST_LINES_MAX} are the most"));
    }
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        found.push(format!("{name}: must begin with `//!`: what the module is for, its invariants, what it must not do"));
    }
    found
}

fn check_required(name: &str, words: &[&str], text: Option<&str>) -> Vec<String> {
    match text {
        None => vec![format!("{name}: is missing")],
        Some(text) => words.iter().filter(|word| !text.contains(**word)).map(|word| format!("{name}: {word:?} is missing")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_tidy() {
        if let Err(error) = check() {
            panic!("{}", error.report());
        }
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let good = "//! A module.\nfn main() {}\n";
        assert!(check_text("a.rs", good).is_empty());
        let long = format!("{good}{}", "// x\n".repeat(RUST_LINES_MAX));
        let path = format!("{good}// {}x\n", FORBIDDEN[0].0);
        for (what, text) in [
            ("no header", "fn main() {}\n"),
            ("too long", long.as_str()),
            ("white space", "//! A module. \n"),
            ("machine path", path.as_str()),
            ("no line end", "//! A module."),
        ] {
            assert_eq!(check_text("a.rs", text).len(), 1, "{what}");
        }
        assert_eq!(check_text("x/Cargo.toml", "[package]\n").len(), 1);
        assert_eq!(check_required("README.md", &["a", "b"], Some("a")).len(), 1);
        assert_eq!(check_required("README.md", &[], None).len(), 1);
    }
}
