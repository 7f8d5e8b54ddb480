//! The protocol of sessions and garbage collection as a program that can be searched exhaustively: docs/gc.md in executable form.
//!
//! Where to read: [`session`] has B1 to B6, [`collector`] G1 to G7, [`round`] G8 and what any GC may do with another's round,
//! [`reader`] the pins, [`repack`] and [`references`] relocation, [`anyone`] what may happen at any time. Every step function carries
//! its label. [`mutation`] lists the rules that can be broken, [`mod@search`] walks all states.
//!
//! Invariants:
//! - One step is one access to the store that is atomic there (a listing, a create-if-absent, a delete), and everything else may happen
//!   between two steps. A crash is an actor that takes no further step; each state on the way is checked.
//! - Where the protocol leaves a choice, or trusts a clock, the model takes every choice at every time.
//!
//! Must not: depend on the crates that implement the protocol, or do I/O.

pub mod anyone;
pub mod code;
pub mod collector;
pub mod config;
pub mod event;
pub mod model;
pub mod mutation;
pub mod reader;
pub mod reduce;
pub mod references;
pub mod repack;
pub mod round;
pub mod search;
pub mod session;
pub mod sets;
pub mod state;
pub mod symmetry;

pub use config::{Config, Role};
pub use event::Action;
pub use model::Model;
pub use mutation::Mutation;
pub use references::Violation;
pub use search::{End, Outcome, search};
