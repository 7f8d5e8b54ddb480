//! Thaw past libvirt, over the agent's channel socket. **Only when libvirt's process is gone**: a second connection to the socket of a living
//! libvirt queues behind it and can lock it out of the agent.
//!
//! 0xFF resets the agent's parser; `guest-sync-delimited` throws away what the agent still had to say to another; then thaw and status. All
//! of it within [`CHANNEL_LIMIT`], whatever comes: of what the guest says no more is kept than one reply.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::agent::{AgentFailure, REPLY_BYTES_MAX, read_reply};

/// From connecting to closing.
pub const CHANNEL_LIMIT: Duration = Duration::from_secs(2);

/// Errors of the channel.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The socket.
    #[error("the agent's channel failed")]
    Socket(#[from] std::io::Error),
    /// Too slow or too much.
    #[error("the agent did not answer on its channel within {CHANNEL_LIMIT:?}")]
    Silent,
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentFailure),
}

struct Channel {
    stream: UnixStream,
    deadline: Instant,
}

/// Thaws over the channel; true if the status afterwards is `thawed`.
///
/// # Errors
/// [`ChannelError`].
pub fn thaw(socket: &Path) -> Result<bool, ChannelError> {
    converse(UnixStream::connect(socket)?)
}

/// The same over a connection that is there.
///
/// # Errors
/// [`ChannelError`].
pub fn converse(stream: UnixStream) -> Result<bool, ChannelError> {
    let mut channel = Channel { stream, deadline: Instant::now() + CHANNEL_LIMIT };
    channel.synchronize()?;
    let _: u32 = read_reply("guest-fsfreeze-thaw", &channel.ask("guest-fsfreeze-thaw")?)?;
    let status: String = read_reply("guest-fsfreeze-status", &channel.ask("guest-fsfreeze-status")?)?;
    Ok(status == "thawed")
}

impl Channel {
    fn synchronize(&mut self) -> Result<(), ChannelError> {
        let id = sync_id();
        self.send(&[0xff])?;
        self.send(format!("{{\"execute\":\"guest-sync-delimited\",\"arguments\":{{\"id\":{id}}}}}\n").as_bytes())?;
        // The agent puts 0xFF in front of its answer: everything before it belongs to somebody else.
        while self.byte()? != 0xff {}
        let answered: u64 = read_reply("guest-sync-delimited", &self.line()?)?;
        if answered == id { Ok(()) } else { Err(ChannelError::Silent) }
    }

    fn ask(&mut self, command: &str) -> Result<String, ChannelError> {
        self.send(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())?;
        self.line()
    }

    /// An agent that reads nothing has a full pipe before it.
    fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(bytes).map_err(late)
    }

    fn left(&self) -> Result<Duration, ChannelError> {
        self.deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or(ChannelError::Silent)
    }

    fn line(&mut self) -> Result<String, ChannelError> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                byte => line.push(byte),
            }
            if line.len() > REPLY_BYTES_MAX {
                return Err(ChannelError::Silent);
            }
        }
    }

    /// A byte a call: replies are a few dozen bytes, and nothing after the newline may be swallowed.
    fn byte(&mut self) -> Result<u8, ChannelError> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        let mut byte = [0];
        self.stream.read_exact(&mut byte).map_err(late)?;
        Ok(byte[0])
    }
}

fn late(error: std::io::Error) -> ChannelError {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => ChannelError::Silent,
        _ => error.into(),
    }
}

/// Any number that an earlier reply in the pipe is unlikely to hold; one a process.
#[must_use]
pub fn sync_id() -> u64 {
    u64::from(std::process::id()) << 20 | 0xca1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    fn agent(dir: &Path, replies: Vec<&'static str>) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(dir.join("s")).expect("bind");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.write_all(b"{\"return\":\"left over\"}\n").expect("write");
            let mut lines = BufReader::new(stream.try_clone().expect("clone"));
            let mut line = Vec::new();
            lines.read_until(b'\n', &mut line).expect("sync");
            let text = String::from_utf8_lossy(&line[1..]).into_owned();
            let id: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            stream.write_all(&[0xff]).expect("write");
            writeln!(stream, "{{\"return\":{}}}", id["arguments"]["id"]).expect("write");
            for reply in replies {
                line.clear();
                lines.read_until(b'\n', &mut line).expect("command");
                stream.write_all(reply.as_bytes()).expect("write");
            }
            // Open until the client closes.
            lines.read_until(b'\n', &mut line).ok();
        })
    }

    #[test]
    fn a_left_over_reply_is_not_taken_for_ours() {
        let dir = tempfile::tempdir().expect("dir");
        let thread = agent(dir.path(), vec!["{\"return\":2}\n", "{\"return\":\"thawed\"}\n"]);
        assert!(thaw(&dir.path().join("s")).expect("thaw"));
        thread.join().expect("agent");
    }

    /// Says the same again and again, for as long as it is heard.
    fn endless(first: Vec<u8>, piece: &'static [u8]) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        std::thread::spawn(move || {
            let mut lot = first;
            while theirs.write_all(&lot).is_ok() {
                lot = piece.repeat(1000);
            }
        });
        ours
    }

    #[test]
    fn an_agent_that_talks_without_an_end_costs_no_time() {
        let synced = || [b"\xff".as_slice(), format!("{{\"return\":{}}}\n", sync_id()).as_bytes()].concat();
        for (what, first, piece) in [
            ("never the sign of an answer", Vec::new(), b"xxxxxxxxxx".as_slice()),
            ("signs and nothing else", Vec::new(), b"\xff"),
            ("a reply without an end", synced(), b"xxxxxxxxxx"),
            ("replies without an end", synced(), b"{}\n"),
        ] {
            let start = Instant::now();
            let error = converse(endless(first, piece)).expect_err(what);
            assert!(start.elapsed() < CHANNEL_LIMIT + Duration::from_millis(500), "{what}: {:?}", start.elapsed());
            assert!(error.to_string().len() < 1000, "{what}: {error}");
        }
    }

    #[test]
    fn no_more_of_a_reply_is_kept_than_of_the_longest() {
        const PLENTY: Duration = Duration::from_secs(120);
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        // One byte too many, then silence: a reader that would keep more waits for it until its time is over.
        let says = std::thread::spawn(move || theirs.write_all(&vec![b'x'; REPLY_BYTES_MAX + 1]).map(|()| theirs));
        let mut channel = Channel { stream: ours, deadline: Instant::now() + PLENTY };
        assert!(matches!(channel.line(), Err(ChannelError::Silent)));
        assert!(Instant::now() < channel.deadline, "its time ended it, not its length");
        says.join().expect("no panic").expect("all of it was read");
    }

    #[test]
    fn an_agent_that_reads_nothing_ends_in_time() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        while (&ours).write(&[b'x'; 4096]).is_ok() {}
        ours.set_nonblocking(false).expect("set");
        let start = Instant::now();
        assert!(matches!(converse(ours), Err(ChannelError::Silent)));
        assert!(start.elapsed() < CHANNEL_LIMIT + Duration::from_millis(500), "{:?}", start.elapsed());
        drop(theirs);
    }

    #[test]
    fn an_agent_that_says_nothing_ends_in_time() {
        let dir = tempfile::tempdir().expect("dir");
        let thread = agent(dir.path(), vec!["{\"return\":"]);
        let start = Instant::now();
        assert!(matches!(thaw(&dir.path().join("s")), Err(ChannelError::Silent)));
        assert!(start.elapsed() < CHANNEL_LIMIT + Duration::from_millis(500));
        thread.join().expect("agent");
    }
}
