//! cairn-nbd.
