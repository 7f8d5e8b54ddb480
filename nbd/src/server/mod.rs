//! The server: read-only exports on unix sockets and TCP, for clients that may be hostile.
//!
//! Layers, one way: [`export`] (what is served), [`limits`] <- `budget`, `tls` <- `negotiate` (options) and `requests`, `replies` (transmission)
//! <- `connection` <- [`listen`] <- [`Server`].
//!
//! Invariants
//! - Memory is bounded by [`Limits`], whatever clients do: every request holds its place and its bytes until its reply has been taken by the
//!   kernel, and a connection whose places are taken is not read from.
//! - No client holds up another: each connection has bytes of its own besides the shared ones, waits for a reader in turn, and is closed when it
//!   does not read its replies. Who is slow to negotiate is closed first when others want in.
//! - Every wait has a limit, except for the next request of a client that has negotiated: a guest may be idle for days.
//! - Where TLS is configured nothing is told before it; no byte that came before TLS is believed inside it.
//! - Nothing is ever written to an export.
//!
//! What it must not do: know of stores, points or domains; call an export on a thread of the runtime, [`Export::read_ready`] excepted.

mod budget;
mod connection;
mod error;
pub mod export;
pub mod limits;
pub mod listen;
mod negotiate;
mod replies;
mod requests;
mod running;
mod status;
mod stream;
mod tls;

pub use error::ServerError;
pub use export::{Export, ExportExtent, Exports, FileExport};
pub use limits::Limits;
pub use listen::{Listener, UnixSocket};
pub use running::Server;
pub use tls::TlsIdentity;
