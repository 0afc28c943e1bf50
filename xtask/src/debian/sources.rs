//! Where this machine gets Debian packages from.
//!
//! The project names no mirror. It reads what the machine's own apt reads, both the one-line format and deb822
//! (sources.list(5)), looks for the suite of the machine's own release and takes that entry's address:
//! a mirror serves every release side by side under `dists/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One archive address with one suite that it is configured for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    signed_by: Option<PathBuf>,
}

/// The addresses from which a Debian release can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Serves the `stable` and `updates` pockets.
    pub archive: String,
    /// Serves the `security` pocket, if the machine takes security updates.
    pub security: Option<String>,
    /// The keyring that apt checks the archive with, if the entry names one.
    pub keyring: Option<PathBuf>,
}

/// Finds the mirrors in the apt configuration below `etc_apt` for a machine that runs release `codename`.
/// `None` if no entry serves that release.
///
/// # Errors
/// If a file that exists cannot be read.
pub fn find_mirrors(etc_apt: &Path, codename: &str) -> Result<Option<Mirrors>> {
    Ok(choose(&read_all(etc_apt)?, codename))
}

fn choose(sources: &[Source], codename: &str) -> Option<Mirrors> {
    let of_suite = |suite: &str| sources.iter().find(|source| source.suite == suite);
    let archive = of_suite(codename).or_else(|| of_suite("stable"))?;
    let security =
        of_suite(&format!("{codename}-security")).or_else(|| of_suite(&format!("{codename}/updates")));
    Some(Mirrors {
        archive: archive.uri.clone(),
        security: security.map(|source| source.uri.clone()),
        keyring: archive.signed_by.clone(),
    })
}

fn read_all(etc_apt: &Path) -> Result<Vec<Source>> {
    let mut paths = vec![etc_apt.join("sources.list")];
    let parts = etc_apt.join("sources.list.d");
    if parts.is_dir() {
        let mut found = std::fs::read_dir(&parts)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|e| e.path()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .with_context(|| format!("cannot list {}", parts.display()))?;
        found.sort();
        paths.extend(found);
    }
    let mut sources = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(parse_one_line(&read(path)?)),
            Some("sources") => sources.extend(parse_deb822(&read(path)?)),
            _ => {}
        }
    }
    Ok(sources)
}

/// `deb [option=value …] uri suite component…`
fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let mut signed_by = None;
    if let Some(after) = rest.strip_prefix('[') {
        let (options, after) = after.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| keyring_path(option.strip_prefix("signed-by=")?));
        rest = after;
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [uri, suite, components @ ..] = words.as_slice() else {
        return None;
    };
    components
        .contains(&"main")
        .then(|| source(uri, suite, signed_by))
        .flatten()
}

/// Stanzas of `Field: value`, continued on lines that begin with a space.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut stanzas = vec![Vec::<(String, String)>::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields = stanzas
            .last_mut()
            .expect("it begins with one stanza and never loses it");
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    stanzas.iter().flat_map(|fields| stanza(fields)).collect()
}

fn stanza(fields: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map_or("", |(_, value)| value.as_str())
    };
    let has = |name: &str, word: &str| field(name).split_whitespace().any(|found| found == word);
    if !has("types", "deb") || !has("components", "main") || field("enabled").eq_ignore_ascii_case("no") {
        return Vec::new();
    }
    let signed_by = keyring_path(field("signed-by"));
    field("uris")
        .split_whitespace()
        .flat_map(|uri| field("suites").split_whitespace().map(move |suite| (uri, suite)))
        .filter_map(|(uri, suite)| source(uri, suite, signed_by.clone()))
        .collect()
}

/// Only addresses that debootstrap can read count: no `cdrom:`, no `mirror+file:`.
fn source(uri: &str, suite: &str, signed_by: Option<PathBuf>) -> Option<Source> {
    let readable = ["http://", "https://", "file:"]
        .iter()
        .any(|scheme| uri.starts_with(scheme));
    readable.then(|| Source {
        uri: uri.trim_end_matches('/').to_owned(),
        suite: suite.trim_end_matches('/').to_owned(),
        signed_by,
    })
}

/// `Signed-By` may also be a fingerprint or a whole key; only a path is of use here.
fn keyring_path(value: &str) -> Option<PathBuf> {
    (value.starts_with('/') && !value.contains(char::is_whitespace)).then(|| PathBuf::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a snapshot would be here
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites:
 bookworm-security
Components: main contrib

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: trixie
Components: main
";

    #[test]
    fn both_formats_give_the_same_mirrors() {
        let one_line = "\
# deb http://comment.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main contrib
deb http://mirror.example/debian-security bookworm-security main # trailing words
";
        let expected = Mirrors {
            archive: "http://mirror.example/debian".to_owned(),
            security: Some("http://mirror.example/debian-security".to_owned()),
            keyring: Some(PathBuf::from("/usr/share/keyrings/debian-archive-keyring.gpg")),
        };
        assert_eq!(choose(&parse_deb822(DEB822), "bookworm"), Some(expected.clone()));
        assert_eq!(choose(&parse_one_line(one_line), "bookworm"), Some(expected));
    }

    #[test]
    fn other_archives_and_disabled_stanzas_are_not_taken() {
        assert_eq!(choose(&parse_deb822(DEB822), "trixie"), None);
        assert_eq!(
            choose(
                &parse_one_line("deb https://apt.example/tool tool-bookworm main"),
                "bookworm"
            ),
            None
        );
    }

    #[test]
    fn a_machine_without_the_security_pocket_still_has_a_mirror() {
        let mirrors = choose(
            &parse_one_line("deb http://m.example/debian trixie main"),
            "trixie",
        )
        .unwrap();
        assert_eq!((mirrors.security, mirrors.keyring), (None, None));
    }

    #[test]
    fn files_are_read_as_apt_reads_them_by_extension() {
        let directory = tempfile::tempdir().unwrap();
        let parts = directory.path().join("sources.list.d");
        std::fs::create_dir(&parts).unwrap();
        std::fs::write(parts.join("debian.sources"), DEB822).unwrap();
        std::fs::write(
            parts.join("old.list.save"),
            "deb http://old.example/debian bookworm main",
        )
        .unwrap();
        let mirrors = find_mirrors(directory.path(), "bookworm").unwrap().unwrap();
        assert_eq!(mirrors.archive, "http://mirror.example/debian");
    }
}
