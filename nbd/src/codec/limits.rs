//! Limits on everything a peer can make us hold. All are ours unless a comment names another source.

/// Bytes of read reply that may be outstanding on one connection (why: docs/capture.md, "The 64 KiB rule").
pub const REPLY_BYTES_MAX: u32 = 64 * 1024;
/// Bytes of one write request; the protocol's default upper bound for servers that advertise none is 32 MiB, ours is smaller.
pub const WRITE_BYTES_MAX: u32 = 2 * 1024 * 1024;
/// Bytes of a name (export, meta context, message); the protocol says 4096.
pub const NAME_BYTES_MAX: usize = 4096;
/// Bytes of the payload of one option reply.
pub const OPTION_REPLY_BYTES_MAX: u32 = 16 * 1024;
/// Replies to one option (a server lists one export or context a reply).
pub const OPTION_REPLIES_MAX: usize = 4096;
/// Bytes of an option request's payload that a server accepts.
pub const OPTION_REQUEST_BYTES_MAX: u32 = 64 * 1024;
/// Structured chunks in one reply; a 64 KiB read cut into 512-byte pieces has 128.
pub const CHUNKS_PER_REPLY_MAX: usize = 4096;
/// Payload of one block status chunk: QEMU sends up to 128 Ki descriptors of 8 bytes, plus the context id.
pub const STATUS_PAYLOAD_BYTES_MAX: u32 = 128 * 1024 * 8 + 4;
/// Payload of an error chunk: errno, length, message, offset.
pub const ERROR_PAYLOAD_BYTES_MAX: u32 = 4 + 2 + NAME_BYTES_MAX as u32 + 8;
/// Meta contexts on one connection.
pub const CONTEXTS_MAX: usize = 16;
/// Largest export: offsets are signed 64-bit in every server we know.
pub const EXPORT_BYTES_MAX: u64 = i64::MAX as u64;
/// Smallest granularity that block status is assumed to have (file system blocks). It bounds how much one request may span so that its reply
/// stays below [`REPLY_BYTES_MAX`].
pub const ALLOCATION_GRANULARITY_BYTES: u32 = 4096;
/// Bytes of one block status descriptor.
pub const DESCRIPTOR_BYTES: u32 = 8;
