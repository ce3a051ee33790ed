//! libFuzzer's main for [`fuzz::md_superblock`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::md_superblock(data));
