//! Quiet guests: freeze and thaw through the guest agent, how quiet it was, and the guard that never leaves a guest frozen.
//!
//! Invariants
//! - `guest-fsfreeze-freeze` has no time limit of its own and no automatic thaw: whoever freezes has announced it to the guard first.
//! - A guest is untrusted: replies are bounded in size and time, read with small tolerant types, and its names are shown escaped.
//! - A quiesce counts only with proof ([`freeze::Proof`]), that applications were told only by the guest's record ([`hooks`]).
//!
//! What it must not do: know a hypervisor. Agents, jobs and clean-up come in through traits.

pub mod agent;
pub mod channel;
pub mod freeze;
pub mod guard;
pub mod hooks;
pub mod late;
pub mod level;
pub mod record;
pub mod scope;
pub mod unasked;

pub use level::{QuiesceLevel, QuiescePolicy, QuiesceReport};
