//! What is refused because it would cost somebody their work.

use crate::place::{Place, noise};

#[test]
fn a_collection_does_not_take_for_dead_what_may_be_alive() {
    let place = Place::new();
    place.save("data", &noise(300_000, 1));
    for short in ["0s", "1h", "119m"] {
        let refused = place.run(&["gc", "--dead-after", short]).expect(13);
        assert!(refused.err.contains("--dead-after") && refused.err.contains("sign of life"), "{}", refused.err);
    }
    place.run(&["gc", "--dead-after", "2h"]).expect(0);
    place.run(&["gc", "--dead-after", "1s", "--even-if-alive"]).expect(0);
    assert!(!place.run(&["gc", "--help"]).expect(0).out.contains("even-if-alive"), "no option for people");
}

#[test]
fn lengths_of_time_that_ask_for_nothing_are_refused_by_prune() {
    let place = Place::new();
    for seed in 1..4 {
        place.save("data", &noise(300_000, seed));
    }
    let cases = [
        (&["--keep-last", "1", "--simulate", "0d"][..], "no future"),
        (&["--keep-last", "1", "--simulate", "1h"], "shorter than --every"),
        (&["--keep-last", "1", "--simulate", "10d", "--every", "0s"], "--every 0"),
        (&["--keep-last", "1", "--simulate", "9000y", "--every", "1y"], "9999"),
        (&["--keep-last", "1", "--every", "1h"], "--simulate"),
        (&["--keep-within", "0d"], "--keep-last 1"),
        (&["--keep-within", "0d", "--dry-run"], "--keep-last 1"),
        (&["", "--keep-last", "1"], "NAME"),
    ];
    for (args, word) in cases {
        let refused = place.run(&[&["prune"], args].concat()).expect(2);
        assert!(refused.err.contains(word) && refused.out.is_empty(), "{args:?}: {} {}", refused.out, refused.err);
    }
    assert_eq!(place.run(&["list", "--json"]).expect(0).json().as_array().map(Vec::len), Some(3), "nothing went");
    let steps = place.run(&["prune", "--keep-last", "2", "--simulate", "1d", "--json"]).expect(0).json();
    assert_eq!(steps[0]["steps"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_point_without_its_name_is_told_so() {
    let place = Place::new();
    place.save("data", &noise(300_000, 1));
    for command in [&["forget", "--force"][..], &["show"], &["verify"], &["protect"]] {
        let refused = place.run(&[command, &["@latest"]].concat()).expect(2);
        assert!(refused.err.contains("a name goes before the '@'") && !refused.err.contains("''"), "{command:?}: {}", refused.err);
    }
    let refused = place.run(&["list", ""]).expect(2);
    assert!(refused.err.contains("NAME"), "{}", refused.err);
}

#[test]
fn a_freeze_limit_that_is_none_is_refused_with_what_may_be_said() {
    let place = Place::new();
    for wrong in ["0", "3", "61", "600", "10s"] {
        let refused = place.run(&["backup", "nothing", &format!("--freeze-limit={wrong}")]).expect(2);
        assert!(refused.err.contains("--freeze-limit") && !refused.err.contains("libvirt"), "{wrong}: {}", refused.err);
        assert!(wrong == "10s" || refused.err.contains("4..=60"), "{wrong}: {}", refused.err);
    }
}
