#![no_main]
//! `store_point_log` for libFuzzer; what it does is in `fuzz/cases`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cairn_fuzz_cases::store_point_log(data);
});
