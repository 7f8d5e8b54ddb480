//! A store whose disk has bad sectors, and one that is gone: real files whose reads end with EIO, and the program itself.

use crate::place::{Place, make_unreadable, noise};
use std::fs;

const MIB: usize = 1 << 20;

/// Two points of one name; the second has 4 MiB more, in a pack of their own. The content of the second, and its id.
fn two_points(place: &Place) -> (Vec<u8>, [String; 2]) {
    let mut content = noise(8 * MIB, 1);
    let first = place.save("data", &content);
    content.extend(noise(4 * MIB, 2));
    let second = place.save("data", &content);
    (content, [first, second])
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_restored() {
    let place = Place::new();
    let (content, [_, second]) = two_points(&place);
    make_unreadable(&place.file("d", &second));
    let target = place.path("disk0.raw");
    let disk = format!("disk0={}", target.display());

    let stopped = place.run(&["restore", &second, "--disk", &disk]).expect(14);
    assert!(stopped.err.contains("Input/output error") && stopped.err.contains(&second), "{}", stopped.err);
    assert!(!target.exists());

    let restored = place.run(&["restore", &second, "--disk", &disk, "--allow-damaged", "--json"]).expect(14).json();
    let damage = restored["disks"][0]["damage"].as_array().expect("ranges");
    let bytes: u64 = damage.iter().map(|d| d["length"].as_u64().expect("a length")).sum();
    assert_eq!(bytes, 4 << 20, "{damage:?}");
    assert!(damage.iter().all(|d| d["offset"].as_u64() >= Some(8 << 20) && d["why"].as_str().is_some_and(|w| w.contains("Input/output error"))), "{damage:?}");
    let got = fs::read(&target).expect("is there");
    assert!(got[..8 * MIB] == content[..8 * MIB] && got[8 * MIB..].iter().all(|b| *b == 0) && got.len() == content.len());
}

#[test]
fn verify_goes_on_past_what_cannot_be_read() {
    let place = Place::new();
    let (_, [first, second]) = two_points(&place);
    make_unreadable(&place.file("d", &second));
    for args in [&["verify", "--all", "--data", "--json"][..], &["verify", "--all", "--json"]] {
        let verdicts = place.run(args).expect(14).json();
        let of = |id: &str| verdicts.as_array().expect("an array").iter().find(|v| v["id"] == id).expect("both were looked at").clone();
        assert_eq!(of(&first)["good"], true, "{verdicts}");
        assert_eq!(of(&second)["good"], false, "{verdicts}");
    }
    // The next backup stores what cannot be read again.
    let healed = place.run(&["backup-image", &place.path("image.raw").display().to_string(), "--name", "data", "--json"]).expect(0).json();
    let again = place.run(&["verify", healed["id"].as_str().expect("an id"), "--data", "--json"]).expect(0).json();
    assert_eq!(again[0]["good"], true);
}

#[test]
fn one_copy_of_metadata_that_cannot_be_read_costs_nothing() {
    let place = Place::new();
    let (content, [_, second]) = two_points(&place);
    place.files("m").iter().filter(|f| f.extension().is_some_and(|e| e == "a")).for_each(|f| make_unreadable(f));
    let target = place.path("disk0.raw");
    place.run(&["restore", &second, "--disk", &format!("disk0={}", target.display())]).expect(0);
    assert!(fs::read(&target).expect("is there") == content);
    assert_eq!(place.run(&["verify", "data", "--data", "--json"]).expect(14).json()[0]["damage_count"], 1, "the copy is named");
}

#[test]
fn index_files_and_reports_that_cannot_be_read_stop_nothing() {
    let place = Place::new();
    let (content, [_, second]) = two_points(&place);
    place.files("x").iter().for_each(|f| make_unreadable(f));
    let pack = place.file("d", &second);
    let moved = place.path("pack");
    fs::rename(&pack, &moved).expect("moves");
    place.run(&["verify", "--all", "--data"]).expect(14);
    assert!(!place.files("b").is_empty(), "it was reported");
    place.files("b").iter().for_each(|f| make_unreadable(f));
    fs::rename(&moved, &pack).expect("moves back");
    fs::remove_dir_all(place.path("state")).expect("a host that knows nothing yet");
    place.run(&["verify", "--all", "--data"]).expect(0);
    let target = place.path("disk0.raw");
    place.run(&["restore", &second, "--disk", &format!("disk0={}", target.display())]).expect(0);
    assert!(fs::read(&target).expect("is there") == content);
    place.save("data", &content);
}

#[test]
fn a_register_that_cannot_be_read_hides_its_point_and_no_other() {
    let place = Place::new();
    let (_, [first, second]) = two_points(&place);
    make_unreadable(&place.file("c", &second));
    fs::remove_dir_all(place.path("state")).expect("a host that knows nothing yet");
    let copied = place.run(&["list", "--json"]).expect(3);
    assert_eq!(copied.json().as_array().map(Vec::len), Some(2), "its copy serves: {}", copied.err);
    make_unreadable(&place.file("r", &second));
    fs::remove_dir_all(place.path("state")).expect("a host that knows nothing yet");
    let listed = place.run(&["list", "--json"]).expect(3);
    assert_eq!(listed.json().as_array().map(Vec::len), Some(1));
    assert!(listed.err.contains(&second) && listed.err.contains("Input/output error"), "{}", listed.err);
    place.run(&["restore", &first, "--disk", &format!("disk0={}", place.path("x.raw").display())]).expect(3);
}
