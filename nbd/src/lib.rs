//! Network Block Device, the fixed newstyle protocol: one codec, and a client on tokio.
//!
//! Layers, one way only: [`codec`] (pure bytes, no I/O, also fit for a server) <- [`client`] (one connection, a pool of them).
//!
//! Invariants
//! - Nothing a peer sends is believed before it was checked: magic numbers, lengths, offsets, counts, names.
//! - At most [`codec::limits::REPLY_BYTES_MAX`] of read reply is outstanding on a connection. A client that stops in mid-reply with more than
//!   the socket buffers hold blocks QEMU's main loop, and with it the guest (docs/capture.md).
//! - Every wait has a limit. A connection on which a wait ran out, a reply was malformed, or whose future was dropped in mid-reply is closed at
//!   once and never used again.
//!
//! What it must not do: know anything of libvirt, domains or stores.
//!
//! Source of the protocol: `doc/proto.md` of the NetworkBlockDevice project.

pub mod client;
pub mod codec;
pub mod server;

pub use client::address::Address;
pub use client::connection::{Connection, ContextStatus, ExportInfo};
pub use client::error::{NbdError, ServerErrno};
pub use client::extents::{Extent, MapCursor};
pub use client::options::{ConnectOptions, StructuredReplies, TimeLimits};
pub use client::pool::Pool;
pub use client::{list_exports, list_meta_contexts};
