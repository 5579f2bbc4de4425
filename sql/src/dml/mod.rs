//! Writing rows: INSERT, with or without ON CONFLICT, UPDATE, DELETE.
//!
//! A statement becomes one commit. `INSERT ... VALUES` goes from the parsed statement to arrays without the planner;
//! UPDATE and DELETE run as a SELECT of row addresses at the newest applied state and mark exactly the rows they read.
//! A row that somebody else changed in between is a conflict: the statement is planned and run again.

mod assign;
mod change;
mod checks;
pub(crate) mod convert;
mod gather;
mod insert;
mod retry;
mod returning;
pub(crate) mod rows;
mod select;
mod system;
mod target;
mod upsert;
mod values;

pub(crate) use change::{delete, update};
pub(crate) use checks::Checks;
pub(crate) use insert::{insert, is_quick};
pub(crate) use retry::Turns;
pub(crate) use system::{Change, Record, check_kept, required, text};
