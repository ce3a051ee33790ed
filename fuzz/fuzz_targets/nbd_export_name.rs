//! libFuzzer's main for [`fuzz::nbd_export_name`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nbd_export_name(data));
