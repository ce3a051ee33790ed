//! libFuzzer's main for [`fuzz::assemble`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::assemble(data));
