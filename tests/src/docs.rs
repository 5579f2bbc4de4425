//! The examples in the documentation, so that they are run and stay true.

use std::path::{Path, PathBuf};

/// The first fenced block of a language in a page of `docs/`.
///
/// # Panics
/// If there is none.
pub fn example(page: &str, language: &str) -> String {
    let path = repository().join("docs").join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let fence = format!("```{language}\n");
    let (_, rest) = text.split_once(&fence).unwrap_or_else(|| panic!("{page} has no block of {language}"));
    rest.split_once("```").expect("a block ends").0.to_owned()
}

/// The directory of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository").to_owned()
}
