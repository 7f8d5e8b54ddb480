//! cairn-store-format.
