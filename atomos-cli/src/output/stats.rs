//! Sizes and deduplication, as `stats` prints them.

use std::io::{self, Write};

use libatomos::repo::{RefStats, RepoStats, Share};
use serde::Serialize;

use super::table::Table;
use super::text::{escape_text, grouped, size};

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
    objects.row([
        "commits".to_owned(),
        grouped(stats.commits),
        size(stats.commit_bytes),
    ]);
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
    writeln!(out)?;
    write_holders(out, stats)?;
    writeln!(
        out,
        "\nThe trees of all commits that refs lead to have {}, kept in {}: {:.2} to 1.",
        size(stats.logical_bytes),
        size(stats.blob_bytes + stats.variant_bytes),
        stats.deduplication()
    )
}

/// Who needs the files of the store: each row would go with its ref or root.
fn write_holders(out: &mut dyn Write, stats: &RepoStats) -> io::Result<()> {
    let mut table = Table::new(&["Needed by", "Commits", "Files", "Size", "Would free"]);
    let mut row = |name: String, commits: String, share: &Share| {
        table.row([
            name,
            commits,
            grouped(share.files),
            size(share.bytes),
            size(share.freed_bytes),
        ]);
    };
    for holder in &stats.holders {
        row(
            format!("{} alone", escape_text(&holder.name)),
            grouped(holder.commits),
            &holder.alone,
        );
    }
    row("several of these".to_owned(), String::new(), &stats.shared);
    row("nothing (prune)".to_owned(), String::new(), &stats.prunable);
    table.write(out)?;
    for (what, bytes) in [
        ("shared with checkouts and deployments", stats.linked_bytes),
        ("staged by running and interrupted commands", stats.staging_bytes),
        ("set aside as damaged", stats.set_aside_bytes),
    ] {
        if bytes > 0 {
            writeln!(out, "{} {what}", size(bytes))?;
        }
    }
    Ok(())
}
