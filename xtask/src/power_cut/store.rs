//! A repository that is repaired, committed to, pulled into, checked out from and pruned, by one process and by two.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::atomos::Atomos;
use super::digest::Digests;
use super::mount::Kind;
use super::scenario::{Plan, Point, Scenario, Step, repeat};
use crate::random::Random;

/// The pull that finds no new release, and remembers that it has looked.
const PULL_NOTHING: &str = "pull nothing";

/// The first step: what is there before it has a damaged object.
const REPAIR: &str = "repair";

/// The commit that takes its source's files.
const ADOPT: &str = "adopt";

/// What is wrong after it goes away with the next one.
const CHECKOUT: &str = "checkout";

/// The earlier checkout becomes that of another commit.
const UPDATE: &str = "checkout again";

/// The repository on a file system.
#[derive(Debug, Clone)]
pub struct Store {
    /// Which.
    pub kind: Kind,
}

/// What lasts once a command has ended.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What the refs lead to.
    refs: BTreeMap<String, String>,
    /// What was seen of the remote.
    remote: Option<String>,
    /// The commits that are there.
    commits: BTreeSet<String>,
    /// The configuration, and the aliases once there are any: files that are replaced whole.
    texts: BTreeMap<&'static str, String>,
}

fn look(root: &Path) -> Result<Snapshot> {
    let repo = root.join("repo");
    let remote = repo.join("remotes/origin.state");
    let mut commits = BTreeSet::new();
    let directory = repo.join("commits");
    for shard in list(&directory)? {
        for name in list(&directory.join(&shard))? {
            commits.insert(format!("{shard}{name}"));
        }
    }
    Ok(Snapshot {
        refs: read_refs(root)?,
        remote: remote
            .exists()
            .then(|| std::fs::read_to_string(&remote))
            .transpose()?,
        commits,
        texts: read_texts(&repo)?,
    })
}

fn read_texts(repo: &Path) -> Result<BTreeMap<&'static str, String>> {
    let mut texts = BTreeMap::new();
    for name in ["aliases", "config"] {
        let path = repo.join(name);
        if path.exists() {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.insert(name, text);
        }
    }
    Ok(texts)
}

fn list(directory: &Path) -> Result<Vec<String>> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn read_refs(root: &Path) -> Result<BTreeMap<String, String>> {
    let path = root.join("repo/refs");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .map(|line| {
            let (commit, name) = line.split_once(' ').context("a line of refs has no space")?;
            Ok((name.to_owned(), commit.to_owned()))
        })
        .collect()
}

/// Files in each tree.
const FILES: u64 = 90;

/// Flips a bit in the object that has a file's bytes.
fn damage(root: &Path, file: &Path) -> Result<()> {
    let mut bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let objects = root.join("repo/objects");
    for shard in list(&objects)? {
        for name in list(&objects.join(&shard))? {
            let object = objects.join(&shard).join(name);
            let metadata = object.metadata()?;
            if metadata.len() != bytes.len() as u64 || std::fs::read(&object)? != bytes {
                continue;
            }
            bytes[0] ^= 1;
            // In place, so that its owner, mode and names stay.
            std::fs::write(&object, bytes)?;
            let written = std::fs::File::options().write(true).open(&object)?;
            return Ok(written.set_modified(metadata.modified()?)?);
        }
    }
    bail!("the store has no object with the bytes of {}", file.display())
}

/// Makes a tree whose files differ from those of another `version` in one of six.
fn make_tree(target: &Path, name: u64, version: u64) -> Result<()> {
    for number in 0..FILES {
        let made = if number % 6 == 0 { version } else { 0 };
        let mut random = Random::new(name << 32 | number << 8 | made);
        let length = random.below(20 << 10) as usize;
        let path = target.join(format!("{}/{number}", number % 5));
        std::fs::create_dir_all(path.parent().expect("it is in a directory"))?;
        std::fs::write(path, random.bytes(length))?;
    }
    Ok(())
}

impl Scenario for Store {
    type Snapshot = Snapshot;

    fn name(&self) -> String {
        format!("store, {}", self.kind.name())
    }

    fn disks(&self) -> Vec<Plan> {
        vec![Plan::new("store", self.kind, "", 0)]
    }

    fn boot(&self) -> Option<(usize, &'static str)> {
        None
    }

    fn prepare(&self, atomos: &Atomos, root: &Path, place: &Path) -> Result<()> {
        let words = |text: &str| -> Vec<String> {
            text.replace("{root}", &root.to_string_lossy())
                .replace("{place}", &place.to_string_lossy())
                .split(' ')
                .map(str::to_owned)
                .collect()
        };
        let run = |text: &str| atomos.run(&words(text), None).map(drop);
        for (name, version) in [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (4, 1), (5, 1)] {
            make_tree(&place.join(format!("tree-{name}.{version}")), name, version)?;
        }
        run("init --repo {root}/repo")?;
        run("commit --quiet --repo {root}/repo --ref a {place}/tree-1.1")?;
        // Old commits that only a pruner wants.
        run("commit --quiet --repo {root}/repo --ref old {place}/tree-4.1")?;
        run("refs --repo {root}/repo --delete old")?;
        let copy = |from: &Path, to: &Path| {
            crate::process::run(std::process::Command::new("cp").arg("-a").args([from, to])).map(drop)
        };
        copy(&place.join("tree-5.1"), &root.join("adopt"))?;
        // Where others are pulled from, on another disk; and what damaged objects are had from.
        run("init --repo {place}/other")?;
        run("commit --quiet --repo {place}/other --ref same {place}/tree-1.1")?;
        damage(root, &place.join("tree-1.1/1/1"))?;
        run("commit --quiet --repo {place}/other --ref local {place}/tree-2.1")?;
        run("commit --quiet --repo {place}/other --ref site {place}/tree-3.1")?;
        run("key generate --quiet {place}/key")?;
        run(
            "publish --quiet --repo {place}/other --key {place}/key --to {place}/site --ref site --expires 3650",
        )?;
        // The same release again, vouched for anew: what the second pull finds.
        copy(&place.join("site"), &place.join("site-renewed"))?;
        run("publish --quiet --repo {place}/other --key {place}/key --to {place}/site-renewed --renew")?;
        run("remote add --quiet --repo {root}/repo origin {place}/site --key {place}/key.pub")
    }

    fn before(&self, step: &Step, root: &Path) -> Result<()> {
        if step.name != PULL_NOTHING {
            return Ok(());
        }
        let place = root.parent().context("the root is in the test's directory")?;
        std::fs::rename(place.join("site"), place.join("site-old"))?;
        Ok(std::fs::rename(place.join("site-renewed"), place.join("site"))?)
    }

    fn steps(&self, place: &Path) -> Vec<Step> {
        let place = place.to_str().expect("the test names its directories");
        let with = |text: &str| text.replace("{place}", place);
        let one = |name, text: &str| Step::one(name, &with(text));
        let two = |name, first: &str, second: &str| Step::at_once(name, &[&with(first), &with(second)]);
        vec![
            one(
                REPAIR,
                "fsck --quiet --repair --from {place}/other --repo {root}/repo",
            ),
            one(
                ADOPT,
                "commit --quiet --adopt --repo {root}/repo --ref adopted {root}/adopt",
            ),
            one(
                "commit",
                "commit --quiet --repo {root}/repo --ref a {place}/tree-1.2",
            ),
            one(
                "pull local",
                "pull --quiet --repo {root}/repo --from {place}/other local",
            ),
            one("pull site", "pull --quiet --repo {root}/repo origin site"),
            one(PULL_NOTHING, "pull --quiet --repo {root}/repo origin site"),
            one(CHECKOUT, "checkout --quiet --repo {root}/repo a {root}/out"),
            one("prune", "prune --quiet --repo {root}/repo"),
            one(
                "commit alone",
                "commit --quiet --repo {root}/repo {place}/tree-4.1",
            ),
            two(
                "two commits",
                "commit --quiet --repo {root}/repo --ref a {place}/tree-1.3",
                "commit --quiet --repo {root}/repo --ref b {place}/tree-1.3",
            ),
            one(
                UPDATE,
                "checkout --quiet --update --repo {root}/repo a {root}/out",
            ),
            two(
                "commit beside prune",
                "commit --quiet --repo {root}/repo --ref c {place}/tree-2.1",
                "prune --quiet --repo {root}/repo",
            ),
            one("alias", "refs --repo {root}/repo --force --alias n=a"),
            one("config", "config --repo {root}/repo min-free-space 1kB"),
        ]
    }

    fn look(&self, root: &Path) -> Result<Snapshot> {
        look(root)
    }

    fn check(
        &self,
        atomos: &Atomos,
        point: &Point<'_>,
        snapshots: &[Snapshot],
        steps: &[Step],
    ) -> Result<()> {
        let (before, after) = (&snapshots[point.step], &snapshots[point.step + 1]);
        let now = look(point.root)?;
        for name in before.refs.keys().chain(after.refs.keys()).chain(now.refs.keys()) {
            let found = now.refs.get(name);
            let is_new = found == after.refs.get(name);
            let is_old = found == before.refs.get(name);
            ensure!(
                is_new || (is_old && !point.ended),
                "{} is {found:?} instead of {:?}{}",
                name,
                after.refs.get(name),
                if point.ended {
                    ""
                } else {
                    ", and is not what it was"
                }
            );
        }
        // It is saved more than once; the next command reads it.
        ensure!(
            now.remote == after.remote || !point.ended,
            "what was seen of the remote is {:?} instead of {:?}",
            now.remote,
            after.remote
        );
        ensure!(
            now.texts == after.texts || (now.texts == before.texts && !point.ended),
            "{:?} is neither what it was nor {:?}",
            now.texts,
            after.texts
        );
        if point.ended {
            let lost: Vec<_> = after.commits.difference(&now.commits).collect();
            ensure!(lost.is_empty(), "commits are lost: {lost:?}");
        }
        let repo = point.root.join("repo");
        let repo = repo.to_str().context("the test names its directories")?;
        let fsck = || atomos.run(&["fsck", "--quiet", "--repo", repo], None);
        let step = &steps[point.step];
        // It begins with a damaged object.
        if step.name != REPAIR || point.ended {
            fsck().context("the store is damaged")?;
        }
        let out = point.root.join("out");
        if step.name == CHECKOUT && out.exists() {
            // A checkout is no promise; what is there must not harm the store, and can be made again.
            std::fs::remove_dir_all(&out).context("cannot remove a checkout")?;
        }
        if step.name == ADOPT && is_remainder(&point.root.join("adopt"))? {
            // The same command would commit what is left; it must see that.
            ensure!(now.refs == after.refs, "a tree is gone that no ref leads to");
            ensure!(
                repeat(atomos, step, point.root).is_err(),
                "what is left of a tree was committed"
            );
        } else {
            repeat(atomos, step, point.root).context("the next command fails")?;
        }
        fsck().context("the store is damaged after the next command")?;
        let again = read_refs(point.root)?;
        if !again.keys().eq(after.refs.keys()) {
            bail!("after the next command the refs are {:?}", again.keys());
        }
        if step.name == UPDATE {
            let mut digests = Digests::default();
            let tree = trees(steps)?.join("tree-1.3");
            ensure!(
                digests.tree(&out, &[])? == digests.tree(&tree, &[])?,
                "an updated checkout is not what was committed"
            );
        }
        self.check_checkouts(atomos, point.root, repo, step, &trees(steps)?)
    }
}

/// Returns where the trees are that were committed: a later step names one.
fn trees(steps: &[Step]) -> Result<PathBuf> {
    let words = steps.iter().flat_map(|step| step.commands.iter().flatten());
    let mut paths = words.map(Path::new);
    let tree = paths.find(|path| path.ends_with("tree-1.2"));
    let parent = tree.and_then(Path::parent);
    Ok(parent.context("no step names a tree")?.to_owned())
}

/// Returns whether a commit has taken some of the tree's files away, or all.
fn is_remainder(tree: &Path) -> Result<bool> {
    let names = list(tree)?;
    Ok(names.is_empty() || names.iter().any(|name| name.starts_with(".atomos-adopted-")))
}

impl Store {
    /// What was committed or checked out is what the trees were.
    fn check_checkouts(
        &self,
        atomos: &Atomos,
        root: &Path,
        repo: &str,
        step: &Step,
        trees: &Path,
    ) -> Result<()> {
        let mut digests = Digests::default();
        for words in step.words(root) {
            let is_commit = words.first().is_some_and(|word| word == "commit");
            let (Some(source), true) = (words.last(), is_commit) else {
                continue;
            };
            let Some(at) = words.iter().position(|word| word == "--ref") else {
                continue;
            };
            let name = words[at + 1].to_str().context("a ref is text")?;
            let source = match step.name == ADOPT {
                true => trees.join("tree-5.1"),
                false => source.into(),
            };
            let copy = root.join("checked");
            let target = copy.to_str().context("the test names its directories")?;
            atomos.run(&["checkout", "--quiet", "--repo", repo, name, target], None)?;
            ensure!(
                digests.tree(&copy, &[])? == digests.tree(&source, &[])?,
                "a checkout of {name} is not what was committed"
            );
            std::fs::remove_dir_all(&copy)?;
        }
        Ok(())
    }
}
