//! Which code is a decoder: what reads bytes before anybody has vouched for them, and nothing that writes or shows them.

use std::ops::RangeInclusive;

use anyhow::{Result, bail};

/// What a target is to reach.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// The target's name.
    pub target: &'static str,
    /// Where its code is.
    pub parts: &'static [Part],
}

/// Functions of one file.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The file, from the root of the workspace.
    pub file: &'static str,
    /// Which of its functions.
    pub which: Which,
}

/// Functions by their names, with their type before them where a name stands twice.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    /// These.
    Of(&'static [&'static str]),
    /// All others.
    But(&'static [&'static str]),
}

use Which::{But, Of};

const fn part(file: &'static str, which: Which) -> Part {
    Part { file, which }
}

/// Owner, mode, time and attributes, in commits and dirtrees.
const METADATA: Part = part(
    "libatomos/src/format/metadata.rs",
    Of(&[
        "Xattrs::decode",
        "check_xattr_name",
        "decode_fixed",
        "decode_xattrs",
        "check_owner",
        "within",
    ]),
);
const HEADER: Part = part(
    "libatomos/src/format/mod.rs",
    Of(&["HeaderKind::read", "tag", "name"]),
);
const NAMES: Part = part("libatomos/src/names.rs", Of(&["check", "RefName::from_str"]));
const DIGEST: Part = part("libatomos/src/digest.rs", Of(&["Digest::from_str", "hex_value"]));
const LINES: Part = part("libatomos/src/repo/refs.rs", Of(&["parse_lines"]));

/// Every decoder of the store.
pub const DECODERS: [Decoder; 10] = [
    Decoder {
        target: "commit",
        parts: &[
            part(
                "libatomos/src/format/commit.rs",
                Of(&["from_bytes", "decode", "take_line"]),
            ),
            part("libatomos/src/format/cursor.rs", But(&["u64"])),
            METADATA,
            HEADER,
        ],
    },
    Decoder {
        target: "dirtree",
        parts: &[
            part(
                "libatomos/src/format/dirtree.rs",
                Of(&["decode", "decode_entry", "check_name", "check_node"]),
            ),
            part("libatomos/src/format/cursor.rs", But(&["text"])),
            METADATA,
            HEADER,
        ],
    },
    Decoder {
        target: "config",
        parts: &[
            part("libatomos/src/repo/config.rs", Of(&["parse", "one_line"])),
            part(
                "libatomos/src/repo/free_space.rs",
                Of(&["MinFreeSpace::from_str", "MinFreeSpace::try_from"]),
            ),
        ],
    },
    Decoder {
        target: "refs",
        parts: &[
            part(
                "libatomos/src/repo/refs.rs",
                Of(&["parse", "count_line", "parse_lines"]),
            ),
            NAMES,
            DIGEST,
        ],
    },
    Decoder {
        target: "aliases",
        parts: &[
            part("libatomos/src/repo/aliases.rs", Of(&["parse"])),
            LINES,
            NAMES,
        ],
    },
    Decoder {
        target: "stat_cache",
        parts: &[
            part(
                "libatomos/src/commit/stat_cache/record.rs",
                Of(&["decode", "intern", "take", "number"]),
            ),
            part(
                "libatomos/src/format/metadata.rs",
                Of(&["Xattrs::decode", "check_xattr_name"]),
            ),
        ],
    },
    Decoder {
        target: "tar",
        parts: &[
            part("libatomos/src/archive/acl.rs", But(&["to_text"])),
            part("libatomos/src/archive/base64.rs", Of(&["decode"])),
            part("libatomos/src/archive/header.rs", But(&[])),
            part("libatomos/src/archive/pax.rs", But(&["write", "xattr"])),
            part("libatomos/src/archive/reader.rs", But(&[])),
            part("libatomos/src/archive/sparse.rs", But(&[])),
            part("libatomos/src/archive/stream.rs", But(&["fmt", "compression"])),
            part("libatomos/src/source/tar.rs", But(&[])),
            part("libatomos/src/source/attributes.rs", But(&[])),
            // Listed directories are merged, too, and nobody has to decode them.
            part("libatomos/src/source/overlay.rs", But(&["merge"])),
        ],
    },
    Decoder {
        target: "oci",
        parts: &[
            part(
                "libatomos/src/oci/document.rs",
                Of(&["is_manifest", "is_index", "name", "accepts"]),
            ),
            part("libatomos/src/oci/layout.rs", But(&[])),
            part(
                "libatomos/src/oci/verified.rs",
                But(&["fmt", "sha256", "into_inner", "write", "flush"]),
            ),
            part("libatomos/src/source/oci.rs", But(&[])),
        ],
    },
    Decoder {
        target: "ostree",
        parts: &[
            part("libatomos/src/ostree/gvariant.rs", But(&[])),
            part("libatomos/src/ostree/object.rs", But(&["fmt"])),
            part("libatomos/src/ostree/repo.rs", But(&["checksum"])),
            part(
                "libatomos/src/import/mod.rs",
                But(&["ImportError::from", "ImportError::kind"]),
            ),
        ],
    },
    Decoder {
        target: "seal",
        parts: &[
            part(
                "libatomos/src/composefs/seal.rs",
                Of(&["unfit", "decode", "of_commit", "image_verity", "signer_among"]),
            ),
            part(
                "libatomos/src/sign/envelope.rs",
                Of(&[
                    "invalid",
                    "decode",
                    "payload_of_type",
                    "is_signed_by",
                    "signed_bytes",
                ]),
            ),
            part(
                "libatomos/src/sign/key.rs",
                Of(&[
                    "KeyId::from_str",
                    "PublicKey::from_bytes",
                    "PublicKey::parse",
                    "verifies",
                    "Wire::string",
                ]),
            ),
            // What it says of a damaged seal is never shown here.
            part("atomos-prepare-root/src/seal.rs", But(&["fmt", "is_demand"])),
        ],
    },
];

/// A function of a source, as `rustfmt` leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Function {
    name: String,
    /// The first line of the `impl` that it stands in.
    owner: String,
    lines: RangeInclusive<usize>,
}

impl Function {
    fn is_called(&self, name: &str) -> bool {
        match name.split_once("::") {
            None => self.name == name,
            Some((owner, name)) => {
                let mut words = self.owner.split(|c: char| !c.is_alphanumeric());
                self.name == name && words.any(|word| word == owner)
            }
        }
    }
}

/// Returns the functions of a source, without its tests. Those within others are a part of them.
fn functions(source: &str) -> Vec<Function> {
    let code = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines: Vec<&str> = code.lines().collect();
    let mut found: Vec<Function> = Vec::new();
    let mut owner = "";
    for (at, line) in lines.iter().enumerate() {
        if line.starts_with("impl") {
            owner = line;
        } else if *line == "}" {
            owner = "";
        }
        let inside = found.last().is_some_and(|last| last.lines.contains(&(at + 1)));
        let Some(name) = name_of(line).filter(|_| !inside) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = lines[at..]
            .iter()
            .position(|line| line.strip_prefix(indent).is_some_and(|rest| rest == "}"));
        found.push(Function {
            name: name.to_owned(),
            owner: owner.to_owned(),
            lines: at + 1..=at + 1 + end.unwrap_or_default(),
        });
    }
    found
}

/// Returns the name of the function that begins in this line.
fn name_of(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let words = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "async"];
    let begins = before.split_whitespace().all(|word| words.contains(&word));
    let name = after.split(['(', '<']).next().filter(|_| begins)?;
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (is_name && !name.is_empty()).then_some(name)
}

impl Part {
    /// Returns the lines of `source`, the file's text, that belong to the decoder.
    ///
    /// # Errors
    /// If a function that it names is not there.
    pub fn lines(&self, source: &str) -> Result<Vec<RangeInclusive<usize>>> {
        let functions = functions(source);
        let (Of(names) | But(names)) = self.which;
        for name in names {
            if !functions.iter().any(|function| function.is_called(name)) {
                bail!("{} has no function {name}", self.file);
            }
        }
        let wanted = |function: &&Function| {
            let is_named = names.iter().any(|name| function.is_called(name));
            is_named == matches!(self.which, Of(_))
        };
        let wanted = functions.iter().filter(wanted);
        Ok(wanted.map(|function| function.lines.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    const SOURCE: &str = "\
impl Display for A {
    fn fmt(&self) -> X {
        let inner = |x| {
            x
        };
        inner(1)
    }
}

impl<'a> B<'a> {
    pub(crate) const fn fmt<T>(
        self,
    ) -> T {
        fn inner() {
        }
    }
}

/// Not an fn at all.
fn free() {}

#[cfg(test)]
mod tests {
    fn test() {
    }
}
";

    #[test]
    fn functions_are_found_from_their_first_line_to_their_last() {
        let found = functions(SOURCE);
        let lines: Vec<_> = found
            .iter()
            .map(|function| (function.name.as_str(), function.lines.clone()))
            .collect();
        assert_eq!(lines, [("fmt", 2..=7), ("fmt", 11..=16), ("free", 20..=20)]);
        let of = |which| part("a.rs", which).lines(SOURCE).unwrap();
        assert_eq!(of(Of(&["B::fmt"])), [11..=16]);
        assert_eq!(of(Of(&["fmt"])), [2..=7, 11..=16]);
        assert_eq!(of(But(&["A::fmt"])), [11..=16, 20..=20]);
        assert!(part("a.rs", Of(&["C::fmt"])).lines(SOURCE).is_err());
    }

    #[test]
    fn every_function_that_a_decoder_names_exists() {
        for decoder in DECODERS {
            for part in decoder.parts {
                let source = std::fs::read_to_string(workspace::root().join(part.file)).unwrap();
                let lines = part.lines(&source).unwrap();
                assert!(!lines.is_empty(), "{}: {}", decoder.target, part.file);
            }
            let target = format!("fuzz/fuzz_targets/{}.rs", decoder.target);
            assert!(workspace::root().join(&target).is_file(), "{target}");
        }
    }
}
