//! An upgrade of few packages, made from one of many: a copy of the second version in which all but some of the upgraded packages are
//! the first one's. An upgrade of everything at once is what nobody does who upgrades every week.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::contest::remove;
use crate::debian::Upgrade;
use crate::process::run;

/// How many packages it brings.
pub const PACKAGES: usize = 24;

/// What a kernel consists of, in a tree. It stays the first version's.
const KERNEL: [&str; 2] = ["boot", "usr/lib/modules"];

/// Directories of the root that are links into `/usr`. The lists of packages have some of their files by these.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Two versions of a tree.
#[derive(Debug, Clone, Copy)]
pub struct Versions<'a> {
    /// The first.
    pub v1: &'a Path,
    /// The second.
    pub v2: &'a Path,
}

impl Versions<'_> {
    /// Makes `to`, the first version with [`PACKAGES`] of the `upgraded` packages. They are taken evenly from all of them but the kernel,
    /// in order of how many files they change, the one with the most among them: so they change about as much as their share. Returns
    /// whether there were that many.
    ///
    /// # Errors
    /// If something cannot be read or copied.
    pub fn upgrade_few(&self, upgraded: &[Upgrade], to: &Path) -> Result<bool> {
        let Some(chosen) = self.choose(upgraded)? else {
            return Ok(false);
        };
        run(Command::new("cp").arg("-a").args([self.v2, to]))?;
        let mut back = Vec::new();
        let others = upgraded
            .iter()
            .filter(|upgrade| !chosen.contains(&upgrade.package));
        let others: BTreeSet<PathBuf> = others
            .map(|upgrade| self.paths(&upgrade.package))
            .collect::<Result<Vec<_>>>()?
            .concat()
            .into_iter()
            .filter(|path| !KERNEL.iter().any(|part| path.starts_with(part)))
            .collect();
        for path in others {
            match (is_file(&self.v1.join(&path)), is_file(&self.v2.join(&path))) {
                (Some(_), _) => back.push(path),
                (None, Some(_)) => remove(&to.join(&path))?,
                (None, None) => {}
            }
        }
        for part in KERNEL {
            remove(&to.join(part))?;
            back.push(part.into());
        }
        copy(self.v1, &back, to)?;
        Ok(true)
    }

    fn choose(&self, upgraded: &[Upgrade]) -> Result<Option<BTreeSet<String>>> {
        let mut packages = Vec::new();
        for Upgrade { package, .. } in upgraded {
            if !package.starts_with("linux-image-") {
                packages.push((Reverse(self.changed(package)?), package));
            }
        }
        packages.sort();
        if packages.len() < PACKAGES {
            return Ok(None);
        }
        let every = |index: usize| packages[index * packages.len() / PACKAGES].1.clone();
        Ok(Some((0..PACKAGES).map(every).collect()))
    }

    /// How many files a package's upgrade changes. The files of a package have the time of its release.
    fn changed(&self, package: &str) -> Result<usize> {
        let differs = |path: &PathBuf| {
            let look = |tree: &Path| is_file(&tree.join(path)).map(|found| (found.mtime(), found.size()));
            look(self.v1) != look(self.v2)
        };
        let paths: BTreeSet<PathBuf> = self.paths(package)?.into_iter().collect();
        Ok(paths.iter().filter(|path| differs(path)).count())
    }

    /// What is in a package, in either version, from the tree's root.
    fn paths(&self, package: &str) -> Result<Vec<PathBuf>> {
        let short = package.split(':').next().unwrap_or(package);
        let mut paths = Vec::new();
        for tree in [self.v1, self.v2] {
            let lists = [package, short].map(|name| tree.join(format!("var/lib/dpkg/info/{name}.list")));
            let Some(list) = lists.into_iter().find(|list| list.exists()) else {
                continue;
            };
            let text = std::fs::read(&list).with_context(|| format!("cannot read {}", list.display()))?;
            paths.extend(text.split(|byte| *byte == b'\n').filter_map(in_tree));
        }
        Ok(paths)
    }
}

/// A line of a package's list as a path from the root; `None` for the root itself.
fn in_tree(line: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(line)).strip_prefix("/").ok()?;
    let first = path.iter().next().filter(|first| *first != ".")?;
    match MERGED.iter().any(|merged| first == *merged) {
        true => Some(Path::new("usr").join(path)),
        false => Some(path.to_owned()),
    }
}

/// What is known of a name that is there and no directory.
fn is_file(path: &Path) -> Option<Metadata> {
    std::fs::symlink_metadata(path)
        .ok()
        .filter(|found| !found.is_dir())
}

/// Copies `paths` from one tree to another, with all that is beneath them.
fn copy(from: &Path, paths: &[PathBuf], to: &Path) -> Result<()> {
    let mut command = Command::new("xargs");
    command.args(["-0", "cp", "-a", "--remove-destination", "--parents", "-t"]);
    let mut child = command
        .arg(to)
        .current_dir(from)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start xargs")?;
    let mut stdin = child.stdin.take().context("xargs has no standard input")?;
    for path in paths {
        stdin.write_all(path.as_os_str().as_bytes())?;
        stdin.write_all(b"\0")?;
    }
    drop(stdin);
    let status = child.wait().context("cannot wait for xargs")?;
    ensure!(
        status.success(),
        "cannot copy files of {} to {}",
        from.display(),
        to.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn some_packages_are_the_second_versions_and_the_others_and_the_kernel_the_first_ones() {
        let scratch = tempfile::tempdir().unwrap();
        let (v1, v2) = (scratch.path().join("v1"), scratch.path().join("v2"));
        let mut upgraded = Vec::new();
        for number in 0..30 {
            let package = match number {
                // The list of a package for several architectures has its architecture in its name.
                0 => "p00:amd64".to_owned(),
                1 => "linux-image-1".to_owned(),
                number => format!("p{number:02}"),
            };
            for (tree, text) in [(&v1, "1"), (&v2, "22")] {
                // Earlier ones change more files.
                let files: Vec<String> = (number..30).map(|file| format!("lib/{number}/{file}")).collect();
                for file in &files {
                    put(&tree.join("usr"), file, text);
                }
                put(tree, &format!("usr/lib/{number}/of-{text}"), text);
                let list: String = files
                    .iter()
                    .map(|file| format!("/{file}\n"))
                    .chain([format!("/.\n/usr/lib/{number}\n/usr/lib/{number}/of-{text}\n")])
                    .collect();
                put(tree, &format!("var/lib/dpkg/info/{package}.list"), &list);
            }
            upgraded.push(Upgrade {
                package,
                from: None,
                to: None,
            });
        }
        for (tree, text) in [(&v1, "1"), (&v2, "22")] {
            put(tree, "boot/vmlinuz", text);
            put(tree, &format!("usr/lib/modules/{text}/modules.dep"), text);
            put(tree, "etc/ld.so.cache", text);
        }
        let versions = Versions { v1: &v1, v2: &v2 };
        let to = scratch.path().join("to");
        assert!(!versions.upgrade_few(&upgraded[..24], &to).unwrap());
        assert!(!to.exists());
        assert!(versions.upgrade_few(&upgraded, &to).unwrap());

        let read = |path: &str| fs::read_to_string(to.join(path)).unwrap();
        let upgraded = |number: usize| {
            let texts: BTreeSet<String> = (number..30)
                .map(|file| read(&format!("usr/lib/{number}/{file}")))
                .collect();
            assert_eq!(texts.len(), 1, "{number}: {texts:?}");
            let is_new = texts.contains("22");
            assert_eq!(to.join(format!("usr/lib/{number}/of-22")).exists(), is_new);
            assert_eq!(to.join(format!("usr/lib/{number}/of-1")).exists(), !is_new);
            is_new
        };
        let chosen: Vec<usize> = (0..30).filter(|number| upgraded(*number)).collect();
        assert_eq!(chosen.len(), PACKAGES);
        assert!(chosen.contains(&0) && !chosen.contains(&1));
        assert_eq!(read("boot/vmlinuz"), "1");
        assert!(to.join("usr/lib/modules/1").exists() && !to.join("usr/lib/modules/22").exists());
        assert_eq!(read("etc/ld.so.cache"), "22", "what no package has");
    }
}
