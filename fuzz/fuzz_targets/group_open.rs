//! libFuzzer's main for [`fuzz::group_open`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::group_open(data));
