//! A small HTTP/1.1 server of static files: `atomos serve`, and what the tests and benchmarks need.
//!
//! It serves one directory to `GET` and `HEAD`: connections that are kept, single ranges, strong tags, conditional
//! requests, and the cache headers of a published site. It is for development; everyday serving is nginx, see
//! `docs/serving.md`, and the tests ask both the same questions.
//!
//! What comes over a connection is hostile. The head of a request is bounded in bytes and in time, each piece of an answer
//! has to leave within a time, connections are counted, and a name is resolved beneath the directory by the kernel
//! (`openat2`, so links cannot lead out). A connection has a thread; nothing here is meant for thousands of them.
//!
//! Knows nothing of atomos but which names are digests. The feature `testing` adds a server that misbehaves on demand,
//! a proxy that delays, and a helper that runs nginx.
#![forbid(unsafe_code)]

mod answer;
mod connection;
mod date;
mod range;
mod request;
mod server;
mod site;
#[cfg(feature = "testing")]
pub mod testing;

pub use request::Request;
pub use server::{LogEntry, Observer, ServeError, Server, ServerOptions};
