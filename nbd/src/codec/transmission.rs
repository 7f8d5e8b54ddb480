//! Requests, simple replies, structured reply chunks.

use super::error::CodecError;
use super::limits::{DESCRIPTOR_BYTES, ERROR_PAYLOAD_BYTES_MAX, REPLY_BYTES_MAX, STATUS_PAYLOAD_BYTES_MAX};
use super::wire::{Reader, expect_magic, within};

/// In front of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// In front of every simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// In front of every structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Bytes of a request without its data.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply without its data, magic included.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a chunk without its payload, magic included.
pub const CHUNK_HEADER_BYTES: usize = 20;

/// Commands.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Disconnect; has no reply.
    pub const DISC: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Trim.
    pub const TRIM: u16 = 4;
    /// Make later reads quick.
    pub const CACHE: u16 = 5;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Block status.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags.
pub mod command_flag {
    /// Force unit access.
    pub const FUA: u16 = 1;
    /// WRITE_ZEROES: do not punch a hole.
    pub const NO_HOLE: u16 = 2;
    /// READ: one data chunk at most.
    pub const DF: u16 = 4;
    /// BLOCK_STATUS: one descriptor a context.
    pub const REQ_ONE: u16 = 8;
}

/// Error numbers: the protocol's own, whatever the host calls them.
pub mod errno {
    /// Not allowed.
    pub const EPERM: u32 = 1;
    /// Input or output failed.
    pub const EIO: u32 = 5;
    /// No memory.
    pub const ENOMEM: u32 = 12;
    /// The request makes no sense.
    pub const EINVAL: u32 = 22;
    /// Too large.
    pub const EOVERFLOW: u32 = 75;
    /// Not supported.
    pub const ENOTSUP: u32 = 95;
    /// The server is going away.
    pub const ESHUTDOWN: u32 = 108;
}

/// Chunk types.
pub mod chunk {
    /// Nothing; ends a reply.
    pub const NONE: u16 = 0;
    /// Offset and data.
    pub const OFFSET_DATA: u16 = 1;
    /// Offset and length of zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// Descriptors of one meta context.
    pub const BLOCK_STATUS: u16 = 5;
    /// An error.
    pub const ERROR: u16 = (1 << 15) | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) | 2;
    /// Set in every error type, known or not.
    pub const ERROR_BIT: u16 = 1 << 15;
}

/// Chunk flag: the last one of its reply.
pub const CHUNK_DONE: u16 = 1;

/// base:allocation status bit: a hole. It need not read as zero.
pub const STATE_HOLE: u32 = 1;
/// base:allocation status bit: reads as zero.
pub const STATE_ZERO: u32 = 2;
/// qemu:dirty-bitmap status bit: dirty.
pub const STATE_DIRTY: u32 = 1;

/// A request without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Bits of [`command_flag`].
    pub flags: u16,
    /// One of [`command`].
    pub command: u16,
    /// Chosen by the client, comes back in the reply.
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Request {
    /// To bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// From bytes. What length is fit for which command is the server's to judge.
    ///
    /// # Errors
    /// Wrong magic.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        expect_magic("request magic", u64::from(reader.u32("request magic")?), u64::from(REQUEST_MAGIC))?;
        Ok(Self {
            flags: reader.u16("command flags")?,
            command: reader.u16("command")?,
            cookie: reader.u64("cookie")?,
            offset: reader.u64("offset")?,
            length: reader.u32("length")?,
        })
    }
}

/// A simple reply without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0 or an errno of the protocol.
    pub error: u32,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// To bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SIMPLE_REPLY_BYTES] {
        let mut out = [0; SIMPLE_REPLY_BYTES];
        out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out[4..8].copy_from_slice(&self.error.to_be_bytes());
        out[8..].copy_from_slice(&self.cookie.to_be_bytes());
        out
    }

    /// From the bytes behind the magic.
    ///
    /// # Errors
    /// Never for 12 bytes; the codec's shape is kept.
    pub fn decode(body: &[u8; SIMPLE_REPLY_BYTES - 4]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(body);
        Ok(Self { error: reader.u32("error")?, cookie: reader.u64("cookie")? })
    }
}

/// Header of one structured reply chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`CHUNK_DONE`] or 0.
    pub flags: u16,
    /// One of [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes of payload that follow.
    pub length: u32,
}

impl ChunkHeader {
    /// The last chunk of its reply.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.flags & CHUNK_DONE != 0
    }

    /// To bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CHUNK_HEADER_BYTES] {
        let mut out = [0; CHUNK_HEADER_BYTES];
        out[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.kind.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// From the bytes behind the magic.
    ///
    /// # Errors
    /// A payload that its type cannot have.
    pub fn decode(body: &[u8; CHUNK_HEADER_BYTES - 4]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(body);
        let header =
            Self { flags: reader.u16("chunk flags")?, kind: reader.u16("chunk type")?, cookie: reader.u64("cookie")?, length: reader.u32("chunk length")? };
        header.check_length()?;
        Ok(header)
    }

    fn check_length(&self) -> Result<(), CodecError> {
        let (least, most) = match self.kind {
            chunk::NONE => (0, 0),
            chunk::OFFSET_DATA => (9, 8 + REPLY_BYTES_MAX),
            chunk::OFFSET_HOLE => (12, 12),
            chunk::BLOCK_STATUS => (4 + DESCRIPTOR_BYTES, STATUS_PAYLOAD_BYTES_MAX),
            kind if kind & chunk::ERROR_BIT != 0 => (6, ERROR_PAYLOAD_BYTES_MAX),
            kind => {
                return Err(CodecError::Forbidden { field: "chunk type", found: u64::from(kind) });
            }
        };
        within("chunk length", u64::from(self.length), u64::from(most))?;
        if self.length < least {
            return Err(CodecError::Short { field: "chunk payload", found: self.length as usize, needed: least as usize });
        }
        if self.kind == chunk::NONE && !self.is_done() {
            return Err(CodecError::Forbidden { field: "flags of an empty chunk", found: u64::from(self.flags) });
        }
        Ok(())
    }
}

/// One run of a meta context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes, never 0.
    pub length: u32,
    /// Meaning depends on the context.
    pub status: u32,
}

/// Decodes a block status chunk to (context id, descriptors).
///
/// # Errors
/// Length that is not a whole number of descriptors, a descriptor of length 0.
pub fn decode_block_status(payload: &[u8]) -> Result<(u32, Vec<Descriptor>), CodecError> {
    let mut reader = Reader::new(payload);
    let context = reader.u32("meta context id")?;
    let extra = reader.len() % DESCRIPTOR_BYTES as usize;
    if extra != 0 {
        return Err(CodecError::Trailing { field: "block status", extra });
    }
    let mut descriptors = Vec::with_capacity(reader.len() / DESCRIPTOR_BYTES as usize);
    while !reader.is_empty() {
        let descriptor = Descriptor { length: reader.u32("extent length")?, status: reader.u32("extent status")? };
        if descriptor.length == 0 {
            return Err(CodecError::Forbidden { field: "extent length", found: 0 });
        }
        descriptors.push(descriptor);
    }
    Ok((context, descriptors))
}

/// Encodes a block status chunk's payload.
#[must_use]
pub fn encode_block_status(context: u32, descriptors: &[Descriptor]) -> Vec<u8> {
    let mut out = context.to_be_bytes().to_vec();
    for descriptor in descriptors {
        out.extend_from_slice(&descriptor.length.to_be_bytes());
        out.extend_from_slice(&descriptor.status.to_be_bytes());
    }
    out
}

/// Encodes a data chunk's payload up to where the data begins.
#[must_use]
pub fn encode_offset(offset: u64) -> [u8; 8] {
    offset.to_be_bytes()
}

/// Encodes a hole chunk's payload.
#[must_use]
pub fn encode_hole(offset: u64, length: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&offset.to_be_bytes());
    out[8..].copy_from_slice(&length.to_be_bytes());
    out
}

/// Decodes an error chunk to (errno, message). The message is a stranger's: show it escaped.
///
/// # Errors
/// Cut short, errno 0, message not UTF-8.
pub fn decode_error(payload: &[u8]) -> Result<(u32, String), CodecError> {
    let mut reader = Reader::new(payload);
    let errno = reader.u32("error number")?;
    if errno == 0 {
        return Err(CodecError::Forbidden { field: "error number", found: 0 });
    }
    let length = usize::from(reader.u16("error message length")?);
    Ok((errno, reader.name("error message", length)?))
}

/// Encodes an error chunk's payload.
///
/// # Errors
/// Message above 4096 bytes.
pub fn encode_error(errno: u32, message: &str) -> Result<Vec<u8>, CodecError> {
    within("error message", message.len() as u64, super::limits::NAME_BYTES_MAX as u64)?;
    let mut out = errno.to_be_bytes().to_vec();
    let length = u16::try_from(message.len()).expect("4096 fits 16 bits");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message.as_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let request = Request { flags: 1, command: command::READ, cookie: 7, offset: 1 << 40, length: 65536 };
        assert_eq!(Request::decode(&request.encode()), Ok(request));
        let reply = SimpleReply { error: 5, cookie: 9 };
        let bytes = reply.encode();
        let mut body = [0; SIMPLE_REPLY_BYTES - 4];
        body.copy_from_slice(&bytes[4..]);
        assert_eq!(SimpleReply::decode(&body), Ok(reply));
        let descriptors = vec![Descriptor { length: 4096, status: 3 }, Descriptor { length: u32::MAX, status: 0 }];
        assert_eq!(decode_block_status(&encode_block_status(2, &descriptors)), Ok((2, descriptors)));
        let error = encode_error(5, "gone").expect("short");
        assert_eq!(decode_error(&error), Ok((5, "gone".to_owned())));
    }

    fn chunk_result(kind: u16, flags: u16, length: u32) -> Result<ChunkHeader, CodecError> {
        let bytes = ChunkHeader { flags, kind, cookie: 1, length }.encode();
        let mut body = [0; CHUNK_HEADER_BYTES - 4];
        body.copy_from_slice(&bytes[4..]);
        ChunkHeader::decode(&body)
    }

    #[test]
    fn a_chunk_has_only_lengths_its_type_can_have() {
        for (kind, length) in [
            (chunk::NONE, 1),
            (chunk::OFFSET_DATA, 8),
            (chunk::OFFSET_DATA, 8 + REPLY_BYTES_MAX + 1),
            (chunk::OFFSET_HOLE, 11),
            (chunk::OFFSET_HOLE, 13),
            (chunk::BLOCK_STATUS, 4),
            (chunk::BLOCK_STATUS, u32::MAX),
            (chunk::ERROR, 5),
            (chunk::ERROR, u32::MAX),
            (77, 0),
        ] {
            assert!(chunk_result(kind, CHUNK_DONE, length).is_err(), "type {kind} length {length}");
        }
        assert!(chunk_result(chunk::NONE, 0, 0).is_err(), "an empty chunk must be the last");
        assert!(chunk_result(chunk::OFFSET_DATA, 0, 8 + REPLY_BYTES_MAX).is_ok());
    }

    #[test]
    fn extents_of_length_zero_and_odd_payloads_are_refused() {
        assert!(decode_block_status(&encode_block_status(1, &[Descriptor { length: 0, status: 0 }])).is_err());
        let mut odd = encode_block_status(1, &[Descriptor { length: 1, status: 0 }]);
        odd.push(0);
        assert!(decode_block_status(&odd).is_err());
        assert!(decode_error(&[0, 0, 0, 0, 0, 0]).is_err(), "errno 0 is no error");
        assert!(decode_error(&[0, 0, 0, 5, 0, 9, b'x']).is_err(), "message longer than the payload");
    }
}
