//! The bytes: the document's test vectors, the laws of the codecs, and what decoders must refuse.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking and reads the document by its path"
)]

mod document;
mod generate;
mod hostile;
mod laws;
mod refusals;
