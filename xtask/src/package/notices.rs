//! The licences of all crates that are built in, with the texts that must go with the programs.

use crate::error::{Error, Result};
use crate::workspace;
use cairn_lab::process::run_ok;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
const PROGRAMS: [&str; 2] = ["cairn", "cairn-hook"];
const NAMES: [&str; 5] = ["license", "licence", "copying", "notice", "copyright"];

/// Each crate with its licence, then each text once, with the crates that have it.
pub fn text() -> Result<String> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let said = run_ok(&mut workspace::cargo(&["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform])?, LIMIT)?;
    let metadata: Value = serde_json::from_str(&said).map_err(|e| Error::failed(format!("cargo metadata: {e}")))?;
    let built = built_in(&metadata);
    let mut head = "Cairn is linked with these crates.\n\n".to_owned();
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in list(&metadata["packages"]).filter(|package| built.contains(word(&package["id"])) && !package["source"].is_null()) {
        let name = format!("{} {}", word(&package["name"]), word(&package["version"]));
        head.push_str(&format!("{name}: {}\n", word(&package["license"])));
        for text in beside(Path::new(word(&package["manifest_path"]))) {
            texts.entry(text).or_default().insert(name.clone());
        }
    }
    for (text, names) in texts {
        let names: Vec<String> = names.into_iter().collect();
        head.push_str(&format!("\n{}\n{}\n\n{}\n", "-".repeat(80), names.join(", "), text.trim_end()));
    }
    Ok(head)
}

/// Ids of what the programs need when they run.
fn built_in(metadata: &Value) -> BTreeSet<&str> {
    let is_normal = |dependency: &Value| list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null());
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"]["nodes"]).map(|node| (word(&node["id"]), node)).collect();
    let ours = |package: &&Value| package["source"].is_null() && PROGRAMS.contains(&word(&package["name"]));
    let mut open: Vec<&str> = list(&metadata["packages"]).filter(ours).map(|package| word(&package["id"])).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id)
            && let Some(node) = nodes.get(id)
        {
            open.extend(list(&node["deps"]).filter(|dependency| is_normal(dependency)).map(|dependency| word(&dependency["pkg"])));
        }
    }
    seen
}

/// Texts of licences in a crate's folder.
fn beside(manifest: &Path) -> Vec<String> {
    let entries = fs::read_dir(manifest.parent().unwrap_or(manifest)).into_iter().flatten().flatten();
    let is_one = |name: &str| NAMES.iter().any(|word| name.to_lowercase().starts_with(word));
    entries.filter(|entry| is_one(&entry.file_name().to_string_lossy())).filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_named_and_what_only_tests_need_is_not() {
        let text = text().expect("notices");
        for (name, there) in [("\nzstd ", true), ("\nvirt-sys ", true), ("\nproptest ", false), ("\ncairn-store ", false)] {
            assert_eq!(text.contains(name), there, "{name}");
        }
        assert!(text.contains("Permission is hereby granted") && text.contains("Apache License"));
    }
}
