//! One call of the hook from its arguments and its standard input to the record's place: all that the program's child does.

use crate::clock::{self, Moment};
use crate::event::{Event, Operation};
use crate::{channel, place, spool, stdin, xml};
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To a listener.
    Sent,
    /// To the spool, or to its sign that it is full.
    Spooled(spool::Put),
}

/// The event that libvirt's arguments (domain, operation, sub-operation, extra) and its XML tell of, when the hook was called; none
/// without a domain or an operation.
#[must_use]
pub fn event(called: Moment, arguments: &[&OsStr], xml: &[u8]) -> Option<Event> {
    let word = |i: usize| arguments.get(i).map(|a| a.to_string_lossy().into_owned()).unwrap_or_default();
    let (domain, operation) = (word(0), word(1));
    if domain.is_empty() || operation.is_empty() {
        return None;
    }
    Some(Event {
        domain,
        uuid: xml::domain_uuid(xml),
        operation: Operation::of(&operation),
        sub_operation: word(2),
        extra: word(3),
        time_unix_ms: called.time_unix_ms,
        stamp_ns: called.stamp_ns,
        boot: clock::boot_id(),
        cut: false,
    })
}

/// What libvirt wrote, as far as it is of use.
#[must_use]
pub fn xml(fd: BorrowedFd<'_>) -> Vec<u8> {
    stdin::read_some(fd, stdin::BYTES_MAX, stdin::TIME_MAX)
}

/// To whoever listens in `base`, or into the spool there.
///
/// # Errors
/// Neither took it; it is lost.
pub fn deliver(base: &Path, event: &Event) -> io::Result<Way> {
    let record = event.encode();
    // Of use to people only.
    let _ = place::open_base(base).and_then(place::mark_called);
    match channel::send(base, &record) {
        Ok(()) => Ok(Way::Sent),
        Err(_) => spool::put(base, event.stamp_ns, &record).map(Way::Spooled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Inbox;

    #[test]
    fn with_a_listener_it_is_sent_and_without_one_spooled() {
        let dir = tempfile::tempdir().expect("folder");
        let arguments = ["web 1", "stopped", "end", "-"].map(OsStr::new);
        let event = event(Moment::now(), &arguments, b"<domain><uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c8</uuid>").expect("an event");
        assert_eq!(deliver(dir.path(), &event).expect("spooled"), Way::Spooled(spool::Put::Stored));
        let inbox = Inbox::bind(dir.path()).expect("bound");
        assert_eq!(deliver(dir.path(), &event).expect("sent"), Way::Sent);
        assert_eq!(inbox.next().expect("read"), Some(Ok(event.clone())));
        let mut spooled = Vec::new();
        spool::Spool::at(dir.path())
            .drain(|e| {
                spooled.push(e);
                Ok(())
            })
            .expect("drained");
        assert_eq!(spooled, [event]);
        let age = place::last_called(dir.path()).expect("called").elapsed().unwrap_or_default();
        assert!(age.as_secs() < 60, "{age:?}");
    }

    #[test]
    fn without_a_domain_or_an_operation_there_is_none() {
        for arguments in [&[][..], &["web1"], &["", "start"], &["web1", ""]] {
            let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
            assert_eq!(event(Moment::now(), &arguments, b""), None, "{arguments:?}");
        }
    }
}
