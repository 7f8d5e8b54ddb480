//! What libvirt's hook tells Cairn: the record, its two ways (datagram, spool), both ends of each.
//!
//! The program `cairn-hook` (main.rs) and whoever listens are built from the same modules, so that what one writes the other reads:
//!
//! - [`event`]: the record and its bytes
//! - [`channel`]: the datagram socket, for records that somebody waits for
//! - [`spool`]: the folder, for records that nobody took
//! - [`xml`], [`stdin`]: the domain's UUID out of what libvirt writes to the hook
//! - [`report`]: all of it in order, what the program's child does
//! - [`owner`]: that one process listens
//! - [`mark`]: how a file is known to be a `cairn-hook`, and of which version
//!
//! Invariants:
//! - nothing here calls libvirt, which holds the domain while it waits for the hook;
//! - nothing waits without a limit, nothing that comes from outside is kept without a bound;
//! - records are hints. One that is lost costs time until the next look at all domains, never a point.
//!
//! docs/hooks.md has the formats and the facts about libvirt behind all this.

pub mod channel;
pub mod clock;
pub mod event;
pub mod mark;
pub mod owner;
pub mod place;
pub mod report;
pub mod spool;
pub mod stdin;
pub mod uuid;
pub mod xml;

pub use event::{Event, Operation};
pub use uuid::Uuid;
