//! cairn-lab.
