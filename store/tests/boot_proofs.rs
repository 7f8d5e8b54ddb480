//! Boot proofs of a point: the verdict in its log, the evidence beside it, both sealed, and gone with the point.

mod common;

use cairn_store::{
    GcOptions, PointState, Progress, StoreError,
    format::boot_proof::{BootLevel, BootVerdict, Evidence},
    scrub::ScrubOptions,
};
use common::{Lab, backup, content, full, point};
use std::fs;

fn verdict(passed: bool) -> BootVerdict {
    BootVerdict { passed, level: BootLevel::Agent, wanted: BootLevel::Agent, agent_ms: Some(7), ..BootVerdict::default() }
}

fn evidence(byte: u8) -> Evidence {
    Evidence { time_unix_ms: 5, picture: vec![byte; 300_000], console: b"WebServer login:".to_vec() }
}

fn at_once() -> GcOptions {
    GcOptions { wait_ms_max: 2000, poll_ms: 20, resume_grace_ms: 0, trash_keep_ms: 0, ..GcOptions::default() }
}

#[test]
fn they_are_told_by_every_host_and_go_with_their_point() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(1 << 20, 1), full()).expect("backs up");
    let b = backup(&store, "b", &content(1 << 20, 2), full()).expect("backs up");
    let (pa, pb) = (point(&store, &a), point(&store, &b));
    assert_eq!(store.record_boot_proof(&pa, &verdict(false), &evidence(1)).expect("records").evidence, Some(0));
    assert_eq!(store.record_boot_proof(&pa, &verdict(true), &evidence(2)).expect("records").evidence, Some(1));
    store.record_boot_proof(&pb, &verdict(true), &evidence(3)).expect("records");
    assert_eq!(store.record_boot_proof(&pb, &verdict(false), &Evidence::default()).expect("records").evidence, None, "nothing is no evidence");
    // Another host, with an empty cache.
    let other = lab.open_with(lab.credential(), "other").expect("opens");
    let pa = point(&other, &a);
    let proofs = pa.boot_proofs();
    assert_eq!(proofs.iter().map(|p| p.verdict.passed).collect::<Vec<_>>(), [false, true]);
    assert_eq!(other.evidence(&pa, 1).expect("reads"), Some(evidence(2)));
    assert_eq!((pa.state(), pa.log_damage.is_none()), (PointState::Unverified, true), "that it boots does not say that all of it can be read");
    // Nothing of it is to be read without keys.
    for file in lab.files("v").into_iter().chain(lab.files("p")) {
        let bytes = fs::read(&file).expect("reads");
        assert!(!bytes.windows(6).any(|w| w == b"login:" || w == b"passed"), "{}", file.display());
    }
    assert_eq!(store.scrub(&ScrubOptions { percent: 100, rate_bytes_max: None }, &Progress::default()).expect("scrubs").findings, []);
    // A collection takes none of it while the point lives, and all of it afterwards.
    store.collect(&at_once(), &Progress::default()).expect("collects");
    assert_eq!(lab.files("v").len(), 3);
    // Nor on the word of a file that is a tombstone by its name alone.
    let register = lab.files("c").into_iter().find(|f| f.ends_with(b.id.to_string())).expect("its register");
    let month = register.parent().and_then(|m| m.file_name()).expect("c/<month>/<id>");
    let false_one = lab.root().join("f").join(month).join(b.id.to_string());
    fs::create_dir_all(false_one.parent().expect("its folder")).expect("made");
    fs::write(&false_one, "no tombstone").expect("written");
    store.collect(&at_once(), &Progress::default()).expect("collects");
    assert_eq!(lab.files("v").len(), 3);
    fs::remove_file(&false_one).expect("removed");
    store.forget(&pa, 0, false).expect("forgets");
    store.collect(&at_once(), &Progress::default()).expect("collects");
    assert_eq!(lab.files("v").len(), 1);
    assert_eq!(store.evidence(&pb, 0).expect("reads"), Some(evidence(3)));
    assert_eq!(other.evidence(&pa, 1).expect("asks"), None);
}

#[test]
fn evidence_that_is_damaged_or_in_anothers_place_is_named_and_stops_nothing() {
    let lab = Lab::new();
    let store = lab.open();
    let a = backup(&store, "a", &content(1 << 20, 1), full()).expect("backs up");
    let pa = point(&store, &a);
    store.record_boot_proof(&pa, &verdict(true), &evidence(1)).expect("records");
    store.record_boot_proof(&pa, &verdict(true), &evidence(2)).expect("records");
    let mut files = lab.files("v");
    files.sort();
    fs::copy(&files[0], &files[1]).expect("copies");
    assert!(matches!(store.evidence(&pa, 1), Err(StoreError::Damaged { .. })), "that of another proof");
    let mut bytes = fs::read(&files[0]).expect("reads");
    bytes[1000] ^= 1;
    fs::write(&files[0], bytes).expect("writes");
    assert!(matches!(store.evidence(&pa, 0), Err(StoreError::Damaged { .. })));
    let report = store.scrub(&ScrubOptions { percent: 100, rate_bytes_max: None }, &Progress::default()).expect("scrubs");
    assert!(report.finding_count == 2 && report.findings.iter().all(|f| f.object.starts_with("v/")), "{:?}", report.findings);
    assert_eq!(store.points().expect("lists").len(), 1);
    store.collect(&at_once(), &Progress::default()).expect("collects");
    assert_eq!(store.record_boot_proof(&pa, &verdict(false), &evidence(4)).expect("records").evidence, Some(2));
}
