//! Whether Debian's archive answers, and whether what it says can be believed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::sources::{Mirrors, find_mirrors};
use crate::checks::packages;
use crate::process::{has_program, is_root, run};

/// Debian's own place for the keys of its releases.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An archive that answered and whose signature was good.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The release to make.
    pub release: String,
    /// Serves the `stable` and `updates` pockets.
    pub uri: String,
    /// Serves the `security` pocket.
    pub security: Option<String>,
    /// The keyring that its signature was checked with.
    pub keyring: PathBuf,
}

/// What came of looking for an archive.
#[derive(Debug, Clone)]
pub enum Availability {
    /// It can be used.
    Answers(Archive),
    /// It cannot, for a reason that is no fault of the project: not root, no network, not a Debian machine.
    Unavailable(String),
}

/// Looks for an archive of `release` in this machine's own apt configuration and asks it.
///
/// # Errors
/// If the configuration cannot be read, or if the archive answers with what its keys did not sign.
pub fn find_archive(release: &str) -> Result<Availability> {
    let unavailable = |why: &str| Ok(Availability::Unavailable(why.to_owned()));
    if !is_root() {
        return unavailable("making a Debian tree needs root");
    }
    for (program, package) in [
        ("debootstrap", "debootstrap"),
        ("unshare", "util-linux"),
        ("gpgv", "gpgv"),
    ] {
        if has_program(program) {
            continue;
        }
        eprintln!("installing {package}, which makes the trees");
        if let Err(error) = packages::install(&[package]) {
            return Ok(Availability::Unavailable(format!(
                "{program} is not installed, and apt cannot install it: {error:#}"
            )));
        }
    }
    let Some(codename) = codename(Path::new("/etc/os-release"))? else {
        return unavailable("this machine's /etc/os-release names no release");
    };
    let Some(mirrors) = find_mirrors(Path::new("/etc/apt"), &codename)? else {
        return Ok(Availability::Unavailable(format!(
            "this machine's apt has no source for {codename}"
        )));
    };
    ask(release, mirrors)
}

fn ask(release: &str, mirrors: Mirrors) -> Result<Availability> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    // apt's downloader runs as a user of its own, which must be able to enter.
    run(Command::new("chmod").arg("755").arg(scratch.path()))?;
    let signed = scratch.path().join("InRelease");
    let address = format!("{}/dists/{release}/InRelease", mirrors.archive);
    // apt's own helper, so that the machine's proxy settings hold.
    let answered = Command::new("/usr/lib/apt/apt-helper")
        .args([
            "-o",
            "Acquire::http::Timeout=20",
            "-o",
            "Acquire::https::Timeout=20",
            "-o",
            "Acquire::Retries=2",
        ])
        .args(["download-file", &address])
        .arg(&signed)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start apt-helper")?;
    if !answered.success() {
        return Ok(Availability::Unavailable(format!(
            "the archive that this machine's apt is configured for does not answer for {release}"
        )));
    }
    let candidates: Vec<PathBuf> = mirrors
        .keyring
        .into_iter()
        .chain([PathBuf::from(KEYRING)])
        .collect();
    let mut keyring = trusting(&candidates, &signed)?;
    if keyring.is_none() {
        // A release older than this one may have been installed before the new keys were made; its updates bring them.
        eprintln!(
            "the installed keyring does not know the keys of {release}: updating debian-archive-keyring"
        );
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        run(Command::new("apt-get").args(["-qq", "-y", "install", "debian-archive-keyring"]))?;
        keyring = trusting(&candidates, &signed)?;
    }
    let Some(keyring) = keyring else {
        bail!("the archive's InRelease of {release} is not signed by a key in {KEYRING}");
    };
    Ok(Availability::Answers(Archive {
        release: release.to_owned(),
        uri: mirrors.archive,
        security: mirrors.security,
        keyring,
    }))
}

/// The first keyring that verifies the file.
fn trusting(candidates: &[PathBuf], signed: &Path) -> Result<Option<PathBuf>> {
    for keyring in candidates.iter().filter(|keyring| keyring.is_file()) {
        let verified = Command::new("gpgv")
            .arg("--keyring")
            .arg(keyring)
            .arg(signed)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("cannot start gpgv")?;
        if verified.success() {
            return Ok(Some(keyring.clone()));
        }
    }
    Ok(None)
}

/// The name of the machine's own release.
fn codename(os_release: &Path) -> Result<Option<String>> {
    if !os_release.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(os_release)
        .with_context(|| format!("cannot read {}", os_release.display()))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(value
        .map(|value| value.trim_matches('"').to_owned())
        .filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codename_is_read_with_and_without_quotes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("os-release");
        assert_eq!(codename(&path).unwrap(), None);
        for line in ["VERSION_CODENAME=bookworm", "VERSION_CODENAME=\"bookworm\""] {
            std::fs::write(&path, format!("ID=debian\n{line}\n")).unwrap();
            assert_eq!(codename(&path).unwrap().as_deref(), Some("bookworm"));
        }
    }

    #[test]
    fn what_no_key_signed_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let forged = directory.path().join("InRelease");
        std::fs::write(&forged, "Origin: Debian\nSuite: stable\n").unwrap();
        if !has_program("gpgv") || !Path::new(KEYRING).is_file() {
            eprintln!("skipped: gpgv or Debian's keyring is not installed");
            return;
        }
        assert_eq!(trusting(&[PathBuf::from(KEYRING)], &forged).unwrap(), None);
    }
}
