//! One connection: one request at a time, every reply drained.
//!
//! Invariants: between requests the stream is in `wire`; during one it is with the request's future, so that dropping the future closes it.
//! A server's orderly error reply leaves the connection usable; anything else does not.

use std::time::Duration;

use tokio::time::error::Elapsed;

use super::error::{NbdError, ServerErrno};
use super::handshake;
use super::options::{ConnectOptions, TimeLimits};
use super::wire::{What, Wire};
use crate::codec::handshake::{BlockSizes, export_flag};
use crate::codec::limits::{CHUNKS_PER_REPLY_MAX, REPLY_BYTES_MAX};
use crate::codec::transmission::{
    CHUNK_HEADER_BYTES, ChunkHeader, Request, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, SimpleReply, chunk, command, decode_error,
};

/// What the server told of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportInfo {
    /// Bytes.
    pub size_bytes: u64,
    /// Bits of [`export_flag`].
    pub flags: u16,
    /// Constraints on requests.
    pub block_sizes: BlockSizes,
}

impl ExportInfo {
    /// Writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.flags & export_flag::READ_ONLY != 0
    }

    /// Largest aligned read, bytes.
    #[must_use]
    pub fn read_bytes_max(&self) -> u32 {
        let most = self.block_sizes.maximum.min(REPLY_BYTES_MAX);
        most - most % self.block_sizes.minimum
    }
}

/// Block status of one meta context, clipped to what was asked for and merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextStatus {
    /// Name of the context.
    pub context: String,
    /// (length in bytes, status), from the request's offset on, without gaps; may end before the request does.
    pub runs: Vec<(u64, u32)>,
}

/// The server's word on a request: done, or an errno with its message.
pub(super) type Outcome<T> = Result<T, (u32, String)>;

/// One open export.
pub struct Connection {
    wire: Option<Wire>,
    server: String,
    limits: TimeLimits,
    info: ExportInfo,
    pub(super) structured: bool,
    pub(super) contexts: Vec<(u32, String)>,
    cookie: u64,
}

/// One piece of a structured reply that is not an error.
pub(super) enum Piece {
    /// Header read, payload still on the stream.
    Chunk(ChunkHeader),
    /// A simple reply without error.
    Simple,
    /// An error, orderly reported.
    Error { errno: u32, message: String, done: bool },
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).field("usable", &self.is_usable()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects and opens the export.
    ///
    /// # Errors
    /// Anything of [`NbdError`] that concerns connecting and the handshake.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, NbdError> {
        handshake::open(options).await
    }

    pub(super) fn established(wire: Wire, limits: TimeLimits, info: ExportInfo, structured: bool, contexts: Vec<(u32, String)>) -> Self {
        let server = wire.server.clone();
        Self { wire: Some(wire), server, limits, info, structured, contexts, cookie: 0 }
    }

    /// What the server told of the export.
    #[must_use]
    pub fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// Structured replies are in use.
    #[must_use]
    pub fn is_structured(&self) -> bool {
        self.structured
    }

    /// No error has closed it yet.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.wire.is_some()
    }

    /// Sends DISC and closes. Never waits for the server longer than the reply limit.
    pub async fn close(mut self) {
        let Some(mut wire) = self.wire.take() else {
            return;
        };
        let request = Request { flags: 0, command: command::DISC, cookie: self.cookie, offset: 0, length: 0 };
        let farewell = async {
            if wire.send(What::Step("DISC"), &request.encode()).await.is_ok() {
                wire.shutdown().await;
            }
        };
        if tokio::time::timeout(self.limits.reply, farewell).await.is_err() {
            tracing::debug!(server = %self.server, "the server takes no farewell");
        }
    }

    pub(super) fn server(&self) -> String {
        self.server.clone()
    }

    pub(super) fn next_cookie(&mut self) -> u64 {
        self.cookie = self.cookie.wrapping_add(1);
        self.cookie
    }

    pub(super) fn take_wire(&mut self) -> Result<Wire, NbdError> {
        self.wire.take().ok_or_else(|| NbdError::Poisoned { server: self.server.clone() })
    }

    pub(super) fn reply_limit(&self) -> Duration {
        self.limits.reply
    }

    /// Ends a request: the stream comes back only if the reply was read to its end; else it is dropped here, which closes it.
    pub(super) fn settle<T>(&mut self, wire: Wire, what: What, result: Result<Result<Outcome<T>, NbdError>, Elapsed>) -> Result<T, NbdError> {
        let outcome = match result {
            Err(_) => {
                return Err(NbdError::Timeout { server: self.server(), what: what.to_string(), limit: self.limits.reply });
            }
            Ok(result) => result?,
        };
        match outcome {
            Ok(value) => {
                self.wire = Some(wire);
                Ok(value)
            }
            Err((errno, message)) => {
                if ServerErrno(errno) != ServerErrno::SHUTDOWN {
                    self.wire = Some(wire);
                }
                Err(NbdError::Server { server: self.server(), what: what.to_string(), errno: ServerErrno(errno), message })
            }
        }
    }

    /// Refuses what the export cannot hold.
    pub(super) fn check_range(&self, what: What, offset: u64, length: u64) -> Result<(), NbdError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.info.size_bytes => Ok(()),
            _ => Err(NbdError::OutOfRange { server: self.server(), what: what.to_string(), size_bytes: self.info.size_bytes }),
        }
    }

    pub(super) fn check_aligned(&self, what: What, offset: u64, length: u64) -> Result<(), NbdError> {
        let block_bytes = self.info.block_sizes.minimum;
        if offset.is_multiple_of(u64::from(block_bytes)) && length.is_multiple_of(u64::from(block_bytes)) {
            return Ok(());
        }
        Err(NbdError::Unaligned { server: self.server(), what: what.to_string(), block_bytes })
    }
}

/// Reads reply headers of one request and counts its chunks.
pub(super) struct ReplyReader {
    pub(super) what: What,
    pub(super) cookie: u64,
    pub(super) structured: bool,
    pub(super) chunks: usize,
}

impl ReplyReader {
    /// The next header; error chunks are read whole.
    pub(super) async fn next(&mut self, wire: &mut Wire) -> Result<Piece, NbdError> {
        self.chunks += 1;
        if self.chunks > CHUNKS_PER_REPLY_MAX {
            return Err(wire.violation(self.what, format!("more than {CHUNKS_PER_REPLY_MAX} chunks")));
        }
        let magic = u32::from_be_bytes(wire.array::<4>(self.what).await?);
        match magic {
            SIMPLE_REPLY_MAGIC => self.simple(wire).await,
            STRUCTURED_REPLY_MAGIC if self.structured => self.structured(wire).await,
            other => Err(wire.violation(self.what, format!("reply magic {other:#x}"))),
        }
    }

    async fn simple(&mut self, wire: &mut Wire) -> Result<Piece, NbdError> {
        let body = wire.array::<{ SIMPLE_REPLY_BYTES - 4 }>(self.what).await?;
        let reply = SimpleReply::decode(&body).map_err(|e| wire.malformed(self.what, e))?;
        self.check_cookie(wire, reply.cookie)?;
        if self.chunks > 1 {
            return Err(wire.violation(self.what, "a simple reply inside a structured one"));
        }
        if reply.error == 0 { Ok(Piece::Simple) } else { Ok(Piece::Error { errno: reply.error, message: String::new(), done: true }) }
    }

    async fn structured(&mut self, wire: &mut Wire) -> Result<Piece, NbdError> {
        let body = wire.array::<{ CHUNK_HEADER_BYTES - 4 }>(self.what).await?;
        let header = ChunkHeader::decode(&body).map_err(|e| wire.malformed(self.what, e))?;
        self.check_cookie(wire, header.cookie)?;
        if header.kind & chunk::ERROR_BIT == 0 {
            return Ok(Piece::Chunk(header));
        }
        let payload = wire.payload(self.what, header.length).await?;
        let (errno, message) = decode_error(&payload).map_err(|e| wire.malformed(self.what, e))?;
        Ok(Piece::Error { errno, message, done: header.is_done() })
    }

    fn check_cookie(&self, wire: &Wire, found: u64) -> Result<(), NbdError> {
        if found == self.cookie { Ok(()) } else { Err(wire.violation(self.what, format!("cookie {found} instead of {}", self.cookie))) }
    }
}
