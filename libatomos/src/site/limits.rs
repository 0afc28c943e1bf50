//! Every cap of the published formats.

/// Bytes in a record or a key set as served. A record is about 1 KB.
pub const MAX_RECORD: usize = 64 * 1024;

/// Bytes in `atomos.json`.
pub const MAX_INFO: usize = 64 * 1024;

/// Bytes in a release as served. One with a full history is about 20 KB.
pub const MAX_RELEASE: usize = 4 * 1024 * 1024;

/// Bytes in a manifest as served.
pub const MAX_MANIFEST: usize = 256 * 1024 * 1024;

/// Bytes of a manifest's section before compression: some two million files.
pub const MAX_SECTION: usize = 512 * 1024 * 1024;

/// Entries of a release's history.
pub const HISTORY: usize = 32;

/// A blob of more bytes is cut into frames of [`SEGMENT`] bytes, so that an interruption costs at most one of them.
pub const WHOLE_BLOB: u64 = 8 * 1024 * 1024;

/// Bytes of a large blob in one frame.
pub const SEGMENT: u64 = 4 * 1024 * 1024;

/// Bytes at which a group of an image is full.
pub const GROUP: u64 = 4 * 1024 * 1024;

/// Bytes of all streams in a group of patches. A writer stops at 12 MiB.
pub const MAX_STREAMS: u64 = 16 * 1024 * 1024;

/// Bytes that a compressed frame may take: zstd's bound for the largest frame there is, rounded up.
pub const MAX_FRAME: u64 = 16 * 1024 * 1024;
