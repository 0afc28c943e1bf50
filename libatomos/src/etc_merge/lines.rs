//! Merging files whose lines stand for themselves, such as `/etc/shells`.

use std::collections::HashSet;

/// Splits a file into its lines, without their ends. A last line need not have one.
pub(super) fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if body.is_empty() && bytes.is_empty() {
        return Vec::new();
    }
    body.split(|byte| *byte == b'\n').collect()
}

/// Returns mine's lines in their order, less those that were taken from the default, and after them those that are
/// new in it. An unchanged side yields to the other to the byte.
pub(super) fn merge(base: &[u8], mine: &[u8], theirs: &[u8]) -> Vec<u8> {
    if mine == base {
        return theirs.to_vec();
    }
    if theirs == base {
        return mine.to_vec();
    }
    let old: HashSet<_> = split(base).into_iter().collect();
    let new: HashSet<_> = split(theirs).into_iter().collect();
    let here: HashSet<_> = split(mine).into_iter().collect();
    let is_blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
    let kept = split(mine)
        .into_iter()
        .filter(|line| is_blank(line) || new.contains(line) || !old.contains(line));
    let added = split(theirs)
        .into_iter()
        .filter(|line| !is_blank(line) && !old.contains(line) && !here.contains(line));
    let lines: Vec<_> = kept.chain(added).collect();
    join(&lines)
}

/// Puts lines together, each with its end.
pub(super) fn join(lines: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_lines_are_kept_and_removals_hold() {
        let merged = merge(
            b"# shells\n/bin/sh\n/bin/old\n/bin/gone\n",
            b"# shells\n/bin/sh\n/bin/mine\n/bin/old",
            b"# shells\n/bin/sh\n/bin/gone\n/bin/new\n",
        );
        assert_eq!(merged, b"# shells\n/bin/sh\n/bin/mine\n/bin/new\n");
    }

    #[test]
    fn an_unchanged_side_yields_to_the_byte() {
        assert_eq!(merge(b"a\n", b"a\n", b"b\n\n\na"), b"b\n\n\na");
        assert_eq!(merge(b"a\n", b"x", b"a\n"), b"x");
    }

    #[test]
    fn lines_split_and_join() {
        for bytes in [&b""[..], b"\n", b"a\n", b"a\n\n", b"\n\na\n"] {
            assert_eq!(join(&split(bytes)), bytes);
        }
        assert_eq!(split(b"a\nb"), [b"a", b"b"]);
    }
}
