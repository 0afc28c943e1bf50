//! A real kernel's modules, unpacked by `commit --os --unpack`, against what other programs make of them.
//!
//! The reference is the same tree after `xz -d` of every module and a run of `depmod`. Every file beside and beneath
//! the modules has to be the same, byte for byte, and `modprobe` and `modinfo` have to find in a checkout what they find
//! in the reference.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::Outcome;
use crate::debian::{self, Availability};
use crate::process::{capture, has_program, is_root, run};
use crate::workspace::cargo;

/// Of the modules that need others, every so many are asked for.
const EVERY: usize = 50;

/// Programs, and what is said where one is missing.
const NEEDED: [(&str, &str); 5] = [
    ("depmod", "kmod"),
    ("modprobe", "kmod"),
    ("modinfo", "kmod"),
    ("xz", "xz-utils"),
    ("dpkg-deb", "dpkg"),
];

/// Runs the check, where the archive answers.
pub(super) fn check(root: &Path) -> Result<Outcome> {
    for (program, package) in NEEDED {
        if !has_program(program) {
            return Ok(Outcome::Skipped(format!(
                "{program} ({package}) is not installed"
            )));
        }
    }
    if !is_root() {
        return Ok(Outcome::Skipped("asking the archive needs root".to_owned()));
    }
    let archive = match debian::find_archive(&debian::Options::default().release)? {
        Availability::Answers(archive) => archive,
        Availability::Unavailable(why) => return Ok(Outcome::Skipped(why)),
    };
    let directory = root.join("target/xtask/kernel");
    let package = debian::download_kernel(&archive, &directory)?;
    let work = tempfile::Builder::new()
        .prefix("unpack-")
        .tempdir_in(&directory)
        .context("cannot make a temporary directory")?;
    compare(root, work.path(), &package)?;
    Ok(Outcome::Passed)
}

/// A script with `$1` as its first argument.
fn shell(script: &str, argument: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-euc", script, "sh"]).arg(argument);
    command
}

fn compare(root: &Path, work: &Path, package: &Path) -> Result<()> {
    let (tree, reference, checkout) = (work.join("tree"), work.join("reference"), work.join("checkout"));
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree))?;
    let version = capture(&mut shell("ls \"$1/usr/lib/modules\"", &tree))?;
    let version = version.trim();
    // What a root file system has besides, and what the package's scripts do when it is installed.
    run(&mut shell(
        "cd \"$1\"; mkdir -p etc usr/bin; : > etc/passwd; [ -e lib ] || ln -s usr/lib lib",
        &tree,
    ))?;
    let depmod = |tree: &Path| run(Command::new("depmod").arg("-b").arg(tree).arg(version));
    depmod(&tree)?;
    run(Command::new("cp").arg("-a").arg(&tree).arg(&reference))?;
    run(&mut shell(
        "find \"$1\" -name '*.ko.xz' -print0 | xargs -0 -r -P 2 -n 100 xz -d",
        &reference,
    ))?;
    depmod(&reference)?;

    let atomos = |words: &[&str]| {
        let mut command = cargo(
            root,
            &["run", "--quiet", "--locked", "--package", "atomos-cli", "--"],
        );
        command
            .arg("--quiet")
            .args(words)
            .arg("--repo")
            .arg(work.join("repo"));
        command
    };
    run(&mut atomos(&["init", "--mode", "bare-user"]))?;
    let commit = |name: &str| -> Result<String> {
        let words = [
            "commit",
            "--os",
            "--unpack",
            "modules,docs",
            "-b",
            name,
            "--subject",
            "kernel",
        ];
        let mut command = atomos(&words);
        capture(command.arg(&tree).env("SOURCE_DATE_EPOCH", "1700000000")).map(|id| id.trim().to_owned())
    };
    let (first, second) = (commit("first")?, commit("second")?);
    ensure!(first == second, "the same tree gave {first}, and then {second}");
    run(atomos(&["checkout", "first"]).arg(&checkout))?;

    let modules = |tree: &Path| tree.join("usr/lib/modules").join(version);
    // Those of the commit have a kernel beside them, which came from /boot.
    run(Command::new("diff")
        .args([
            "-r",
            "--exclude=vmlinuz",
            "--exclude=config",
            "--exclude=System.map",
        ])
        .args([modules(&reference), modules(&checkout)]))
    .context("the modules are not as depmod and xz make them")?;
    let asked = ask(&reference, &checkout, version)?;
    eprintln!("    {asked} modules are found with what they need, as in a tree that depmod was run on");
    Ok(())
}

/// Asks `modprobe` and `modinfo` in both trees. Returns for how many modules.
fn ask(reference: &Path, checkout: &Path, version: &str) -> Result<usize> {
    let path = checkout.join("usr/lib/modules").join(version).join("modules.dep");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(path, _)| path.rsplit('/').next()?.strip_suffix(".ko"))
        .step_by(EVERY)
        .collect();
    if names.is_empty() {
        bail!("no module in {} needs another", path.display());
    }
    let answers = |tree: &Path, name: &str| -> Result<String> {
        let found = capture(Command::new("modprobe").arg("-d").arg(tree).args([
            "-S",
            version,
            "--show-depends",
            name,
        ]))?;
        let described = capture(
            Command::new("modinfo")
                .arg("-b")
                .arg(tree)
                .args(["-k", version, name]),
        )?;
        Ok((found + &described).replace(&tree.display().to_string(), ""))
    };
    for name in &names {
        let (expected, found) = (answers(reference, name)?, answers(checkout, name)?);
        ensure!(expected == found, "{name} is {found}\nand not {expected}");
        ensure!(
            found.contains(&format!("/{name}.ko ")),
            "{name} is not among {found}"
        );
    }
    Ok(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    #[ignore = "downloads a kernel, and is a step of `cargo xtask test`"]
    fn modules_of_a_real_kernel_are_unpacked_as_xz_and_depmod_would() {
        match check(&workspace::root()).unwrap() {
            Outcome::Passed => {}
            Outcome::Skipped(why) => eprintln!("skipped: {why}"),
        }
    }
}
