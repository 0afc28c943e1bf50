//! `docs/threat-model.md` names a test for each attack, and each of them is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Collects the names of the functions that stand below `#[test]`.
fn tests_in(path: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, found);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            match name {
                Some(name) if is_test => {
                    found.insert(name.to_owned());
                }
                _ => {}
            }
            // Other attributes and comments may stand in between.
            is_test = line == "#[test]" || (is_test && (line.starts_with("#[") || line.starts_with("//")));
        }
    }
}

#[test]
fn every_attack_names_tests_that_are_there() {
    let mut tests = BTreeSet::new();
    tests_in(&root().join("libatomos/src"), &mut tests);
    tests_in(&root().join("tests"), &mut tests);
    tests_in(&root().join("atomos-prepare-root"), &mut tests);
    let text = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (_, attacks) = text.split_once("\n## Attacks\n").expect("the page has the table");
    let (attacks, rest) = attacks.split_once("\n## ").expect("something follows it");
    let (_, disk) = rest.split_once("own disk\n").expect("the page has another table");
    let (disk, _) = disk.split_once("\n## ").expect("something follows it");
    let attacks = format!("{attacks}\n{disk}");
    let mut count = 0;
    for row in attacks
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter(|line| !line.starts_with("| attack "))
    {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 3, "{row}");
        let names: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        let in_a_machine = cells[2].starts_with("virtual machine");
        assert!(in_a_machine || !names.is_empty(), "no test tries this: {row}");
        for name in names {
            assert!(tests.contains(name), "there is no test {name}, for: {row}");
        }
        count += 1;
    }
    assert!(count >= 20, "{count} attacks");
}
