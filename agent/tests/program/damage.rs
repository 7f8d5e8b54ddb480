//! Damaged and foreign files among keys, registers and logs: what goes on, and with which exit code.

use crate::place::{Place, flip, noise};
use std::fs;

const KIB: usize = 1 << 10;

#[test]
fn stray_files_among_keys_and_configuration_are_named_and_passed_over() {
    let (place, other) = (Place::new(), Place::new());
    let id = place.save("data", &noise(300 * KIB, 1));
    fs::write(place.store().join("keys/ring-00000002.a"), "half").expect("writes");
    fs::write(place.store().join("keys/ring-00000003.b"), "").expect("writes");
    fs::copy(other.store().join("keys/ring-00000001.a"), place.store().join("keys/ring-00000004.a")).expect("copies");
    fs::write(place.store().join("config/00000002.a"), noise(500, 9)).expect("writes");
    let listed = place.run(&["list", "--json"]).expect(0);
    assert_eq!(listed.json()[0]["id"].as_str(), Some(id.as_str()));
    for stray in ["keys/ring-00000002.a", "keys/ring-00000003.b", "keys/ring-00000004.a", "config/00000002.a"] {
        assert!(listed.err.contains(stray), "{stray} is named: {}", listed.err);
    }
    // What is stored beside them is stored with the right keys.
    let second = place.save("data", &noise(300 * KIB, 2));
    fs::remove_file(place.store().join("keys/ring-00000002.a")).expect("removes");
    place.run(&["verify", &second, "--data"]).expect(0);
}

#[test]
fn without_a_ring_that_is_whole_nothing_opens() {
    let place = Place::new();
    for copy in ["keys/ring-00000001.a", "keys/ring-00000001.b"] {
        fs::write(place.store().join(copy), "half").expect("writes");
    }
    let refused = place.run(&["list"]).expect(14);
    assert!(refused.err.contains("keys/ring-00000001.a"), "{}", refused.err);
}

#[test]
fn a_register_that_cannot_be_read_ends_in_fourteen() {
    let place = Place::new();
    let ids: Vec<String> = (1..=4).map(|n| place.save("data", &noise(200 * KIB, n))).collect();
    // With its copy, for a register that has one hides nothing.
    ["c", "r"].iter().for_each(|folder| flip(&place.file(folder, &ids[3])));
    fs::remove_dir_all(place.path("state")).expect("a host that knows nothing yet");
    for args in [&["show", &ids[0]][..], &["prune", "--keep-last", "2", "--dry-run"], &["gc"], &["gc", "--dry-run"]] {
        let ended = place.run(args).expect(14);
        assert!(ended.err.contains(&ids[3]), "{args:?} names it: {}", ended.err);
    }
    for list in [&["list"][..], &["list", "--forgotten"]] {
        assert!(place.run(list).expect(3).err.contains(&ids[3]), "{list:?} tells of it");
    }
    // The hidden one takes no place: of the three that can be seen two stay.
    let pruned = place.run(&["prune", "--keep-last", "2", "--json"]).expect(14).json();
    let forgotten: Vec<_> = pruned.as_array().expect("rows").iter().filter(|r| r["action"] == "forget").map(|r| r["id"].clone()).collect();
    assert_eq!(forgotten, [ids[0].as_str()]);
    // Given up by name, it is in nobody's way.
    place.run(&["forget", "--force", &ids[3]]).expect(0);
    place.run(&["gc"]).expect(0);
    place.run(&["show", &ids[1]]).expect(0);
}

#[test]
fn a_prune_that_the_store_breaks_off_fails_and_says_how_far_it_came() {
    let place = Place::new();
    let save = |range: std::ops::Range<u64>| range.map(|n| place.save("data", &noise(20 * KIB, n))).collect::<Vec<String>>();
    let first = save(1..4);
    let month = place.file("c", &first[0]).parent().and_then(|p| p.file_name()).expect("a month").to_owned();
    let graves = place.store().join("f");
    fs::create_dir_all(&graves).expect("a folder");
    fs::write(graves.join(month), "no folder").expect("writes");
    // All were begun, and are forgotten but for their tombstones.
    let ended = place.run(&["prune", "--keep-last", "1", "--min-age", "0s"]).expect(3);
    assert_eq!(ended.err.matches("IS forgotten").count(), 2, "{}", ended.err);
    // More than are begun at once: the rest stays, and it is told which went.
    let more = save(4..44);
    let ended = place.run(&["prune", "--keep-last", "1", "--min-age", "0s"]).expect(1);
    let gone = ended.err.matches("IS forgotten").count();
    assert!(ended.err.contains(&format!("{gone} points had been forgotten by then, the others stay")), "{}", ended.err);
    let left = place.run(&["list", "--json"]).expect(0).json().as_array().map(Vec::len);
    assert!(gone < more.len() && left == Some(more.len() + 1 - gone), "{gone} went, {left:?} are left");
}

#[test]
fn a_point_with_a_damaged_log_can_be_forgotten() {
    let place = Place::new();
    let ids: Vec<String> = (1..=3).map(|n| place.save("data", &noise(200 * KIB, n))).collect();
    for id in &ids {
        place.run(&["tag", id, "gold"]).expect(0);
        flip(&place.file("p", id));
    }
    fs::remove_dir_all(place.path("state")).expect("a host that knows nothing yet");
    let refused = place.run(&["forget", &ids[0], "--min-age", "0s"]).expect(13);
    assert!(refused.err.contains("unprotect") && refused.err.contains("--force") && refused.err.contains("p/"), "{}", refused.err);
    // Its tags may be hidden, and so may a verdict: it neither goes by rule nor takes the place of another.
    let pruned = place.run(&["prune", "--keep-last", "1", "--json"]).expect(14).json();
    assert!(pruned.as_array().expect("rows").iter().all(|r| r["action"] == "keep"), "{pruned}");

    let forced = place.run(&["forget", &ids[0], "--force"]).expect(0);
    assert!(forced.err.contains("warning") && forced.err.contains(&ids[0]), "{}", forced.err);
    // An entry that can be read settles whether it is protected.
    place.run(&["protect", &ids[1]]).expect(0);
    assert!(place.run(&["forget", &ids[1], "--force"]).expect(13).err.contains("protected"));
    place.run(&["unprotect", &ids[1]]).expect(0);
    place.run(&["forget", &ids[1], "--min-age", "0s"]).expect(0);
    assert_eq!(place.run(&["list", "--json"]).expect(3).json().as_array().map(Vec::len), Some(1));
}
