#![no_main]
//! `store_tlv` for libFuzzer; what it does is in `fuzz/cases`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cairn_fuzz_cases::store_tlv(data);
});
