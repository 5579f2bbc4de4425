//! Any bytes as a manifest, with and without a checksum of their own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kalamdb_engine::sim::fuzz::manifest(data));
