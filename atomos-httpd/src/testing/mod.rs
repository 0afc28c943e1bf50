//! Servers and proxies for tests and benchmarks. Behind the feature `testing`.
//!
//! [`BadServer`] serves a directory and misbehaves as its [`Fault`]s say; without any it is a good server that remembers
//! every request. [`DelayProxy`] is a line with a round trip time. [`Nginx`] is the real thing, with the configuration of
//! `docs/serving.md`. [`Client`] says exactly what it is told to, which no HTTP library does.
//!
//! All of them listen on loopback, at a port that was free, and are gone when dropped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod bad;
mod client;
mod fault;
mod gzip;
mod nginx;
mod proxy;

pub use bad::{BadServer, Seen};
pub use client::{Client, Reply};
pub use fault::{Deed, Fault};
pub use nginx::{Nginx, NginxLogLine, documented_config};
pub use proxy::DelayProxy;
