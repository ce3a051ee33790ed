//! libFuzzer's main for [`fuzz::lvm_label`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::lvm_label(data));
