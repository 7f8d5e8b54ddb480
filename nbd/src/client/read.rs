//! READ: one request of at most 64 KiB, and longer ranges as a row of them.
//!
//! Invariant: a reply counts only if its chunks cover the request exactly once. DF is never set: a server may answer with data, hole and
//! error chunks in any order.

use super::connection::{Connection, Outcome, Piece, ReplyReader};
use super::error::NbdError;
use super::wire::{What, Wire};
use crate::codec::transmission::{Request, chunk, command};

/// Which bytes of the request have been answered.
struct Coverage {
    /// (start, end) within the request, sorted, disjoint.
    parts: Vec<(usize, usize)>,
}

impl Coverage {
    /// Adds a part; false if it overlaps an earlier one.
    fn add(&mut self, start: usize, end: usize) -> bool {
        let at = self.parts.partition_point(|part| part.0 < start);
        let clear_before = at == 0 || self.parts[at - 1].1 <= start;
        let clear_after = at == self.parts.len() || end <= self.parts[at].0;
        if clear_before && clear_after {
            self.parts.insert(at, (start, end));
        }
        clear_before && clear_after
    }

    /// Parts are disjoint, so their sum tells.
    fn is_whole(&self, length: usize) -> bool {
        self.parts.iter().map(|(start, end)| end - start).sum::<usize>() == length
    }
}

impl Connection {
    /// Fills `into` from `offset` on, with one request after the other, each of at most 64 KiB. Any alignment: what the export's minimum block
    /// size demands more is read and thrown away.
    ///
    /// # Errors
    /// Range beyond the end, the server's error, or a broken connection. `into` is then undefined.
    pub async fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), NbdError> {
        let what = What::Request { command: "read", offset, length: into.len() as u64 };
        self.check_range(what, offset, into.len() as u64)?;
        let most = u64::from(self.info().read_bytes_max());
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            // Up to the next multiple of `most`, so that a row of requests is aligned from the second one on.
            let room = most - at % most;
            let length = usize::try_from(room).map_or(into.len() - done, |room| room.min(into.len() - done));
            self.read_piece(at, &mut into[done..done + length]).await?;
            done += length;
        }
        Ok(())
    }

    async fn read_piece(&mut self, offset: u64, into: &mut [u8]) -> Result<(), NbdError> {
        let block = u64::from(self.info().block_sizes.minimum);
        let end = offset + into.len() as u64;
        let (wide_start, wide_end) = (offset - offset % block, end.next_multiple_of(block));
        if (wide_start, wide_end) == (offset, end) {
            return self.read_request(offset, into).await;
        }
        let skip = usize::try_from(offset - wide_start).expect("less than one block of at most 64 KiB");
        let mut wide = vec![0; into.len() + skip + usize::try_from(wide_end - end).expect("less than one block")];
        self.read_request(wide_start, &mut wide).await?;
        into.copy_from_slice(&wide[skip..skip + into.len()]);
        Ok(())
    }

    async fn read_request(&mut self, offset: u64, into: &mut [u8]) -> Result<(), NbdError> {
        let length = u32::try_from(into.len()).expect("pieces are at most 64 KiB");
        assert!(length <= self.info().read_bytes_max(), "a read of {length} bytes could fill the socket");
        let what = What::Request { command: "read", offset, length: u64::from(length) };
        let request = Request { flags: 0, command: command::READ, cookie: self.next_cookie(), offset, length };
        let structured = self.structured;
        let mut wire = self.take_wire()?;
        let result = tokio::time::timeout(self.reply_limit(), transfer(&mut wire, what, request, structured, into)).await;
        self.settle(wire, what, result)
    }
}

async fn transfer(wire: &mut Wire, what: What, request: Request, structured: bool, into: &mut [u8]) -> Result<Outcome<()>, NbdError> {
    wire.send(what, &request.encode()).await?;
    let mut reader = ReplyReader { what, cookie: request.cookie, structured, chunks: 0 };
    let mut coverage = Coverage { parts: Vec::new() };
    let mut failure = None;
    loop {
        let done = match reader.next(wire).await? {
            Piece::Error { errno, message, done } => {
                // The first error is the cause; the rest of the reply must still be drained.
                failure.get_or_insert((errno, message));
                done
            }
            Piece::Simple if structured => {
                return Err(wire.violation(what, "a simple reply to a read, with structured replies agreed on"));
            }
            Piece::Simple => {
                wire.fill(what, into).await?;
                coverage.add(0, into.len());
                true
            }
            Piece::Chunk(header) => {
                match header.kind {
                    chunk::NONE => {}
                    chunk::OFFSET_DATA => {
                        data(wire, what, &request, header.length - 8, &mut coverage, into).await?;
                    }
                    chunk::OFFSET_HOLE => hole(wire, what, &request, &mut coverage, into).await?,
                    other => return Err(wire.violation(what, format!("chunk type {other}"))),
                }
                header.is_done()
            }
        };
        if done {
            break;
        }
    }
    match failure {
        Some(failure) => Ok(Err(failure)),
        None if coverage.is_whole(into.len()) => Ok(Ok(())),
        None => Err(wire.violation(what, "its chunks leave bytes unanswered")),
    }
}

async fn data(wire: &mut Wire, what: What, request: &Request, length: u32, coverage: &mut Coverage, into: &mut [u8]) -> Result<(), NbdError> {
    let at = u64::from_be_bytes(wire.array::<8>(what).await?);
    let (start, end) = place(wire, what, request, at, length, coverage)?;
    wire.fill(what, &mut into[start..end]).await
}

async fn hole(wire: &mut Wire, what: What, request: &Request, coverage: &mut Coverage, into: &mut [u8]) -> Result<(), NbdError> {
    let at = u64::from_be_bytes(wire.array::<8>(what).await?);
    let length = u32::from_be_bytes(wire.array::<4>(what).await?);
    let (start, end) = place(wire, what, request, at, length, coverage)?;
    into[start..end].fill(0);
    Ok(())
}

/// Where a chunk lies within the request.
fn place(wire: &Wire, what: What, request: &Request, at: u64, length: u32, coverage: &mut Coverage) -> Result<(usize, usize), NbdError> {
    let end = at.checked_add(u64::from(length));
    let fits = length > 0 && at >= request.offset && end.is_some_and(|end| end <= request.offset + u64::from(request.length));
    if !fits {
        return Err(wire.violation(what, format!("a chunk of {length} bytes at {at}, outside of the request")));
    }
    let start = usize::try_from(at - request.offset).expect("below 64 KiB: it lies inside the request");
    let end = start + length as usize;
    if coverage.add(start, end) { Ok((start, end)) } else { Err(wire.violation(what, format!("bytes at {at} come twice"))) }
}

#[cfg(test)]
mod tests {
    use super::Coverage;

    #[test]
    fn coverage_takes_any_order_and_no_overlap() {
        let mut coverage = Coverage { parts: Vec::new() };
        assert!(coverage.add(4, 8));
        assert!(coverage.add(0, 4));
        assert!(!coverage.is_whole(12));
        assert!(!coverage.add(3, 5));
        assert!(!coverage.add(7, 12));
        assert!(!coverage.add(5, 6), "inside of a part");
        assert!(!coverage.add(0, 12), "around all parts");
        assert!(coverage.add(8, 12));
        assert!(coverage.is_whole(12));
    }
}
