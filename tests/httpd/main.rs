//! The server of `atomos serve` beside nginx, and the servers that tests use.
#![expect(clippy::unwrap_used, reason = "what a test helper cannot do ends the test")]

mod alike;
mod documents;
mod faults;
mod limits;
mod paths;
mod proxy;
mod site;
