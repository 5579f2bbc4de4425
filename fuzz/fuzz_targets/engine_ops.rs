//! A script of operations on a table, with flushes, power cuts and held snapshots, beside a map.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| kalamdb_engine::sim::fuzz::engine_ops(script));
