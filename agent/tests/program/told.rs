//! What commands say: the right cause, numbers of one thing, times for people, and a warning for what was most likely not meant.

use crate::place::{Ended, Place, ended, flip, noise};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

const KIB: usize = 1 << 10;
const NOBODY: u32 = 65_534;

#[test]
fn sources_that_were_most_likely_not_meant_are_saved_with_a_warning() {
    let place = Place::new();
    let mut qcow2 = b"QFI\xfb\0\0\0\x03".to_vec();
    qcow2.extend(noise(200 * KIB, 1));
    for (name, content, word) in [("empty", Vec::new(), "0 bytes"), ("qcow2", qcow2, "qemu-img convert")] {
        let image = place.path(name);
        fs::write(&image, content).expect("writes");
        let saved = place.run(&["backup-image", &image.display().to_string(), "--name", name, "--json"]).expect(3);
        assert!(saved.err.contains(word), "{}", saved.err);
        assert_eq!(saved.json()["warning_count"], 1);
        let shown = place.run(&["show", name, "--json"]).expect(0).json();
        assert!(shown["warnings"][0].as_str().is_some_and(|w| w.contains(word)), "{shown}");
    }
    for (name, content) in [("short", b"QFI\xfb".to_vec()), ("raw", noise(100 * KIB, 2))] {
        place.save(name, &content);
    }
}

#[test]
fn verify_says_of_reported_damage_what_it_is() {
    let place = Place::new();
    let id = place.save("data", &noise(900 * KIB, 1));
    flip(&place.file("d", &id));
    place.run(&["verify", &id, "--data"]).expect(14);
    let verdict = place.run(&["verify", &id, "--json"]).expect(14).json();
    let damage = verdict[0]["damage"].as_array().expect("an array");
    assert!(!damage.is_empty() && damage.iter().all(|d| d["why"].as_str().is_some_and(|w| w.contains("reported") && !w.contains("is not in"))), "{verdict}");
}

#[test]
fn a_collection_counts_one_thing_and_lengths_are_for_people() {
    let place = Place::new();
    let id = place.save("data", &noise(300 * KIB, 1));
    place.save("data", &noise(300 * KIB, 2));
    place.run(&["forget", "--force", &id]).expect(0);
    let collected = place.run(&["gc", "--keep-interrupted", "0s"]).expect(0);
    assert!(collected.out.contains("packs discarded") && !collected.out.contains(" of "), "{}", collected.out);
    let refused = place.run(&["gc", "--dead-after", "1s"]).expect(13);
    assert!(refused.err.contains("shorter than 2 h:"), "{}", refused.err);
    let simulated = place.run(&["prune", "data", "--keep-last", "2", "--simulate", "3d", "--every", "1d"]).expect(0);
    assert!(simulated.out.contains("one point every 1 d:"), "{}", simulated.out);
}

/// With so few file handles that it cannot work.
fn with_handles(place: &Place, handles: u32, args: &[&str]) -> Ended {
    let inner = place.command(args);
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={handles}")).arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn too_few_file_handles_are_told_as_such() {
    let place = Place::new();
    let id = place.save("data", &noise(900 * KIB, 1));
    let mut told = 0;
    for handles in 5..40 {
        for args in [&["list"][..], &["verify", &id, "--data"], &["verify", "--packs"]] {
            let out = with_handles(&place, handles, args);
            let is_told = out.code == 1 && out.err.contains("ulimit -n");
            // SQLite and the runtime, which come first, have words of their own (the runtime panics).
            let own_words = ["Too many open files", "unable to open database file"];
            let is_early = out.code == 127 || [1, 101].contains(&out.code) && own_words.iter().any(|w| out.err.contains(w));
            assert!(out.code == 0 || is_told || is_early, "{handles} handles, {args:?}: {out:?}");
            assert!(!out.err.contains("mounted"), "{handles} handles, {args:?}: {out:?}");
            told += u32::from(is_told);
        }
    }
    assert!(told > 3, "{told} were told");
    assert_eq!(place.files("b").len(), 0, "nothing is damaged");
    place.run(&["verify", "--packs"]).expect(0);
}

/// A pack that the scrubbing user may not read is no damage: nobody is told that it is.
#[test]
fn a_pack_that_may_not_be_read_is_an_error_and_no_damage() {
    let place = Place::new();
    let id = place.save("data", &noise(300 * KIB, 1));
    let pack = place.file("d", &id);
    fs::set_permissions(&pack, fs::Permissions::from_mode(if nix::unistd::geteuid().is_root() { 0o600 } else { 0 })).expect("chmod");
    let mut command = place.command(&["verify", "--packs"]);
    if nix::unistd::geteuid().is_root() {
        let all = [&[place.dir.path().to_owned()][..], &place.folders(), &place.files(""), &[place.path("key")]].concat();
        for path in all.iter().filter(|p| **p != pack) {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
        // The host's own state stays with root.
        command.env("CAIRN_STATE_DIR", place.path("state-of-nobody"));
    }
    let out = ended(command.stdout(Stdio::piped()).stderr(Stdio::piped())).expect(1);
    assert!(out.err.contains("Permission denied") && out.err.contains(&id), "{}", out.err);
    assert_eq!(place.files("b").len(), 0, "nothing was reported");
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).expect("chmod");
    place.run(&["verify", "--packs"]).expect(0);
}
