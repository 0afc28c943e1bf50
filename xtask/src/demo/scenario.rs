//! The story: a machine gets its system, is edited, upgraded and taken back.
//!
//! Every step's outcome is checked in the filesystem, by looking at deployments, boot entries and the
//! repository's files, and not by believing what the commands print.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::machine::Machine;
use super::narrator::Narrator;
use super::source::Versions;
use crate::facts::{Additions, actual_additions, expected_additions, hash_file, store_facts, tree_facts};
use crate::process::{capture, has_program, is_root};

const REF: &str = "debian/stable";
const STATEROOT: &str = "debian";

/// Plays it all in `work`, where only this run writes.
///
/// # Errors
/// At the first command that fails or promise that does not hold.
pub fn play(narrator: &mut Narrator, versions: &Versions, work: &Path) -> Result<()> {
    let machine = Machine::new(&work.join("sysroot"), STATEROOT);
    let repo = machine.repo();

    narrator.heading("An empty machine");
    std::fs::create_dir(machine.root()).context("cannot make the sysroot")?;
    narrator.export("ATOMOS_SYSROOT", machine.root());
    narrator.atomos(&["sysroot", "init"])?;
    narrator.atomos(&["stateroot", "init", STATEROOT])?;

    narrator.heading("The first version is committed");
    let v1 = commit(narrator, &versions.v1, &versions.names[0])?;
    let store_v1 = store_facts(&repo)?;
    let count = format!(
        "{} blobs and {} dirtrees are in the store",
        store_v1.blobs.len(),
        store_v1.dirtrees.len()
    );
    narrator.promise(
        !store_v1.blobs.is_empty() && store_v1.commits.contains(&v1),
        &count,
    )?;

    narrator.heading("It is deployed");
    narrator.atomos(&[
        "deploy",
        REF,
        "--stateroot",
        STATEROOT,
        "--karg",
        "root=LABEL=root",
        "--karg",
        "console=ttyS0",
    ])?;
    let first = machine.default_deployment()?;
    check_deployment(narrator, versions, &versions.v1, &machine, &first)?;
    narrator.atomos(&["status"])?;

    narrator.heading("Somebody administers it");
    narrator.say(&format!("$ cd {}", first.display()));
    versions.edits.make(narrator, &first)?;
    let etc_before = tree_facts(&first.join("etc"))?.root;

    narrator.heading("The second version is committed");
    let v2 = commit(narrator, &versions.v2, &versions.names[1])?;
    let added = check_additions(narrator, &repo, &store_v1, work)?;
    narrator.atomos(&["diff", &format!("{REF}^"), REF])?;

    narrator.heading("The machine is upgraded");
    narrator.atomos(&["upgrade", "--stateroot", STATEROOT])?;
    let second = machine.default_deployment()?;
    narrator.promise(second != first, "the new deployment is what boots next")?;
    check_deployment(narrator, versions, &versions.v2, &machine, &second)?;
    versions.edits.check(narrator, &first, &second)?;
    narrator.promise(
        tree_facts(&first.join("etc"))?.root == etc_before,
        "/etc of the old deployment is untouched",
    )?;
    let conflicts = narrator.atomos(&["etc", "conflicts"])?;
    let name = versions.edits.conflict.to_string_lossy();
    narrator.promise(
        conflicts.stdout.contains(name.as_ref()),
        "the conflict is recorded and shown",
    )?;
    let entries = show_entries(narrator, &machine)?;
    narrator.promise(
        entries == [second.clone(), first.clone()],
        "both versions can be booted, the new one first",
    )?;
    narrator.atomos(&["status"])?;

    narrator.heading("What it takes");
    narrator.atomos(&["stats"])?;
    narrator.say("A file that several of these hold is counted where it comes first:");
    narrator.shell(
        machine.root(),
        "du -shc atomos/repo atomos/deploy/*/deploy/*.[0-9] boot | sed 's/[0-9a-f]\\{52\\}\\././'",
    )?;
    let both = store_facts(&repo)?;
    narrator.say(&format!(
        "The second version took {} of {} blobs and {} of {} dirtrees.",
        added.blobs.len(),
        both.blobs.len(),
        added.dirtrees,
        both.dirtrees.len()
    ));

    narrator.heading("It is taken back");
    let number = machine.highest_entry()?;
    narrator.atomos(&["rollback"])?;
    narrator.promise(
        machine.default_deployment()? == first,
        "the old version is what boots next",
    )?;
    narrator.promise(
        machine.highest_entry()? > number,
        "by one new entry, under a number never used before",
    )?;
    narrator.promise(
        tree_facts(&first.join("etc"))?.root == etc_before && second.is_dir(),
        "its /etc is as it was left, and the new version is kept",
    )?;
    show_entries(narrator, &machine)?;
    narrator.atomos(&["status"])?;

    narrator.heading("Everything is whole");
    again(narrator, &v2)?;
    narrator.atomos(&["fsck"])?;
    Ok(())
}

/// Commits a tree as an operating system and returns the commit's digest.
fn commit(narrator: &mut Narrator, tree: &Path, (version, subject): &(String, String)) -> Result<String> {
    let tree = tree.to_str().context("the tree's path is not UTF-8")?;
    let words = [
        "commit",
        "--ref",
        REF,
        "--os",
        "--version",
        version,
        "--subject",
        subject,
        tree,
    ];
    let output = narrator.atomos(&words)?;
    let digest = output.word().to_owned();
    let named = narrator.ask(&["rev-parse", REF])?;
    narrator.promise(
        digest.len() == 64 && digest == named,
        "standard output is the commit's digest alone, and the ref names it",
    )?;
    Ok(digest)
}

/// Checks that the second version added what differs and nothing else, against trees that are checked out, walked and hashed here.
fn check_additions(
    narrator: &mut Narrator,
    repo: &Path,
    before: &crate::facts::StoreFacts,
    work: &Path,
) -> Result<Additions> {
    let actual = actual_additions(before, &store_facts(repo)?);
    for (rev, directory) in [(format!("{REF}^"), "tree-1"), (REF.to_owned(), "tree-2")] {
        checkout(narrator, &rev, directory)?;
    }
    let expected = expected_additions(
        &tree_facts(&work.join("tree-1"))?,
        &tree_facts(&work.join("tree-2"))?,
    );
    narrator.promise(
        actual.blobs == expected.blobs,
        &format!(
            "it added exactly the {} blobs that v1 does not have (found {})",
            expected.blobs.len(),
            actual.blobs.len()
        ),
    )?;
    narrator.promise(
        actual.dirtrees == expected.dirtrees,
        &format!(
            "and the {} dirtrees on their paths (found {})",
            expected.dirtrees, actual.dirtrees
        ),
    )?;
    Ok(actual)
}

/// Checks a tree out, as far as the user may.
fn checkout(narrator: &mut Narrator, rev: &str, directory: &str) -> Result<()> {
    let mut words = vec!["checkout", rev, directory];
    if !is_root() {
        // Others' files cannot be made: everything becomes the user's own.
        words.insert(1, "--user");
    }
    narrator.atomos(&words).map(|_| ())
}

/// A checkout committed again is the same tree. An ordinary user's checkout has lost the owners, so there it is the
/// checkout of that commit, committed once more, that must be the same.
fn again(narrator: &mut Narrator, commit: &str) -> Result<()> {
    let tree_of = |narrator: &Narrator, rev: &str| narrator.ask(&["rev-parse", &format!("{rev}^{{tree}}")]);
    narrator.atomos(&["commit", "--ref", "again", "--parent", "none", "tree-2"])?;
    let mut first = tree_of(narrator, commit)?;
    if !is_root() {
        first = tree_of(narrator, "again")?;
        checkout(narrator, "again", "tree-3")?;
        narrator.atomos(&["commit", "--ref", "again", "--parent", "none", "tree-3"])?;
    }
    let second = tree_of(narrator, "again")?;
    narrator.promise(first == second, "a checkout, committed again, is the same tree")
}

/// Checks a deployment: its kernel is in the place that the boot entry names, its package database tells its own versions.
fn check_deployment(
    narrator: &mut Narrator,
    versions: &Versions,
    tree: &Path,
    machine: &Machine,
    root: &Path,
) -> Result<()> {
    narrator.promise(
        root.join("usr/etc").is_dir() && root.join("etc").is_dir(),
        "it has its defaults in /usr/etc and an /etc of its own",
    )?;
    let entry = machine.default_entry()?;
    let kernel = only_kernel(&root.join("usr/lib/modules"))?;
    for (file, name) in [(&entry.linux, "vmlinuz"), (&entry.initrd, "initramfs.img")] {
        narrator.promise(
            hash_file(file)? == hash_file(&kernel.join(name))?,
            &format!("the boot entry's {name} is the one of this version"),
        )?;
    }
    if versions.is_debian && has_program("dpkg-query") {
        let query = |database: &Path| {
            let mut option = std::ffi::OsString::from("--admindir=");
            option.push(database);
            capture(
                Command::new("dpkg-query")
                    .arg(option)
                    .args(["--show", "--showformat=${Package} ${Version}\n"]),
            )
        };
        let deployed = query(&root.join("usr/lib/sysimage/dpkg"))?;
        narrator.promise(
            deployed == query(&tree.join("var/lib/dpkg"))?,
            &format!(
                "its package database lists its own {} packages",
                deployed.lines().count()
            ),
        )?;
    }
    Ok(())
}

fn only_kernel(modules: &Path) -> Result<PathBuf> {
    let mut kernels: Vec<PathBuf> = crate::facts::entry_names(modules)?
        .into_iter()
        .map(|name| modules.join(name))
        .filter(|path| path.join("vmlinuz").is_file())
        .collect();
    match (kernels.pop(), kernels.is_empty()) {
        (Some(kernel), true) => Ok(kernel),
        _ => bail!("{} does not hold exactly one kernel", modules.display()),
    }
}

/// Shows the boot entries and returns the deployments that they name, in the order in which a loader offers them.
fn show_entries(narrator: &mut Narrator, machine: &Machine) -> Result<Vec<PathBuf>> {
    narrator.shell(&machine.boot(), "tail -n +1 loader/entries/*.conf")?;
    Ok(machine
        .entries()?
        .into_iter()
        .map(|entry| entry.deployment)
        .collect())
}

/// What the run takes place on, for its first lines.
pub fn introduce(versions: &Versions) {
    for sentence in &versions.description {
        println!("{sentence}");
    }
    let mode = if is_root() {
        "As root: a bare repository, deployments are hardlinks."
    } else {
        "As an ordinary user: a bare-user repository, deployments are copies."
    };
    println!("{mode}");
}
