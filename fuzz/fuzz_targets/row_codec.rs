//! Any bytes as rows of a table with a column of every type.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kalamdb_engine::sim::fuzz::row_codec(data));
