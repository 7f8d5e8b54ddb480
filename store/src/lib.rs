//! cairn-store.
