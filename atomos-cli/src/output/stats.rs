//! Sizes and deduplication, as `stats` prints them.

use std::io::{self, Write};

use libatomos::repo::{RefStats, RepoStats};
use serde::Serialize;

use super::table::Table;
use super::text::{grouped, size};

/// A repository's numbers, for programs.
#[derive(Debug, Serialize)]
pub struct StatsModel<'a> {
    #[serde(flatten)]
    stats: &'a RepoStats,
    /// Bytes of trees for each byte that is kept.
    deduplication: f64,
}

impl<'a> StatsModel<'a> {
    /// Takes the numbers.
    pub fn new(stats: &'a RepoStats) -> Self {
        Self {
            stats,
            deduplication: (stats.deduplication() * 1000.0).round() / 1000.0,
        }
    }
}

/// Writes the numbers as tables.
pub fn write(out: &mut dyn Write, stats: &RepoStats) -> io::Result<()> {
    let mut objects = Table::new(&["Objects", "Number", "Size"]);
    objects.row(["blobs".to_owned(), grouped(stats.blobs), size(stats.blob_bytes)]);
    objects.row([
        "inode variants".to_owned(),
        grouped(stats.variants),
        size(stats.variant_bytes),
    ]);
    objects.row([
        "dirtrees".to_owned(),
        grouped(stats.dirtrees),
        size(stats.dirtree_bytes),
    ]);
    objects.row(["commits".to_owned(), grouped(stats.commits), String::new()]);
    objects.row(["on disk".to_owned(), String::new(), size(stats.disk_bytes)]);
    objects.write(out)?;
    if stats.refs.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut refs = Table::new(&["Ref", "Files", "Size", "Blobs", "Kept in", "Only here"]);
    for RefStats {
        name,
        files,
        logical_bytes,
        blobs,
        unique_bytes,
        exclusive_bytes,
        ..
    } in &stats.refs
    {
        refs.row([
            name.to_string(),
            grouped(*files),
            size(*logical_bytes),
            grouped(*blobs),
            size(*unique_bytes),
            size(*exclusive_bytes),
        ]);
    }
    refs.write(out)?;
    writeln!(
        out,
        "\nThe trees of all commits that refs lead to have {}, kept in {}: {:.2} to 1.",
        size(stats.logical_bytes),
        size(stats.blob_bytes + stats.variant_bytes),
        stats.deduplication()
    )
}
