//! Completions as bash itself has them, manual pages in a folder.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const CAIRN: &str = env!("CARGO_BIN_EXE_cairn");

fn cairn(args: &[&str]) -> Output {
    Command::new(CAIRN).args(args).output().expect("starts")
}

/// What bash offers for the last of these words.
fn offered(script: &Path, words: &[&str]) -> Vec<String> {
    let ask = format!(
        "set -u; source '{}'; COMP_WORDS=({}); COMP_CWORD={}; _cairn cairn '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2]
    );
    let said = Command::new("bash").args(["--norc", "-c", &ask]).output().expect("bash");
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = tempfile::tempdir().expect("dir");
    let script = dir.path().join("cairn");
    let made = cairn(&["completions", "bash"]);
    assert!(made.status.success(), "{made:?}");
    fs::write(&script, &made.stdout).expect("writes");
    assert_eq!(offered(&script, &["cairn", "rest"]), ["restore"]);
    assert_eq!(offered(&script, &["cairn", "job", "ca"]), ["cancel"]);
    assert_eq!(offered(&script, &["cairn", "backup", "--qui"]), ["--quiesce", "--quiet"]);
    assert!(offered(&script, &["cairn", "serve"]).iter().all(String::is_empty), "what Cairn starts by itself is not offered");
}

#[test]
fn pages_go_to_a_folder_and_again_in_the_place_of_the_old_ones() {
    let dir = tempfile::tempdir().expect("dir");
    let folder = dir.path().join("man/man1");
    for _ in 0..2 {
        let made = cairn(&["man", &folder.display().to_string(), "--json"]);
        assert!(made.status.success(), "{made:?}");
        let told: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
        let there = fs::read_dir(&folder).expect("a folder").count();
        assert_eq!(told["pages"].as_array().map(Vec::len), Some(there), "{told}");
    }
    let own = cairn(&["man"]);
    assert_eq!(fs::read_to_string(folder.join("cairn.1")).expect("a page").trim_end(), String::from_utf8_lossy(&own.stdout).trim_end());
    assert!(folder.join("cairn-hook-install.1").is_file());
    let full = dir.path().join("file");
    fs::write(&full, "").expect("writes");
    let refused = cairn(&["man", &full.join("x").display().to_string()]);
    assert!(refused.status.code() == Some(1) && String::from_utf8_lossy(&refused.stderr).contains("cannot write"), "{refused:?}");
}
