//! A repository that is committed to, pulled into, checked out from and pruned, by one process and by two.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::atomos::Atomos;
use super::digest::Digests;
use super::mount::Kind;
use super::random::Random;
use super::scenario::{Plan, Point, Scenario, Step, repeat};

/// The pull that finds no new release, and remembers that it has looked.
const PULL_NOTHING: &str = "pull nothing";

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
    })
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
        for (name, version) in [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (4, 1)] {
            make_tree(&place.join(format!("tree-{name}.{version}")), name, version)?;
        }
        run("init --repo {root}/repo")?;
        run("commit --quiet --repo {root}/repo --ref a {place}/tree-1.1")?;
        // Old commits that only a pruner wants.
        run("commit --quiet --repo {root}/repo --ref old {place}/tree-4.1")?;
        run("refs --repo {root}/repo --delete old")?;
        // Where others are pulled from, on another disk.
        run("init --repo {place}/other")?;
        run("commit --quiet --repo {place}/other --ref local {place}/tree-2.1")?;
        run("commit --quiet --repo {place}/other --ref site {place}/tree-3.1")?;
        run("key generate --quiet {place}/key")?;
        run(
            "publish --quiet --repo {place}/other --key {place}/key --to {place}/site --ref site --expires 3650",
        )?;
        // The same release again, vouched for anew: what the second pull finds.
        let mut copy = std::process::Command::new("cp");
        crate::process::run(
            copy.arg("-a")
                .args([place.join("site"), place.join("site-renewed")]),
        )?;
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
                "commit",
                "commit --quiet --repo {root}/repo --ref a {place}/tree-1.2",
            ),
            one(
                "pull local",
                "pull --quiet --repo {root}/repo --from {place}/other local",
            ),
            one("pull site", "pull --quiet --repo {root}/repo origin site"),
            one(PULL_NOTHING, "pull --quiet --repo {root}/repo origin site"),
            one("checkout", "checkout --quiet --repo {root}/repo a {root}/out"),
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
            two(
                "commit beside prune",
                "commit --quiet --repo {root}/repo --ref c {place}/tree-2.1",
                "prune --quiet --repo {root}/repo",
            ),
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
        if point.ended {
            let lost: Vec<_> = after.commits.difference(&now.commits).collect();
            ensure!(lost.is_empty(), "commits are lost: {lost:?}");
        }
        let repo = point.root.join("repo");
        let repo = repo.to_str().context("the test names its directories")?;
        let fsck = || atomos.run(&["fsck", "--quiet", "--repo", repo], None);
        fsck().context("the store is damaged")?;
        let step = &steps[point.step];
        let out = point.root.join("out");
        if step.name == "checkout" && out.exists() {
            // A checkout is no promise; what is there must not harm the store, and can be made again.
            std::fs::remove_dir_all(&out).context("cannot remove a checkout")?;
        }
        repeat(atomos, step, point.root).context("the next command fails")?;
        fsck().context("the store is damaged after the next command")?;
        let again = read_refs(point.root)?;
        if !again.keys().eq(after.refs.keys()) {
            bail!("after the next command the refs are {:?}", again.keys());
        }
        self.check_checkouts(atomos, point.root, repo, step)
    }
}

impl Store {
    /// What was committed or checked out is what the trees were.
    fn check_checkouts(&self, atomos: &Atomos, root: &Path, repo: &str, step: &Step) -> Result<()> {
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
            let copy = root.join("checked");
            let target = copy.to_str().context("the test names its directories")?;
            atomos.run(&["checkout", "--quiet", "--repo", repo, name, target], None)?;
            ensure!(
                digests.tree(&copy, &[])? == digests.tree(Path::new(source), &[])?,
                "a checkout of {name} is not what was committed"
            );
            std::fs::remove_dir_all(&copy)?;
        }
        Ok(())
    }
}
