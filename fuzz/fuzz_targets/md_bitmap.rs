//! libFuzzer's main for [`fuzz::md_bitmap`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::md_bitmap(data));
