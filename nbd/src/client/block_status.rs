//! BLOCK_STATUS: one request, clipped and merged per context.

use super::connection::{Connection, ContextStatus, Outcome, Piece, ReplyReader};
use super::error::NbdError;
use super::wire::{What, Wire};
use crate::codec::transmission::{Descriptor, Request, chunk, command, decode_block_status};

impl Connection {
    /// Block status of every negotiated context from `offset` on, for at most `length` bytes. A server may answer for less; each context for
    /// another length. Runs are clipped to the request and merged; there is at least one per context.
    ///
    /// # Errors
    /// No contexts negotiated, range beyond the end or unaligned, the server's error, or a broken connection.
    pub async fn block_status(&mut self, offset: u64, length: u32) -> Result<Vec<ContextStatus>, NbdError> {
        let what = What::Request { command: "block status", offset, length: u64::from(length) };
        if self.contexts.is_empty() {
            return Err(NbdError::UnknownContext { server: self.server(), context: "any".to_owned() });
        }
        self.check_range(what, offset, u64::from(length))?;
        self.check_aligned(what, offset, u64::from(length))?;
        let request = Request { flags: 0, command: command::BLOCK_STATUS, cookie: self.next_cookie(), offset, length };
        let contexts = self.contexts.clone();
        let mut wire = self.take_wire()?;
        let result = tokio::time::timeout(self.reply_limit(), transfer(&mut wire, what, request, &contexts)).await;
        self.settle(wire, what, result)
    }
}

async fn transfer(wire: &mut Wire, what: What, request: Request, contexts: &[(u32, String)]) -> Result<Outcome<Vec<ContextStatus>>, NbdError> {
    wire.send(what, &request.encode()).await?;
    let mut reader = ReplyReader { what, cookie: request.cookie, structured: true, chunks: 0 };
    let mut found: Vec<ContextStatus> = Vec::new();
    let mut failure = None;
    loop {
        let done = match reader.next(wire).await? {
            Piece::Error { errno, message, done } => {
                failure.get_or_insert((errno, message));
                done
            }
            Piece::Simple => {
                return Err(wire.violation(what, "a simple reply without error to a block status request"));
            }
            Piece::Chunk(header) => {
                match header.kind {
                    chunk::NONE => {}
                    chunk::BLOCK_STATUS => {
                        let payload = wire.payload(what, header.length).await?;
                        let (id, descriptors) = decode_block_status(&payload).map_err(|e| wire.malformed(what, e))?;
                        found.push(status_of(wire, what, id, contexts, &found, &descriptors, request.length)?);
                    }
                    other => return Err(wire.violation(what, format!("chunk type {other}"))),
                }
                header.is_done()
            }
        };
        if done {
            break;
        }
    }
    if let Some(failure) = failure {
        return Ok(Err(failure));
    }
    match contexts.iter().find(|(_, name)| !found.iter().any(|status| status.context == *name)) {
        Some((_, missing)) => Err(wire.violation(what, format!("it says nothing of {missing:?}"))),
        None => Ok(Ok(found)),
    }
}

fn status_of(
    wire: &Wire,
    what: What,
    id: u32,
    contexts: &[(u32, String)],
    found: &[ContextStatus],
    descriptors: &[Descriptor],
    length: u32,
) -> Result<ContextStatus, NbdError> {
    let Some((_, name)) = contexts.iter().find(|(known, _)| *known == id) else {
        return Err(wire.violation(what, format!("unknown context id {id}")));
    };
    if found.iter().any(|status| status.context == *name) {
        return Err(wire.violation(what, format!("context {name:?} comes twice")));
    }
    Ok(ContextStatus { context: name.clone(), runs: clip_and_merge(descriptors, u64::from(length)) })
}

/// The last extent of a reply may reach beyond the request; neighbours of equal status may come apart.
fn clip_and_merge(descriptors: &[Descriptor], length: u64) -> Vec<(u64, u32)> {
    let mut runs: Vec<(u64, u32)> = Vec::new();
    let mut left = length;
    for descriptor in descriptors {
        let clipped = u64::from(descriptor.length).min(left);
        left -= clipped;
        match runs.last_mut() {
            _ if clipped == 0 => break,
            Some(last) if last.1 == descriptor.status => last.0 += clipped,
            _ => runs.push((clipped, descriptor.status)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_clipped_and_merged() {
        let d = |length, status| Descriptor { length, status };
        assert_eq!(clip_and_merge(&[d(4, 1), d(4, 1), d(u32::MAX, 0)], 16), vec![(8, 1), (8, 0)]);
        assert_eq!(clip_and_merge(&[d(4, 1)], 16), vec![(4, 1)], "a short reply stays short");
        assert_eq!(clip_and_merge(&[d(16, 1), d(4, 0)], 16), vec![(16, 1)], "nothing lies behind the request");
    }
}
