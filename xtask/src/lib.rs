//! The project's own tasks, as a library, so that tests can use what the commands use.
//!
//! Start reading at [`debian`], which makes the real operating system trees that everything else works on.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are commands: they talk"
)]

pub mod bench;
pub mod checks;
pub mod debian;
pub mod demo;
pub mod facts;
pub mod fuzz;
mod memory;
pub mod own_disk;
pub mod power_cut;
pub mod process;
mod random;
pub mod scale;
pub mod vm;
pub mod workspace;
