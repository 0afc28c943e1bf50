//! `docs/etc-merge.md`, run: every row of its tables against the rule, or against real trees.

use super::*;
use crate::digest::{BlobId, Digest};
use crate::etc_merge::acl::test_acl;
use crate::etc_merge::rule::merge;
use crate::format::Metadata;

const DOCUMENT: &str = include_str!("../../../../docs/etc-merge.md");

/// Returns the cells of the table with this name, row by row.
fn table(name: &str) -> Vec<Vec<&'static str>> {
    let marker = format!("<!-- table: {name} -->");
    let (_, rest) = DOCUMENT.split_once(&marker).expect("the document has the table");
    let rows: Vec<Vec<_>> = rest
        .trim_start()
        .lines()
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line.trim().trim_start_matches('|').trim_end_matches('|');
            cells.split('|').map(str::trim).collect()
        })
        .collect();
    assert!(rows.len() > 15, "the table {name} is whole");
    rows
}

fn kinds(cell: &str) -> Vec<String> {
    cell.split(", ")
        .filter(|kind| !kind.is_empty())
        .map(str::to_owned)
        .collect()
}

fn entry(node: EtcNode, mode: u32) -> EtcEntry {
    EtcEntry {
        node,
        metadata: Metadata::with_mode(mode),
    }
}

fn text(bytes: &str) -> EtcNode {
    EtcNode::File {
        size: bytes.len() as u64,
        blob: BlobId::new(Digest::of(bytes.as_bytes())),
    }
}

/// An entry of a kind in its `version`th content.
fn of_kind(kind: usize, version: u32) -> EtcEntry {
    let (major, minor) = (1, version);
    let node = match kind % KINDS {
        0 => text(&version.to_string()),
        1 => EtcNode::Dir,
        2 => EtcNode::Symlink {
            target: version.to_string().into_bytes(),
        },
        3 => EtcNode::Char { major, minor },
        4 => EtcNode::Block { major, minor },
        _ => EtcNode::Fifo,
    };
    let mut entry = entry(node, 0o644);
    if matches!(entry.node, EtcNode::Dir | EtcNode::Fifo) {
        entry.metadata.uid = version;
    }
    entry
}

const KINDS: usize = 6;

#[test]
fn every_row_of_the_rule_holds_for_every_kind() {
    for row in table("rule") {
        let [base_cell, mine_cell, theirs_cell, result_cell, conflict_cell] = row[..] else {
            panic!("five cells: {row:?}");
        };
        for kind in 0..KINDS {
            let base = (base_cell == "default").then(|| of_kind(kind, 0));
            let side = |cell: &str, version: u32| match cell {
                "none" | "deleted" => None,
                "same" => base.clone(),
                "changed" | "added" => Some(of_kind(kind, version)),
                "changed alike" | "added alike" => Some(of_kind(kind, 1)),
                "changed otherwise" | "added otherwise" => Some(of_kind(kind, 2)),
                "retyped" | "retyped alike" => Some(of_kind(kind + 1, 1)),
                "retyped otherwise" => Some(of_kind(kind + 1, 2)),
                "retyped to a third kind" | "added as another kind" => Some(of_kind(kind + 2, 2)),
                other => panic!("no such cell: {other}"),
            };
            let (mine, theirs) = (side(mine_cell, 1), side(theirs_cell, 2));
            let outcome = merge(base.as_ref(), mine.as_ref(), theirs.as_ref());
            let expected = match result_cell {
                "mine" => mine,
                "theirs" => theirs,
                "nothing" => None,
                other => panic!("no such cell: {other}"),
            };
            assert_eq!(outcome.result, expected, "{row:?}, kind {kind}");
            let found: Vec<_> = outcome.conflicts.iter().map(|kind| kind.name()).collect();
            assert_eq!(found, kinds(conflict_cell), "{row:?}, kind {kind}");
        }
    }
}

/// Reads an entry as the table of units writes it.
fn parse_entry(cell: &str) -> Option<EtcEntry> {
    let mut words = cell.split(' ');
    let mut parsed = match words.next().unwrap() {
        "none" => return None,
        "dir" => entry(EtcNode::Dir, 0o755),
        letter => entry(text(letter), 0o644),
    };
    let metadata = &mut parsed.metadata;
    for word in words {
        let mut set = |name: &[u8], value: Vec<u8>| metadata.xattrs.insert(name.to_vec(), value);
        if let Some(value) = word.strip_prefix("x=") {
            set(b"user.x", value.into());
        } else if let Some(value) = word.strip_prefix("label=") {
            set(b"security.selinux", value.into());
        } else if word == "cap" {
            set(b"security.capability", b"cap".to_vec());
        } else if word == "dacl" {
            set(b"system.posix_acl_default", b"default".to_vec());
        } else if word == "acl7" || word == "deny7" {
            let right = if word == "acl7" { 4 } else { 0 };
            let class = |shift: u32| (metadata.mode >> shift & 7) as u16;
            let acl = test_acl(class(6), class(3), class(3), class(0), &[(7, right)]);
            set(b"system.posix_acl_access", acl);
        } else if let Some(uid) = word.strip_prefix('u') {
            metadata.uid = uid.parse().unwrap();
        } else if let Some(gid) = word.strip_prefix('g') {
            metadata.gid = gid.parse().unwrap();
        } else {
            metadata.mode = u32::from_str_radix(word, 8).unwrap();
        }
    }
    Some(parsed)
}

#[test]
fn every_row_of_the_units_holds() {
    for row in table("units") {
        let [base, mine, theirs, result, conflict, _] = row[..] else {
            panic!("six cells: {row:?}");
        };
        let [base, mine, theirs, result] = [base, mine, theirs, result].map(parse_entry);
        let outcome = merge(base.as_ref(), mine.as_ref(), theirs.as_ref());
        assert_eq!(outcome.result, result, "{row:?}");
        let found: Vec<_> = outcome.conflicts.iter().map(|kind| kind.name()).collect();
        assert_eq!(found, kinds(conflict), "{row:?}");
    }
}

/// Makes a tree as the tables write it: `a=A`, `d/`, `d->x`; commas stand for ends of lines.
fn make(f: &Fixture, side: &str, cell: &str) {
    for word in cell.split(' ').filter(|word| !word.is_empty()) {
        if let Some((path, target)) = word.split_once("->") {
            f.put(side, path, What::Link(target.to_owned()));
        } else if let Some((path, lines)) = word.split_once('=') {
            f.write(side, path, &format!("{}\n", lines.replace(',', "\n")));
        } else {
            f.put(side, word.trim_end_matches('/'), What::Dir(0o755));
        }
    }
}

/// Writes the target as the tables do.
fn show(f: &Fixture) -> String {
    let list = f.list("target");
    let mut words = Vec::new();
    for (path, entry) in &list {
        match &entry.node {
            EtcNode::File { .. } => {
                let text = f.read(path);
                words.push(format!("{path}={}", text.trim_end().replace('\n', ",")));
            }
            EtcNode::Symlink { target } => {
                words.push(format!("{path}->{}", String::from_utf8_lossy(target)));
            }
            EtcNode::Dir => {
                let is_empty = !list
                    .iter()
                    .any(|(other, _)| other.starts_with(&format!("{path}/")));
                if is_empty && !path.is_empty() {
                    words.push(format!("{path}/"));
                }
            }
            _ => panic!("the tables have no other kinds"),
        }
    }
    words.join(" ")
}

fn run(f: &Fixture, trees: [&str; 3]) -> (String, String) {
    for (side, cell) in ["base", "mine", "theirs"].into_iter().zip(trees) {
        make(f, side, cell);
    }
    let plan = match f.plan() {
        Ok(plan) => plan,
        Err(EtcMergeError::Refused { .. }) => return ("refused".to_owned(), String::new()),
        Err(error) => panic!("{error}"),
    };
    let report = f.apply(&plan).unwrap();
    let conflicts: Vec<_> = conflicts(&report)
        .into_iter()
        .map(|(path, kinds)| {
            let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
            format!("{path}: {}", kinds.join(", "))
        })
        .collect();
    (show(f), conflicts.join("; "))
}

#[test]
fn every_row_of_the_trees_holds() {
    for row in table("trees") {
        let [base, mine, theirs, result, conflict, _] = row[..] else {
            panic!("six cells: {row:?}");
        };
        let found = run(&Fixture::new(), [base, mine, theirs]);
        assert_eq!(found, (result.to_owned(), conflict.to_owned()), "{row:?}");
    }
}

#[test]
fn every_row_of_the_policies_holds() {
    for row in table("policies") {
        let [policy, base, mine, theirs, result, conflict] = row[..] else {
            panic!("six cells: {row:?}");
        };
        let mut f = Fixture::new();
        let command = if policy == "regenerate" {
            "command = ['x']\n"
        } else {
            ""
        };
        let text = format!("[[rule]]\npath = 'p'\npolicy = '{policy}'\n{command}");
        f.policies.add(&text, "the document".into()).unwrap();
        let found = run(&f, [base, mine, theirs]);
        assert_eq!(found, (result.to_owned(), conflict.to_owned()), "{row:?}");
        if policy == "regenerate" {
            let commands = f.plan().unwrap().regenerate().len();
            assert_eq!(commands, usize::from(mine != base), "{row:?}");
        }
    }
}
