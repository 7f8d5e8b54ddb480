//! Out to the client: what is ready goes out, many replies with one call to the kernel.
//!
//! Invariants: a reply's bytes and its request's place are held until the kernel has taken all of it; a client that does not take one piece
//! within the reply limit is given up.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::budget::Bytes;
use super::error::End;
use super::export::Export;
use super::limits::{Limits, PIECE_BYTES_MAX};
use crate::codec::transmission::{CHUNK_DONE, ChunkHeader, Request, SimpleReply, chunk, encode_block_status, encode_error, encode_hole, encode_offset};
use crate::codec::transmission::{Descriptor, errno};

/// Replies that go out with one call, if they are there.
const BATCH_MAX: usize = 64;

type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A simple reply or one chunk: its header and small payload, and its data.
pub(super) struct Frame {
    head: Vec<u8>,
    data: Vec<u8>,
}

impl Frame {
    pub(super) fn simple(cookie: u64, error: u32, data: Vec<u8>) -> Self {
        Self { head: SimpleReply { error, cookie }.encode().to_vec(), data }
    }

    fn chunk(cookie: u64, kind: u16, payload: &[u8], data: Vec<u8>) -> Self {
        let length = u32::try_from(payload.len() + data.len()).expect("chunks are cut to pieces of 512 KiB");
        let mut head = ChunkHeader { flags: 0, kind, cookie, length }.encode().to_vec();
        head.extend_from_slice(payload);
        Self { head, data }
    }

    pub(super) fn none(cookie: u64) -> Self {
        Self::chunk(cookie, chunk::NONE, &[], Vec::new())
    }

    pub(super) fn data(cookie: u64, offset: u64, data: Vec<u8>) -> Self {
        Self::chunk(cookie, chunk::OFFSET_DATA, &encode_offset(offset), data)
    }

    pub(super) fn hole(cookie: u64, offset: u64, length: u32) -> Self {
        Self::chunk(cookie, chunk::OFFSET_HOLE, &encode_hole(offset, length), Vec::new())
    }

    pub(super) fn block_status(cookie: u64, context: u32, descriptors: &[Descriptor]) -> Self {
        Self::chunk(cookie, chunk::BLOCK_STATUS, &encode_block_status(context, descriptors), Vec::new())
    }

    pub(super) fn error(cookie: u64, errno: u32, why: &'static str) -> Self {
        Self::chunk(cookie, chunk::ERROR, &encode_error(errno, why).expect("texts of ours are short"), Vec::new())
    }

    /// Marks a chunk as the last of its reply.
    fn done(&mut self) {
        self.head[4..6].copy_from_slice(&CHUNK_DONE.to_be_bytes());
    }
}

/// A request on its way to its last frame.
pub(super) struct Pending {
    /// Its place among those of its connection.
    pub(super) _place: OwnedSemaphorePermit,
    /// Pieces that have not been sent; the one that makes it 0 ends the reply.
    pub(super) pieces_left: Mutex<u32>,
}

/// Frames that wait for the client, with what they hold until it has taken them.
pub(super) enum Reply {
    Ready {
        frames: Vec<Frame>,
        _bytes: Bytes,
        _pending: Arc<Pending>,
    },
    /// A read larger than a piece, without structured replies: its pieces must follow each other.
    Long {
        request: Request,
        _pending: Arc<Pending>,
    },
}

impl Reply {
    /// Sends one piece's frames, in the right order with the reply's other pieces. A client that is gone hears nothing.
    pub(super) fn send(to: &UnboundedSender<Self>, mut frames: Vec<Frame>, structured: bool, bytes: Bytes, pending: &Arc<Pending>) {
        let mut left = pending.pieces_left.lock().unwrap_or_else(PoisonError::into_inner);
        *left -= 1;
        if *left == 0 && structured {
            frames.last_mut().expect("every piece has at least one frame").done();
        }
        // Still under the lock: no other piece may come behind the one that says it is the last.
        to.send(Self::Ready { frames, _bytes: bytes, _pending: pending.clone() }).ok();
    }
}

/// Writes replies until nobody is left to make any.
pub(super) struct ReplyWriter {
    pub(super) writer: Writer,
    pub(super) limits: Limits,
    pub(super) export: Arc<dyn Export>,
    pub(super) readers: Arc<Semaphore>,
}

impl ReplyWriter {
    pub(super) async fn run(mut self, mut replies: UnboundedReceiver<Reply>) -> Result<(), End> {
        let (mut batch, mut long) = (Vec::new(), None);
        while let Some(reply) = replies.recv().await {
            let mut bytes = 0;
            let mut next = Some(reply);
            while let Some(reply) = next.take() {
                match reply {
                    Reply::Ready { ref frames, .. } => {
                        bytes += frames.iter().map(|frame| frame.head.len() + frame.data.len()).sum::<usize>();
                        batch.push(reply);
                    }
                    Reply::Long { .. } => {
                        long = Some(reply);
                        break;
                    }
                }
                if batch.len() < BATCH_MAX && bytes < PIECE_BYTES_MAX as usize {
                    next = replies.try_recv().ok();
                }
            }
            self.write(&slices(&batch)).await?;
            batch.clear();
            if let Some(Reply::Long { request, .. }) = long.take() {
                self.long(request).await?;
            }
        }
        // TLS says farewell; on other streams this closes our direction.
        match timeout(self.limits.reply_limit, self.writer.shutdown()).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(self.slow()),
        }
    }

    fn slow(&self) -> End {
        End::Slow { what: "taking a reply", limit: self.limits.reply_limit }
    }

    async fn write(&mut self, parts: &[&[u8]]) -> Result<(), End> {
        match timeout(self.limits.reply_limit, write_all(&mut self.writer, parts)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(self.slow()),
        }
    }

    /// The buffer is this connection's only one of the kind, so it needs no place among the bytes in flight.
    async fn long(&mut self, request: Request) -> Result<(), End> {
        let (end, mut at) = (request.offset + u64::from(request.length), request.offset);
        let mut buffer = Vec::new();
        while at < end {
            let length = usize::try_from((end - at).min(u64::from(PIECE_BYTES_MAX))).expect("at most a piece");
            buffer.resize(length, 0);
            let (result, filled) = self.read(at, buffer).await;
            buffer = filled;
            let first = at == request.offset;
            if let Err(error) = result {
                if !first {
                    return Err(End::FailedMidReply);
                }
                return self.write(&[&SimpleReply { error: errno_of(&error), cookie: request.cookie }.encode()]).await;
            }
            let header = SimpleReply { error: 0, cookie: request.cookie }.encode();
            self.write(&[if first { &header[..] } else { &[] }, &buffer]).await?;
            at += length as u64;
        }
        Ok(())
    }

    async fn read(&mut self, at: u64, mut buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let reader = self.readers.clone().acquire_owned().await.expect("the readers' semaphore is never closed");
        let export = self.export.clone();
        let read = spawn_blocking(move || {
            let result = export.read_at(at, &mut buffer);
            drop(reader);
            (result, buffer)
        });
        read.await.unwrap_or_else(|error| (Err(io::Error::other(error)), Vec::new()))
    }
}

/// The protocol's number for what an export failed with.
pub(super) fn errno_of(error: &io::Error) -> u32 {
    if error.kind() == io::ErrorKind::OutOfMemory { errno::ENOMEM } else { errno::EIO }
}

fn slices(batch: &[Reply]) -> Vec<&[u8]> {
    let mut out = Vec::with_capacity(batch.len() * 2);
    for reply in batch {
        if let Reply::Ready { frames, .. } = reply {
            out.extend(frames.iter().flat_map(|frame| [&frame.head[..], &frame.data[..]]).filter(|part| !part.is_empty()));
        }
    }
    out
}

/// Writes all parts, several with each call.
async fn write_all(writer: &mut Writer, parts: &[&[u8]]) -> io::Result<()> {
    let mut parts: Vec<IoSlice<'_>> = parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut left = &mut parts[..];
    while !left.is_empty() {
        let written = writer.write_vectored(left).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    writer.flush().await
}
