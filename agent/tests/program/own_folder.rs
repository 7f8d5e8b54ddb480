//! Restores into the store's own folder: refused, whatever else is said.

use crate::place::{Place, noise};
use std::{fs, os::unix::fs::symlink};

#[test]
fn nothing_is_restored_or_exported_into_the_store() {
    let place = Place::new();
    let content = noise(300 << 10, 1);
    let id = place.save("data", &content);
    let pack = place.file("d", &id);
    let before = fs::read(&pack).expect("reads");
    let new = place.store().join("restored.raw");
    let linked = place.path("linked");
    symlink(pack.parent().expect("a folder"), &linked).expect("links");
    let through = linked.join(pack.file_name().expect("a name"));
    for path in [&new, &pack, &through, &place.path("state/../store/other.raw")] {
        let disk = format!("disk0={}", path.display());
        for force in [&["--force"][..], &[]] {
            let refused = place.run(&[&["restore", &id, "--disk", &disk], force].concat()).expect(13);
            assert!(force.is_empty() || refused.err.contains("store's own folder"), "{}", refused.err);
        }
    }
    for format in ["--raw", "--qcow2"] {
        let refused = place.run(&["export", &id, format, &new.display().to_string()]).expect(13);
        assert!(refused.err.contains("store's own folder"), "{}", refused.err);
    }
    assert!(fs::read(&pack).expect("reads") == before && !new.exists() && !place.store().join("other.raw").exists());
    // A folder beside it, with a name that begins the same, is another.
    fs::create_dir(place.path("store-2")).expect("makes");
    let beside = place.path("store-2/disk.raw");
    place.run(&["restore", &id, "--disk", &format!("disk0={}", beside.display())]).expect(0);
    assert!(fs::read(&beside).expect("reads") == content);
    place.run(&["verify", &id, "--data"]).expect(0);
}
