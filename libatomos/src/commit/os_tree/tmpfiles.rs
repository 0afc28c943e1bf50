//! The `tmpfiles.d` lines that make what is missing in `/var` at each start.
//!
//! A deployment seeds `/var` when it is made ([`crate::os_var`]), exactly. These lines are the second chance: for a
//! `/var` that was emptied, or is made anew at each start. They create and never change: the modes have a `:` before
//! them, which says so to systemd-tmpfiles (since version 250).

use std::collections::HashSet;
use std::fmt::Write as _;

use super::super::{CommitError, SourceKind, SourceNode, SourceTree};
use super::shaper::join;

const CONFIG_DIR: &str = "usr/lib/tmpfiles.d";

/// Of two lines for one path systemd-tmpfiles takes the one in the file whose name sorts first. Whatever a package or
/// a person says of a path counts for more than this file.
pub(super) const SNIPPET: &str = "usr/lib/tmpfiles.d/zz-atomos-var.conf";

/// Bytes of a `tmpfiles.d` file that are read. Systemd's largest has 2 KiB.
const MAX_CONFIG: usize = 1024 * 1024;

/// Types of lines that create their path. Two of them for one path would be reported at each start.
const CREATING: &str = "fFdDvqQpLcbC";

/// Returns the paths that other files of the tree create.
pub(super) fn claimed_paths(tree: &SourceTree) -> Result<HashSet<Vec<u8>>, CommitError> {
    let mut claimed = HashSet::new();
    let Some(dir) = tree.find(CONFIG_DIR) else {
        return Ok(claimed);
    };
    for file in tree.children(dir) {
        let name = &tree.node(*file).name;
        if !name.ends_with(b".conf") || **name == *super::shaper::split(SNIPPET).1.as_bytes() {
            continue;
        }
        // Links (to /dev/null, as a rule) have no bytes.
        if let Some(bytes) = tree.read(*file, MAX_CONFIG)? {
            claimed.extend(bytes.split(|byte| *byte == b'\n').filter_map(claimed_path));
        }
    }
    Ok(claimed)
}

fn claimed_path(line: &[u8]) -> Option<Vec<u8>> {
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let kind = char::from(*words.next()?.first()?);
    let path = words.next()?;
    let path = path.strip_prefix(b"\"").unwrap_or(path);
    let path = path.strip_suffix(b"\"").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    CREATING.contains(kind).then(|| path.to_vec())
}

/// Returns the lines for everything beneath `factory`, sorted by path, but for what is claimed.
pub(super) fn snippet(
    tree: &SourceTree,
    factory: u32,
    owner: Option<(u32, u32)>,
    claimed: &HashSet<Vec<u8>>,
) -> Vec<u8> {
    let mut nodes = Vec::new();
    let mut stack = vec![(factory, b"/var".to_vec())];
    while let Some((dir, path)) = stack.pop() {
        for child in tree.children(dir) {
            let path = join(&path, &tree.node(*child).name);
            if matches!(tree.node(*child).kind, SourceKind::Dir { .. }) {
                stack.push((*child, path.clone()));
            }
            nodes.push((path, *child));
        }
    }
    nodes.sort_unstable();
    let mut text = b"# Made by `atomos commit --os`: what this version's packages have in /var.\n\
         # Creates what is missing, from /usr/share/factory/var; changes nothing that is there.\n"
        .to_vec();
    for (path, node) in nodes {
        let one_line = !path.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        if one_line && !claimed.contains(&path) {
            write_line(&mut text, &path, tree.node(node), owner);
        }
    }
    text
}

fn write_line(text: &mut Vec<u8>, path: &[u8], node: &SourceNode, owner: Option<(u32, u32)>) {
    let metadata = &node.metadata;
    let (uid, gid) = owner.unwrap_or((metadata.uid, metadata.gid));
    let access = format!(":{:04o} :{uid} :{gid}", metadata.mode);
    let (kind, rest) = match &node.kind {
        SourceKind::Dir { .. } => ('d', format!("{access} - -")),
        // Owner and mode are copied.
        SourceKind::File { .. } => ('C', "- - - - -".to_owned()),
        SourceKind::Symlink(target) => ('L', format!("- - - - {}", escaped(target))),
        SourceKind::Fifo => ('p', format!("{access} - -")),
        SourceKind::Char(major, minor) => ('c', format!("{access} - {major}:{minor}")),
        SourceKind::Block(major, minor) => ('b', format!("{access} - {major}:{minor}")),
    };
    text.extend([kind as u8, b' ']);
    text.extend(quoted(path));
    text.push(b' ');
    text.extend(rest.into_bytes());
    text.push(b'\n');
}

/// Writes a path field: in quotes, where a backslash keeps only itself and the quote from meaning more. Systemd does
/// not know `\n` and `\x20` here (252 and 257 were tried), so a name with a line break cannot be written.
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut text = vec![b'"'];
    for byte in path {
        match byte {
            b'%' => text.push(b'%'),
            b'"' | b'\\' => text.push(b'\\'),
            _ => {}
        }
        text.push(*byte);
    }
    text.push(b'"');
    text
}

/// Writes the last field, in which escapes are known: white space at its ends would be cut off.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'%' => text.push_str("%%"),
            b'!'..=b'~' if *byte != b'\\' => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("a string takes all that is written"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_others_claim_their_paths() {
        for (line, path) in [
            ("d /var/tmp 1777 root root 30d", Some("/var/tmp")),
            ("q! \"/var/tmp/\" 1777", Some("/var/tmp")),
            ("z /var/log/journal 2755", None),
            ("# d /var/x", None),
            ("", None),
            ("d", None),
        ] {
            assert_eq!(
                claimed_path(line.as_bytes()),
                path.map(|path| path.as_bytes().to_vec()),
                "{line}"
            );
        }
    }

    #[test]
    fn every_byte_that_the_reader_would_take_for_more_is_escaped() {
        assert_eq!(quoted(b"/var/lib/a-b_c.d"), b"\"/var/lib/a-b_c.d\"");
        assert_eq!(quoted(b"%m \"\\'\xff"), b"\"%%m \\\"\\\\'\xff\"");
        assert_eq!(escaped(b"../a-b_c.d"), "../a-b_c.d");
        assert_eq!(escaped(b" %m\"\\"), "\\x20%%m\"\\x5c");
        assert_eq!(escaped("ü\n".as_bytes()), "\\xc3\\xbc\\x0a");
    }
}
