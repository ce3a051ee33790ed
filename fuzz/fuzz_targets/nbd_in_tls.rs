//! libFuzzer's main for [`fuzz::nbd_in_tls`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nbd_in_tls(data));
