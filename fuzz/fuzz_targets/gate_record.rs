//! libFuzzer's main for [`fuzz::gate_record`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::gate_record(data));
