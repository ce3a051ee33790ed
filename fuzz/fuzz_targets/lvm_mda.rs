//! libFuzzer's main for [`fuzz::lvm_mda`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::lvm_mda(data));
