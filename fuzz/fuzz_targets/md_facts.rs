//! libFuzzer's main for [`fuzz::md_facts`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::md_facts(data));
