//! The door to a guest agent, and the reading of what it says.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest reply that is read; libvirt itself stops at 16 MiB.
pub const REPLY_BYTES_MAX: usize = 1 << 20;
/// Most file systems of one guest that are looked at.
pub const FILESYSTEMS_MAX: usize = 4096;
/// Longest text of a guest that is kept, bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// Why an agent did not do what it was asked. The texts are libvirt's, which may quote the guest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AgentFailure {
    /// No agent is configured.
    #[error("the guest has no running agent ({0}); install qemu-guest-agent in it, or use --quiesce never")]
    Absent(String),
    /// Its port is closed, and libvirt knew before it sent anything.
    #[error("the guest's agent is away ({0})")]
    Closed(String),
    /// It closed its port, perhaps with the command in its hands. libvirt that missed its return says the same.
    #[error("the guest's agent is away ({0})")]
    Away(String),
    /// It did not answer in time.
    #[error("the guest's agent does not answer ({0})")]
    Silent(String),
    /// It answered with an error.
    #[error("the guest's agent refused: {0}")]
    Refused(String),
    /// Its answer is not what the command answers, or far too long.
    #[error("the guest's agent answered nonsense to {command}: {problem}")]
    Nonsense {
        /// Command.
        command: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Anything else, e.g. libvirt is gone.
    #[error("the guest's agent cannot be reached: {0}")]
    Other(String),
}

/// Sends one agent command as JSON and gives the reply's text, within `limit_s` seconds.
pub trait GuestAgent {
    /// Runs one command.
    ///
    /// # Errors
    /// [`AgentFailure`].
    fn command(&self, json: &str, limit_s: u16) -> Result<String, AgentFailure>;

    /// Waits before a command is tried again.
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Runs a command without arguments and reads its answer.
///
/// # Errors
/// [`AgentFailure`].
pub fn call<R: DeserializeOwned>(agent: &dyn GuestAgent, command: &'static str, limit_s: u16) -> Result<R, AgentFailure> {
    let text = agent.command(&format!("{{\"execute\":\"{command}\"}}"), limit_s)?;
    read_reply(command, &text)
}

/// Runs a command with arguments and reads its answer.
///
/// # Errors
/// [`AgentFailure`].
pub fn call_with<A: Serialize, R: DeserializeOwned>(agent: &dyn GuestAgent, command: &'static str, arguments: &A, limit_s: u16) -> Result<R, AgentFailure> {
    let arguments = serde_json::to_string(arguments).map_err(|e| AgentFailure::Other(e.to_string()))?;
    let text = agent.command(&format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}"), limit_s)?;
    read_reply(command, &text)
}

pub(crate) fn read_reply<R: DeserializeOwned>(command: &'static str, text: &str) -> Result<R, AgentFailure> {
    #[derive(Deserialize)]
    struct Reply<R> {
        #[serde(rename = "return")]
        value: R,
    }
    #[derive(Deserialize)]
    struct Failure {
        error: Refusal,
    }
    #[derive(Deserialize)]
    struct Refusal {
        desc: String,
    }
    let nonsense = |problem: String| AgentFailure::Nonsense { command, problem };
    if text.len() > REPLY_BYTES_MAX {
        return Err(nonsense(format!("{} bytes", text.len())));
    }
    match serde_json::from_str::<Reply<R>>(text) {
        Ok(reply) => Ok(reply.value),
        Err(error) => match serde_json::from_str::<Failure>(text) {
            Ok(failure) => Err(AgentFailure::Refused(shown(&failure.error.desc))),
            // The error quotes what the guest said, whole.
            Err(_) => Err(nonsense(shown(&error.to_string()))),
        },
    }
}

/// A guest's text, escaped and cut, fit for a terminal and a log: at most [`TEXT_BYTES_MAX`] bytes, and three dots where more was said.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        let whole = out.len();
        out.extend(character.escape_debug());
        if out.len() > TEXT_BYTES_MAX {
            out.truncate(whole);
            out.push_str("...");
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_of_a_guest_is_bounded_and_named() {
        let huge = format!("{{\"return\":\"{}\"}}", "x".repeat(REPLY_BYTES_MAX));
        for text in [huge.as_str(), "", "[]", "{\"return\":\"text\"}", "{\"return\":-1}", "{\"return\":99999999999999999999}"] {
            let result: Result<u32, _> = read_reply("guest-fsfreeze-freeze", text);
            assert!(matches!(result, Err(AgentFailure::Nonsense { .. })), "{}", shown(text));
        }
        let refused: Result<u32, _> = read_reply("x", "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no \\u001b[31m\"}}");
        assert_eq!(refused, Err(AgentFailure::Refused("no \\u{1b}[31m".to_owned())));
    }
    #[test]
    fn arguments_reach_the_agent_as_json() {
        struct Echo;
        impl GuestAgent for Echo {
            fn command(&self, json: &str, _: u16) -> Result<String, AgentFailure> {
                Ok(serde_json::json!({ "return": json }).to_string())
            }
        }
        let said: String = call_with(&Echo, "guest-exec-status", &serde_json::json!({ "pid": 7, "x": "\"" }), 1).expect("answers");
        let sent: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(sent, serde_json::json!({"execute": "guest-exec-status", "arguments": {"pid": 7, "x": "\""}}));
    }

    #[test]
    fn what_a_guest_said_is_quoted_in_part_only() {
        let long = serde_json::json!({ "return": "\u{1b}x".repeat(100_000) }).to_string();
        let result: Result<u32, _> = read_reply("guest-fsfreeze-thaw", &long);
        let text = result.expect_err("a text is no number").to_string();
        assert!(text.len() < 2 * TEXT_BYTES_MAX && text.contains("invalid type: string") && text.ends_with("..."), "{} bytes", text.len());
        assert!(!text.chars().any(char::is_control));
    }

    #[test]
    fn texts_are_cut_by_bytes_and_only_where_they_are_too_long() {
        assert_eq!(shown(&"x".repeat(TEXT_BYTES_MAX)), "x".repeat(TEXT_BYTES_MAX));
        assert_eq!(shown(&"\u{1f600}".repeat(TEXT_BYTES_MAX)), "\u{1f600}".repeat(TEXT_BYTES_MAX / 4) + "...");
        assert_eq!(shown(&"\n".repeat(TEXT_BYTES_MAX - 1)), "\\n".repeat(TEXT_BYTES_MAX / 2) + "...", "escaped text is longer");
    }
}
