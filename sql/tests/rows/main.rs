//! Reading and writing rows through sessions, in process: the same answers whether rows are in memory, in Parquet or in
//! both; isolation; conflicts; imports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod harness;

mod alter;
mod arithmetic;
mod background_jobs;
mod changes;
mod columns;
mod conflicts;
mod doors;
mod imports;
mod inserts;
mod isolation;
mod jobs;
mod kept_plans;
mod legality;
mod object_stores;
mod plans;
mod queries;
mod runaways;
mod spills;
mod system_rows;
mod views;
