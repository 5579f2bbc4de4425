//! Recovery of a log directory that a script has mutated.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| kalamdb_wal::sim::fuzz::recover(script));
