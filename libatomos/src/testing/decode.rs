//! The decoders of a repository's own files, as functions of bytes.

use std::path::Path;

use crate::repo::{Config, Refs, RootRecord};

/// Reads the bytes of `config`.
pub fn config(bytes: &[u8]) -> Result<Config, String> {
    Config::parse(Path::new("repo"), bytes).map_err(|error| error.to_string())
}

/// Returns the bytes that a writer gives `config`.
#[must_use]
pub fn encode_config(config: &Config) -> Vec<u8> {
    config.to_text().into_bytes()
}

/// Reads the bytes of `refs`.
pub fn refs(bytes: &[u8]) -> Result<Refs, String> {
    crate::repo::parse_refs(bytes)
}

/// Returns the bytes that a writer gives `refs`.
#[must_use]
pub fn encode_refs(refs: &Refs) -> Vec<u8> {
    crate::repo::format_refs(refs)
}

/// Reads the bytes of a file in `roots/`.
pub fn root_record(bytes: &[u8]) -> Result<RootRecord, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}
