//! QMP through libvirt's monitor.
//!
//! Commands go out as typed structs; answers are read with small structs of our own that ignore what they do not know: a schema generated from
//! one version of QEMU fails whole on an enum value of another. Taints the domain `custom-monitor` (docs/capture.md).

pub mod bitmaps;
pub mod exports;
pub mod nodes;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain::Domain;
use crate::ffi::LibvirtError;

/// Errors of a QMP command.
#[derive(Debug, Error)]
pub enum QmpError {
    /// QEMU refused.
    #[error("QEMU refused {command}: {description} ({class})")]
    Refused {
        /// Command.
        command: &'static str,
        /// QEMU's error class.
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// The answer is not what this command answers.
    #[error("QEMU's answer to {command} cannot be read")]
    Answer {
        /// Command.
        command: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The command did not get through.
    #[error("{command} did not reach QEMU")]
    Libvirt {
        /// Command.
        command: &'static str,
        /// Why.
        source: LibvirtError,
    },
}

impl QmpError {
    /// The domain is not running (any more).
    #[must_use]
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::Libvirt { source, .. } if source.is_not_running() || source.is_no_domain())
    }
}

#[derive(Serialize)]
struct Command<'a, A: Serialize> {
    execute: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a A>,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "return")]
    value: Option<serde_json::Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    class: String,
    desc: String,
}

/// Runs a command with arguments.
///
/// # Errors
/// [`QmpError`].
pub fn execute<A: Serialize, R: DeserializeOwned>(domain: &Domain, command: &'static str, arguments: &A) -> Result<R, QmpError> {
    let text = serde_json::to_string(&Command { execute: command, arguments: Some(arguments) }).map_err(|source| QmpError::Answer { command, source })?;
    let answer = domain.monitor(&text).map_err(|source| QmpError::Libvirt { command, source })?;
    read_reply(command, &answer)
}

/// Runs a command without arguments.
///
/// # Errors
/// [`QmpError`].
pub fn query<R: DeserializeOwned>(domain: &Domain, command: &'static str) -> Result<R, QmpError> {
    execute(domain, command, &serde_json::Map::new())
}

/// A command's answer that nobody needs.
#[derive(Debug, Deserialize)]
pub struct Nothing {}

fn read_reply<R: DeserializeOwned>(command: &'static str, answer: &str) -> Result<R, QmpError> {
    let wrong = |source| QmpError::Answer { command, source };
    let reply: Reply = serde_json::from_str(answer).map_err(wrong)?;
    if let Some(refusal) = reply.error {
        return Err(QmpError::Refused { command, class: refusal.class, description: refusal.desc });
    }
    serde_json::from_value(reply.value.unwrap_or_default()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals_are_told_apart() {
        let good: Result<Nothing, _> = read_reply("x", r#"{"return":{},"id":"libvirt-1"}"#);
        assert!(good.is_ok());
        let bad: Result<Nothing, _> = read_reply("x", r#"{"id":"libvirt-1","error":{"class":"GenericError","desc":"no such bitmap"}}"#);
        assert_eq!(bad.expect_err("refused").to_string(), "QEMU refused x: no such bitmap (GenericError)");
        let odd: Result<Nothing, _> = read_reply("x", "[]");
        assert!(odd.is_err());
    }
}
