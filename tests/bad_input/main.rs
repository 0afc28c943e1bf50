//! Bad input, through the program: each a test with the exit code, the message, and a store that is whole afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod interrupted;
mod objects;
#[allow(dead_code, reason = "shared with the crash tests")]
mod place;
mod repository;
mod resources;
mod revisions;
