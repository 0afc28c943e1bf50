//! Whether every dependency may be distributed with the project.
//!
//! The list of allowed licences is the one in `deny.toml`, so that cargo-deny and this check, which works
//! without any tool and without a network, cannot disagree.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::capture;
use crate::workspace::cargo;

/// Fails unless the licence of every package in the lock file, on every platform, is allowed.
pub(super) fn check(root: &Path) -> Result<()> {
    let path = root.join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let allowed = allowed(&text).with_context(|| format!("cannot use {}", path.display()))?;
    let text = capture(&mut cargo(
        root,
        &["metadata", "--format-version", "1", "--locked"],
    ))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata printed what is not JSON")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let mut refused = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or("?");
        let version = package["version"].as_str().unwrap_or("?");
        match package["license"].as_str() {
            None => refused.push(format!("{name} {version} names no licence")),
            Some(licence) if !is_allowed(licence, &allowed)? => {
                refused.push(format!("{name} {version} is under {licence}"));
            }
            Some(_) => {}
        }
    }
    if !refused.is_empty() {
        bail!("not allowed by deny.toml:\n  {}", refused.join("\n  "));
    }
    eprintln!(
        "    {} packages, all under licences that deny.toml allows",
        packages.len()
    );
    Ok(())
}

fn allowed(deny: &str) -> Result<BTreeSet<String>> {
    let deny: toml::Table = deny.parse().context("it is not TOML")?;
    let list = deny
        .get("licenses")
        .and_then(|section| section.get("allow"))
        .and_then(toml::Value::as_array);
    let list = list.context("it has no licenses.allow")?;
    Ok(list
        .iter()
        .filter_map(toml::Value::as_str)
        .map(str::to_owned)
        .collect())
}

/// Evaluates an SPDX expression: `AND` binds tighter than `OR`; a `/`, as old manifests have it, means `OR`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> Result<bool> {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser {
        words: &words,
        allowed,
    };
    let value = parser.any_of();
    match (value, parser.words) {
        (Some(value), []) => Ok(value),
        _ => bail!("`{expression}` is no licence expression"),
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a BTreeSet<String>,
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        match self.words {
            [first, rest @ ..] if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    fn any_of(&mut self) -> Option<bool> {
        let mut value = self.all_of()?;
        while self.take("OR") {
            value |= self.all_of()?;
        }
        Some(value)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut value = self.term()?;
        while self.take("AND") {
            value &= self.term()?;
        }
        Some(value)
    }

    fn term(&mut self) -> Option<bool> {
        if self.take("(") {
            let value = self.any_of()?;
            return self.take(")").then_some(value);
        }
        let [name, rest @ ..] = self.words else {
            return None;
        };
        if ["AND", "OR", "WITH", ")"].contains(name) {
            return None;
        }
        self.words = rest;
        // An exception only adds permission, so what allows the licence allows it with the exception too.
        if self.take("WITH") {
            let [_, rest @ ..] = self.words else { return None };
            self.words = rest;
        }
        Some(self.allowed.contains(*name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_spdx_says() {
        let allowed: BTreeSet<String> = ["MIT", "Apache-2.0"].map(str::to_owned).into();
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("MIT/GPL-3.0-only", true),
            ("MIT AND GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT AND Apache-2.0", true),
            ("(GPL-3.0-only OR MIT) AND GPL-2.0-only", false),
            ("(MIT OR GPL-3.0-only) AND Apache-2.0", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0-only WITH Classpath-exception-2.0", false),
        ] {
            assert_eq!(
                is_allowed(expression, &allowed).unwrap(),
                expected,
                "{expression}"
            );
        }
        for malformed in [
            "",
            "MIT OR",
            "AND MIT",
            "(MIT",
            "MIT)",
            "MIT GPL-3.0-only",
            "MIT WITH",
        ] {
            assert!(is_allowed(malformed, &allowed).is_err(), "{malformed}");
        }
    }

    #[test]
    fn the_list_comes_from_deny_toml() {
        let list = allowed("[licenses]\nallow = [\"MIT\", \"Zlib\"]\n").unwrap();
        assert_eq!(list, ["MIT", "Zlib"].map(str::to_owned).into());
        assert!(allowed("[bans]\n").is_err());
    }
}
