//! What is fuzzed: a function of bytes for each family of decoders, used alike by the fuzzer (`fuzz/fuzz_targets`) and by the test that
//! replays the kept corpora (`tests/replay.rs`).
//!
//! Invariants
//! - A case panics if, and only if, a property is broken: a decoder panicked, or what it accepted does not encode to the same again.
//! - A case depends on its bytes alone and gives back whether a decoder accepted them, so that a seed that says nothing any more is noticed.
//! - Checksums are made right first where they would keep a fuzzer out (`fix`); the bytes are tried as they came as well.
//! - Decoders are reached through their public functions; fields that a format gains need no change here.
//!
//! What it must not do: touch a disk, a clock or randomness.

mod fix;
mod guest;
mod hook;
mod map;
mod nbd;
mod nbd_client;
mod nbd_server;
mod objects;
mod pack;
mod register;
pub mod seeds;

pub use guest::guest_agent;
pub use hook::hook;
pub use map::store_map;
pub use nbd::nbd_codec;
pub use nbd_client::nbd_client;
pub use nbd_server::nbd_server;
pub use objects::{store_config, store_gc, store_index, store_keys, store_manifest, store_names, store_point_log, store_small, store_tlv};
pub use pack::store_pack;
pub use register::store_register;

/// A case and what it may use.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name: that of the fuzz target and of its folder of `fuzz/corpus`.
    pub name: &'static str,
    /// Runs it; true if some decoder accepted the bytes.
    pub run: fn(&[u8]) -> bool,
    /// Most memory at one time, bytes for each byte of input: a list's entries are larger in memory, and a growing vector is there twice.
    pub heap_factor: usize,
    /// Most memory at one time besides, bytes: what a named limit allows whatever the input.
    pub heap_fixed_bytes: usize,
    /// How often the replay test changes each file of the corpus.
    pub mutations: u32,
}

impl Case {
    const fn new(name: &'static str, run: fn(&[u8]) -> bool) -> Self {
        Self { name, run, heap_factor: 32, heap_fixed_bytes: 64 << 10, mutations: 500 }
    }
}

/// All of them.
pub const CASES: [Case; 17] = [
    Case::new("store_config", store_config),
    Case::new("store_keys", store_keys),
    Case::new("store_names", store_names),
    Case::new("store_pack", store_pack),
    Case::new("store_index", store_index),
    Case::new("store_register", store_register),
    Case::new("store_small", store_small),
    Case::new("store_gc", store_gc),
    Case::new("store_point_log", store_point_log),
    // A JSON object of one field is a tree node of some 600 bytes and takes seven characters.
    Case { heap_factor: 256, ..Case::new("store_manifest", store_manifest) },
    // A region has up to 1,024 runs, whose memory is taken once their count is read.
    Case { heap_fixed_bytes: 512 << 10, ..Case::new("store_map", store_map) },
    Case::new("store_tlv", store_tlv),
    Case::new("nbd_codec", nbd_codec),
    // A payload's memory is taken once its length is read: 1 MiB for block status, 16 KiB for an option's reply. The rest is the runtime's.
    Case { heap_fixed_bytes: 3 << 20, mutations: 100, ..Case::new("nbd_client", nbd_client) },
    // A piece of a read is 512 KiB, an option 64 KiB, block status 160 KiB. The rest is the runtime's.
    Case { heap_fixed_bytes: 3 << 20, mutations: 100, ..Case::new("nbd_server", nbd_server) },
    Case { mutations: 200, ..Case::new("guest_agent", guest_agent) },
    Case::new("hook", hook),
];
