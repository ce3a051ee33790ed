//! libFuzzer's main for [`fuzz::lvm_text`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::lvm_text(data));
