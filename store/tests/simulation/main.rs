//! The store in the simulated world (docs/simulation.md): every operation fails once, hosts die, storage fills up, processes are stopped,
//! many actors work at once. A failing case prints its seed and the last operations.

#[path = "../common/mod.rs"]
mod common;

mod enumerate;
mod enumeration;
mod gc_enumeration;
mod lost_packs;
mod no_space;
mod pauses;
mod scrubs;
mod soak;
mod storage;
mod town;
mod unreadable;
