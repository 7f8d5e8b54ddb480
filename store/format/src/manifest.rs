//! The manifest: JSON in a frame of kind `Manifest`, for what is bulky, changes often or is read by people. Fields are only ever added.

use crate::{FormatError, Id, Location, map::Ref, wire::Reader};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A point's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Host that took it.
    pub host: String,
    /// Version that took it.
    pub cairn_version: String,
    /// Blobs by name (`domain-active.xml`, `nvram`).
    #[serde(default)]
    pub parts: BTreeMap<String, PartRef>,
    /// Warnings of the backup.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What the source was, in the agent's words; the store does not look inside.
    #[serde(default)]
    pub source: serde_json::Value,
}

/// Where a blob is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// Reference, hex of the same bytes as in registers.
    pub at: String,
    /// Plain length, bytes.
    pub len: u64,
    /// Sealed like data: it may hold secrets.
    pub secret: bool,
}

impl PartRef {
    /// From a reference.
    pub fn new(r: &Ref, len: u64, secret: bool) -> Self {
        Self { at: crate::ids::to_hex(&crate::register::encode_ref(r)), len, secret }
    }
    /// To a reference.
    pub fn to_ref(&self) -> Result<Ref, FormatError> {
        const BYTES: usize = 32 + Location::BYTES;
        let bytes: [u8; BYTES] = crate::ids::parse_hex(&self.at)?;
        let mut r = Reader::new("part", &bytes);
        Ok(Ref { id: Id(r.array()?), at: Location::decode(&mut r)? })
    }
}

impl Manifest {
    /// JSON bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and maps with string keys always serialize")
    }
    /// Parses JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(bytes).map_err(|_| FormatError::invalid("manifest", "not the JSON that a manifest is"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PackId, PackKind, SessionId};

    #[test]
    fn numbers_stay_what_they_are() {
        for number in ["4.000100e110", "8.54e-322", "0.1", "1.7976931348623157e308", "-0.0", "18446744073709551615", "123456789012345678901234567890"] {
            let text = format!(r#"{{"host":"h","cairn_version":"0","source":{number}}}"#);
            let read = Manifest::decode(text.as_bytes()).expect("a manifest");
            let exact: f64 = number.parse().expect("a number");
            assert_eq!(read.source.as_f64(), Some(exact), "{number}");
            assert_eq!(Manifest::decode(&read.encode()).expect("own"), read, "{number}");
        }
    }

    #[test]
    fn round_trip() {
        let at = Location { pack: PackId { session: SessionId([1; 16]), seq: 1, kind: PackKind::Meta }, offset: 64, stored_len: 5 };
        let r = Ref { id: Id([2; 32]), at };
        let m = Manifest {
            host: "h".into(),
            cairn_version: "0".into(),
            parts: BTreeMap::from([("nvram".into(), PartRef::new(&r, 7, true))]),
            warnings: vec![],
            source: serde_json::json!({"kind": "image"}),
        };
        let back = Manifest::decode(&m.encode()).expect("own");
        assert_eq!(back.parts["nvram"].to_ref().expect("own"), r);
        assert_eq!(back, m);
    }
}
