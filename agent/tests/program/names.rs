//! Names that look like others: refused for new points; points that have them already stay usable.

use crate::place::{Place, noise};
use cairn_store::{Credential, DiskJob, FileSource, OpenOptions, Plan, PointInfo, Progress, Store};
use std::{fs, sync::Arc};

const UNSEEN: [&str; 6] = ["web\u{202e}gpj", "web\u{200b}", "we\u{ad}b", "web ", " web", "\u{feff}web"];

/// A point of a version that took every name.
fn old_point(place: &Place, name: &str) -> String {
    let image = place.path("old.raw");
    fs::write(&image, noise(100 << 10, 5)).expect("writes");
    let credential = Some(Credential::read_key_file(&place.path("key")).expect("own key"));
    let store = Store::open(&place.store(), OpenOptions { credential, state_dir: place.path("state"), host: "host".into() }).expect("opens");
    let job = DiskJob { target: "disk0".into(), source: Arc::new(FileSource::open(&image).expect("opens")), plan: Plan::Full { reason: "first".into() } };
    let info = || PointInfo {
        name: name.into(),
        time_unix_ms: 1_700_000_000_000,
        quiesce: "none".into(),
        tags: Vec::new(),
        warnings: Vec::new(),
        source: serde_json::json!({"kind": "image", "path": image.display().to_string()}),
        parts: Vec::new(),
        cairn_version: "old".into(),
    };
    store.begin().expect("begins").backup(&[job], info, &Progress::default(), || Ok(())).expect("backs up").id.to_string()
}

#[test]
fn new_points_have_names_that_are_as_they_look() {
    let place = Place::new();
    let image = place.path("disk.raw");
    fs::write(&image, noise(100 << 10, 1)).expect("writes");
    let image = image.display().to_string();
    for name in UNSEEN {
        let refused = place.run(&["backup-image", &image, "--name", name]).expect(2);
        assert!(refused.err.contains("cannot be a name of new points"), "{}", refused.err);
        assert!(!refused.err.contains(['\u{202e}', '\u{200b}', '\u{ad}', '\u{feff}']), "it is shown, not done: {:?}", refused.err);
    }
    for name in ["Grüße aus Köln", "東京-1", "web 1 (old)", "b\u{301}"] {
        place.run(&["backup-image", &image, "--name", name]).expect(0);
    }
}

#[test]
fn old_points_with_names_that_mislead_are_listed_restored_and_forgotten() {
    let place = Place::new();
    for name in UNSEEN {
        let id = old_point(&place, name);
        let listed = place.run(&["list", "--json"]).expect(0).json();
        assert!(listed.as_array().expect("points").iter().any(|p| p["name"] == name && p["id"] == id.as_str()), "{listed}");
        let target = place.path("restored.raw");
        place.run(&["restore", &format!("{name}@latest"), "--disk", &format!("disk0={}", target.display())]).expect(0);
        assert!(fs::read(&target).expect("reads") == noise(100 << 10, 5));
        fs::remove_file(&target).expect("removes");
        place.run(&["verify", name, "--data"]).expect(0);
        place.run(&["forget", "--force", &id]).expect(0);
    }
    assert_eq!(place.run(&["list", "--json"]).expect(0).json(), serde_json::json!([]));
}
