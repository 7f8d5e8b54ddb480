//! WRITE, WRITE_ZEROES, TRIM, FLUSH.

use super::connection::{Connection, Outcome, Piece, ReplyReader};
use super::error::NbdError;
use super::wire::{What, Wire};
use crate::codec::handshake::export_flag;
use crate::codec::limits::WRITE_BYTES_MAX;
use crate::codec::transmission::{Request, chunk, command, command_flag};

/// Bytes of one WRITE_ZEROES or TRIM: no data goes over the wire, but servers bound their work.
const ZERO_BYTES_MAX: u64 = 1 << 30;

impl Connection {
    /// Writes `data` at `offset`; several requests if need be.
    ///
    /// # Errors
    /// Read-only export, range beyond the end, unaligned, the server's error, a broken connection. Parts may then have been written.
    pub async fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        let what = What::Request { command: "write", offset, length: data.len() as u64 };
        self.check_write(what, offset, data.len() as u64, "write", export_flag::HAS_FLAGS)?;
        let most = WRITE_BYTES_MAX.min(self.info().block_sizes.maximum);
        let most = (most - most % self.info().block_sizes.minimum) as usize;
        let mut at = offset;
        for piece in data.chunks(most) {
            self.simple_request("write", 0, command::WRITE, at, piece.len() as u64, piece).await?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes a range read as zero. `punch` lets the server free the space.
    ///
    /// # Errors
    /// As [`Connection::write_at`]; [`NbdError::Unsupported`] where the export has no WRITE_ZEROES.
    pub async fn write_zeroes(&mut self, offset: u64, length: u64, punch: bool) -> Result<(), NbdError> {
        let what = What::Request { command: "write zeroes", offset, length };
        self.check_write(what, offset, length, "write zeroes", export_flag::SEND_WRITE_ZEROES)?;
        let flags = if punch { 0 } else { command_flag::NO_HOLE };
        self.row("write zeroes", flags, command::WRITE_ZEROES, offset, length).await
    }

    /// Tells the server that a range is no longer needed; what it reads as afterwards is undefined.
    ///
    /// # Errors
    /// As [`Connection::write_at`]; [`NbdError::Unsupported`] where the export has no TRIM.
    pub async fn trim(&mut self, offset: u64, length: u64) -> Result<(), NbdError> {
        let what = What::Request { command: "trim", offset, length };
        self.check_write(what, offset, length, "trim", export_flag::SEND_TRIM)?;
        self.row("trim", 0, command::TRIM, offset, length).await
    }

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// [`NbdError::Unsupported`] where the export has no FLUSH; the server's error; a broken connection.
    pub async fn flush(&mut self) -> Result<(), NbdError> {
        self.check_flag("flush", export_flag::SEND_FLUSH)?;
        self.simple_request("flush", 0, command::FLUSH, 0, 0, &[]).await
    }

    async fn row(&mut self, name: &'static str, flags: u16, command: u16, offset: u64, length: u64) -> Result<(), NbdError> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let piece = (end - at).min(ZERO_BYTES_MAX);
            self.simple_request(name, flags, command, at, piece, &[]).await?;
            at += piece;
        }
        Ok(())
    }

    fn check_flag(&self, name: &'static str, flag: u16) -> Result<(), NbdError> {
        if self.info().flags & flag == flag { Ok(()) } else { Err(NbdError::Unsupported { server: self.server(), command: name }) }
    }

    fn check_write(&self, what: What, offset: u64, length: u64, name: &'static str, flag: u16) -> Result<(), NbdError> {
        if self.info().is_read_only() {
            return Err(NbdError::Unsupported { server: self.server(), command: name });
        }
        self.check_flag(name, flag)?;
        self.check_range(what, offset, length)?;
        self.check_aligned(what, offset, length)
    }

    async fn simple_request(&mut self, name: &'static str, flags: u16, command: u16, offset: u64, length: u64, data: &[u8]) -> Result<(), NbdError> {
        let what = What::Request { command: name, offset, length };
        let length = u32::try_from(length).expect("callers cut to 1 GiB and less");
        let request = Request { flags, command, cookie: self.next_cookie(), offset, length };
        let structured = self.structured;
        let mut wire = self.take_wire()?;
        let result = tokio::time::timeout(self.reply_limit(), transfer(&mut wire, what, request, structured, data)).await;
        self.settle(wire, what, result)
    }
}

async fn transfer(wire: &mut Wire, what: What, request: Request, structured: bool, data: &[u8]) -> Result<Outcome<()>, NbdError> {
    wire.send(what, &request.encode()).await?;
    wire.send(what, data).await?;
    let mut reader = ReplyReader { what, cookie: request.cookie, structured, chunks: 0 };
    let mut failure = None;
    loop {
        match reader.next(wire).await? {
            Piece::Simple => return Ok(Ok(())),
            Piece::Error { errno, message, done } => {
                failure.get_or_insert((errno, message));
                if !done {
                    continue;
                }
            }
            Piece::Chunk(header) if header.kind == chunk::NONE => {}
            Piece::Chunk(header) => {
                return Err(wire.violation(what, format!("chunk type {}", header.kind)));
            }
        }
        return Ok(failure.map_or(Ok(()), Err));
    }
}
