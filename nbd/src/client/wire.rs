//! A stream with names: every failure says which server and what was being done.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use super::address::Address;
use super::error::NbdError;
use crate::codec::CodecError;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

/// Read buffer: headers come out of it, larger payloads go past it straight into their place.
const READ_BUFFER_BYTES: usize = 4096;
/// Between two tries for a place in a unix socket's queue.
const QUEUE_POLL: Duration = Duration::from_millis(5);

/// What is being done, for error texts.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Step(&'static str),
    Request { command: &'static str, offset: u64, length: u64 },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(name) => f.write_str(name),
            Self::Request { command, offset, length } => write!(f, "{command} of {length} bytes at {offset}"),
        }
    }
}

/// One open stream.
pub(super) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    /// For error texts: server and export.
    pub(super) server: String,
}

impl Wire {
    /// Connects within `limit`.
    pub(super) async fn connect(address: &Address, server: String, limit: Duration) -> Result<Self, NbdError> {
        let opened = tokio::time::timeout(limit, open(address)).await;
        match opened {
            Err(_) => Err(NbdError::Timeout { server, what: "connect".to_owned(), limit }),
            Ok(Err(source)) => Err(NbdError::Connect { address: address.to_string(), source }),
            Ok(Ok(stream)) => Ok(Self { stream: BufReader::with_capacity(READ_BUFFER_BYTES, stream), server }),
        }
    }

    pub(super) async fn fill(&mut self, what: What, into: &mut [u8]) -> Result<(), NbdError> {
        match self.stream.read_exact(into).await {
            Ok(_) => Ok(()),
            Err(source) => Err(self.broken(what, source)),
        }
    }

    pub(super) async fn array<const N: usize>(&mut self, what: What) -> Result<[u8; N], NbdError> {
        let mut out = [0; N];
        self.fill(what, &mut out).await?;
        Ok(out)
    }

    /// Reads a payload whose length the caller has checked against a limit.
    pub(super) async fn payload(&mut self, what: What, length: u32) -> Result<Vec<u8>, NbdError> {
        let mut out = vec![0; length as usize];
        self.fill(what, &mut out).await?;
        Ok(out)
    }

    pub(super) async fn send(&mut self, what: What, bytes: &[u8]) -> Result<(), NbdError> {
        match self.stream.write_all(bytes).await {
            Ok(()) => Ok(()),
            Err(source) => Err(self.broken(what, source)),
        }
    }

    /// Half-closes after a farewell; nothing is waited for.
    pub(super) async fn shutdown(mut self) {
        if let Err(error) = self.stream.shutdown().await {
            tracing::debug!(server = %self.server, %error, "closing an NBD connection");
        }
    }

    fn broken(&self, what: What, source: io::Error) -> NbdError {
        NbdError::Stream { server: self.server.clone(), what: what.to_string(), source }
    }

    pub(super) fn malformed(&self, what: What, source: CodecError) -> NbdError {
        NbdError::Malformed { server: self.server.clone(), what: what.to_string(), source }
    }

    pub(super) fn violation(&self, what: What, problem: impl Into<String>) -> NbdError {
        NbdError::Violation { server: self.server.clone(), what: what.to_string(), problem: problem.into() }
    }
}

/// Waits for a place in the listener's queue: for a unix socket a full one is "try again", not a wait. The caller's limit on connecting is the limit.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(QUEUE_POLL).await,
            other => return other,
        }
    }
}

async fn open(address: &Address) -> io::Result<Box<dyn Stream>> {
    match address {
        Address::Unix(path) => Ok(Box::new(connect_unix(path).await?)),
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // Requests are small and each waits for its reply: Nagle's delay would be added to every one.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept, bind, connect, listen, socket};
    use std::os::fd::{AsRawFd, OwnedFd};

    fn unix_socket(flags: SockFlag) -> OwnedFd {
        socket(AddressFamily::Unix, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None).expect("a socket")
    }

    /// Connections until the queue takes no more.
    fn fill(address: &UnixAddr) -> Vec<OwnedFd> {
        let mut all = Vec::new();
        loop {
            let client = unix_socket(SockFlag::SOCK_NONBLOCK);
            match connect(client.as_raw_fd(), address) {
                Ok(()) => all.push(client),
                Err(Errno::EAGAIN) => return all,
                Err(e) => panic!("{e}"),
            }
        }
    }

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("s");
        let (listener, address) = (unix_socket(SockFlag::empty()), UnixAddr::new(&path).expect("an address"));
        bind(listener.as_raw_fd(), &address).expect("binds");
        listen(&listener, Backlog::new(1).expect("a small one")).expect("listens");
        let waiting = fill(&address);
        assert!(tokio::time::timeout(Duration::from_millis(100), connect_unix(&path)).await.is_err(), "there is no place, and that is no error");
        let client = tokio::spawn(async move { connect_unix(&path).await.map(drop) });
        // Each that is accepted makes a place; a queue of one has two.
        let accepted = accept(listener.as_raw_fd()).expect("one that waits");
        tokio::time::timeout(Duration::from_secs(10), client).await.expect("a place is taken").expect("no panic").expect("connected");
        nix::unistd::close(accepted).expect("open until now");
        drop(waiting);
    }
}
