//! The switch and the reconciliation in temporary directories, on both kinds of file system, stopped everywhere.
#![allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.

mod damage;
mod grub;
mod interruption;
mod loader_view;
mod own_file_system;
mod switch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::name::tries_of;
use super::order::{grub, grub_blscfg};
use super::verify::{EntryFinding, verify_entries};
use super::*;
use crate::digest::{CommitId, Digest};
use crate::failpoint;
use crate::fs::Dir;
use crate::progress::NoProgress;

const KINDS: [BootFsKind; 2] = [BootFsKind::Posix, BootFsKind::Vfat];

/// A `/boot`, and the trees that deployments boot.
struct Machine {
    scratch: tempfile::TempDir,
    kind: BootFsKind,
}

impl Machine {
    fn new(kind: BootFsKind) -> Self {
        // In memory where that can be: these tests sync a file system some thousand times.
        let scratch = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        fs::create_dir(scratch.path().join("boot")).unwrap();
        Self { scratch, kind }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("boot").join(name)
    }

    fn boot(&self) -> BootDir {
        self.boot_owned_by(None)
    }

    fn boot_owned_by(&self, owner: Option<&str>) -> BootDir {
        let options = BootOptions {
            owner: owner.map(str::to_owned),
            fs_kind: Some(self.kind),
            ..BootOptions::default()
        };
        BootDir::new(
            Dir::open_ambient(self.scratch.path().join("boot")).unwrap(),
            options,
        )
        .unwrap()
    }

    /// Makes the tree of a commit with this kernel, and the entry of its deployment.
    fn deployment(&self, n: u64, kernel: &str) -> DesiredEntry {
        let commit = CommitId::new(Digest::of(format!("commit {n} {kernel}").as_bytes()));
        let modules = self.tree(commit).join("usr/lib/modules/6.1");
        fs::create_dir_all(modules.join("dtb/vendor")).unwrap();
        fs::write(modules.join("vmlinuz"), kernel).unwrap();
        fs::write(modules.join("initramfs"), format!("initramfs of {kernel}")).unwrap();
        fs::write(modules.join("dtb/vendor/board.dtb"), "device tree").unwrap();
        let tree = Dir::open_ambient(self.tree(commit)).unwrap();
        DesiredEntry {
            n,
            stateroot: "os".parse().unwrap(),
            commit,
            serial: 0,
            title: "Test OS".into(),
            version: Some("1.0".into()),
            kargs: "root=LABEL=root quiet".parse().unwrap(),
            bootcsum: KernelFiles::find(&tree).unwrap().digest().unwrap(),
            tries: None,
        }
    }

    fn tree(&self, commit: CommitId) -> PathBuf {
        self.scratch.path().join("trees").join(commit.short())
    }

    fn reconcile(&self, desired: &[DesiredEntry]) -> Result<ReconcileOutcome, BootError> {
        let boot = self.boot();
        let plan = plan_reconcile(&boot, desired, &ReconcileOptions::default())?;
        plan.apply(
            &boot,
            &|desired| Ok(Dir::open_ambient(self.tree(desired.commit))?),
            &NoProgress,
        )
    }

    fn plan(&self, desired: &[DesiredEntry]) -> ReconcilePlan {
        let options = ReconcileOptions {
            kernel_check: KernelCheck::All,
            ..ReconcileOptions::default()
        };
        plan_reconcile(&self.boot(), desired, &options).unwrap()
    }

    fn recover(&self, desired: &[DesiredEntry]) {
        let boot = self.boot();
        self.plan(desired)
            .apply(
                &boot,
                &|desired| Ok(Dir::open_ambient(self.tree(desired.commit))?),
                &NoProgress,
            )
            .unwrap();
        assert!(self.plan(desired).is_empty(), "once is enough");
    }

    fn entry_names(&self) -> Vec<String> {
        let list = self.boot().list_entries().unwrap();
        list.into_iter().map(|found| found.file_name).collect()
    }

    /// All files and directories below `/boot` with their bytes.
    fn snapshot(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_owned();
                if path.is_dir() {
                    all.insert(name, None);
                    walk(root, &path, all);
                } else {
                    all.insert(name, Some(fs::read(path).unwrap()));
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.path(""), &self.path(""), &mut all);
        all
    }

    /// Asserts that whatever a loader offers will boot, and returns the number of the entry that each takes.
    fn booted_number(&self) -> Option<u64> {
        let reports = verify_entries(&self.boot()).unwrap();
        for report in &reports {
            assert!(
                matches!(report.finding, None | Some(EntryFinding::Unfinished)),
                "{report:?} can be chosen and will not boot"
            );
        }
        let mut offered: Vec<_> = reports.iter().filter(|report| report.finding.is_none()).collect();
        offered.sort_by(|a, b| grub_blscfg(&a.file_name, &b.file_name));
        let by_blscfg = offered.first().map(|report| report.name.n);
        offered.sort_by(|a, b| grub(&a.file_name, &b.file_name));
        assert_eq!(offered.first().map(|report| report.name.n), by_blscfg);
        if !wants_menu(&self.boot()).unwrap() {
            return by_blscfg;
        }
        // Without blscfg the menu is all that GRUB sees.
        let Ok(menu) = fs::read_to_string(self.path("grub/atomos.cfg")) else {
            return None;
        };
        for path in menu
            .lines()
            .filter_map(|line| line.strip_prefix("\tlinux \"${atomos_boot}\"'/"))
        {
            let path = path.split('\'').next().unwrap();
            assert!(self.path(path).exists(), "{path} is in the menu and not there");
        }
        let id = menu.split("--id 'atomos-").nth(1)?;
        Some(id.split('-').next().unwrap().parse().unwrap())
    }
}
