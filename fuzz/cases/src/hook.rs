//! What libvirt's hook reads, a domain's XML, and what its listener reads, the records.

use cairn_hook::event::RECORD_BYTES_MAX;
use cairn_hook::{Event, xml};

/// The bytes as a record, and as the XML on the hook's standard input.
pub fn hook(data: &[u8]) -> bool {
    let record = match Event::decode(data) {
        Ok(event) => {
            let bytes = event.encode();
            assert!(data.len() <= RECORD_BYTES_MAX && bytes.len() <= RECORD_BYTES_MAX);
            let again = Event::decode(&bytes).expect("what we write is a record");
            // Replaced characters are longer than what they stand for, so a long name may lose its end the second time.
            assert!(again == event || again.cut);
            assert_eq!((again.uuid, again.stamp_ns, again.boot), (event.uuid, event.stamp_ns, event.boot));
            true
        }
        Err(_) => false,
    };
    record | check_xml(data)
}

/// A UUID is only ever one that stands there, as the whole text of an element, and cutting what follows it changes nothing.
fn check_xml(data: &[u8]) -> bool {
    let Some(uuid) = xml::domain_uuid(data) else { return false };
    let text = uuid.to_string();
    let places = data.windows(text.len()).enumerate().filter(|(_, w)| w.eq_ignore_ascii_case(text.as_bytes())).map(|(at, _)| at + text.len());
    let cut_right = |end: usize| {
        let rest = &data[end..];
        let blank = rest.len() - rest.trim_ascii_start().len();
        rest.get(blank) == Some(&b'<') && xml::domain_uuid(&data[..=end + blank]) == Some(uuid)
    };
    assert!(places.into_iter().any(cut_right));
    true
}
