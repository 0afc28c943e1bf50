//! A writer and a look-up of the trie, of their own, and what must hold between them and the rewriting.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Index = BTreeMap<Vec<u8>, Vec<(u32, Vec<u8>)>>;

/// Writes the trie of the keys that begin with `key`, the children before their parent, and returns the reference.
fn write_node(index: &Index, key: &[u8], skip: usize, out: &mut Vec<u8>) -> u32 {
    let beneath: Vec<&Vec<u8>> = index.keys().filter(|other| other.starts_with(key)).collect();
    let mut common = beneath[0].len();
    for other in &beneath {
        let same = other.iter().zip(beneath[0]).take_while(|(a, b)| a == b).count();
        common = common.min(same);
    }
    let here = &beneath[0][..common];
    let nexts: Vec<u8> = beneath
        .iter()
        .filter_map(|other| other.get(common).copied())
        .collect();
    let children = nexts.iter().min().zip(nexts.iter().max()).map(|(first, last)| {
        let references: Vec<u32> = (*first..=*last)
            .map(|byte| {
                if !nexts.contains(&byte) {
                    return 0;
                }
                let child = [here, &[byte]].concat();
                write_node(index, &child, child.len(), out)
            })
            .collect();
        (*first, *last, references)
    });
    let at = out.len() as u32;
    let mut flags = 0;
    if common > skip {
        flags |= HAS_PREFIX;
        out.extend_from_slice(&here[skip..]);
        out.push(0);
    }
    if let Some((first, last, references)) = children {
        flags |= HAS_CHILDREN;
        out.extend([first, last]);
        references.iter().for_each(|reference| put(out, *reference));
    }
    if let Some(values) = index.get(here) {
        flags |= HAS_VALUES;
        put(out, values.len() as u32);
        for (priority, value) in values {
            put(out, *priority);
            out.extend_from_slice(value);
            out.push(0);
        }
    }
    at | flags
}

fn write(index: &Index) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [MAGIC, VERSION, 0] {
        put(&mut out, number);
    }
    let root = write_node(index, b"", 0, &mut out);
    let mut reference = Vec::new();
    put(&mut reference, root);
    out[8..12].copy_from_slice(&reference);
    out
}

/// Returns everything that can be looked up.
fn look_up(bytes: &[u8]) -> Index {
    let mut found = Index::new();
    let root = Cursor { bytes, at: 8 }.number().unwrap();
    let mut stack = vec![(root, Vec::new())];
    while let Some((reference, mut key)) = stack.pop() {
        let node = Node::read(bytes, reference).unwrap();
        key.extend_from_slice(node.prefix.unwrap_or_default());
        if let Some((first, children)) = node.children {
            for (byte, child) in (first..).zip(children).filter(|(_, child)| *child != 0) {
                stack.push((child, [&key[..], &[byte]].concat()));
            }
        }
        if let Some(values) = node.values {
            let values = values.iter().map(|(priority, value)| (*priority, value.to_vec()));
            found.insert(key, values.collect());
        }
    }
    found
}

fn without_xz(path: &[u8]) -> Option<&[u8]> {
    path.strip_suffix(b".xz")
}

/// Renames by stripping a suffix, as a table of what was unpacked would.
fn renames(index: &Index) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let values = index.values().flatten();
    let paths = values.flat_map(|(_, value)| value.split(|byte| b" :".contains(byte)));
    paths
        .filter_map(|path| Some((path.to_vec(), without_xz(path)?.to_vec())))
        .collect()
}

fn indexes() -> impl Strategy<Value = Index> {
    let value = "k/[a-c]{1,3}\\.ko(\\.xz)?:( k/[a-c]{1,3}\\.ko(\\.xz)?){0,2}";
    let values = prop::collection::vec((any::<u32>(), value.prop_map(String::into_bytes)), 1..3);
    prop::collection::btree_map("[a-d_]{1,6}".prop_map(String::into_bytes), values, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn paths_are_renamed_and_all_else_is_found_as_before(index in indexes()) {
        let bytes = write(&index);
        prop_assert_eq!(look_up(&bytes), index.clone());
        prop_assert_eq!(&rewrite_binary(&bytes, |_| None).unwrap(), &bytes);

        let renames = renames(&index);
        let rename = |path: &[u8]| renames.get(path).map(Vec::as_slice);
        let renamed: Index = index
            .iter()
            .map(|(key, values)| {
                let values = values.iter().map(|(priority, value)| {
                    let text = String::from_utf8(value.clone()).unwrap().replace(".xz", "");
                    (*priority, text.into_bytes())
                });
                (key.clone(), values.collect())
            })
            .collect();
        let rewritten = rewrite_binary(&bytes, rename).unwrap();
        prop_assert_eq!(look_up(&rewritten), renamed.clone());
        // As if it had been written so in the first place.
        prop_assert_eq!(rewritten, write(&renamed));
    }

    #[test]
    fn a_flipped_or_cut_index_is_refused_or_read_and_nothing_else(
        index in indexes(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut bytes = write(&index);
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(rewrite_binary(cut, |_| None).is_err());
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        if let Ok(same) = rewrite_binary(&bytes, |_| None) {
            prop_assert_eq!(same, bytes);
        }
    }

    #[test]
    fn any_nodes_are_read_without_harm(rest in prop::collection::vec(any::<u8>(), 0..200), root in any::<u32>()) {
        let mut bytes = Vec::new();
        for number in [MAGIC, VERSION, root] {
            put(&mut bytes, number);
        }
        bytes.extend(rest);
        let _ = rewrite_binary(&bytes, |_| None);
    }
}

#[test]
fn references_that_meet_or_go_in_circles_are_refused() {
    // A node with two children, both of which are the node itself.
    let mut bytes = Vec::new();
    for number in [MAGIC, VERSION, 12 | HAS_CHILDREN] {
        put(&mut bytes, number);
    }
    bytes.extend(b"ab");
    put(&mut bytes, 12 | HAS_CHILDREN);
    put(&mut bytes, 12 | HAS_CHILDREN);
    let error = rewrite_binary(&bytes, |_| None).unwrap_err();
    assert_eq!(error, NoIndex("a node is referred to twice"));

    // Two references to one leaf.
    let mut index = Index::new();
    index.insert(b"a".to_vec(), vec![(1, b"x".to_vec())]);
    index.insert(b"b".to_vec(), vec![(2, b"y".to_vec())]);
    let mut bytes = write(&index);
    let end = bytes.len();
    bytes.copy_within(end - 8..end - 4, end - 4);
    let error = rewrite_binary(&bytes, |_| None).unwrap_err();
    assert_eq!(error, NoIndex("its nodes overlap, or leave a gap"));
}

#[test]
fn text_changes_where_a_path_is_and_nowhere_else() {
    let text = b"kernel/a.ko.xz: kernel/b.ko.xz kernel/ab.ko.xz\nkernel/b.ko.xz:\n\n# kernel/a.ko.xz.old";
    let rename = |path: &[u8]| match path {
        b"kernel/a.ko.xz" => Some(&b"kernel/a.ko"[..]),
        b"kernel/b.ko.xz" => Some(&b"kernel/b.ko"[..]),
        _ => None,
    };
    assert_eq!(
        String::from_utf8(rewrite_text(text, rename)).unwrap(),
        "kernel/a.ko: kernel/b.ko kernel/ab.ko.xz\nkernel/b.ko:\n\n# kernel/a.ko.xz.old"
    );
    assert_eq!(rewrite_text(b"", rename), b"");
    assert_eq!(rewrite_text(b"kernel/a.ko.xz", rename), b"kernel/a.ko");
}
