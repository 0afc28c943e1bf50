//! A repository's `config`: its format, its mode, the features it needs.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{MinFreeSpace, RepoError};

/// The format that this library writes and reads.
pub const FORMAT: u32 = 1;

/// Features, by how a program that does not know them must behave (as ext4 and composefs do it). This version has
/// none of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Features {
    /// May be ignored.
    pub compatible: Vec<String>,
    /// Whoever does not know one may read, not write.
    pub read_only_compatible: Vec<String>,
    /// Whoever does not know one must not open the repository.
    pub incompatible: Vec<String>,
}

/// How a repository keeps a file's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepoMode {
    /// Blobs are inodes with true owner, mode, time and extended attributes, which a checkout hardlinks. Takes root.
    Bare,
    /// Blobs are plain files of the user's; metadata is in dirtrees alone. A checkout copies.
    BareUser,
}

impl fmt::Display for RepoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "bare",
            Self::BareUser => "bare-user",
        })
    }
}

impl FromStr for RepoMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bare" => Ok(Self::Bare),
            "bare-user" => Ok(Self::BareUser),
            _ => Err(format!(
                "{text:?} is no repository mode: there are bare and bare-user"
            )),
        }
    }
}

/// The contents of `config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The repository's format, [`FORMAT`].
    pub format: u32,
    /// How files are kept.
    pub mode: RepoMode,
    /// Names the repository in what it publishes: 32 hexadecimal digits, chosen at random when it is made.
    pub id: String,
    /// What is to stay free on the repository's file system; nothing in particular where `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_free_space: Option<MinFreeSpace>,
    /// What the repository needs.
    #[serde(default)]
    pub features: Features,
}

impl Config {
    /// Reads `config`; a newer format or an unknown incompatible feature is said as such before any other complaint.
    pub(crate) fn parse(repo: &Path, bytes: &[u8]) -> Result<Self, RepoError> {
        let invalid = |reason: String| RepoError::Config {
            path: repo.join(super::layout::CONFIG),
            reason,
        };
        let unsupported = |reason: String| RepoError::UnsupportedRepository {
            path: repo.to_owned(),
            reason,
        };
        let text = std::str::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| invalid(one_line(error.message())))?;
        match table.get("format").and_then(toml::Value::as_integer) {
            None => return Err(invalid("it has no number `format`".to_owned())),
            Some(found) if found != i64::from(FORMAT) => {
                return Err(unsupported(format!(
                    "is of format {found}, and this program knows format {FORMAT}"
                )));
            }
            Some(_) => {}
        }
        let unknown: Vec<_> = table
            .get("features")
            .and_then(|features| features.get("incompatible"))
            .and_then(toml::Value::as_array)
            .map(|list| list.iter().map(ToString::to_string).collect())
            .unwrap_or_default();
        if !unknown.is_empty() {
            return Err(unsupported(format!(
                "needs features that this program lacks: {}",
                unknown.join(", ")
            )));
        }
        let config: Self = toml::from_str(text).map_err(|error| invalid(one_line(error.message())))?;
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if config.id.len() != 32 || !config.id.bytes().all(hexadecimal) {
            return Err(invalid("`id` takes 32 lower-case hexadecimal digits".to_owned()));
        }
        Ok(config)
    }

    pub(crate) fn to_text(&self) -> String {
        let features = &self.features;
        let min_free_space = self
            .min_free_space
            .map_or_else(String::new, |space| format!("min-free-space = \"{space}\"\n"));
        format!(
            "# An atomos repository. See repo-format.md.\nformat = {}\nmode = \"{}\"\nid = \"{}\"\n{}\n[features]\n\
             compatible = {:?}\nread-only-compatible = {:?}\nincompatible = {:?}\n",
            self.format,
            self.mode,
            self.id,
            min_free_space,
            features.compatible,
            features.read_only_compatible,
            features.incompatible
        )
    }

    /// Returns the features that forbid this program to write.
    #[must_use]
    pub fn unknown_write_features(&self) -> &[String] {
        &self.features.read_only_compatible
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Config {
        Config {
            format: FORMAT,
            mode: RepoMode::Bare,
            id: "0".repeat(32),
            min_free_space: None,
            features: Features::default(),
        }
    }

    #[test]
    fn config_round_trips() {
        assert_eq!(
            Config::parse(Path::new("r"), sample().to_text().as_bytes()).unwrap(),
            sample()
        );
        for space in ["3%", "500M"] {
            let mut config = sample();
            config.min_free_space = Some(space.parse().unwrap());
            assert!(
                config
                    .to_text()
                    .contains(&format!("min-free-space = \"{space}\"\n"))
            );
            let parsed = Config::parse(Path::new("r"), config.to_text().as_bytes()).unwrap();
            assert_eq!(parsed, config);
        }
        let text = sample()
            .to_text()
            .replace("mode =", "min-free-space = \"much\"\nmode =");
        let error = Config::parse(Path::new("r"), text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("no space to keep free"), "{error}");
    }

    #[test]
    fn a_newer_format_is_named_before_its_unknown_keys() {
        let text = sample()
            .to_text()
            .replace("format = 1", "format = 2\nwarp = true");
        let error = Config::parse(Path::new("r"), text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn unknown_keys_and_features_are_refused() {
        let text = sample().to_text().replace("mode =", "mood = 1\nmode =");
        assert!(
            Config::parse(Path::new("r"), text.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("mood")
        );
        let text = sample()
            .to_text()
            .replace("\nincompatible = []", "\nincompatible = [\"warp\"]");
        assert!(
            Config::parse(Path::new("r"), text.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("warp")
        );
    }
}
