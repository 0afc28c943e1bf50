//! The Debian packages that tests call.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Outcome;
use crate::process::{has_program, is_root, run};

/// Names of packages in the list that is kept beside this crate's manifest.
fn wanted() -> Vec<&'static str> {
    include_str!("../../debian-packages.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .collect()
}

/// Installs what is missing. Where that cannot be done the tests that need it say that they skip; continuous
/// integration must not skip, so there it is an error.
pub(super) fn ensure_installed() -> Result<Outcome> {
    let continuous_integration = std::env::var_os("CI").is_some();
    let cannot = |why: String| {
        if continuous_integration {
            bail!("{why}")
        } else {
            Ok(Outcome::Skipped(why))
        }
    };
    if !has_program("dpkg-query") || !has_program("apt-get") {
        return cannot("this is no Debian machine: tests skip what they do not find".to_owned());
    }
    let mut missing = Vec::new();
    for package in wanted() {
        if !is_installed(package)? {
            missing.push(package);
        }
    }
    if missing.is_empty() {
        return Ok(Outcome::Passed);
    }
    if !is_root() {
        return cannot(format!("only root can install {}", missing.join(" ")));
    }
    match install(&missing) {
        Ok(()) => Ok(Outcome::Passed),
        Err(error) => cannot(format!("cannot install {}: {error:#}", missing.join(" "))),
    }
}

/// Installs packages by apt, which takes root.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
            .args(words);
        run(command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()))
    };
    let mut words = vec!["--yes", "--no-install-recommends", "install"];
    words.extend(packages);
    apt(&["update"]).and_then(|()| apt(&words))
}

fn is_installed(package: &str) -> Result<bool> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    Ok(output.status.success() && output.stdout == b"installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_does_not_exist_is_not_installed() {
        if !has_program("dpkg-query") {
            eprintln!("skipped: dpkg-query is not installed");
            return;
        }
        assert!(is_installed("dpkg").unwrap());
        assert!(!is_installed("no-such-package-of-this-name").unwrap());
    }

    #[test]
    fn the_list_names_each_package_once() {
        let mut names = wanted();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert!(names.contains(&"debootstrap") && names.len() == count);
    }
}
