//! Finding a path in a tree as a process in it would: through symbolic links.
//!
//! Merged `/usr` makes `/bin/sh` a path through a link, so whoever names a file by the path that the booted system
//! knows needs them followed. As with `openat2` and `RESOLVE_IN_ROOT`, nothing leads out of the tree: an absolute
//! target starts at its root, and `..` at the root stays there.

use crate::digest::DirTreeId;
use crate::format::{Entry, Metadata, Node};

use super::{Located, Repo, RepoError};

/// What to do where the path ends in a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// Go on to what it points to.
    Follow,
    /// Return the link.
    Keep,
}

/// The kernel's own limit (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

impl Repo {
    /// Follows `path` from the root dirtree, through links. `rev` is for messages. A path that ends with a slash means
    /// a directory, and a link at its end is followed.
    pub fn locate_through_links(
        &self,
        rev: &str,
        root: DirTreeId,
        root_metadata: Option<Metadata>,
        path: &[u8],
        last: LastLink,
    ) -> Result<Located, RepoError> {
        let fail = |reason| RepoError::PathInTree {
            rev: rev.to_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            reason,
        };
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/')
                .filter(|part| !part.is_empty() && *part != b".")
                .map(<[u8]>::to_vec)
                .collect()
        };
        let keep_last = last == LastLink::Keep && !path.ends_with(b"/");
        let mut ahead = parts(path);
        ahead.reverse();
        // The directories on the way, for `..`; what was found is at the end.
        let mut way = vec![Located::Root(root, root_metadata)];
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            let tree = match way.last() {
                Some(Located::Root(tree, _)) => *tree,
                Some(Located::Entry(Entry {
                    node: Node::Dir { tree },
                    ..
                })) => *tree,
                _ => return Err(fail("part of the path is not a directory")),
            };
            if part == b".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let Some(entry) = self.load_dirtree(&tree)?.get(&part).cloned() else {
                return Err(fail("it does not exist"));
            };
            if let Node::Symlink { target } = &entry.node
                && !(keep_last && ahead.is_empty())
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(fail("it leads through more than 40 symbolic links"));
                }
                if target.starts_with(b"/") {
                    way.truncate(1);
                }
                ahead.extend(parts(target).into_iter().rev());
                continue;
            }
            way.push(Located::Entry(entry));
        }
        Ok(way.pop().expect("the root is never taken off"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::DirTree;
    use crate::repo::RepoMode;

    fn entry(name: &str, mode: u32, node: Node) -> Entry {
        Entry {
            name: name.into(),
            metadata: Metadata::with_mode(mode),
            node,
        }
    }

    fn link(name: &str, target: &str) -> Entry {
        entry(
            name,
            0o777,
            Node::Symlink {
                target: target.into(),
            },
        )
    }

    #[test]
    fn links_are_followed_and_never_out_of_the_tree() {
        let scratch = tempfile::tempdir().unwrap();
        let repo = Repo::init(&scratch.path().join("repo"), RepoMode::BareUser).unwrap();
        let transaction = repo.begin().unwrap();
        let store = |entries| {
            transaction
                .store_dirtree(&DirTree::new(entries).unwrap())
                .unwrap()
        };
        let bin = store(vec![entry("sh", 0o644, Node::Fifo), link("dash", "sh")]);
        let usr = store(vec![
            entry("bin", 0o755, Node::Dir { tree: bin }),
            link("up", "../../../usr/bin"),
        ]);
        let root = store(vec![
            entry("usr", 0o755, Node::Dir { tree: usr }),
            link("bin", "usr/bin"),
            link("abs", "/bin/dash"),
            link("loop", "loop"),
            link("dangling", "nowhere"),
        ]);
        transaction.commit().unwrap();
        let find = |path: &str, last| repo.locate_through_links("r", root, None, path.as_bytes(), last);
        let name = |path: &str, last| match find(path, last).unwrap() {
            Located::Root(..) => "/".to_owned(),
            Located::Entry(entry) => String::from_utf8(entry.name).unwrap(),
        };
        for path in [
            "bin/sh",
            "/bin/dash",
            "/usr/up/sh",
            "abs",
            "usr/../bin//./sh",
            "../../bin/sh",
        ] {
            assert_eq!(name(path, LastLink::Follow), "sh", "{path}");
        }
        assert_eq!(name("/bin", LastLink::Keep), "bin");
        assert!(matches!(
            find("/bin", LastLink::Keep).unwrap(),
            Located::Entry(Entry {
                node: Node::Symlink { .. },
                ..
            })
        ));
        assert!(matches!(
            find("/bin/", LastLink::Keep).unwrap(),
            Located::Entry(Entry {
                node: Node::Dir { .. },
                ..
            })
        ));
        assert_eq!(name("/usr/..", LastLink::Follow), "/");
        for (path, reason) in [
            ("loop", "40 symbolic links"),
            ("dangling", "does not exist"),
            ("bin/sh/x", "not a directory"),
            ("bin/sh/..", "not a directory"),
        ] {
            let error = find(path, LastLink::Follow).unwrap_err().to_string();
            assert!(error.contains(reason), "{path}: {error}");
        }
    }
}
