//! The check in the guest: a command line for its shell, run by its agent; what counts is that it ends in 0.
//!
//! What it must not do: read what the command prints. A guest may say what it likes, and as much as it likes.

use crate::failure::Outcome;
use cairn_quiesce::agent::{AgentFailure, GuestAgent, call, call_with};
use cairn_store::format::boot_proof::BootCheck;
use serde::Deserialize;
use std::time::{Duration, Instant};

const CALL_S: u16 = 10;
const POLL: Duration = Duration::from_millis(250);

/// `guest-get-osinfo` (QEMU guest agent protocol): what is needed of it.
#[derive(Deserialize)]
struct System {
    #[serde(default)]
    id: Option<String>,
}

#[derive(Deserialize)]
struct Started {
    pid: i64,
}

/// `guest-exec-status`.
#[derive(Deserialize)]
struct Status {
    exited: bool,
    #[serde(default, rename = "exitcode")]
    exit_code: Option<i64>,
    #[serde(default)]
    signal: Option<i64>,
}

/// Runs it to its end. `tick` is called all the time; its error ends the waiting.
pub fn run(agent: &dyn GuestAgent, line: &str, limit: Duration, tick: &mut dyn FnMut() -> Outcome<()>) -> Outcome<BootCheck> {
    let begin = Instant::now();
    let ended = |passed: bool, why: String| {
        let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(BootCheck { passed, why, took_ms, said: String::new() })
    };
    let pid = match start(agent, line) {
        Ok(started) => started.pid,
        Err(e) => return ended(false, e.to_string()),
    };
    // An agent that is slow once may answer later.
    let mut last: Option<AgentFailure> = None;
    while begin.elapsed() < limit {
        tick()?;
        match call_with::<_, Status>(agent, "guest-exec-status", &serde_json::json!({ "pid": pid }), CALL_S) {
            Ok(Status { exited: false, .. }) => last = None,
            Ok(Status { exit_code: Some(code), .. }) => return ended(code == 0, format!("exit code {code}")),
            Ok(Status { signal: Some(signal), .. }) => return ended(false, format!("ended by signal {signal}")),
            Ok(_) => return ended(false, "it ended, and the agent does not say how".to_owned()),
            Err(e @ AgentFailure::Refused(_)) => return ended(false, e.to_string()),
            Err(e) => last = Some(e),
        }
        std::thread::sleep(POLL);
    }
    let because = last.map_or_else(String::new, |e| format!(" ({e})"));
    ended(false, format!("it did not end within {} s{because}", limit.as_secs()))
}

fn start(agent: &dyn GuestAgent, line: &str) -> Result<Started, AgentFailure> {
    let system: Result<System, _> = call(agent, "guest-get-osinfo", CALL_S);
    let windows = system.is_ok_and(|s| s.id.as_deref() == Some("mswindows"));
    let (path, option) = if windows { ("cmd.exe", "/c") } else { ("/bin/sh", "-c") };
    call_with(agent, "guest-exec", &serde_json::json!({ "path": path, "arg": [option, line] }), CALL_S)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Answers in order, and remembers what it was asked.
    struct Told(RefCell<Vec<&'static str>>, RefCell<Vec<String>>);

    impl GuestAgent for Told {
        fn command(&self, json: &str, _: u16) -> Result<String, AgentFailure> {
            self.1.borrow_mut().push(json.to_owned());
            self.0.borrow_mut().pop().map(str::to_owned).ok_or_else(|| AgentFailure::Silent("no more".into()))
        }
    }

    fn told(answers: &[&'static str]) -> (BootCheck, String) {
        let agent = Told(RefCell::new(answers.iter().rev().copied().collect()), RefCell::default());
        let check = run(&agent, "test -d '/srv'", Duration::from_secs(1), &mut || Ok(())).expect("no error of ours");
        (check, agent.1.into_inner().join("\n"))
    }

    #[test]
    fn its_code_counts_and_the_shell_is_the_guests() {
        let running = r#"{"return":{"exited":false}}"#;
        let (check, asked) = told(&[r#"{"return":{"id":"debian"}}"#, r#"{"return":{"pid":7}}"#, running, r#"{"return":{"exited":true,"exitcode":0}}"#]);
        assert!(check.passed && asked.contains("/bin/sh") && asked.contains("test -d '/srv'") && asked.contains(r#""pid":7"#), "{asked}");
        let (check, asked) = told(&[r#"{"return":{"id":"mswindows"}}"#, r#"{"return":{"pid":7}}"#, r#"{"return":{"exited":true,"exitcode":4}}"#]);
        assert!(!check.passed && check.why == "exit code 4" && asked.contains("cmd.exe"), "{check:?}");
    }

    #[test]
    fn nonsense_and_silence_fail() {
        assert!(told(&[r#"{"return":{}}"#, r#"{"error":{"desc":"guest-exec is disabled"}}"#]).0.why.contains("disabled"));
        assert!(told(&[r#"{"return":{}}"#, r#"{"return":{"pid":"x"}}"#]).0.why.contains("nonsense"));
        assert!(told(&[r#"{"return":{}}"#, r#"{"return":{"pid":1}}"#, r#"{"return":{"exited":true}}"#]).0.why.contains("how"));
        let silent = told(&[r#"{"return":{}}"#, r#"{"return":{"pid":1}}"#]).0;
        assert!(!silent.passed && silent.why.contains("did not end within 1 s"), "{silent:?}");
    }
}
