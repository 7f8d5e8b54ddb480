//! Taking a forget back.

use crate::place::{Place, noise};

fn listed(place: &Place, args: &[&str]) -> Vec<String> {
    let listed = place.run(&[&["list", "--json"], args].concat()).expect(0).json();
    listed.as_array().expect("an array").iter().map(|p| p["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn what_was_said_of_a_point_comes_back_with_it() {
    let place = Place::new();
    place.save("data", &noise(300_000, 1));
    let id = place.save("data", &noise(300_000, 2));
    for args in [&["tag", &id, "gold", "old"][..], &["tag", &id, "--remove", "old"], &["note", &id, "before the upgrade"], &["protect", &id]] {
        place.run(args).expect(0);
    }
    let before = place.run(&["show", &id, "--json"]).expect(0).json();
    place.run(&["unprotect", &id]).expect(0);
    place.run(&["forget", &id, "--force"]).expect(0);
    assert_eq!(listed(&place, &["--forgotten"]), std::slice::from_ref(&id));
    let back = place.run(&["forget", "--undo", &id, "--json"]).expect(0).json();
    let (new, after) = (back["id"].as_str().expect("an id"), place.run(&["show", back["id"].as_str().expect("an id"), "--json"]).expect(0).json());
    assert_ne!(new, id);
    for key in ["name", "time", "tags", "note", "size", "quiesce"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(after["protected"], false, "as it was when it was forgotten");
    assert_eq!(before["disks"][0]["root"], after["disks"][0]["root"]);

    // Once more makes nothing new, and says so.
    let again = place.run(&["forget", "--undo", &id, "--json"]).expect(0);
    assert_eq!(again.json()["id"], new);
    assert!(again.err.contains("there again") && again.err.contains(new), "{}", again.err);
    assert_eq!(listed(&place, &[]).len(), 2);
    assert_eq!(listed(&place, &["--forgotten"]), [""; 0], "nothing is left to be taken back");
}

#[test]
fn only_what_can_be_taken_back_is_listed() {
    let place = Place::new();
    let (gone, kept) = (place.save("gone", &noise(3_000_000, 1)), place.save("kept", &noise(300_000, 2)));
    place.run(&["forget", &gone, "--force"]).expect(0);
    place.run(&["gc", "--keep-trash", "1h"]).expect(0);
    assert_eq!(listed(&place, &["--forgotten"]), std::slice::from_ref(&gone), "its data lies in the trash");
    place.run(&["gc", "--keep-trash", "0s"]).expect(0);
    place.run(&["forget", &kept, "--force"]).expect(0);
    assert_eq!(listed(&place, &["--forgotten"]), [kept], "a collection took the other");
    assert!(place.files("b").is_empty(), "what a collection took is no damage");
    let refused = place.run(&["forget", "--undo", &gone]).expect(15);
    assert!(refused.err.contains("cannot be taken back"), "{}", refused.err);
}

#[test]
fn a_damaged_point_is_not_said_to_be_collected() {
    let place = Place::new();
    let id = place.save("data", &noise(3_000_000, 1));
    place.run(&["forget", &id, "--force"]).expect(0);
    let pack = place.files("d").into_iter().max_by_key(|p| p.metadata().expect("there").len()).expect("a pack");
    let mut bytes = std::fs::read(&pack).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).expect("writes");
    let refused = place.run(&["forget", "--undo", &id]).expect(14);
    assert!(refused.err.contains("some of it is damaged") && !refused.err.contains("has taken it"), "{}", refused.err);
    assert_eq!(listed(&place, &[]), [""; 0], "nothing was committed");
}

/// What is told of a forget that took effect must not make anybody repeat it: `@-1` would be another point then.
#[test]
fn a_forget_whose_tombstone_cannot_be_written_is_told_as_done() {
    let place = Place::new();
    let ids = [place.save("data", &noise(300_000, 1)), place.save("data", &noise(300_000, 2)), place.save("data", &noise(300_000, 3))];
    place.run(&["forget", &ids[0], "--force"]).expect(0);
    let folder = place.files("f")[0].parent().expect("a folder").to_owned();
    std::fs::remove_dir_all(&folder).expect("ours");
    std::fs::write(&folder, "").expect("writes");
    let told = place.run(&["forget", "data@-1", "--force"]).expect(3);
    assert!(told.err.contains(&ids[1]) && told.err.contains("IS forgotten"), "{}", told.err);
    let told = place.run(&["prune", "--keep-tag", "none", "--json"]).expect(0);
    assert_eq!(told.json().as_array().map(Vec::len), Some(1), "the newest stays, the other is gone: {}", told.err);
    std::fs::remove_file(&folder).expect("ours");
    place.run(&["gc"]).expect(0);
    assert!(!place.files("f").is_empty(), "the collection wrote what was missing");
}
