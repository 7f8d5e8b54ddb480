//! Entries of a point's log (`p/`): what happens to a point after its commit. The payload of a [`crate::small`] object.

use crate::{
    FormatError,
    limits::NOTE_BYTES_MAX,
    tlv::{Tlv, TlvWriter},
};

/// What an entry does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Action {
    /// Refuse to forget it.
    Protect = 1,
    /// Allow it again.
    Unprotect = 2,
    /// Add the tag in `text`.
    Tag = 3,
    /// Remove the tag in `text`.
    Untag = 4,
    /// Replace the note by `text`.
    Note = 5,
    /// A verification: `text` is `good` or `damaged: ...`.
    Verified = 6,
    /// The point is gone. Terminal: later entries mean nothing.
    Forget = 7,
    /// A boot proof: `text` is a [`crate::boot_proof::BootVerdict`].
    BootProof = 8,
}

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// What.
    pub action: Action,
    /// When, Unix milliseconds by the writer's clock.
    pub time_unix_ms: u64,
    /// Writer's host name.
    pub host: String,
    /// Tag, note, or verdict of a verification or boot proof.
    pub text: String,
}

impl LogEntry {
    /// TLV bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = TlvWriter::new();
        w.bytes(1, &[self.action as u8]).u64(2, self.time_unix_ms).text(3, &self.host).text(4, &self.text);
        w.finish()
    }
    /// Decodes TLV bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "point log entry";
        let t = Tlv::parse(WHAT, bytes)?;
        let action = match t.array::<1>(1)?[0] {
            1 => Action::Protect,
            2 => Action::Unprotect,
            3 => Action::Tag,
            4 => Action::Untag,
            5 => Action::Note,
            6 => Action::Verified,
            7 => Action::Forget,
            8 => Action::BootProof,
            _ => return Err(FormatError::invalid(WHAT, "unknown action")),
        };
        Ok(Self { action, time_unix_ms: t.u64(2)?, host: t.text(3, 255)?, text: t.text(4, NOTE_BYTES_MAX)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let e = LogEntry { action: Action::Verified, time_unix_ms: 5, host: "h".into(), text: "good".into() };
        assert_eq!(LogEntry::decode(&e.encode()).expect("own"), e);
        assert!(LogEntry::decode(&e.encode()[1..]).is_err());
    }
}
