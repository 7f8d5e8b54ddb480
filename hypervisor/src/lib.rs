//! cairn-hypervisor.
