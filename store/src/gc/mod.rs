//! Garbage collection without locks: docs/gc.md, whose labels (G1..G8) stand in the code.

mod rounds;

pub(crate) use rounds::Doomed;
