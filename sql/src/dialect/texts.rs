//! [`Texts`]: what texts say that come again and again, so that they are parsed once.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{ParsedStatement, parse};
use crate::recent::{Known, LONGEST_TEXT, Recent};

/// Texts and their statements. What a text says depends on nothing but itself.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    kept: Mutex<Recent<(Box<str>, Vec<ParsedStatement>)>>,
    hasher: RandomState,
}

impl Texts {
    /// The statements of a text, as [`parse`] gives them.
    pub(crate) fn parse(&self, text: &str) -> Vec<ParsedStatement> {
        if text.len() > LONGEST_TEXT {
            return parse(text);
        }
        let hash = self.hasher.hash_one(text);
        let known = self.kept.lock().look_up(hash, |(kept, _)| **kept == *text);
        if let Known::Kept(entry) = known {
            return entry.1.clone();
        }
        let statements = parse(text);
        if let Known::Before = known {
            self.kept.lock().insert(hash, Arc::new((text.into(), statements.clone())));
        }
        statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_comes_again_is_not_parsed_again() {
        let texts = Texts::default();
        let shared = |text: &str| {
            let (first, second) = (texts.parse(text), texts.parse(text));
            Arc::ptr_eq(&first[0].statement, &second[0].statement)
        };
        assert!(!shared("SELECT 1"), "the first time it is only noted");
        assert!(shared("SELECT 1"));
        assert!(!shared(&format!("SELECT '{}'", "x".repeat(LONGEST_TEXT))), "too long to keep");
    }
}
