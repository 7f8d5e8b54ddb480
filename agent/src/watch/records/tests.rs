//! Records as the watch and its looks use them.

use super::*;
use crate::config::Word;
use cairn_hypervisor::events::Stop;
use serde_json::json;

const UUID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
const BOOTED: Phase = Phase::Running(Start::Booted);

fn sight(phase: Phase, at: u64) -> Sight {
    Sight { phase, stamp_ns: at * 1_000_000, boot: "b".into(), at_unix_ms: at }
}

fn made() -> (tempfile::TempDir, Records) {
    let dir = tempfile::tempdir().expect("folder");
    let records = Records::open(dir.path()).expect("made");
    (dir, records)
}

fn one(records: &mut Records) -> Value {
    records.shown().expect("shown")[0].clone()
}

#[test]
fn one_end_is_one_wish_whoever_tells_it() {
    let (dir, mut daemon) = made();
    let mut look = Records::open(dir.path()).expect("opened");
    daemon.saw(UUID, "web", &sight(BOOTED, 10), "look").expect("seen");
    look.saw(UUID, "web", &sight(Phase::Off(Stop::Shutdown), 20), "look").expect("seen");
    for (records, source) in [(&mut daemon, "libvirt"), (&mut look, "hook")] {
        assert_eq!(records.saw(UUID, "web", &sight(Phase::Off(Stop::Shutdown), 21), source).expect("seen"), Change::default());
    }
    let wishes = daemon.wishes().expect("read");
    assert_eq!(wishes.len(), 1);
    let wish = &wishes[0];
    assert_eq!((wish.domain.as_str(), wish.uuid.as_str(), wish.trigger), ("web", UUID, Trigger::Shutdown));
    // Killed before it was handed on: it is still there.
    assert_eq!(Records::open(dir.path()).expect("opened").wishes().expect("read").len(), 1);
    daemon.wished(wish.id).expect("gone");
    assert!(daemon.wishes().expect("read").is_empty());
}

#[test]
fn a_domain_that_was_started_again_is_not_wanted_as_it_was() {
    let (_dir, mut records) = made();
    for (phase, at) in [(BOOTED, 10), (Phase::Off(Stop::Shutdown), 20), (BOOTED, 30)] {
        records.saw(UUID, "web", &sight(phase, at), "libvirt").expect("seen");
    }
    let triggers: Vec<Trigger> = records.wishes().expect("read").into_iter().map(|w| w.trigger).collect();
    assert_eq!(triggers, [Trigger::Started]);
}

#[test]
fn suspicion_ends_with_a_point_that_is_newer() {
    let (_dir, mut records) = made();
    records.saw(UUID, "web", &sight(BOOTED, 10), "libvirt").expect("seen");
    records.saw(UUID, "web", &sight(Phase::Off(Stop::Failed), 1000), "libvirt").expect("seen");
    let since = one(&mut records)["suspicion"]["since"].clone();
    assert_eq!(since, "1970-01-01T00:00:01Z");
    records.saw(UUID, "web", &sight(Phase::Running(Start::Migrated), 2000), "libvirt").expect("seen");
    assert_eq!(one(&mut records)["suspicion"]["since"], since, "the first one stays");
    let look = |time: u64| {
        let points = vec![("main".to_owned(), "p".to_owned(), time)];
        LookNote { outcome: "looked".into(), findings: json!([]), points, at_unix_ms: 3000, ..LookNote::default() }
    };
    records.looked(UUID, &look(999)).expect("looked");
    assert!(one(&mut records)["suspicion"].is_object(), "an older point says nothing");
    records.looked(UUID, &look(2500)).expect("looked");
    assert!(one(&mut records)["suspicion"].is_null());
    assert_eq!(one(&mut records)["points"][0]["id"], "p");
    assert_eq!(records.points_of(UUID).expect("read"), [("main".to_owned(), "p".to_owned())]);
}

#[test]
fn what_was_found_stays_in_sight() {
    let (_dir, mut records) = made();
    records.saw(UUID, "web", &sight(BOOTED, 10), "look").expect("seen");
    let found = json!([{"kind": "job", "name": "n", "outcome": "removed"}]);
    for (findings, at_unix_ms) in [(found.clone(), 1000), (json!([]), 2000)] {
        records.looked(UUID, &LookNote { outcome: "looked".into(), findings, at_unix_ms, ..LookNote::default() }).expect("looked");
    }
    let shown = one(&mut records);
    assert_eq!((&shown["found"], &shown["found_at"], &shown["looked"]), (&found, &json!("1970-01-01T00:00:01Z"), &json!("1970-01-01T00:00:02Z")));
    assert_eq!(shown["events"][1]["what"], "job");
}

#[test]
fn what_a_domain_says_of_itself_is_remembered_and_selects_it() {
    let (dir, mut records) = made();
    records.saw(UUID, "web", &sight(Phase::Off(Stop::Migrated), 10), "look").expect("seen");
    assert!(records.seen().expect("read")[0].is_away);
    records.saw(UUID, "web", &sight(BOOTED, 20), "look").expect("seen");
    let said = BackupWord { policies: vec!["a".into()], tags: vec!["t".into(), "u".into()], excluded: true, disks_excluded: vec!["vdb".into()] };
    let look = |word| LookNote { outcome: "looked".into(), points: vec![("main".into(), "p".into(), 5)], word, ..LookNote::default() };
    records.looked(UUID, &look(Some(said))).expect("looked");
    // A look that could not read it says nothing.
    records.looked(UUID, &look(None)).expect("looked");
    let word = Word { policies: vec!["a".into()], tags: vec!["t".into(), "u".into()], excluded: true };
    let subject = Subject { name: "web".into(), running: Some(true), word };
    let seen = Seen { uuid: UUID.into(), subject, is_known: true, is_away: false, points: [("main".to_owned(), "p".to_owned())].into() };
    assert_eq!(records.seen().expect("read"), std::slice::from_ref(&seen));
    assert_eq!(one(&mut records)["metadata"]["disks_excluded"], json!(["vdb"]));
    // A file of an earlier version has none, and is carried on.
    records.db.execute_batch("ALTER TABLE domains DROP COLUMN word; PRAGMA user_version = 1").expect("as it was");
    drop(records);
    let mut records = Records::open(dir.path()).expect("opens");
    let before = Seen { subject: Subject { word: Word::default(), ..seen.subject.clone() }, is_known: false, ..seen };
    assert_eq!(records.seen().expect("read"), [before]);
}

#[test]
fn a_rename_keeps_the_record_and_the_end_of_a_domain_its_history() {
    let (_dir, mut records) = made();
    records.saw(UUID, "web", &sight(Phase::Off(Stop::Other), 10), "look").expect("seen");
    records.saw(UUID, "shop", &sight(Phase::Off(Stop::Other), 20), "look").expect("seen");
    assert_eq!(one(&mut records)["name"], "shop");
    let names = |records: &mut Records| records.seen().expect("read").into_iter().map(|one| one.subject.name).collect::<Vec<_>>();
    assert_eq!(names(&mut records), ["shop"]);
    assert_eq!((records.uuid_of("shop").expect("read").as_deref(), records.uuid_of("web").expect("read")), (Some(UUID), None));
    records.only_these(&[UUID.into()], 30, 30_000_000).expect("there");
    assert_eq!(one(&mut records)["state"], "off");
    records.only_these(&[], 40, 5_000_000).expect("read");
    assert_eq!(one(&mut records)["state"], "off", "it was seen after that list was made");
    records.only_these(&[], 40, 40_000_000).expect("gone");
    assert_eq!(one(&mut records)["state"], "gone");
    assert!(names(&mut records).is_empty());
    records.saw(UUID, "shop", &sight(Phase::Off(Stop::Other), 50), "libvirt").expect("seen");
    assert_eq!(one(&mut records)["state"], "off", "it came back");
    records.gone(UUID, 60).expect("gone");
    records.only_these(&[], 61 + u64::try_from(GONE_KEPT.as_millis()).expect("fits"), 61_000_000).expect("forgotten");
    assert_eq!(records.shown().expect("shown"), json!([]));
}

#[test]
fn events_and_texts_are_bounded() {
    let (_dir, mut records) = made();
    records.saw(UUID, &"x".repeat(5000), &sight(BOOTED, 10), "look").expect("seen");
    for n in 0..200 {
        records.happened(UUID, n, &Note { source: "libvirt", what: "block-job", detail: &n.to_string().repeat(1000) }).expect("noted");
    }
    let shown = one(&mut records);
    let events = shown["events"].as_array().expect("events");
    assert_eq!(events.len(), usize::try_from(EVENTS_MAX).expect("fits"));
    assert!(events[0]["detail"].as_str().expect("text").starts_with("150"), "the newest are kept: {}", events[0]);
    assert!(shown.to_string().len() < 100 << 10);
}

#[test]
fn a_file_that_is_spoilt_while_it_is_open_is_begun_anew() {
    let (dir, mut records) = made();
    records.saw(UUID, "web", &sight(BOOTED, 10), "look").expect("seen");
    records.db.execute_batch("DROP TABLE events; DROP TABLE domains; PRAGMA user_version = 9").expect("spoilt");
    records.saw(UUID, "web", &sight(BOOTED, 20), "look").expect("seen");
    assert_eq!(one(&mut records)["name"], "web");
    assert!(dir.path().join("domains.sqlite.aside").exists());
}
