#![no_main]
//! `hook` for libFuzzer; what it does is in `fuzz/cases`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cairn_fuzz_cases::hook(data);
});
