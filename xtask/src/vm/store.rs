//! Where versions come from: their trees, a repository with a commit of each, and the site that is published from it.
//!
//! Making a version takes seconds to a minute, so each is made once, when a test first wants it, and kept for all others. All of
//! it lies in one file with an ext4, which goes away in a moment, whatever the machine's own disk thinks of a hundred thousand files:
//!
//! ```text
//! store.img           mounted at store/
//!   versions.json     what it was made from, and the commits; written last
//!   trees/<version>   the layers of each tree
//!   repo              the repository
//!   release-key       signs what is published
//!   seal-key          seals images that are verified
//!   site              what nginx serves
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::host::Host;
use super::programs::Programs;
use super::tree::{self, TestTree};
use super::versions::{self, Base, Initramfs, V1, V2, Version};
use crate::debian::{self, Trees};
use crate::process::run;

/// Sparse.
const SIZE: u64 = 12 << 30;
/// Increased when stores made by an older recipe are of no more use.
const RECIPE: u32 = 1;

/// The store, mounted. Only inside a mount namespace of the test's own.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    repo: PathBuf,
    programs: Programs,
    trees: Trees,
    record: Value,
    /// The trees that others are made from, once they were needed.
    base_trees: BTreeMap<&'static str, TestTree>,
}

impl Store {
    /// Opens the store in `work`, or makes an empty one if there is none of these programs and trees.
    ///
    /// # Errors
    /// If it cannot be made or mounted.
    pub fn open(work: &Path, programs: &Programs, trees: &Trees) -> Result<Self> {
        let image = work.join("store.img");
        let directory = work.join("store");
        let key = key(programs, trees)?;
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        if image.exists() {
            mount(&image, &directory)?;
            let record = load(&directory.join("versions.json"))?;
            if record["key"] == key {
                return Ok(Self::new(directory, programs, trees, record));
            }
            run(Command::new("umount").arg(&directory))?;
        }
        let file = File::create(&image).with_context(|| format!("cannot write {}", image.display()))?;
        file.set_len(SIZE).context("cannot size the store")?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-E", "nodiscard"])
            .arg(&image))?;
        mount(&image, &directory)?;
        let record = json!({ "key": key, "prepared": {}, "commits": {} });
        let store = Self::new(directory, programs, trees, record);
        store.repo().run(&["init"])?;
        run(Command::new(&programs.atomos)
            .args(["--quiet", "key", "generate"])
            .arg(store.directory.join("release-key"))
            .stdout(std::process::Stdio::null()))?;
        store.save()?;
        Ok(store)
    }

    fn new(directory: PathBuf, programs: &Programs, trees: &Trees, record: Value) -> Self {
        Self {
            repo: directory.join("repo"),
            directory,
            programs: programs.clone(),
            trees: trees.clone(),
            record,
            base_trees: BTreeMap::new(),
        }
    }

    /// The repository's directory.
    pub fn repo_path(&self) -> &Path {
        &self.repo
    }

    /// The published site's directory.
    pub fn site_path(&self) -> PathBuf {
        self.directory.join("site")
    }

    /// The public key of who signs what is published.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn public_key(&self) -> Result<String> {
        std::fs::read_to_string(self.directory.join("release-key.pub")).context("cannot read the public key")
    }

    /// The digest of a version's commit, made now if this is the first who asks.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn commit(&mut self, version: &Version) -> Result<String> {
        if let Some(commit) = self.record["commits"][version.name].as_str() {
            return Ok(commit.to_owned());
        }
        let commit = self
            .make(version)
            .with_context(|| format!("cannot make version {}", version.name))?;
        self.record["commits"][version.name] = Value::from(commit.as_str());
        self.save()?;
        Ok(commit)
    }

    /// Lets a ref name a version.
    ///
    /// # Errors
    /// If the version cannot be made, or the repository refuses.
    pub fn set_ref(&mut self, name: &str, version: &Version) -> Result<()> {
        let commit = self.commit(version)?;
        self.repo()
            .run(&["refs", "--force", "--create", &format!("{name}={commit}")])
    }

    /// Publishes a version as the newest release of a ref. Patches are made from the version that machines are installed with.
    ///
    /// # Errors
    /// If it cannot be published.
    pub fn publish(&mut self, name: &str, version: &Version) -> Result<()> {
        self.set_ref(name, version)?;
        let installed = self.commit(&V1)?;
        run(self
            .repo()
            .command()
            // Every machine has most of it: nobody would fetch an image of the whole.
            .args(["publish", "--no-image", "--ref", name, "--patch-from", &installed])
            .arg("--key")
            .arg(self.directory.join("release-key"))
            .arg("--to")
            .arg(self.site_path())
            .stdout(std::process::Stdio::null()))
    }

    /// The digests of a version's commit and of its tree, if the version was made.
    ///
    /// # Errors
    /// If the repository does not have it.
    pub fn digests(&self, version: &Version) -> Result<Option<(String, String)>> {
        let Some(commit) = self.record["commits"][version.name].as_str() else {
            return Ok(None);
        };
        let tree = self.repo().ask(&["rev-parse", &format!("{commit}^{{tree}}")])?;
        Ok(Some((commit.to_owned(), tree)))
    }

    /// Makes a version's tree and commits it.
    fn make(&mut self, version: &Version) -> Result<String> {
        let base = match version.base {
            Base::Released => &V1,
            Base::Updated => &V2,
        };
        let parent = if version.name == V1.name {
            "none".to_owned()
        } else {
            self.commit(if version.name == V2.name { &V1 } else { base })?
        };
        self.ensure_base_tree(base)?;
        let tree = &self.base_trees[base.name];
        if version.name == base.name {
            return self.commit_directory(version, &tree.path, &parent);
        }
        let work = self.directory.join("trees").join(version.name);
        // An interrupted run may have left a part.
        super::remove_work_directory(&work)?;
        let derived = tree.derive(&work, version, |derived| match version.initramfs {
            Initramfs::InitramfsTools => Ok(()),
            Initramfs::Dracut => debian::add_packages(derived, &work, &["dracut-core"]),
        })?;
        let commit = self.commit_directory(version, &derived.path, &parent)?;
        drop(derived);
        super::remove_work_directory(&work)?;
        Ok(commit)
    }

    fn commit_directory(&self, version: &Version, tree: &Path, parent: &str) -> Result<String> {
        let reference = format!("versions/{}", version.name);
        let key = self.directory.join("seal-key");
        let (key, tree) = (key.to_string_lossy(), tree.to_string_lossy());
        let mut words = vec!["commit", "--os", "--ref", &reference, "--version", version.name];
        words.extend(["--parent", parent]);
        if version.sealed {
            std::fs::write(&*key, versions::SEAL_KEY).with_context(|| format!("cannot write {key}"))?;
            words.extend(["--seal", &key]);
        }
        words.push(&tree);
        self.repo().ask(&words)
    }

    /// Mounts a tree that versions are made from, and makes it if it was never made.
    fn ensure_base_tree(&mut self, base: &Version) -> Result<()> {
        if self.base_trees.contains_key(base.name) {
            return Ok(());
        }
        let lower = match base.base {
            Base::Released => &self.trees.v1,
            Base::Updated => &self.trees.v2,
        };
        let work = self.directory.join("trees").join(base.name);
        let tree = if self.record["prepared"][base.name] == true {
            TestTree::open(lower, &work)?
        } else {
            super::remove_work_directory(&work)?;
            let tree = TestTree::prepare(lower, &work, &self.programs, base)?;
            self.record["prepared"][base.name] = Value::from(true);
            self.save()?;
            tree
        };
        self.base_trees.insert(base.name, tree);
        Ok(())
    }

    fn repo(&self) -> Host<'_> {
        Host::repo(&self.programs.atomos, &self.repo)
    }

    fn save(&self) -> Result<()> {
        let path = self.directory.join("versions.json");
        std::fs::write(&path, self.record.to_string())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Trees are laid over it.
        self.base_trees.clear();
        // What is removed after a run is removed on one file system. Lazily: a web server may be about to end.
        let _ = run(Command::new("umount")
            .args(["--recursive", "--lazy", "--"])
            .arg(&self.directory));
    }
}

fn mount(image: &Path, directory: &Path) -> Result<()> {
    run(Command::new("mount")
        .args(["-t", "ext4", "-o", "loop", "--"])
        .args([image, directory]))
}

fn load(path: &Path) -> Result<Value> {
    // A store that was never finished has none.
    let text = std::fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned());
    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// Names what all versions are made from: the trees, the programs, and every file that the tests add.
fn key(programs: &Programs, trees: &Trees) -> Result<Value> {
    let mut hasher = blake3::Hasher::new();
    for program in [&programs.atomos, &programs.prepare_root] {
        let bytes = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    hasher.update(trees.key().to_string().as_bytes());
    hasher.update(tree::ingredients()?.as_bytes());
    hasher.update(versions::ingredients().as_bytes());
    Ok(json!({ "recipe": RECIPE, "digest": hasher.finalize().to_hex().as_str() }))
}
