//! cairn-quiesce.
