//! The guard: one process per backup that outlives it and leaves nothing behind.
//!
//! The job starts it before the freeze and talks to it over a socket ([`link`]); `cairn guard` is [`main`]. What it decides is
//! `cairn_quiesce::guard`'s; what it does is here.
//!
//! Invariants: own session, all signals blocked, holds the domain's lock until the job has ended; every call to libvirt runs in a child of its
//! own with a time limit, because libvirt may hang; no word waits for whoever reads it.

mod clean_up;
pub mod config;
pub mod link;
mod process;
mod scratch_eye;
mod words;

pub use process::main;
pub use scratch_eye::SCRATCH_PERCENT_MAX;
