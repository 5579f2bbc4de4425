//! [`Recent`]: a bounded map of what is used, for caches by text.
//!
//! Entries are in two halves. What is found moves to the young one; when that is full, the old one goes and they change
//! places. So what is used stays, at the cost of a lookup or two, and everything else is gone after a while. The hash of
//! a text is remembered before the text is: one that never comes again costs eight bytes that another will take over.

use std::collections::HashMap;
use std::sync::Arc;

/// The longest text for which anything is kept, in bytes.
pub(crate) const LONGEST_TEXT: usize = 16 << 10;
/// Entries of one half.
const HALF: usize = 512;
/// Hashes of texts that came once.
const SEEN: usize = 4_096;

/// What is known of something that is looked for.
#[derive(Debug)]
pub(crate) enum Known<T> {
    /// This is kept of it.
    Kept(Arc<T>),
    /// It came before, and nothing is kept of it yet.
    Before,
    /// It came for the first time, as far as is remembered.
    Never,
}

/// Entries by the hash of what they are found by.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    young: HashMap<u64, Arc<T>>,
    old: HashMap<u64, Arc<T>>,
    seen: Vec<u64>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), seen: vec![0; SEEN] }
    }
}

impl<T> Recent<T> {
    /// What is known of what has this hash, if `is_meant` says so of the entry: others may have the same. Remembers that it
    /// came.
    pub(crate) fn look_up(&mut self, hash: u64, is_meant: impl Fn(&T) -> bool) -> Known<T> {
        match self.get(hash).filter(|entry| is_meant(entry)) {
            Some(entry) => Known::Kept(entry),
            None if self.came_before(hash) => Known::Before,
            None => Known::Never,
        }
    }

    /// The entry with this hash.
    pub(crate) fn get(&mut self, hash: u64) -> Option<Arc<T>> {
        if let Some(entry) = self.young.get(&hash) {
            return Some(entry.clone());
        }
        let entry = self.old.remove(&hash)?;
        self.insert(hash, entry.clone());
        Some(entry)
    }

    /// Keeps an entry, in place of another with this hash.
    pub(crate) fn insert(&mut self, hash: u64, entry: Arc<T>) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&hash);
        self.young.insert(hash, entry);
    }

    /// True if this hash came before, as far as is remembered.
    fn came_before(&mut self, hash: u64) -> bool {
        let slot = &mut self.seen[hash as usize % SEEN];
        std::mem::replace(slot, hash) == hash
    }

    /// All entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<T>> {
        self.young.values().chain(self.old.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes_once_there_is_no_room() {
        let mut kept = Recent::default();
        kept.insert(0, Arc::new("used"));
        for other in 1..=(10 * HALF as u64) {
            kept.insert(other, Arc::new("once"));
            assert!(kept.get(0).is_some(), "after {other}");
            assert!(kept.entries().count() <= 2 * HALF);
        }
        assert!(kept.get(1).is_none());
    }

    #[test]
    fn a_hash_is_known_from_its_second_time_on() {
        let mut kept = Recent::<()>::default();
        assert_eq!([7, 8, 7, 8, 7].map(|hash| kept.came_before(hash)), [false, false, true, true, true]);
    }
}
