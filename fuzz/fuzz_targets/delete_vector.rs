//! Any bytes as a delete vector, and as the bitmap of one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kalamdb_engine::sim::fuzz::delete_vector(data));
