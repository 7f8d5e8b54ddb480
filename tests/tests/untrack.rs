//! `cairn untrack`: no bitmap of ours is left, others' stay, and the next backup is right.

use cairn_lab::suite::{Suite, assert_refused, mode};
use cairn_lab::{Options, lab_test, process, traces};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn image(index: usize) -> std::path::PathBuf {
    cairn_lab::lab::disks()[index].path.clone()
}

/// Names of all bitmaps in an image's header.
fn stored(image: &Path) -> Vec<String> {
    let mut command = Command::new("qemu-img");
    command.args(["info", "-U", "--output=json"]).arg(image);
    let info: Value = serde_json::from_str(&process::run_ok(&mut command, LIMIT).expect("qemu-img info")).expect("JSON");
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    bitmaps.iter().filter_map(|bitmap| bitmap["name"].as_str()).map(str::to_owned).collect()
}

fn untrack(suite: &Suite, more: &[&str]) -> Vec<Value> {
    let text = suite.cairn.ok(&[&["untrack", "lab1", "--json"], more].concat()).expect("untrack");
    serde_json::from_str(&text).expect("a JSON array")
}

lab_test!(nothing_is_tracked_any_more, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.domain.qmp("block-dirty-bitmap-add", &json!({"node": "libvirt-2-format", "name": "somebody-elses", "persistent": true})).expect("another bitmap");
    let before = traces::look(&suite.domain).expect("traces").bitmaps;
    assert_eq!(before.len(), 2, "{before:?}");

    assert_eq!(untrack(&suite, &["--dry-run"]).len(), 2);
    assert_eq!(traces::look(&suite.domain).expect("traces").bitmaps, before, "a dry run changes nothing");
    let gone = untrack(&suite, &[]);
    assert!(gone.len() == 2 && gone.iter().all(|one| one["removed"] == true), "{gone:?}");
    assert_eq!(traces::look(&suite.domain).expect("traces").bitmaps, []);
    assert_eq!(untrack(&suite, &[]), Vec::<Value>::new(), "twice is once");

    // What it is for: an internal snapshot is reverted. Beginning anew costs a whole look at each disk, and nothing else.
    let kept = suite.quiet_backup("anew");
    for target in ["vda", "vdb"] {
        assert_eq!(mode(&suite.point(&kept.id), target), "compare", "{target}");
    }
    suite.assert_restores(&kept);

    // Off: the image's header is changed, by nobody while the image is in use.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    let names = stored(&image(0));
    assert!(names.iter().any(|name| name.starts_with("cairn:")) && names.iter().any(|name| name == "somebody-elses"), "{names:?}");
    let writer = Command::new("qemu-io").args(["-f", "qcow2", "-c", "sleep 4000"]).arg(image(0)).spawn();
    let mut writer = writer.expect("qemu-io has the image open");
    std::thread::sleep(Duration::from_secs(1));
    let output = suite.cairn.run(&["untrack", "lab1"]).expect("it ends");
    assert_eq!(output.code(), 3, "{}", output.text() + &output.err_text());
    assert!(output.text().contains("STAYS") && output.text().contains("lock"), "{}", output.text());
    writer.wait().expect("it ends by itself");
    let gone = untrack(&suite, &[]);
    assert!(!gone.is_empty() && gone.iter().all(|one| one["removed"] == true), "{gone:?}");
    assert_eq!(stored(&image(0)), ["somebody-elses"]);

    assert_refused(&suite.cairn.run(&["untrack", "nosuch"]).expect("it ends"), 15, "nosuch");
});
