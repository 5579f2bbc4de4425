//! Any bytes as headers, marks and frames of the log.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kalamdb_wal::sim::fuzz::decode(data));
