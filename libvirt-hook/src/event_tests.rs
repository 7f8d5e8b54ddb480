//! Records: what is written is read, what is torn or made up is told, nothing is too long.

use super::*;
use proptest::prelude::*;

const GOLDEN: &str = "cairn-hook 1\ndomain=web1\nuuid=6ba7b810-9dad-11d1-80b4-00c04fd430c8\noperation=started\nsub_operation=begin\nextra=-\n\
time_unix_ms=1763700000000\nstamp_ns=86400000000000\nboot=0f3c1f64-2c8e-4a4e-a3c5-9e1b7a5d2f10\nend\n";

fn uuid(text: &str) -> Option<Uuid> {
    Uuid::parse(text.as_bytes())
}

fn golden() -> Event {
    Event {
        domain: "web1".into(),
        uuid: uuid("6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        operation: Operation::Started,
        sub_operation: "begin".into(),
        extra: "-".into(),
        time_unix_ms: 1_763_700_000_000,
        stamp_ns: 86_400_000_000_000,
        boot: uuid("0f3c1f64-2c8e-4a4e-a3c5-9e1b7a5d2f10"),
        cut: false,
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let text = prop_oneof![".*", "[a-z]{0,40}", "\\PC{0,2000}"];
    let id = || proptest::option::of(any::<[u8; 16]>().prop_map(Uuid::of));
    ((text.clone(), text.clone(), text.clone(), text), (id(), id()), any::<(u64, u64)>()).prop_map(|(texts, ids, numbers)| Event {
        domain: format!("d{}", texts.0),
        uuid: ids.0,
        operation: Operation::of(&format!("o{}", texts.1)),
        sub_operation: texts.2,
        extra: texts.3,
        time_unix_ms: numbers.0,
        stamp_ns: numbers.1,
        boot: ids.1,
        cut: false,
    })
}

#[test]
fn the_format_is_this() {
    assert_eq!(String::from_utf8(golden().encode()).expect("ASCII"), GOLDEN);
    assert_eq!(Event::decode(GOLDEN.as_bytes()), Ok(golden()));
}

#[test]
fn every_word_of_libvirt_comes_back() {
    for (word, operation) in Operation::KNOWN {
        assert_eq!(Operation::of(word), operation);
        assert_eq!(operation.word(), word);
    }
    assert_eq!(Operation::of("melt"), Operation::Other("melt".into()));
    assert_eq!(Operation::of("melt").word(), "melt");
}

#[test]
fn keys_may_be_added_and_no_more_than_that() {
    let with = |line: &str| GOLDEN.replace("extra=-\n", &format!("extra=-\n{line}\n"));
    assert_eq!(Event::decode(with("colour=blue").as_bytes()), Ok(golden()));
    for line in ["colour", "=blue", "", "domain=other", "uuid=x", "colour=%zz", "colour=%0", "colour=\u{e4}", "cut=no", "operation=x"] {
        assert_eq!(Event::decode(with(line).as_bytes()), Err(DecodeError::Line(7)), "{line}");
    }
    assert_eq!(Event::decode(GOLDEN.replace("hook 1", "hook 2").as_bytes()), Err(DecodeError::Newer(2)));
    assert_eq!(Event::decode(GOLDEN.replace("hook 1", "hook 0").as_bytes()), Err(DecodeError::NotOurs));
    assert_eq!(Event::decode(GOLDEN.replace("hook 1", "hook +1").as_bytes()), Err(DecodeError::NotOurs));
    assert_eq!(Event::decode(GOLDEN.replace("domain=web1\n", "").as_bytes()), Err(DecodeError::Missing("domain")));
    assert_eq!(Event::decode(GOLDEN.replace("stamp_ns=", "stamp=").as_bytes()), Err(DecodeError::Missing("stamp_ns")));
    assert_eq!(Event::decode(format!("{GOLDEN}{GOLDEN}").as_bytes()), Err(DecodeError::Line(11)));
    assert_eq!(Event::decode(&[b'x'; RECORD_BYTES_MAX + 1]), Err(DecodeError::TooLong));
}

#[test]
fn a_torn_record_is_told_wherever_it_was_torn() {
    for cut in "cairn-hook 1".len() + 1..GOLDEN.len() {
        assert_eq!(Event::decode(&GOLDEN.as_bytes()[..cut]), Err(DecodeError::Torn), "{cut}");
    }
    for cut in 0.."cairn-hook 1".len() {
        assert_eq!(Event::decode(&GOLDEN.as_bytes()[..cut]), Err(DecodeError::NotOurs), "{cut}");
    }
}

#[test]
fn what_is_too_long_is_cut_between_characters_and_says_so() {
    let event = Event { domain: "\u{e4}".repeat(2000), extra: "\u{1}".repeat(1000), operation: Operation::Other("o".repeat(99)), ..golden() };
    let bytes = event.encode();
    assert!(bytes.len() <= RECORD_BYTES_MAX, "{}", bytes.len());
    let back = Event::decode(&bytes).expect("a record");
    assert!(back.cut);
    assert_eq!((back.domain.as_str(), back.extra.len(), back.operation.word().len()), ("\u{e4}".repeat(512).as_str(), 128, 32));
}

proptest! {
    #[test]
    fn what_is_written_is_read(event in any_event()) {
        let bytes = event.encode();
        prop_assert!(bytes.len() <= RECORD_BYTES_MAX);
        prop_assert!(bytes.iter().all(|c| matches!(c, b'\n' | 0x20..=0x7e)));
        let back = Event::decode(&bytes).expect("what we wrote");
        if back.cut {
            prop_assert!(event.domain.starts_with(&back.domain) && event.extra.starts_with(&back.extra));
            prop_assert_eq!(back.stamp_ns, event.stamp_ns);
        } else {
            prop_assert_eq!(back, event);
        }
    }

    #[test]
    fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Event::decode(&bytes);
    }

    /// One byte of a record changed: told, or a record all the same, and never one that is written differently from what was read.
    #[test]
    fn a_changed_byte_is_told_or_read_as_it_stands(at in 0_usize..GOLDEN.len(), byte in any::<u8>()) {
        let mut bytes = GOLDEN.as_bytes().to_vec();
        bytes[at] = byte;
        if let Ok(event) = Event::decode(&bytes) {
            prop_assert_eq!(Event::decode(&event.encode()), Ok(event));
        }
    }
}
