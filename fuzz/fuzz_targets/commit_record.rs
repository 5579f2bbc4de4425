//! Any bytes as a record of the log.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kalamdb_engine::sim::fuzz::commit_record(data));
