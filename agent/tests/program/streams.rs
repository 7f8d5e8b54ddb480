//! stdout and stderr that take nothing, or go away.

use crate::place::{Ended, Place, ended, noise};
use std::{fs::File, process::Stdio};

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("every Linux has it").into()
}

/// A pipe whose reader has gone already.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("makes a pipe");
    drop(reader);
    writer.into()
}

fn with_stdout(place: &Place, args: &[&str], stdout: Stdio) -> Ended {
    ended(place.command(args).stdout(stdout).stderr(Stdio::piped()))
}

#[test]
fn a_full_stdout_is_an_error_that_is_told() {
    let place = Place::new();
    let id = place.save("data", &noise(300_000, 1));
    for args in [&["list"][..], &["list", "--json"], &["show", &id], &["verify", "--all"], &["store", "info"], &["--help"], &["--version"]] {
        let e = with_stdout(&place, args, full()).expect(1);
        assert!(e.err.contains("stdout") && e.err.contains("No space left"), "{args:?}: {}", e.err);
    }
    // The work itself is done.
    with_stdout(&place, &["tag", &id, "gold"], full()).expect(1);
    let tags = place.run(&["show", &id, "--json"]).expect(0).json()["tags"].clone();
    assert!(tags.as_array().expect("tags").contains(&"gold".into()), "{tags}");
}

#[test]
fn a_reader_that_left_is_no_error() {
    let place = Place::new();
    place.save("data", &noise(300_000, 1));
    for args in [&["list"][..], &["list", "--json"], &["store", "info"], &["--help"], &["gc"]] {
        let e = with_stdout(&place, args, closed()).expect(0);
        assert_eq!(e.err, "", "{args:?}");
    }
}

#[test]
fn a_recovery_key_that_nobody_could_read_is_an_error() {
    for stdout in [full(), closed()] {
        let place = Place::new();
        let (store, key) = (place.path("second"), place.path("second-key"));
        let args = ["init", &store.display().to_string(), "--key-file", &key.display().to_string()];
        let e = with_stdout(&place, &args, stdout).expect(1);
        assert!(e.err.contains("recovery key is lost"), "{}", e.err);
    }
}

#[test]
fn a_full_stderr_costs_only_what_it_would_have_said() {
    let place = Place::new();
    let id = place.save("data", &noise(300_000, 1));
    let code = |args: &[&str]| ended(place.command(args).stdout(Stdio::piped()).stderr(full())).code;
    assert_eq!(code(&["show", "nobody@latest"]), 15);
    assert_eq!(code(&["frobnicate"]), 2);
    // With a warning, and with a line of the log.
    std::fs::write(place.store().join("keys/ring-00000002.a"), "half").expect("writes");
    crate::place::flip(&place.file("c", &id));
    std::fs::remove_dir_all(place.path("state")).expect("a host that knows nothing yet");
    assert_eq!(code(&["list", "-v"]), 3);
}

#[test]
fn errors_are_one_object_on_the_last_line_and_warnings_are_text() {
    let place = Place::new();
    std::fs::write(place.store().join("keys/ring-00000002.a"), "half").expect("writes");
    let e = place.run(&["show", "nobody@latest", "--json"]).expect(15);
    let (last, others): (&str, Vec<&str>) = (e.err.lines().last().expect("a line"), e.err.lines().rev().skip(1).collect());
    let object: serde_json::Value = serde_json::from_str(last).expect("an object");
    assert_eq!(object["error"]["code"], 15);
    assert!(!others.is_empty() && others.iter().all(|l| l.starts_with("cairn: warning: ")), "{others:?}");
    assert_eq!(e.out, "");
}
