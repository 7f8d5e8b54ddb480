//! What a boot proof leaves with a point: its verdict, a line of JSON in the point's log, and its evidence, the payload of a [`crate::small`] object in
//! `v/`: the picture of the guest's screen and the end of what its console said.
//!
//! Invariants
//! - A verdict fits an entry of the log, whatever a guest or a script said: texts are escaped and cut before they get here or are cut here.
//! - Fields are only ever added; what is missing has a default.

use crate::{
    FormatError,
    limits::{CONSOLE_BYTES_MAX, NOTE_BYTES_MAX, PICTURE_BYTES_MAX, VERDICT_TEXT_BYTES_MAX},
    register::cut_text,
    tlv::{Tlv, TlvWriter},
};
use serde::{Deserialize, Serialize};

/// How far a guest came, as seen from outside; later ones are more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootLevel {
    /// It did not start.
    #[default]
    None,
    /// Its processors ran.
    Started,
    /// It read its disks, and its screen changed or its console said something. A boot loader that finds no system may come as far.
    Screen,
    /// Its guest agent answered.
    Agent,
}

/// A check that was made of a guest that had come up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BootCheck {
    /// It ended in 0.
    pub passed: bool,
    /// How it ended.
    #[serde(default)]
    pub why: String,
    /// How long it took, ms.
    #[serde(default)]
    pub took_ms: u64,
    /// The end of what it said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
}

/// Verdict of a boot proof.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BootVerdict {
    /// The guest came as far as was wanted, and passed all checks.
    pub passed: bool,
    /// How far it came.
    pub level: BootLevel,
    /// How far it had to come.
    pub wanted: BootLevel,
    /// Why it did not pass; empty if it did.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Version of Cairn.
    pub cairn_version: String,
    /// Version of libvirt.
    pub libvirt_version: String,
    /// Version of QEMU.
    pub qemu_version: String,
    /// The whole of it, ms.
    pub took_ms: u64,
    /// From the beginning until its processors ran, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// From then to the first sign on screen or console, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub screen_ms: Option<u64>,
    /// From then to the first answer of the agent, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_ms: Option<u64>,
    /// Bytes that the guest had read from its disks at the end.
    pub read_bytes: u64,
    /// The check in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<BootCheck>,
    /// The check on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<BootCheck>,
    /// Width and height of the screen, pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub screen: Option<(u32, u32)>,
    /// The screen was of one colour.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub screen_blank: bool,
    /// Number of the evidence in `v/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<u32>,
}

impl BootVerdict {
    /// The text of a log entry; within its limit.
    pub fn encode(&self) -> String {
        let mut short = self.clone();
        let mut limit = VERDICT_TEXT_BYTES_MAX;
        loop {
            let checks = [&mut short.exec, &mut short.script].into_iter().flatten().flat_map(|c| [&mut c.why, &mut c.said]);
            let texts = [&mut short.reason, &mut short.cairn_version, &mut short.libvirt_version, &mut short.qemu_version];
            checks.chain(texts).for_each(|t| t.truncate(cut_text(t, limit).len()));
            let text = serde_json::to_string(&short).expect("strings, numbers and pairs always serialize");
            // Characters that JSON escapes take up to six times their bytes.
            if text.len() <= NOTE_BYTES_MAX || limit == 0 {
                return text;
            }
            limit /= 2;
        }
    }
    /// Parses the text of a log entry.
    pub fn decode(text: &str) -> Result<Self, FormatError> {
        serde_json::from_str(text).map_err(|_| FormatError::invalid("boot proof", "not the JSON that a verdict is"))
    }
}

/// Evidence of a boot proof.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// When, Unix milliseconds by the writer's clock.
    pub time_unix_ms: u64,
    /// The guest's screen, PNG; empty where there is none.
    pub picture: Vec<u8>,
    /// The end of what the guest's console said, as it came.
    pub console: Vec<u8>,
}

/// The only kind so far.
const KIND_BOOT: u8 = 1;

impl Evidence {
    /// TLV bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = TlvWriter::new();
        w.bytes(1, &[KIND_BOOT]).u64(2, self.time_unix_ms).bytes(3, &self.picture).bytes(4, &self.console);
        w.finish()
    }
    /// Decodes TLV bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "evidence";
        let t = Tlv::parse(WHAT, bytes)?;
        if t.array::<1>(1)? != [KIND_BOOT] {
            return Err(FormatError::invalid(WHAT, "unknown kind"));
        }
        let of = |tag: u16, limit: usize| {
            let value = t.get(tag).unwrap_or_default();
            crate::error::at_most(WHAT, value.len() as u64, limit as u64).map(|()| value.to_vec())
        };
        Ok(Self { time_unix_ms: t.u64(2)?, picture: of(3, PICTURE_BYTES_MAX)?, console: of(4, CONSOLE_BYTES_MAX)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_fits_an_entry_whatever_was_said() {
        let check = BootCheck { passed: false, why: "\u{1}".repeat(5000), took_ms: u64::MAX, said: "\"".repeat(5000) };
        let verdict = BootVerdict {
            passed: false,
            level: BootLevel::Screen,
            wanted: BootLevel::Agent,
            reason: "\u{7f}é".repeat(3000),
            exec: Some(check.clone()),
            script: Some(check),
            screen: Some((720, 400)),
            evidence: Some(3),
            ..BootVerdict::default()
        };
        let text = verdict.encode();
        assert!(text.len() <= NOTE_BYTES_MAX, "{}", text.len());
        let again = BootVerdict::decode(&text).expect("own");
        assert_eq!((again.level, again.wanted, again.screen, again.evidence), (BootLevel::Screen, BootLevel::Agent, Some((720, 400)), Some(3)));
        assert!(!again.reason.is_empty() && again.script.is_some_and(|s| !s.why.is_empty()));
        assert_eq!(BootVerdict::decode(r#"{"passed":true,"level":"agent","later":[1]}"#).expect("older and newer").level, BootLevel::Agent);
        assert!(BootVerdict::decode("good").is_err() && BootLevel::Agent > BootLevel::Screen);
    }

    #[test]
    fn evidence_round_trip_and_limits() {
        let e = Evidence { time_unix_ms: 7, picture: vec![1, 2], console: b"login:".to_vec() };
        assert_eq!(Evidence::decode(&e.encode()).expect("own"), e);
        let large = Evidence { picture: vec![0; PICTURE_BYTES_MAX + 1], ..e.clone() };
        assert!(Evidence::decode(&large.encode()).is_err() && Evidence::decode(&e.encode()[1..]).is_err());
    }
}
