//! `cairn prune` as policies call it: points of one host, names that may have none.

use crate::place::{Place, noise};
use serde_json::Value;

#[test]
fn only_points_of_the_host_that_was_named_go() {
    let place = Place::new();
    for seed in 0..3 {
        place.save("w", &noise(100_000, seed));
    }
    let pruned = |args: &[&str]| place.run(&[&["prune", "--keep-last", "1", "--json"], args].concat());
    let count = |said: &Value, action: &str| said.as_array().expect("a list").iter().filter(|row| row["action"] == action).count();
    let said = pruned(&["--host", "another", "w"]).expect(0).json();
    assert_eq!(said.as_array().map(Vec::len), Some(0), "{said}");
    pruned(&["w", "nobody"]).expect(15);
    // Of a domain: what was saved of an image has no UUID.
    let said = pruned(&["--uuid", "0d5a1f00-0000-4000-8000-000000000001", "w"]).expect(0).json();
    assert!(said.as_array().expect("points").iter().all(|p| p["action"] == "keep"), "{said}");
    assert!(said.to_string().contains("another domain"), "{said}");
    pruned(&["--ignore-missing", "nobody"]).expect(0);
    let host = place.run(&["list", "--json"]).expect(0).json()[0]["host"].as_str().expect("a host").to_owned();
    let said = pruned(&["--host", "another", "--host", &host, "--ignore-missing", "--", "w", "nobody"]).expect(0).json();
    assert_eq!((count(&said, "forget"), count(&said, "keep")), (2, 1), "{said}");
}
