//! What a program that embeds the library relies on, besides that the library works.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests look from outside, by path"
)]

mod layers;
mod process;
mod threats;
mod types;
