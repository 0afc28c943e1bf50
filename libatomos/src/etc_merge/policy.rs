//! What to do with particular paths, other than by the rule.
//!
//! Rules come from the program, then from `usr/lib/atomos/etc-merge.d/*.conf` of the new tree, then from
//! `atomos/etc-merge.d/*.conf` of the local `/etc`; the last that matches a path holds. Within a directory files are
//! read in order of their names, and a local file replaces one of the same name in the new tree (a link to
//! `/dev/null` takes it away), as with systemd's drop-ins.
//!
//! ```toml
//! [[rule]]
//! path = "ld.so.cache"
//! policy = "regenerate"
//! command = ["ldconfig"]
//! ```

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fs::{Dir, FileKind};

use super::error::EtcMergeError;
use super::glob::Glob;
use super::path::EtcPath;
use super::snapshot::open_beneath;

/// What to do with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// What is here stays, deleted or not, and is no conflict.
    KeepMine,
    /// The new default stands, whatever was done here.
    TakeTheirs,
    /// Both sides' lines are kept, in the order they have here; a line that one side took away goes.
    MergeLines,
    /// The new default stands, and a command makes it anew from what was merged.
    Regenerate {
        /// The program and its arguments, to be run in the new root.
        command: Vec<String>,
    },
    /// A conflict refuses the whole merge.
    Fail,
}

/// Policies by path.
#[derive(Debug, Clone)]
pub struct Policies {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    glob: Glob,
    policy: Policy,
}

/// Where the new tree keeps its policies, beneath its root.
const VENDOR_DIR: &str = "usr/lib/atomos/etc-merge.d";
/// Where the local ones are, beneath `/etc`.
const LOCAL_DIR: &str = "atomos/etc-merge.d";
/// Bytes in a policy file.
const MAX_FILE: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    path: String,
    policy: RawPolicy,
    command: Option<Vec<String>>,
}

#[derive(Deserialize, Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum RawPolicy {
    KeepMine,
    TakeTheirs,
    MergeLines,
    Regenerate,
    Fail,
}

impl Default for Policies {
    /// Returns the rules that the program comes with.
    fn default() -> Self {
        let rule = |path: &str, policy| Rule {
            glob: Glob::new(path).expect("the built-in patterns are well formed"),
            policy,
        };
        let regenerate = |command: &[&str]| Policy::Regenerate {
            command: command.iter().map(ToString::to_string).collect(),
        };
        let mut rules = vec![
            // Made from what is merged: a kept one would be of the old libraries and certificates.
            rule("ld.so.cache", regenerate(&["ldconfig"])),
            rule(
                "ssl/certs/ca-certificates.crt",
                regenerate(&["update-ca-certificates"]),
            ),
            rule(
                "pki/ca-trust/extracted",
                regenerate(&["update-ca-trust", "extract"]),
            ),
            // Made at the first boot; a tree that was built twice has had two.
            rule("machine-id", Policy::KeepMine),
        ];
        // What the account tools leave: the file before their last change. To merge it says nothing to anybody.
        for name in ["passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-"] {
            rules.push(rule(name, Policy::KeepMine));
        }
        Self { rules }
    }
}

impl Policies {
    /// Reads the policies of the new tree, whose root is `theirs_root`, and those of the local `/etc`.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, has a key that is not known, or a rule that makes no sense: the error
    /// names the file, and the key or the rule.
    pub fn load(theirs_root: &Dir, mine_etc: Option<&Dir>) -> Result<Self, EtcMergeError> {
        let mut vendor = read_files(theirs_root, VENDOR_DIR)?;
        let local = match mine_etc {
            Some(etc) => read_files(etc, LOCAL_DIR)?,
            None => BTreeMap::new(),
        };
        vendor.retain(|name, _| !local.contains_key(name));
        let mut policies = Self::default();
        for (path, text) in vendor.into_values().chain(local.into_values()) {
            if let Some(text) = text {
                policies.add(&text, path)?;
            }
        }
        Ok(policies)
    }

    /// Adds the rules in `text`, the contents of a policy file; `path` is for messages. They come after those that
    /// there are.
    pub fn add(&mut self, text: &str, path: PathBuf) -> Result<(), EtcMergeError> {
        let file: RawFile = toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            EtcMergeError::PolicySyntax {
                path: path.clone(),
                line: 1 + before.unwrap_or_default().matches('\n').count(),
                reason: error.message().replace('\n', "; "),
            }
        })?;
        for (index, raw) in file.rule.into_iter().enumerate() {
            let rule = check(raw).map_err(|rule| EtcMergeError::PolicyRule {
                path: path.clone(),
                number: index + 1,
                rule,
            })?;
            self.rules.push(rule);
        }
        Ok(())
    }

    /// Returns the policy for `path`: that of the last rule that matches it or a directory it is in.
    #[must_use]
    pub fn find(&self, path: &EtcPath) -> Option<&Policy> {
        self.rules
            .iter()
            .rev()
            .find(|rule| rule.glob.matches(path))
            .map(|rule| &rule.policy)
    }
}

fn check(raw: RawRule) -> Result<Rule, String> {
    let glob = Glob::new(&raw.path).map_err(|why| format!("the path {:?}: {why}", raw.path))?;
    let policy = match (raw.policy, raw.command) {
        (RawPolicy::Regenerate, Some(command)) if command.first().is_some_and(|c| !c.is_empty()) => {
            Policy::Regenerate { command }
        }
        (RawPolicy::Regenerate, _) => {
            return Err("`regenerate` takes a command: a list of a program and its arguments".to_owned());
        }
        (_, Some(_)) => return Err("only `regenerate` takes a command".to_owned()),
        (RawPolicy::KeepMine, None) => Policy::KeepMine,
        (RawPolicy::TakeTheirs, None) => Policy::TakeTheirs,
        (RawPolicy::MergeLines, None) => Policy::MergeLines,
        (RawPolicy::Fail, None) => Policy::Fail,
    };
    Ok(Rule { glob, policy })
}

/// Returns the policy files beneath `root`, by name: path and text, or no text for one that is taken away.
fn read_files(root: &Dir, dir: &str) -> Result<BTreeMap<OsString, (PathBuf, Option<String>)>, EtcMergeError> {
    let mut files = BTreeMap::new();
    let path = EtcPath::from_bytes(dir.as_bytes()).expect("the two directories are well-formed paths");
    let Some(dir) = open_beneath(root, &path)? else {
        return Ok(files);
    };
    for entry in dir.entries()? {
        let name = entry.name;
        if PathBuf::from(&name).extension() != Some(OsStr::new("conf")) {
            continue;
        }
        let path = dir.path().join(&name);
        let is_mask = dir.stat(&name)?.kind == FileKind::Symlink && dir.read_link(&name)? == b"/dev/null";
        let text = if is_mask {
            None
        } else {
            let bytes = dir.read(&name, MAX_FILE)?;
            Some(String::from_utf8(bytes).map_err(|error| {
                crate::fs::FsError::new(
                    "read",
                    path.clone(),
                    std::io::Error::new(std::io::ErrorKind::InvalidData, error),
                )
            })?)
        };
        files.insert(name, (path, text));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn path(text: &str) -> EtcPath {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_rule_that_matches_holds() {
        let mut policies = Policies::default();
        let text =
            "[[rule]]\npath = '*.d'\npolicy = 'keep-mine'\n[[rule]]\npath = 'a.d/x'\npolicy = 'fail'\n";
        policies.add(text, "test".into()).unwrap();
        assert_eq!(policies.find(&path("a.d/y")), Some(&Policy::KeepMine));
        assert_eq!(policies.find(&path("a.d/x")), Some(&Policy::Fail));
        assert_eq!(policies.find(&path("a")), None);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_file_and_key() {
        let error = Policies::default()
            .add(
                "[[rule]]\npath = 'a'\npolicy = 'fail'\nprio = 3\n",
                "x/50.conf".into(),
            )
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let told = error.to_string();
        assert!(told.contains("x/50.conf") && told.contains("prio"), "{told}");
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_named_by_its_number() {
        for text in [
            "[[rule]]\npath = 'a'\npolicy = 'regenerate'\n",
            "[[rule]]\npath = 'a'\npolicy = 'regenerate'\ncommand = []\n",
            "[[rule]]\npath = 'a'\npolicy = 'fail'\ncommand = ['x']\n",
            "[[rule]]\npath = '/a'\npolicy = 'fail'\n",
            "[[rule]]\npath = 'a/[b'\npolicy = 'fail'\n",
        ] {
            let error = Policies::default().add(text, "x.conf".into()).unwrap_err();
            assert!(error.to_string().contains("rule 1"), "{text}: {error}");
        }
    }

    #[test]
    fn local_files_come_after_the_tree_s_and_replace_those_of_the_same_name() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        #[allow(clippy::disallowed_methods, reason = "a test makes its own input")]
        {
            std::fs::create_dir_all(at("root").join(VENDOR_DIR)).unwrap();
            std::fs::create_dir_all(at("etc").join(LOCAL_DIR)).unwrap();
            let rule = |path: &str, policy: &str| format!("[[rule]]\npath = '{path}'\npolicy = '{policy}'\n");
            let vendor = at("root").join(VENDOR_DIR);
            std::fs::write(vendor.join("90-a.conf"), rule("a", "keep-mine")).unwrap();
            std::fs::write(vendor.join("50-b.conf"), rule("b", "keep-mine")).unwrap();
            std::fs::write(vendor.join("60-c.conf"), rule("c", "keep-mine")).unwrap();
            std::fs::write(vendor.join("README"), "not a policy").unwrap();
            let local = at("etc").join(LOCAL_DIR);
            std::fs::write(local.join("10-a.conf"), rule("a", "take-theirs")).unwrap();
            std::fs::write(local.join("50-b.conf"), rule("x", "fail")).unwrap();
            std::os::unix::fs::symlink("/dev/null", local.join("60-c.conf")).unwrap();
        }
        let policies = Policies::load(
            &Dir::open_ambient(at("root")).unwrap(),
            Some(&Dir::open_ambient(at("etc")).unwrap()),
        )
        .unwrap();
        assert_eq!(policies.find(&path("a")), Some(&Policy::TakeTheirs));
        assert_eq!(policies.find(&path("b")), None);
        assert_eq!(policies.find(&path("c")), None);
        assert_eq!(policies.find(&path("x")), Some(&Policy::Fail));
    }
}
