#![no_main]
//! `guest_agent` for libFuzzer; what it does is in `fuzz/cases`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cairn_fuzz_cases::guest_agent(data);
});
