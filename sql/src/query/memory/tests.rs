use std::sync::Arc;

use datafusion::execution::memory_pool::MemoryConsumer;

use super::{AllMemory, exhausted};
use crate::error::{Error, ErrorCode};

const MIB: usize = 1 << 20;

#[test]
fn a_statement_has_its_own_limit_and_gives_back_what_it_held() {
    let all = Arc::new(AllMemory::new(100 * MIB, 10 * MIB));
    let pool = all.statement();
    let held = MemoryConsumer::new("a").register(&pool);
    held.try_grow(10 * MIB).unwrap();
    let error = Error::from(held.try_grow(1).unwrap_err());
    assert_eq!(error.code, ErrorCode::Overloaded);
    assert!(error.message.ends_with("10 MiB") && error.hint.unwrap().contains("limits.statement_memory"));
    drop(held);
    assert_eq!(all.used.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn statements_that_need_little_have_memory_whatever_others_hold() {
    let all = Arc::new(AllMemory::new(128 * MIB, 128 * MIB));
    let (greedy, small) = (all.statement(), all.statement());
    let greedy = MemoryConsumer::new("greedy").register(&greedy);
    greedy.try_grow(112 * MIB).unwrap();
    let error = Error::from(greedy.try_grow(1).unwrap_err());
    assert!(error.message.contains("128 MiB") && error.hint.unwrap().contains("limits.memory"));
    let small = MemoryConsumer::new("small").register(&small);
    small.try_grow(MIB).unwrap();
    assert!(small.try_grow(MIB).is_err(), "it needs more than little");
    drop(greedy);
    small.try_grow(MIB).unwrap();
}

#[test]
fn operators_that_spill_share_a_statement_fairly() {
    let all = Arc::new(AllMemory::new(100 * MIB, 10 * MIB));
    let pool = all.statement();
    let spills = |name| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
    let (a, b) = (spills("a"), spills("b"));
    a.try_grow(5 * MIB / 2).unwrap();
    assert!(a.try_grow(1).is_err(), "as much is b's");
    b.try_grow(5 * MIB / 2).unwrap();
    let keeps = MemoryConsumer::new("keeps").register(&pool);
    keeps.try_grow(5 * MIB).unwrap();
    assert!(keeps.try_grow(1).is_err());
    let merges = |name| MemoryConsumer::new(name).register(&pool);
    let (c, d) = (merges("ExternalSorterMerge[0]"), merges("ExternalSorterMerge[1]"));
    c.try_grow(5 * MIB).unwrap();
    assert!(c.try_grow(1).is_err(), "the other half of as much again is d's");
    d.try_grow(5 * MIB).unwrap();
    drop(b);
    assert!(a.try_grow(1).is_ok(), "it is alone now");
}

#[test]
fn an_error_about_memory_that_is_not_ours_is_one_all_the_same() {
    let error = exhausted("Cannot merge sorted runs: a single record batch of 5 bytes");
    assert_eq!(error.code, ErrorCode::Overloaded);
    assert!(!error.message.contains("batch"), "{error}");
}
