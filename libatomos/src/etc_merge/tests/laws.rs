//! The laws of the merge, on the rule alone and on real trees.
//!
//! - An unchanged side yields to the other; unchanged trees give the new default.
//! - The same change on both sides agrees.
//! - A person's bytes are never lost.
//! - Nobody's content gets another's privileges, and no mode is more open than the side its content is from.
//! - Merging what was merged changes nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::digest::{BlobId, Digest};
use crate::etc_merge::rule::merge;
use crate::format::{Metadata, Xattrs};

fn any_entry() -> impl Strategy<Value = EtcEntry> {
    let node = prop_oneof![
        4 => (0u8..3).prop_map(|content| EtcNode::File {
            size: 1,
            blob: BlobId::new(Digest::of(&[content])),
        }),
        2 => Just(EtcNode::Dir),
        1 => (0u8..2).prop_map(|target| EtcNode::Symlink { target: vec![target] }),
        1 => (0u32..2).prop_map(|minor| EtcNode::Char { major: 1, minor }),
        1 => Just(EtcNode::Fifo),
    ];
    let mode = prop_oneof![
        Just(0o644),
        Just(0o600),
        Just(0o755),
        Just(0o4755),
        Just(0o2711),
        Just(0o1777),
        0u32..0o10000
    ];
    let name = prop_oneof![
        Just("security.capability"),
        Just("security.selinux"),
        Just("user.x"),
        Just("user.y")
    ];
    let xattrs = prop::collection::vec((name, 0u8..2), 0..2);
    (node, mode, 0u32..2, 0u32..2, 0i64..2, xattrs).prop_map(|(node, mode, uid, gid, mtime, xattrs)| {
        EtcEntry {
            node,
            metadata: Metadata {
                mode,
                uid,
                gid,
                mtime,
                xattrs: xattrs
                    .into_iter()
                    .map(|(name, value)| (name.as_bytes().to_vec(), vec![value]))
                    .collect::<Xattrs>(),
            },
        }
    })
}

/// Three entries, as often as not with something in common.
fn any_three() -> impl Strategy<Value = [Option<EtcEntry>; 3]> {
    let some = || prop::option::weighted(0.85, any_entry());
    (some(), some(), some(), any::<[bool; 6]>()).prop_map(|(base, mut mine, mut theirs, take)| {
        for (side, take) in [(&mut mine, &take[..3]), (&mut theirs, &take[3..])] {
            if let (Some(base), Some(side)) = (&base, side) {
                if take[0] {
                    side.node = base.node.clone();
                }
                if take[1] {
                    (side.metadata.uid, side.metadata.gid) = (base.metadata.uid, base.metadata.gid);
                    side.metadata.xattrs = base.metadata.xattrs.clone();
                }
                if take[2] {
                    side.metadata.mode = base.metadata.mode;
                }
            }
        }
        [base, mine, theirs]
    })
}

/// What makes running a file a privilege: the special bits and capabilities.
fn privileges(entry: &EtcEntry) -> (u32, Option<Vec<u8>>) {
    let capability = entry.metadata.xattrs.get(b"security.capability");
    (entry.metadata.mode & 0o6000, capability.map(<[u8]>::to_vec))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_for_the_rule([base, mine, theirs] in any_three()) {
        let (b, m, t) = (base.as_ref(), mine.as_ref(), theirs.as_ref());
        prop_assert_eq!(&merge(b, b, t).result, &theirs);
        prop_assert_eq!(&merge(b, m, b).result.is_some(), &m.is_some());
        if let (Some(result), Some(mine)) = (merge(b, m, b).result, m) {
            prop_assert!(result.same(mine));
        }
        prop_assert_eq!(&merge(b, m, m).result, &mine);
        for same in [merge(b, b, t), merge(b, m, b), merge(b, m, m)] {
            prop_assert!(same.conflicts.is_empty());
        }

        let outcome = merge(b, m, t);
        if outcome.conflicts.is_empty() {
            // The sides can be exchanged, but for times and for labels, which go with the content.
            let other = merge(b, t, m);
            match (&outcome.result, &other.result) {
                (Some(a), Some(b)) => prop_assert!(a.same_but_for_label(b) || !other.conflicts.is_empty()),
                (a, b) => prop_assert_eq!(a.is_some(), b.is_some()),
            }
        }
        // A person's bytes are never lost.
        if let Some(mine) = m && b.is_none_or(|base| base.node != mine.node) {
            let result = outcome.result.as_ref();
            prop_assert_eq!(result.map(|result| &result.node), Some(&mine.node));
        }
        if let Some(result) = &outcome.result {
            // Content, owner and privileges are one side's as a whole.
            let unit = |entry: &EtcEntry| {
                let owner = (entry.metadata.uid, entry.metadata.gid);
                (entry.node.clone(), owner, privileges(entry))
            };
            prop_assert!([m, t].into_iter().flatten().any(|side| unit(side) == unit(result)));
            // No bit that neither side gives.
            let given = [m, t].into_iter().flatten().fold(0, |given, side| given | side.metadata.mode);
            prop_assert_eq!(result.metadata.mode & !given, 0);
            // What is privileged is for nobody for whom the side that it is from does not have it.
            if !result.is_dir() && privileges(result) != (0, None) {
                let sources = [m, t].into_iter().flatten().filter(|side| unit(side) == unit(result));
                let open = sources.fold(0, |open, side| open | side.metadata.mode & 0o777);
                prop_assert_eq!(result.metadata.mode & 0o777 & !open, 0);
            }
        }
        // Merging what was merged changes nothing.
        let again = merge(t, outcome.result.as_ref(), t);
        prop_assert_eq!(again.result, outcome.result);
    }
}

/// Trees of few names, so that they meet.
#[derive(Debug, Clone)]
enum Made {
    File(u8, u32),
    Link(u8),
    Fifo,
    Dir(u32, BTreeMap<&'static str, Made>),
}

fn any_tree() -> impl Strategy<Value = BTreeMap<&'static str, Made>> {
    let leaf = prop_oneof![
        6 => (0u8..4, prop_oneof![Just(0o644), Just(0o600), Just(0o755), Just(0o4755)])
            .prop_map(|(content, mode)| Made::File(content, mode)),
        1 => (0u8..2).prop_map(Made::Link),
        1 => Just(Made::Fifo),
    ];
    let children = |made: BoxedStrategy<Made>| {
        let name = prop_oneof![Just("a"), Just("b"), Just("c\u{fc}"), Just("d")];
        prop::collection::btree_map(name, made, 0..4)
    };
    let made = leaf.prop_recursive(3, 12, 4, move |made| {
        let mode = prop_oneof![Just(0o755), Just(0o700), Just(0o2775)];
        (mode, children(made)).prop_map(|(mode, children)| Made::Dir(mode, children))
    });
    children(made.boxed())
}

fn make(f: &Fixture, side: &str, path: &str, tree: &BTreeMap<&'static str, Made>) {
    for (name, made) in tree {
        let path = if path.is_empty() {
            (*name).to_owned()
        } else {
            format!("{path}/{name}")
        };
        match made {
            Made::File(content, mode) => f.put(side, &path, What::File(format!("{content}"), *mode)),
            Made::Link(target) => f.put(side, &path, link(&target.to_string())),
            Made::Fifo => f.put(side, &path, What::Fifo),
            Made::Dir(mode, children) => {
                f.put(side, &path, What::Dir(0o755));
                make(f, side, &path, children);
                f.chmod(side, &path, *mode);
            }
        }
    }
}

/// A tree's entries, without their times.
fn content(f: &Fixture, side: &str) -> BTreeMap<String, EtcEntry> {
    f.list(side)
        .into_iter()
        .map(|(path, mut entry)| {
            entry.metadata.mtime = 0;
            (path, entry)
        })
        .collect()
}

fn merged(trees: [&BTreeMap<&'static str, Made>; 3]) -> (Fixture, MergeReport) {
    let f = Fixture::large();
    for (side, tree) in ["base", "mine", "theirs"].into_iter().zip(trees) {
        make(&f, side, "", tree);
    }
    let report = f.merge();
    (f, report)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_for_real_trees(base in any_tree(), mine in any_tree(), theirs in any_tree()) {
        let (f, report) = merged([&base, &base, &theirs]);
        prop_assert_eq!(f.list("target"), f.list("theirs"));
        prop_assert!(report.conflicts.is_empty());

        let (f, report) = merged([&base, &mine, &base]);
        prop_assert_eq!(content(&f, "target"), content(&f, "mine"));
        prop_assert!(report.conflicts.is_empty());

        let (f, report) = merged([&base, &mine, &mine]);
        prop_assert_eq!(f.list("target"), f.list("theirs"));
        prop_assert!(report.conflicts.is_empty());

        let (f, report) = merged([&base, &mine, &theirs]);
        let [old, here, new, target] = ["base", "mine", "theirs", "target"].map(|side| content(&f, side));
        for (path, entry) in &here {
            let touched = old.get(path).is_none_or(|old| old.node != entry.node);
            if touched {
                let kept = target.get(path).map(|kept| &kept.node);
                prop_assert_eq!(kept, Some(&entry.node), "{} is lost", path);
            }
        }
        for (path, entry) in &target {
            let from = [here.get(path), new.get(path)];
            prop_assert!(
                from.into_iter().flatten().any(|side| side.node == entry.node),
                "{path} is nobody's"
            );
        }
        // Whatever the new default changed and is not there is in a conflict, at the path or above it.
        for (path, entry) in &new {
            let changed = old.get(path).is_none_or(|old| !old.same(entry));
            let there = target.get(path).is_some_and(|kept| kept.same(entry));
            let untouched_here = here.get(path).map(|e| &e.node) == old.get(path).map(|e| &e.node);
            if changed && !there && !untouched_here {
                let recorded = report.conflicts.iter().any(|record| {
                    let at = record.path.to_string();
                    path == &at || path.starts_with(&format!("{at}/"))
                });
                prop_assert!(recorded, "{path} is left out silently");
            }
        }

        // Running it twice, and merging what was merged.
        let first = f.list("target");
        f.merge();
        prop_assert_eq!(&f.list("target"), &first);
        fs::remove_dir_all(f.path("mine")).unwrap();
        fs::rename(f.path("target"), f.path("mine")).unwrap();
        fs::create_dir(f.path("target")).unwrap();
        fs::remove_dir_all(f.path("base")).unwrap();
        fs::create_dir(f.path("base")).unwrap();
        make(&f, "base", "", &theirs);
        let report = f.merge();
        prop_assert_eq!(content(&f, "target"), target);
        prop_assert!(report.conflicts.is_empty());
    }
}
