//! What clients may take. All are the server's to choose; the defaults are the constants.
//!
//! With the defaults the server's buffers take at most `CONNECTIONS_MAX * (OWN_BYTES + PIECE_BYTES_MAX) + SHARED_BYTES` = 160 MiB, whatever
//! clients do, besides what the exports keep for themselves.

use std::time::Duration;

use super::error::ServerError;
use crate::codec::limits::{DESCRIPTOR_BYTES, NAME_BYTES_MAX, OPTION_REQUEST_BYTES_MAX};

/// Largest READ, bytes: what the protocol lets clients assume of a server that names no limit.
pub const READ_BYTES_MAX: u32 = 32 << 20;
/// A larger READ is answered piece by piece, bytes; also the largest with DF.
pub const PIECE_BYTES_MAX: u32 = 512 << 10;
/// Payload of a WRITE that is read and thrown away before it is refused, bytes; with more the connection is closed.
pub const REFUSED_WRITE_BYTES_MAX: u32 = 32 << 20;
/// Descriptors in one block status reply: 32 KiB.
pub const DESCRIPTORS_MAX: usize = 4096;
/// Options in one negotiation.
pub const OPTIONS_MAX: u32 = 256;
/// What a request counts at least against the limits on bytes: its header, its reply's header, its task.
pub const REQUEST_BYTES_MIN: u32 = 4096;
/// What a block status request counts against the limits on bytes: extents and descriptors.
pub const STATUS_REQUEST_BYTES: u32 = DESCRIPTORS_MAX as u32 * (24 + 2 * DESCRIPTOR_BYTES);
/// Bytes of an export's name and of its description.
pub const EXPORT_NAME_BYTES_MAX: usize = 256;
/// Exports of one server: all must fit the replies to one LIST.
pub const EXPORTS_MAX: usize = 1024;

// A client's name of an export is compared, never kept; what is longer than the limit of the codec is refused there.
const _: () = assert!(EXPORT_NAME_BYTES_MAX <= NAME_BYTES_MAX && NAME_BYTES_MAX < OPTION_REQUEST_BYTES_MAX as usize);
const _: () = assert!(STATUS_REQUEST_BYTES <= PIECE_BYTES_MAX);

/// Limits of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in transmission, all listeners together. More are refused at the end of their negotiation.
    pub connections_max: usize,
    /// Connections in negotiation, TLS included. One more closes the oldest of them.
    pub negotiating_max: usize,
    /// From a connection's first byte to the end of its negotiation.
    pub negotiation_limit: Duration,
    /// For the rest of a request whose first byte came.
    pub request_limit: Duration,
    /// For the client to take one piece of reply. At 512 KiB and 30 s that is 17 KiB/s.
    pub reply_limit: Duration,
    /// Requests in flight on a connection.
    pub requests_max: usize,
    /// Bytes in flight on a connection.
    pub connection_bytes_max: u32,
    /// Of these, bytes which nobody else can take.
    pub own_bytes: u32,
    /// Bytes that all connections share.
    pub shared_bytes: u32,
    /// Calls into exports at one time.
    pub readers_max: usize,
    /// Largest READ, bytes, a power of two.
    pub read_bytes_max: u32,
    /// What clients are told to read at a time, bytes, a power of two.
    pub read_bytes_preferred: u32,
    /// For requests in flight to end once the server is told to stop.
    pub stop_limit: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            negotiating_max: 64,
            negotiation_limit: Duration::from_secs(20),
            request_limit: Duration::from_secs(30),
            reply_limit: Duration::from_secs(30),
            requests_max: 64,
            connection_bytes_max: 16 << 20,
            own_bytes: 1 << 20,
            shared_bytes: 64 << 20,
            readers_max: 16,
            read_bytes_max: READ_BYTES_MAX,
            read_bytes_preferred: 64 << 10,
            stop_limit: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Whether they can be kept together.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        let at_least = |name, found: u64, least: u64, rule| if found < least { Err(ServerError::Limit { name, found, rule }) } else { Ok(()) };
        at_least("connections_max", self.connections_max as u64, 1, "at least 1")?;
        at_least("negotiating_max", self.negotiating_max as u64, 1, "at least 1")?;
        at_least("requests_max", self.requests_max as u64, 1, "at least 1")?;
        at_least("readers_max", self.readers_max as u64, 1, "at least 1")?;
        at_least("own_bytes", self.own_bytes.into(), PIECE_BYTES_MAX.into(), "at least one piece (512 KiB), or a connection could wait for ever")?;
        at_least("connection_bytes_max", self.connection_bytes_max.into(), self.own_bytes.into(), "at least own_bytes")?;
        let preferred = self.read_bytes_preferred;
        if !preferred.is_power_of_two() || !(512..=READ_BYTES_MAX).contains(&preferred) {
            return Err(ServerError::Limit { name: "read_bytes_preferred", found: preferred.into(), rule: "a power of two from 512 to 32 MiB" });
        }
        let most = self.read_bytes_max;
        if !most.is_power_of_two() || most < preferred.max(64 << 10) || most > READ_BYTES_MAX {
            return Err(ServerError::Limit { name: "read_bytes_max", found: most.into(), rule: "a power of two from 64 KiB and the preferred size to 32 MiB" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_contradict_each_other_are_named() {
        Limits::default().check().expect("the defaults fit");
        let bad = [
            Limits { own_bytes: 4096, ..Limits::default() },
            Limits { connection_bytes_max: 512 << 10, ..Limits::default() },
            Limits { requests_max: 0, ..Limits::default() },
            Limits { read_bytes_preferred: 3000, ..Limits::default() },
            Limits { read_bytes_max: 32 << 10, ..Limits::default() },
        ];
        for limits in bad {
            assert!(matches!(limits.check(), Err(ServerError::Limit { .. })), "{limits:?}");
        }
    }
}
