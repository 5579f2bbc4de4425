//! For tests only: what the fuzz targets run, so that an ordinary test can replay their corpora.

pub mod fuzz;
mod ops;
