//! What a pull tells whoever asked for it.

use serde::Serialize;

use crate::digest::CommitId;
use crate::names::RefName;
use crate::remote::Traffic;
use crate::repo::TransactionStats;

/// What became of one ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PulledRef {
    /// The ref here, `remote:ref`.
    pub name: RefName,
    /// What it named before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<CommitId>,
    /// What was pulled.
    pub commit: CommitId,
    /// Its version.
    pub version: String,
    /// Its release's number.
    pub number: u64,
    /// Bytes of kernel and initramfs, which a deployment puts into `/boot`.
    pub boot_bytes: u64,
}

/// What a pull did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PullReport {
    /// By ref.
    pub refs: Vec<PulledRef>,
    /// The path beneath which files were wanted, where not all were. No ref has moved then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
    /// Whether nothing was new.
    pub unchanged: bool,
    /// Whether nobody vouches for it: the remote is `no-verify`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
    /// Requests for blobs that were planned.
    pub planned_requests: u64,
    /// Bytes of blobs, compressed, that were planned.
    pub planned_bytes: u64,
    /// Blobs that were missing, and were not staged by an interrupted pull.
    pub missing_blobs: u64,
    /// Bytes in them.
    pub missing_bytes: u64,
    /// Blobs made by patches.
    pub patched_blobs: u64,
    /// Bytes that patches saved.
    pub saved_by_patches: u64,
    /// What was asked and what came.
    pub traffic: Traffic,
    /// What was written.
    pub stored: TransactionStats,
}
