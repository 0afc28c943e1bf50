//! Dependencies between the library's modules point one way.
//!
//! `docs/architecture.md` lists the layers, the lowest last, one a line; a module may use what stands on lower lines. This
//! reads the list from there and the uses from the sources, so that neither can leave the other behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- layers: a test reads this block -->";

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns each module's height, 0 for the lowest.
fn layers() -> BTreeMap<String, usize> {
    let path = library().join("../../docs/architecture.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(BEGIN).expect("the document has the block");
    let block = rest.split("```").nth(1).expect("the block is fenced");
    let lines: Vec<&str> = block
        .lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .collect();
    let mut layers = BTreeMap::new();
    for (height, line) in lines.iter().rev().enumerate() {
        // What follows two spaces is for people.
        let modules = line
            .trim_start()
            .split("  ")
            .next()
            .expect("a split has a first part");
        for module in modules.split_whitespace() {
            assert_eq!(
                layers.insert(module.to_owned(), height),
                None,
                "{module} stands twice"
            );
        }
    }
    layers
}

/// Returns the modules that `lib.rs` declares.
fn declared() -> Vec<String> {
    let text = fs::read_to_string(library().join("lib.rs")).unwrap();
    let name = |line: &str| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
    };
    // `testing` is for tests, and may look at everything as they do.
    text.lines()
        .filter_map(name)
        .filter(|name| name != "testing")
        .collect()
}

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

/// Tests may look at everything.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path
            .file_stem()
            .is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
}

/// Returns the code without comments, up to the tests at its end.
fn code(text: &str) -> String {
    let code = text.split("\nmod tests {").next().unwrap_or_default();
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the modules that the code names by `crate::`, in a list in braces too.
fn used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => rest,
        };
        let parts = if rest.starts_with('{') {
            list.split(',').collect()
        } else {
            vec![list]
        };
        for part in parts {
            let name = part
                .trim()
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next();
            used.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    used
}

#[test]
fn the_document_lists_every_module_once() {
    let layers = layers();
    let mut listed: Vec<_> = layers.keys().cloned().collect();
    let mut declared = declared();
    declared.sort_unstable();
    listed.sort_unstable();
    assert!(declared.len() > 10, "lib.rs was read");
    assert_eq!(listed, declared, "docs/architecture.md and lib.rs");
}

#[test]
fn a_module_uses_only_what_is_below_it() {
    let layers = layers();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (module, height) in &layers {
        let mut files = Vec::new();
        sources(&library().join(module), &mut files);
        sources(&library().join(format!("{module}.rs")), &mut files);
        assert!(!files.is_empty(), "{module} has no sources");
        for file in files.iter().filter(|file| !is_test(file)) {
            let text = fs::read_to_string(file).unwrap();
            for other in used(&code(&text)) {
                // `crate::Name` is a type that lib.rs re-exports: above everything.
                let below = &other == module || layers.get(&other).is_some_and(|other| other < height);
                seen += 1;
                if !below {
                    let file = file.strip_prefix(library()).unwrap().display();
                    wrong.push(format!("{file} uses crate::{other}"));
                }
            }
        }
    }
    assert!(seen > 100, "the uses were found");
    assert!(
        wrong.is_empty(),
        "not below it in docs/architecture.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn uses_are_found_in_code_and_not_in_comments() {
    let text = "//! [`crate::sysroot`]\nuse crate::fs::Dir; // crate::boot\nuse crate::{digest::Digest, names};\n\
                fn f() { crate::repo::x() }\n#[cfg(test)]\nmod tests {\n use crate::checkout;\n}\n";
    assert_eq!(used(&code(text)), ["fs", "digest", "names", "repo"]);
}
