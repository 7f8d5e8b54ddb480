//! In from the client: requests are read, judged, and handed to threads that may block.
//!
//! Invariants: nothing is read from the client while its places or bytes are taken; a request is judged before anything is allocated for it;
//! every request that is read gets exactly one reply, also when the export panics.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::budget::{Budget, Bytes};
use super::error::End;
use super::export::Export;
use super::limits::{Limits, PIECE_BYTES_MAX, REFUSED_WRITE_BYTES_MAX, REQUEST_BYTES_MIN, STATUS_REQUEST_BYTES};
use super::negotiate::ALLOCATION_ID;
use super::replies::{Frame, Pending, Reply, errno_of};
use super::status;
use crate::codec::transmission::{REQUEST_BYTES, Request, command, command_flag, errno};

/// Buffer for requests: some hundred of them with one call.
pub(super) const REQUEST_BUFFER_BYTES: usize = 8192;
/// Reads of this size and more leave out what the export knows to be zero. Smaller ones are tried at once, on the thread that reads requests.
const HOLES_BYTES_MIN: usize = 64 << 10;
/// Holes told in one piece; what lies behind them is sent as data.
const PIECE_EXTENTS_MAX: usize = 16;
/// Failures of an export that one connection can write to the log.
const COMPLAINTS_MAX: u32 = 16;

pub(super) type Reader = BufReader<Box<dyn AsyncRead + Send + Unpin>>;

/// What all requests of a connection need to be answered.
pub(super) struct Context {
    pub(super) name: String,
    pub(super) export: Arc<dyn Export>,
    pub(super) structured: bool,
    pub(super) to_client: UnboundedSender<Reply>,
    pub(super) complaints: AtomicU32,
}

/// The reading side of a connection in transmission.
pub(super) struct Requests {
    pub(super) context: Arc<Context>,
    pub(super) limits: Limits,
    pub(super) size_bytes: u64,
    pub(super) allocation: bool,
    pub(super) budget: Budget,
    pub(super) places: Arc<Semaphore>,
    pub(super) readers: Arc<Semaphore>,
}

/// Why a request is refused.
type Refusal = (u32, &'static str);

impl Requests {
    /// Until the client says farewell, goes, or breaks the protocol.
    pub(super) async fn run(&self, reader: &mut Reader) -> Result<(), End> {
        while let Some(request) = self.next(reader).await? {
            if request.command == command::DISC {
                break;
            }
            let place = self.places.clone().acquire_owned().await.expect("the places of a connection are never closed");
            let pending = Arc::new(Pending { _place: place, pieces_left: Mutex::new(1) });
            if request.command == command::WRITE {
                self.skip_payload(reader, request.length).await?;
            }
            match self.judge(&request) {
                Err((errno, why)) => self.refuse(&request, errno, why, &pending).await,
                Ok(()) => self.accept(&request, pending).await,
            }
        }
        Ok(())
    }

    /// The next request; `None` if the client has closed its direction in good order.
    async fn next(&self, reader: &mut Reader) -> Result<Option<Request>, End> {
        if reader.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        let mut bytes = [0; REQUEST_BYTES];
        let limit = self.limits.request_limit;
        match timeout(limit, reader.read_exact(&mut bytes)).await {
            Err(_) => Err(End::Slow { what: "sending a request", limit }),
            Ok(result) => {
                result?;
                Ok(Some(Request::decode(&bytes)?))
            }
        }
    }

    /// A WRITE's data must be read to find the next request.
    async fn skip_payload(&self, reader: &mut Reader, length: u32) -> Result<(), End> {
        if length > REFUSED_WRITE_BYTES_MAX {
            return Err(End::Violation("sent a write of more than 32 MiB"));
        }
        let limit = self.limits.request_limit;
        let mut payload = reader.take(u64::from(length));
        match timeout(limit, tokio::io::copy_buf(&mut payload, &mut tokio::io::sink())).await {
            Err(_) => Err(End::Slow { what: "sending a write's data", limit }),
            Ok(Ok(copied)) if copied == u64::from(length) => Ok(()),
            Ok(Ok(_)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Whether a request may be answered at all.
    fn judge(&self, request: &Request) -> Result<(), Refusal> {
        let allowed_flags = match request.command {
            command::READ if self.context.structured => command_flag::DF,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            command::WRITE | command::TRIM | command::WRITE_ZEROES => return Err((errno::EPERM, "the export is read-only")),
            command::READ | command::FLUSH | command::CACHE => 0,
            _ => return Err((errno::EINVAL, "the command is unknown")),
        };
        if request.flags & !allowed_flags != 0 {
            return Err((errno::EINVAL, "the command has a flag that was not agreed on"));
        }
        if request.command == command::FLUSH {
            return Ok(());
        }
        let end = request.offset.checked_add(u64::from(request.length));
        if end.is_none_or(|end| end > self.size_bytes) {
            return Err((errno::EINVAL, "the range lies beyond the export's end"));
        }
        match request.command {
            command::READ if request.length > self.limits.read_bytes_max => Err((errno::EOVERFLOW, "the read is larger than the maximum that was told")),
            command::READ if request.flags & command_flag::DF != 0 && request.length > PIECE_BYTES_MAX => {
                Err((errno::EOVERFLOW, "at most 512 KiB can be answered in one chunk"))
            }
            command::BLOCK_STATUS if !self.allocation => Err((errno::EINVAL, "base:allocation was not agreed on")),
            command::BLOCK_STATUS if request.length == 0 => Err((errno::EINVAL, "there is no status of nothing")),
            _ => Ok(()),
        }
    }

    async fn refuse(&self, request: &Request, errno: u32, why: &'static str, pending: &Arc<Pending>) {
        let frame = self.context.error(request.cookie, errno, why);
        self.answer(frame, pending).await;
    }

    /// An answer for which no export is asked.
    async fn answer(&self, frame: Frame, pending: &Arc<Pending>) {
        let bytes = self.budget.take(REQUEST_BYTES_MIN).await;
        Reply::send(&self.context.to_client, vec![frame], self.context.structured, bytes, pending);
    }

    async fn accept(&self, request: &Request, pending: Arc<Pending>) {
        let Request { cookie, offset, length, flags, .. } = *request;
        match request.command {
            command::READ if length > 0 => self.read(request, pending).await,
            command::BLOCK_STATUS => {
                let bytes = self.budget.take(STATUS_REQUEST_BYTES).await;
                let only_one = flags & command_flag::REQ_ONE != 0;
                self.submit(cookie, bytes, pending, move |context| {
                    let found = status::descriptors(&*context.export, offset, length, only_one);
                    Ok(vec![Frame::block_status(cookie, ALLOCATION_ID, &found.map_err(|e| (offset, e))?)])
                });
            }
            command::CACHE if length > 0 => {
                let bytes = self.budget.take(REQUEST_BYTES_MIN).await;
                self.submit(cookie, bytes, pending, move |context| {
                    context.export.prefetch(offset..offset + u64::from(length));
                    Ok(vec![context.success(cookie)])
                });
            }
            // FLUSH has nothing to do, and nothing was asked for.
            _ => self.answer(self.context.success(cookie), &pending).await,
        }
    }

    async fn read(&self, request: &Request, pending: Arc<Pending>) {
        let Request { cookie, offset, length, flags, .. } = *request;
        let one_chunk = !self.context.structured || flags & command_flag::DF != 0;
        if one_chunk && length > PIECE_BYTES_MAX {
            assert!(!self.context.structured, "larger reads with DF are refused");
            self.context.to_client.send(Reply::Long { request: *request, _pending: pending }).ok();
            return;
        }
        let end = offset + u64::from(length);
        let piece = u64::from(PIECE_BYTES_MAX);
        let pieces = if length <= PIECE_BYTES_MAX { 1 } else { end.div_ceil(piece) - offset / piece };
        *pending.pieces_left.lock().unwrap_or_else(PoisonError::into_inner) = u32::try_from(pieces).expect("at most 65 pieces");
        let mut at = offset;
        while at < end {
            // From the second piece on they are aligned, as the export's own chunks may be.
            let until = if pieces == 1 { end } else { end.min((at / piece + 1) * piece) };
            let length = u32::try_from(until - at).expect("at most a piece");
            let bytes = self.budget.take(length.max(REQUEST_BYTES_MIN)).await;
            let mut buffer = vec![0; length as usize];
            if buffer.len() < HOLES_BYTES_MIN && self.context.export.read_ready(at, &mut buffer) {
                let frame = self.context.data(cookie, at, buffer);
                Reply::send(&self.context.to_client, vec![frame], self.context.structured, bytes, &pending);
            } else {
                self.submit(cookie, bytes, pending.clone(), move |context| context.piece(cookie, at, buffer, one_chunk));
            }
            at = until;
        }
    }

    /// Runs `work` on a thread that may block, as soon as it is this request's turn.
    fn submit<W>(&self, cookie: u64, bytes: Bytes, pending: Arc<Pending>, work: W)
    where
        W: FnOnce(&Context) -> Result<Vec<Frame>, (u64, io::Error)> + Send + 'static,
    {
        let context = self.context.clone();
        let job = move || {
            // Nobody is there to hear it any more.
            if context.to_client.is_closed() {
                return;
            }
            let frames = match catch_unwind(AssertUnwindSafe(|| work(&context))) {
                Ok(Ok(frames)) => frames,
                Ok(Err((at, error))) => vec![context.failed(cookie, at, &error)],
                Err(_) => vec![context.error(cookie, errno::EIO, "reading ended in a defect of the server; its log says more")],
            };
            Reply::send(&context.to_client, frames, context.structured, bytes, &pending);
        };
        match self.readers.clone().try_acquire_owned() {
            Ok(reader) => {
                spawn_blocking(move || {
                    job();
                    drop(reader);
                });
            }
            Err(_) => {
                let readers = self.readers.clone();
                tokio::spawn(async move {
                    let reader = readers.acquire_owned().await.expect("the readers' semaphore is never closed");
                    spawn_blocking(move || {
                        job();
                        drop(reader);
                    });
                });
            }
        }
    }
}

impl Context {
    fn success(&self, cookie: u64) -> Frame {
        if self.structured { Frame::none(cookie) } else { Frame::simple(cookie, 0, Vec::new()) }
    }

    fn error(&self, cookie: u64, errno: u32, why: &'static str) -> Frame {
        if self.structured { Frame::error(cookie, errno, why) } else { Frame::simple(cookie, errno, Vec::new()) }
    }

    fn data(&self, cookie: u64, offset: u64, data: Vec<u8>) -> Frame {
        if self.structured { Frame::data(cookie, offset, data) } else { Frame::simple(cookie, 0, data) }
    }

    /// What the export failed with goes to the log, not to the client.
    fn failed(&self, cookie: u64, at: u64, error: &io::Error) -> Frame {
        let count = self.complaints.fetch_add(1, Ordering::Relaxed);
        if count < COMPLAINTS_MAX {
            tracing::warn!(export = %self.name, at, %error, "a client's request failed");
        } else if count == COMPLAINTS_MAX {
            tracing::warn!(export = %self.name, "more requests of this connection failed; they are not logged");
        }
        self.error(cookie, errno_of(error), "the export could not be read at this place; the server's log says why")
    }

    /// One piece of a read. `one_chunk`: as data alone, whatever is known of it.
    fn piece(&self, cookie: u64, offset: u64, mut buffer: Vec<u8>, one_chunk: bool) -> Result<Vec<Frame>, (u64, io::Error)> {
        if one_chunk || buffer.len() < HOLES_BYTES_MIN {
            self.export.read_at(offset, &mut buffer).map_err(|e| (offset, e))?;
            return Ok(vec![self.data(cookie, offset, buffer)]);
        }
        let end = offset + buffer.len() as u64;
        let extents = status::extents(&*self.export, offset..end, PIECE_EXTENTS_MAX).map_err(|e| (offset, e))?;
        if extents.iter().all(|extent| !extent.zero) {
            self.export.read_at(offset, &mut buffer).map_err(|e| (offset, e))?;
            return Ok(vec![self.data(cookie, offset, buffer)]);
        }
        // Its parts together are as large; both at once would be twice what was counted.
        drop(buffer);
        let told = extents.last().expect("at least one extent").range.end;
        let rest = (told < end).then_some((told..end, false));
        let mut frames = Vec::new();
        for (range, zero) in extents.into_iter().map(|extent| (extent.range, extent.zero)).chain(rest) {
            let length = u32::try_from(range.end - range.start).expect("a part of a piece");
            if zero {
                frames.push(Frame::hole(cookie, range.start, length));
                continue;
            }
            let mut part = vec![0; length as usize];
            self.export.read_at(range.start, &mut part).map_err(|e| (range.start, e))?;
            frames.push(Frame::data(cookie, range.start, part));
        }
        Ok(frames)
    }
}
