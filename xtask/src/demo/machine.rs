//! A sysroot as a boot loader sees it: entries, and the deployments that they name.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::facts::entry_names;

/// A directory that plays the root of a machine's physical filesystem.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    stateroot: String,
}

/// One boot entry (Boot Loader Specification, type 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The number in its name; the highest boots.
    pub number: u64,
    /// The kernel.
    pub linux: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The deployment that its `atomos=` argument names.
    pub deployment: PathBuf,
}

impl Machine {
    /// The machine at `root`, of which one stateroot is looked at.
    #[must_use]
    pub fn new(root: &Path, stateroot: &str) -> Self {
        Self {
            root: root.to_owned(),
            stateroot: stateroot.to_owned(),
        }
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its repository.
    #[must_use]
    pub fn repo(&self) -> PathBuf {
        self.root.join("atomos/repo")
    }

    /// What is mounted at `/boot`.
    #[must_use]
    pub fn boot(&self) -> PathBuf {
        self.root.join("boot")
    }

    /// The boot entries, that which boots first.
    ///
    /// # Errors
    /// If an entry cannot be read, or names what is not there.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let directory = self.boot().join("loader/entries");
        let mut entries = Vec::new();
        for name in entry_names(&directory)? {
            let Some(number) = name.to_str().and_then(entry_number) else {
                continue;
            };
            let path = directory.join(&name);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let entry = self
                .parse(number, &text)
                .with_context(|| format!("in {}", path.display()))?;
            for named in [&entry.linux, &entry.initrd, &entry.deployment] {
                if !named.exists() {
                    bail!(
                        "broken promise: {} names {}, which is not there",
                        path.display(),
                        named.display()
                    );
                }
            }
            entries.push(entry);
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.number));
        Ok(entries)
    }

    fn parse(&self, number: u64, text: &str) -> Result<Entry> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '\t']).map(str::trim))
                .with_context(|| format!("it has no `{name}`"))
        };
        let options = field("options")?;
        let named = options
            .split_whitespace()
            .find_map(|word| word.strip_prefix("atomos="));
        let named = named.context("its options have no `atomos=`")?;
        let (stateroot, deployment) = named.split_once('/').context("its `atomos=` has no `/`")?;
        if stateroot != self.stateroot {
            bail!("it is of the stateroot {stateroot}");
        }
        // Paths in an entry begin where the filesystem begins that the loader reads it from.
        let device = |path: &Path| path.metadata().map(|metadata| metadata.dev());
        let separate = device(&self.boot()).context("cannot look at /boot")?
            != device(&self.root).context("cannot look at the root")?;
        let base = if separate { self.boot() } else { self.root.clone() };
        let in_boot = |path: &str| base.join(path.trim_start_matches('/'));
        Ok(Entry {
            number,
            linux: in_boot(field("linux")?),
            initrd: in_boot(field("initrd")?),
            deployment: self
                .root
                .join("atomos/deploy")
                .join(stateroot)
                .join("deploy")
                .join(deployment),
        })
    }

    /// The entry that boots next.
    ///
    /// # Errors
    /// If there is none.
    pub fn default_entry(&self) -> Result<Entry> {
        self.entries()?
            .into_iter()
            .next()
            .context("broken promise: there is no boot entry")
    }

    /// The deployment that boots next.
    ///
    /// # Errors
    /// If there is none.
    pub fn default_deployment(&self) -> Result<PathBuf> {
        Ok(self.default_entry()?.deployment)
    }

    /// The number of the entry that boots next.
    ///
    /// # Errors
    /// If there is none.
    pub fn highest_entry(&self) -> Result<u64> {
        Ok(self.default_entry()?.number)
    }
}

/// `atomos-<N>-….conf`
fn entry_number(name: &str) -> Option<u64> {
    name.strip_suffix(".conf")?
        .strip_prefix("atomos-")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_highest_number_boots_whatever_the_names_sort_like() {
        let root = tempfile::tempdir().unwrap();
        let entries = root.path().join("boot/loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::create_dir_all(root.path().join("boot/atomos/k")).unwrap();
        for file in ["vmlinuz", "initramfs"] {
            fs::write(root.path().join("boot/atomos/k").join(file), "").unwrap();
        }
        for (number, deployment) in [("9", "aa.0"), ("10", "bb.0")] {
            fs::create_dir_all(root.path().join("atomos/deploy/os/deploy").join(deployment)).unwrap();
            let text = format!(
                "title x\nlinux /boot/atomos/k/vmlinuz\ninitrd /boot/atomos/k/initramfs\noptions quiet atomos=os/{deployment}\n"
            );
            fs::write(entries.join(format!("atomos-{number}-os-aa.conf")), text).unwrap();
        }
        fs::write(entries.join("other.conf"), "not ours").unwrap();
        let machine = Machine::new(root.path(), "os");
        assert_eq!(machine.highest_entry().unwrap(), 10);
        assert!(machine.default_deployment().unwrap().ends_with("bb.0"));
        fs::remove_file(root.path().join("boot/atomos/k/vmlinuz")).unwrap();
        assert!(machine.entries().is_err());
    }
}
