//! The client: addresses, handshake, one connection, a pool of connections, maps.
//!
//! Invariant: a connection owns its stream only between requests. A request takes the stream out and puts it back when its reply was read to
//! the end; any error, time limit or dropped future in between drops the stream, which closes it.

pub mod address;
mod block_status;
pub mod connection;
pub mod error;
pub mod extents;
mod handshake;
pub mod options;
pub mod pool;
mod read;
mod wire;
mod write;

pub use handshake::{list_exports, list_meta_contexts};
