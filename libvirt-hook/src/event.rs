//! One call of the hook as a record, and the bytes in which it travels: one datagram, or one file of the spool.
//!
//! ```text
//! cairn-hook 1
//! domain=web1
//! uuid=6ba7b810-9dad-11d1-80b4-00c04fd430c8
//! operation=started
//! sub_operation=begin
//! extra=-
//! time_unix_ms=1763700000000
//! stamp_ns=86400000000000
//! boot=0f3c1f64-2c8e-4a4e-a3c5-9e1b7a5d2f10
//! end
//! ```
//!
//! Invariants:
//! - a record has at most [`RECORD_BYTES_MAX`] bytes, all printable ASCII and line ends: values are escaped as `%XX`;
//! - the first line has the format's number, the last is `end`: a record that lacks it is torn;
//! - within one format, keys are only ever added: unknown ones are passed over, a known one comes at most once;
//! - `uuid` and `boot` are left out where they are not known, `cut=yes` is there where a value was too long.

use crate::Uuid;
use std::fmt;

/// The format's number.
pub const FORMAT: u32 = 1;
/// No record is longer.
pub const RECORD_BYTES_MAX: usize = 4096;

const HEAD: &str = "cairn-hook ";
const END: &[u8] = b"end";
/// Longest values before escaping, which makes three bytes of one at most. libvirt's names are bounded by file names, 255 bytes.
const DOMAIN_BYTES_MAX: usize = 1024;
const WORD_BYTES_MAX: usize = 32;
const EXTRA_BYTES_MAX: usize = 128;
/// Head, keys, numbers, UUIDs, end.
const FIXED_BYTES_MAX: usize = 320;
const _: () = assert!(3 * (DOMAIN_BYTES_MAX + 2 * WORD_BYTES_MAX + EXTRA_BYTES_MAX) + FIXED_BYTES_MAX <= RECORD_BYTES_MAX);

/// What libvirt says that happens (its page "Hooks for specific system management").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Before anything is prepared for a start.
    Prepare,
    /// Before QEMU is started.
    Start,
    /// QEMU runs.
    Started,
    /// QEMU has ended, in whatever way.
    Stopped,
    /// All that the domain used is given back.
    Release,
    /// Somebody migrates the domain to this host.
    Migrate,
    /// The domain is restored from a saved state.
    Restore,
    /// The daemon was started and found the domain running.
    Reconnect,
    /// The daemon was made to take over a QEMU that it did not start.
    Attach,
    /// A word that this version does not know.
    Other(String),
}

impl Operation {
    const KNOWN: [(&'static str, Self); 9] = [
        ("prepare", Self::Prepare),
        ("start", Self::Start),
        ("started", Self::Started),
        ("stopped", Self::Stopped),
        ("release", Self::Release),
        ("migrate", Self::Migrate),
        ("restore", Self::Restore),
        ("reconnect", Self::Reconnect),
        ("attach", Self::Attach),
    ];

    /// By libvirt's word.
    #[must_use]
    pub fn of(word: &str) -> Self {
        Self::KNOWN.into_iter().find(|(known, _)| *known == word).map_or_else(|| Self::Other(word.to_owned()), |(_, operation)| operation)
    }

    /// libvirt's word.
    #[must_use]
    pub fn word(&self) -> &str {
        if let Self::Other(word) = self {
            return word;
        }
        Self::KNOWN.iter().find(|(_, operation)| operation == self).map_or("", |(known, _)| known)
    }
}

/// One call of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The domain's name, as libvirt gave it; what is no UTF-8 is replaced.
    pub domain: String,
    /// From its XML; none where that could not be read.
    pub uuid: Option<Uuid>,
    /// What happens.
    pub operation: Operation,
    /// `begin` or `end`; empty where libvirt gave none.
    pub sub_operation: String,
    /// `-`, or since libvirt 10.5 why the domain stopped.
    pub extra: String,
    /// The wall's clock, for people; it may be set at any time.
    pub time_unix_ms: u64,
    /// Nanoseconds since the boot, sleep included: the order of records of one boot.
    pub stamp_ns: u64,
    /// In which boot; none where `/proc` was not there.
    pub boot: Option<Uuid>,
    /// A value was too long and has lost its end.
    pub cut: bool,
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// More than [`RECORD_BYTES_MAX`].
    TooLong,
    /// It does not begin as a record does.
    NotOurs,
    /// Of a later format; something did happen.
    Newer(u32),
    /// Its end is missing.
    Torn,
    /// A line that cannot be understood, counted from 1.
    Line(usize),
    /// A key that must be there.
    Missing(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {RECORD_BYTES_MAX} bytes"),
            Self::NotOurs => write!(f, "not a record of the hook"),
            Self::Newer(format) => write!(f, "of format {format}, and this version reads {FORMAT}; the hook is newer than its reader"),
            Self::Torn => write!(f, "its end is missing"),
            Self::Line(number) => write!(f, "line {number} cannot be understood"),
            Self::Missing(key) => write!(f, "it has no {key}"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl Event {
    /// The record's bytes, at most [`RECORD_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let mut cut = self.cut;
        out.extend_from_slice(format!("{HEAD}{FORMAT}\n").as_bytes());
        cut |= put(&mut out, "domain", &self.domain, DOMAIN_BYTES_MAX);
        self.uuid.into_iter().for_each(|uuid| plain(&mut out, "uuid", &uuid.to_string()));
        cut |= put(&mut out, "operation", self.operation.word(), WORD_BYTES_MAX);
        cut |= put(&mut out, "sub_operation", &self.sub_operation, WORD_BYTES_MAX);
        cut |= put(&mut out, "extra", &self.extra, EXTRA_BYTES_MAX);
        plain(&mut out, "time_unix_ms", &self.time_unix_ms.to_string());
        plain(&mut out, "stamp_ns", &self.stamp_ns.to_string());
        self.boot.into_iter().for_each(|boot| plain(&mut out, "boot", &boot.to_string()));
        if cut {
            plain(&mut out, "cut", "yes");
        }
        out.extend_from_slice(END);
        out.push(b'\n');
        out
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(DecodeError::TooLong);
        }
        let mut lines = bytes.split(|c| *c == b'\n').enumerate();
        let head = lines.next().and_then(|(_, line)| line.strip_prefix(HEAD.as_bytes())).ok_or(DecodeError::NotOurs)?;
        match number(head).ok_or(DecodeError::NotOurs)? {
            n if n == u64::from(FORMAT) => {}
            0 => return Err(DecodeError::NotOurs),
            n => return Err(DecodeError::Newer(u32::try_from(n).unwrap_or(u32::MAX))),
        }
        let mut fields = Fields::default();
        // What stands behind the last line end is no whole line: empty in a record that is whole, the rest of a line in one that is torn.
        let last = bytes.iter().filter(|c| **c == b'\n').count();
        while let Some((i, line)) = lines.next() {
            if i == last {
                break;
            }
            if line == END {
                return if i + 1 == last && lines.next().is_some_and(|(_, rest)| rest.is_empty()) { fields.event() } else { Err(DecodeError::Line(i + 2)) };
            }
            fields.take(line).ok_or(DecodeError::Line(i + 1))?;
        }
        Err(DecodeError::Torn)
    }
}

#[derive(Default)]
struct Fields {
    domain: Option<String>,
    uuid: Option<Uuid>,
    operation: Option<String>,
    sub_operation: Option<String>,
    extra: Option<String>,
    time_unix_ms: Option<u64>,
    stamp_ns: Option<u64>,
    boot: Option<Uuid>,
    cut: Option<bool>,
}

impl Fields {
    /// None where the line is no `key=value`, the value not what the key has, or the key there already.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        let at = line.iter().position(|c| *c == b'=')?;
        let (key, value) = (line.get(..at)?, unescape(line.get(at + 1..)?)?);
        let text = || Some(String::from_utf8_lossy(&value).into_owned());
        match key {
            b"domain" => once(&mut self.domain, text()),
            b"uuid" => once(&mut self.uuid, Uuid::parse(&value)),
            b"operation" => once(&mut self.operation, text()),
            b"sub_operation" => once(&mut self.sub_operation, text()),
            b"extra" => once(&mut self.extra, text()),
            b"time_unix_ms" => once(&mut self.time_unix_ms, number(&value)),
            b"stamp_ns" => once(&mut self.stamp_ns, number(&value)),
            b"boot" => once(&mut self.boot, Uuid::parse(&value)),
            b"cut" => once(&mut self.cut, (value == b"yes").then_some(true)),
            _ => (!key.is_empty()).then_some(()),
        }
    }

    fn event(self) -> Result<Event, DecodeError> {
        let domain = self.domain.filter(|d| !d.is_empty()).ok_or(DecodeError::Missing("domain"))?;
        let operation = self.operation.filter(|o| !o.is_empty()).ok_or(DecodeError::Missing("operation"))?;
        Ok(Event {
            domain,
            uuid: self.uuid,
            operation: Operation::of(&operation),
            sub_operation: self.sub_operation.unwrap_or_default(),
            extra: self.extra.unwrap_or_default(),
            time_unix_ms: self.time_unix_ms.ok_or(DecodeError::Missing("time_unix_ms"))?,
            stamp_ns: self.stamp_ns.ok_or(DecodeError::Missing("stamp_ns"))?,
            boot: self.boot,
            cut: self.cut.unwrap_or(false),
        })
    }
}

fn once<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    if field.is_some() {
        return None;
    }
    *field = Some(value?);
    Some(())
}

/// Decimal digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn plain(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// Puts `key=value`, escaped; whether the value had to be cut, which is done between characters.
fn put(out: &mut Vec<u8>, key: &str, value: &str, bytes_max: usize) -> bool {
    let end = (0..=value.len().min(bytes_max)).rev().find(|i| value.is_char_boundary(*i)).unwrap_or(0);
    let kept = value.get(..end).unwrap_or("");
    let mut text = String::with_capacity(kept.len());
    for byte in kept.bytes() {
        if matches!(byte, 0x20..=0x7e) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    plain(out, key, &text);
    end < value.len()
}

/// None where a byte is none that [`put`] writes.
fn unescape(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(*bytes.next()?).to_digit(16);
                out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
            }
            0x20..=0x7e => out.push(*byte),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
