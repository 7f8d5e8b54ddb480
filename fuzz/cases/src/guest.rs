//! What a guest's agent answers: a hostile guest says anything, in any order.

use cairn_quiesce::agent::{AgentFailure, FILESYSTEMS_MAX, GuestAgent, TEXT_BYTES_MAX, shown};
use cairn_quiesce::channel::{self, ChannelError};
use cairn_quiesce::freeze::{THAW_HOOKS_LIMIT_MIN, frozen, is_frozen, probe, thaw};
use cairn_quiesce::hooks::judge;
use cairn_quiesce::scope::{Scope, choose};
use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A failure's text: what the guest said, cut, and a sentence of ours around it.
const FAILURE_BYTES_MAX: usize = TEXT_BYTES_MAX + 256;
/// The same with some of the places that the guest names.
const SCOPE_BYTES_MAX: usize = 20 * TEXT_BYTES_MAX;

/// The channel reads a byte a call: longer answers would cost more than they find.
const CHANNEL_BYTES_MAX: usize = 256;

/// Answers with one line after the other, then not at all.
struct Lines<'a>(Cell<&'a str>);

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self(Cell::new(text))
    }
}

impl GuestAgent for Lines<'_> {
    fn command(&self, json: &str, limit_s: u16) -> Result<String, AgentFailure> {
        assert!(json.starts_with("{\"execute\":\"guest-") && limit_s > 0);
        if self.0.get().is_empty() {
            return Err(AgentFailure::Silent("no more".to_owned()));
        }
        let (line, rest) = self.0.get().split_once('\n').unwrap_or((self.0.get(), ""));
        self.0.set(rest);
        Ok(line.to_owned())
    }

    fn pause(&self, _time: Duration) {}
}

/// Lines as answers to a probe, to a status, to a thaw, and to a whole freeze; and as the record of the guest's hooks.
pub fn guest_agent(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    check_shown(&text);
    let proved = judge(&text, 7);
    assert!(proved.is_err() || ["cairn-quiesce 1", "freeze ", "hook ", " ok", "after ", "end "].iter().all(|words| text.contains(words)));
    // A hook's name and what it said.
    proved.as_ref().err().into_iter().for_each(|reason| check_text(reason, FAILURE_BYTES_MAX + TEXT_BYTES_MAX));
    let agent = Lines::new(&text);
    let mut accepted = proved.is_ok();
    match probe(&agent) {
        Ok(probe) => {
            accepted = true;
            assert!(probe.filesystems.len() <= FILESYSTEMS_MAX);
            probe.filesystems.iter().flat_map(|f| [&f.mountpoint, &f.device]).for_each(|said| check_text(said, TEXT_BYTES_MAX + 3));
            let chosen = choose(&probe, &["/".to_owned(), "/mnt/a".to_owned()]);
            chosen.as_ref().err().into_iter().for_each(|reason| check_text(reason, SCOPE_BYTES_MAX));
            // What is left of the lines answers the freeze.
            let done = frozen(&agent, &probe, &chosen.unwrap_or(Scope::All), Duration::from_secs(1), |_| ());
            done.report.reason.iter().for_each(|reason| check_text(reason, SCOPE_BYTES_MAX));
        }
        Err(failure) => check_text(&failure.to_string(), FAILURE_BYTES_MAX),
    }
    accepted |= past_libvirt(data, &text);
    accepted |= fits(is_frozen(&Lines::new(&text)));
    accepted | fits(thaw(&Lines::new(&text), THAW_HOOKS_LIMIT_MIN))
}

/// The same bytes as answers on the agent's own channel, behind a greeting that is answered as it should be where the first byte is odd.
fn past_libvirt(data: &[u8], text: &str) -> bool {
    let data = &data[..data.len().min(CHANNEL_BYTES_MAX)];
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let greeting = format!("{{\"return\":{}}}\n", channel::sync_id());
    let answers = if data.first().is_some_and(|first| first % 2 == 1) { [b"\xff", greeting.as_bytes(), data].concat() } else { data.to_owned() };
    // Nobody reads meanwhile: more than the socket takes is a guest that was cut off.
    theirs.set_nonblocking(true).expect("a socket takes this");
    let written = (&theirs).write(&answers).unwrap_or(0);
    assert!(written > 0 || answers.is_empty());
    theirs.shutdown(std::net::Shutdown::Write).expect("a socket takes this");
    match channel::converse(ours) {
        Ok(is_thawed) => {
            assert!(!is_thawed || text.contains("thawed"), "{text:?} says nothing of a thaw");
            true
        }
        Err(ChannelError::Agent(failure)) => {
            check_text(&failure.to_string(), FAILURE_BYTES_MAX);
            false
        }
        Err(ChannelError::Socket(_) | ChannelError::Silent) => false,
    }
}

fn fits<T>(answer: Result<T, AgentFailure>) -> bool {
    match answer {
        Ok(_) => true,
        Err(failure) => {
            check_text(&failure.to_string(), FAILURE_BYTES_MAX);
            false
        }
    }
}

fn check_shown(text: &str) {
    let shown = shown(text);
    check_text(&shown, TEXT_BYTES_MAX + 3);
}

/// Fit for a terminal and a log.
fn check_text(text: &str, bytes_max: usize) {
    assert!(text.len() <= bytes_max, "{} bytes of a guest's are too many", text.len());
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
}
