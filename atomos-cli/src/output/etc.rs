//! `/etc`, as people read it.

use std::io::{self, Write};

use libatomos::etc_merge::{ConflictKind, Conflicts, EtcDiff, EtcPath, KeyedConflict};

use super::text;

/// Returns a path below `/etc` as the commands take it back.
pub fn shown_path(path: &EtcPath) -> String {
    text::escape_text(&path.to_string())
}

/// Writes a letter and a path for each difference.
pub fn write_diff(out: &mut dyn Write, diff: &EtcDiff) -> io::Result<()> {
    for entry in &diff.entries {
        writeln!(out, "{} /etc/{}", entry.letter(), shown_path(&entry.path))?;
    }
    Ok(())
}

/// Writes each path.
pub fn write_paths(out: &mut dyn Write, paths: &[EtcPath]) -> io::Result<()> {
    for path in paths {
        writeln!(out, "/etc/{}", shown_path(path))?;
    }
    Ok(())
}

/// Writes each conflict: the path, and in what the sides exclude each other.
pub fn write_conflicts(out: &mut dyn Write, conflicts: &Conflicts) -> io::Result<()> {
    for record in conflicts.iter() {
        let kinds: Vec<&str> = record.conflict.kinds.iter().map(|kind| explain(*kind)).collect();
        writeln!(out, "/etc/{}: {}", shown_path(&record.path), kinds.join("; "))?;
        for key in &record.conflict.keys {
            writeln!(out, "    {}", text::escape_text(&explain_key(key)))?;
        }
    }
    Ok(())
}

fn explain(kind: ConflictKind) -> &'static str {
    match kind {
        ConflictKind::Content => "both sides changed the content; what is here was kept",
        ConflictKind::Mode => "both sides changed the mode; the stricter one was taken",
        ConflictKind::Xattrs => "both sides changed the extended attributes; what is here was kept",
        ConflictKind::DeletedHere => "deleted here and changed in the new version; it stays deleted",
        ConflictKind::DeletedThere => "changed here and gone from the new version; it was kept",
        ConflictKind::Type => "of different kinds on the two sides; what is here was kept",
        ConflictKind::Keyed => "accounts or ids exclude each other",
        _ => "both sides changed it; what is here was kept",
    }
}

fn explain_key(conflict: &KeyedConflict) -> String {
    match conflict {
        KeyedConflict::Fields { key, fields } => {
            format!(
                "{key}: both sides changed {}; what is here was kept",
                fields.join(", ")
            )
        }
        KeyedConflict::DeletedHere { key } => format!("{key}: deleted here and changed in the new version"),
        KeyedConflict::DeletedThere { key } => format!("{key}: needed here and gone from the new version"),
        KeyedConflict::SameId { id, mine, theirs } => {
            format!(
                "id {id} is {mine} here and {theirs} in the new version; {theirs} was withheld or keeps its old id"
            )
        }
        other => format!("{other:?}"),
    }
}
