//! A distribution's kernel, as its package has it: thousands of compressed modules.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Archive;
use super::build::apt_settings;
use crate::process::{capture, run};

/// Returns the package of the newest kernel of the archive's release, downloaded into `directory` unless it is there.
///
/// # Errors
/// If apt cannot tell which it is, or cannot fetch it.
pub fn download_kernel(archive: &Archive, directory: &Path) -> Result<PathBuf> {
    for name in ["lists/partial", "cache/archives/partial", "packages"] {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let keyring = archive.keyring.display();
    write(
        "sources.list",
        format!(
            "deb [signed-by={keyring}] {} {} main\n",
            archive.uri, archive.release
        ),
    )?;
    // An apt of its own: the machine's lists and its idea of what is installed stay as they are.
    let here = directory.display();
    write(
        "apt.conf",
        format!(
            "{}Dir::State::lists \"{here}/lists\";\nDir::State::status \"/dev/null\";\nDir::Cache \"{here}/cache\";\n\
             Dir::Etc::sourcelist \"{here}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             APT::Sandbox::User \"root\";\nAPT::Architecture \"amd64\";\nAcquire::Languages \"none\";\n",
            apt_settings()?
        ),
    )?;
    let apt = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(words)
            .env("APT_CONFIG", directory.join("apt.conf"))
            .env("LC_ALL", "C")
            .current_dir(directory.join("packages"));
        command
    };
    run(&mut apt("apt-get", &["-qq", "update"]))?;
    let depends = capture(&mut apt("apt-cache", &["depends", "linux-image-amd64"]))?;
    let package = depends.lines().find_map(|line| {
        line.trim()
            .strip_prefix("Depends: ")
            .filter(|name| name.starts_with("linux-image-"))
    });
    let Some(package) = package else {
        bail!("apt does not say which kernel linux-image-amd64 is");
    };
    run(apt("apt-get", &["-qq", "download", package]).stdout(Stdio::null()))?;
    let found = capture(&mut apt("find", &[".", "-name", &format!("{package}_*.deb")]))?;
    match found.lines().max() {
        Some(name) => Ok(directory.join("packages").join(name.trim_start_matches("./"))),
        None => bail!("apt downloaded no {package}"),
    }
}
