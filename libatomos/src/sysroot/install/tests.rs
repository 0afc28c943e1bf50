//! Installing to directories and small mounts, with every interruption.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::cancel::Cancel;
use crate::commit::{CommitOptions, commit};
use crate::failpoint;
use crate::progress::NoProgress;
use crate::repo::{Repo, RepoMode};

/// A repository with a small system as the ref `os`, and a directory to install to.
struct Bench {
    scratch: tempfile::TempDir,
    repo: Repo,
    mounts: RefCell<Vec<PathBuf>>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Bytes by which systemd-boot is known.
const SYSTEMD_BOOT: &str = "MZ #### LoaderInfo: systemd-boot 257 ####";

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path().join("tree");
        for dir in [
            "usr/etc",
            "usr/lib/modules/6.1",
            "usr/lib/systemd/boot/efi",
            "var",
            "boot",
            "dev",
            "proc",
            "run",
            "sys",
            "sysroot",
            "tmp",
        ] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        let write = |path: &str, text: &str| fs::write(tree.join(path), text).unwrap();
        write("usr/lib/modules/6.1/vmlinuz", "kernel");
        write("usr/lib/modules/6.1/initramfs.img", "initramfs");
        write("usr/lib/os-release", "PRETTY_NAME=Test\n");
        write("usr/etc/fstab", "# none yet\n");
        write("usr/lib/systemd/boot/efi/systemd-bootx64.efi", SYSTEMD_BOOT);
        let root = crate::fs::Dir::ensure_ambient(scratch.path().join("repo")).unwrap();
        let repo = Repo::init_at(root, RepoMode::BareUser).unwrap();
        let options = CommitOptions {
            reference: Some("os".parse().unwrap()),
            version: "1".to_owned(),
            ..CommitOptions::default()
        };
        let source = Dir::open_ambient(&tree).unwrap();
        commit(&repo, source, &options, &NoProgress, &Cancel::new()).unwrap();
        let bench = Self {
            scratch,
            repo,
            mounts: RefCell::default(),
        };
        fs::create_dir_all(bench.target().join("boot")).unwrap();
        bench
    }

    fn unmount(&self) {
        for mount in self.mounts.borrow_mut().drain(..).rev() {
            let _ = Command::new("umount").arg("--lazy").arg(mount).status();
        }
    }

    /// An empty target, with a tmpfs at each of these, where syncing costs nothing.
    fn start_over(&mut self, mounts: &[&str]) -> Option<()> {
        self.unmount();
        fs::remove_dir_all(self.target()).unwrap();
        for path in mounts {
            self.mount(path)?;
        }
        fs::create_dir_all(self.target().join("boot")).unwrap();
        Some(())
    }

    fn target(&self) -> PathBuf {
        self.scratch.path().join("target")
    }

    fn source(&self) -> InstallSource<'_> {
        InstallSource::Repo {
            repo: &self.repo,
            reference: "os".parse().unwrap(),
        }
    }

    /// Mounts a tmpfs below the target; `None`, and says so, without root's rights.
    fn mount(&self, path: &str) -> Option<()> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return None;
        }
        let path = self.target().join(path);
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "mode=755", "tmpfs"])
            .arg(&path)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("skipped: a tmpfs cannot be mounted");
            return None;
        }
        self.mounts.borrow_mut().push(path);
        Some(())
    }

    fn plan(&self, options: &InstallOptions) -> Result<InstallPlan, SysrootError> {
        InstallPlan::make(&self.target(), &self.source(), options)
    }

    fn install(&self, options: &InstallOptions) -> Result<(InstallReport, Vec<Vec<String>>), SysrootError> {
        let programs = RefCell::new(Vec::new());
        let run = |words: &[String]| {
            programs.borrow_mut().push(words.to_vec());
            Ok(())
        };
        let report = self
            .plan(options)?
            .carry_out(&self.source(), &run, &NoProgress, &Cancel::new())?;
        Ok((report, programs.into_inner()))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.target().join(path)).unwrap()
    }

    fn etc(&self, report: &InstallReport) -> PathBuf {
        let id = &report.deployment;
        self.target()
            .join("atomos/deploy")
            .join(id.stateroot.as_str())
            .join("deploy")
            .join(id.dir_name())
            .join("etc")
    }

    /// What an installation must leave: one deployment, one entry, and no mark that it is unfinished.
    fn assert_installed(&self) {
        let sysroot = Sysroot::open(&self.target(), &SysrootOptions::default()).unwrap();
        assert_eq!(sysroot.state().unwrap().deployments.len(), 1);
        let status = sysroot.status().unwrap();
        assert_eq!(status.warnings, Vec::<String>::new());
        let entries = sysroot.boot_status().unwrap().entries;
        assert_eq!(entries.len(), 1);
        assert!(!self.target().join("atomos/installing").exists());
    }
}

fn in_a_directory(loader: Loader) -> InstallOptions {
    InstallOptions {
        allow_directory: true,
        kargs: vec!["root=LABEL=root".to_owned(), "quiet".to_owned()],
        loader,
        ..InstallOptions::default()
    }
}

fn refused(result: Result<impl Sized, SysrootError>) -> String {
    match result.err().expect("it is refused") {
        SysrootError::NotInstallable { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn a_directory_gets_a_deployment_with_its_arguments() {
    let bench = Bench::new();
    let (report, programs) = bench.install(&in_a_directory(Loader::None)).unwrap();
    bench.assert_installed();
    assert_eq!(report.plan.kargs, ["panic=10", "root=LABEL=root", "quiet"]);
    assert!(programs.is_empty() && report.loader_files.is_empty());
    assert!(report.plan.warnings[0].starts_with("no boot loader is installed"));
    let entry = fs::read_dir(bench.target().join("boot/loader/entries"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let entry = fs::read_to_string(entry.path()).unwrap();
    assert!(
        entry.contains(&format!(
            "options panic=10 root=LABEL=root quiet atomos.entry=1 atomos={}\n",
            report.deployment
        )),
        "{entry}"
    );
    let followed = bench.plan(&in_a_directory(Loader::None));
    assert!(refused(followed).starts_with("it has deployments already"));
}

#[test]
fn grub_gets_its_configuration_and_its_own_installer_is_called_last() {
    let bench = Bench::new();
    let options = InstallOptions {
        grub_device: Some("/dev/disk".into()),
        ..in_a_directory(Loader::Auto)
    };
    let (report, programs) = bench.install(&options).unwrap();
    bench.assert_installed();
    assert_eq!(report.plan.loader, Loader::Grub);
    let boot = format!("--boot-directory={}", bench.target().join("boot").display());
    assert_eq!(
        programs,
        [["grub-install", "--target=i386-pc", &boot, "/dev/disk"]]
    );
    assert!(
        bench
            .read("boot/grub/grub.cfg")
            .contains("source $prefix/atomos.cfg")
    );
    assert!(bench.read("boot/grub/atomos.cfg").contains("menuentry"));
}

#[test]
fn a_configuration_without_grub_is_refused_before_anything_unless_that_was_said() {
    let bench = Bench::new();
    for loader in [Loader::Auto, Loader::Grub] {
        let error = bench.plan(&in_a_directory(loader)).unwrap_err();
        assert!(matches!(error, SysrootError::NoPlaceForGrub { .. }), "{error}");
        assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
    }
    let options = InstallOptions {
        grub_config_only: true,
        ..in_a_directory(Loader::Auto)
    };
    let (report, programs) = bench.install(&options).unwrap();
    bench.assert_installed();
    assert!(programs.is_empty());
    assert!(report.plan.warnings[0].starts_with("GRUB itself is not installed"));
    assert!(bench.read("boot/grub/grub.cfg").contains("source"));
    // Nor is an EFI system partition written to, or anything there in the way.
    let mut bench = Bench::new();
    let Some(()) = bench.start_over(&["efi"]) else {
        return;
    };
    fs::create_dir_all(bench.target().join("efi/EFI/BOOT")).unwrap();
    fs::write(bench.target().join("efi/EFI/BOOT/BOOTX64.EFI"), "theirs").unwrap();
    let options = InstallOptions {
        esp: Some("efi".into()),
        ..options
    };
    assert!(bench.plan(&options).unwrap().programs.is_empty());
}

#[test]
fn a_disk_that_is_named_for_grub_gets_it_whatever_boot_is() {
    let fat = MountedFs {
        path: "boot".into(),
        kind: "vfat".to_owned(),
        source: "/dev/disk1".to_owned(),
        subtree: "/".to_owned(),
        uuid: None,
    };
    let layout = Layout {
        target: "/mnt".into(),
        root: None,
        boot: Some(fat),
        esp: None,
    };
    let mut options = in_a_directory(Loader::Auto);
    assert_eq!(layout.choose_loader(&options), Loader::SystemdBoot);
    options.grub_device = Some("/dev/disk".into());
    assert_eq!(layout.choose_loader(&options), Loader::Grub);
}

#[test]
fn a_loader_s_installer_that_fails_is_named_and_the_next_run_goes_on() {
    let bench = Bench::new();
    let options = InstallOptions {
        grub_device: Some("/dev/disk".into()),
        ..in_a_directory(Loader::Grub)
    };
    let fail = |_: &[String]| Err(io::Error::other("no such disk"));
    let error = bench
        .plan(&options)
        .unwrap()
        .carry_out(&bench.source(), &fail, &NoProgress, &Cancel::new())
        .unwrap_err();
    let reason = refused(Err::<(), _>(error));
    assert!(reason.contains("`grub-install --target=i386-pc"), "{reason}");
    assert!(reason.ends_with("failed: no such disk"), "{reason}");
    assert!(bench.plan(&options).unwrap().resumes);
    let (report, programs) = bench.install(&options).unwrap();
    assert!(report.deploy.is_none(), "it was made before");
    assert_eq!(programs.len(), 1);
    bench.assert_installed();
}

#[test]
fn what_is_there_already_is_left_alone_unless_that_was_said() {
    let bench = Bench::new();
    let options = in_a_directory(Loader::Grub);
    fs::create_dir_all(bench.target().join("boot/grub")).unwrap();
    fs::write(bench.target().join("boot/grub/grub.cfg"), "theirs").unwrap();
    assert_eq!(
        refused(bench.plan(&options)),
        "/boot/grub/grub.cfg is another system's"
    );
    fs::create_dir(bench.target().join("usr")).unwrap();
    assert_eq!(
        refused(bench.plan(&options)),
        "it has a system already: there is a /usr"
    );
    assert!(!bench.target().join("atomos").exists(), "a plan changes nothing");
    let options = InstallOptions {
        existing: true,
        grub_config_only: true,
        ..options
    };
    bench.install(&options).unwrap();
    bench.assert_installed();
    assert_eq!(bench.read("boot/grub/grub.cfg.before-atomos"), "theirs");
    assert!(bench.read("boot/grub/grub.cfg").contains("atomos"));
}

#[test]
fn a_repository_that_is_half_made_is_gone_on_with() {
    let bench = Bench::new();
    fs::create_dir_all(bench.target().join("atomos/repo/objects")).unwrap();
    bench.install(&in_a_directory(Loader::None)).unwrap();
    bench.assert_installed();
}

#[test]
fn a_target_is_a_mounted_file_system() {
    let bench = Bench::new();
    let options = InstallOptions::default();
    assert_eq!(refused(bench.plan(&options)), "no file system is mounted there");
    let options = InstallOptions {
        allow_directory: true,
        ..options
    };
    let reason = refused(bench.plan(&options));
    assert!(
        reason.starts_with("its UUID cannot be read (a directory)"),
        "{reason}"
    );
    let options = in_a_directory(Loader::SystemdBoot);
    let reason = refused(bench.plan(&options));
    assert!(
        reason.starts_with("systemd-boot needs an EFI system partition"),
        "{reason}"
    );
    // A directory of another file system is not its root.
    let Some(()) = bench.mount("boot") else { return };
    let bound = bench.target().join("boot");
    fs::create_dir(bound.join("dir")).unwrap();
    let status = Command::new("mount")
        .arg("--bind")
        .args([bound.join("dir"), bound.clone()])
        .status()
        .unwrap();
    assert!(status.success());
    bench.mounts.borrow_mut().push(bound);
    let reason = refused(bench.plan(&in_a_directory(Loader::None)));
    assert_eq!(reason, "/boot is \"/dir\" of its file system, and not its root");
}

/// With `/boot` as a file system of its own, which is named as the EFI system partition.
fn for_systemd_boot() -> InstallOptions {
    InstallOptions {
        esp: Some("boot".into()),
        ..in_a_directory(Loader::SystemdBoot)
    }
}

#[test]
fn systemd_boot_comes_from_the_tree() {
    let bench = Bench::new();
    let Some(()) = bench.mount("boot") else { return };
    let (report, programs) = bench.install(&for_systemd_boot()).unwrap();
    bench.assert_installed();
    assert!(programs.is_empty());
    let files: Vec<_> = report
        .loader_files
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect();
    assert_eq!(
        files,
        [
            "boot/loader/loader.conf",
            "boot/EFI/systemd/systemd-bootx64.efi",
            "boot/EFI/BOOT/BOOTX64.EFI",
        ]
    );
    assert_eq!(bench.read("boot/EFI/BOOT/BOOTX64.EFI"), SYSTEMD_BOOT);
    // Where the loader finds it: from the root of its file system.
    let entry = fs::read_dir(bench.target().join("boot/loader/entries"))
        .unwrap()
        .next()
        .unwrap();
    let entry = fs::read_to_string(entry.unwrap().path()).unwrap();
    assert!(entry.contains("\nlinux /atomos/os-"), "{entry}");
    assert!(report.plan.warnings[0].contains("/boot has no UUID that can be read (tmpfs of type tmpfs)"));
    assert_eq!(
        fs::read_to_string(bench.etc(&report).join("fstab")).unwrap(),
        "# none yet\n"
    );
}

#[test]
fn another_loader_of_the_firmware_s_is_not_replaced_unasked_and_an_older_one_of_ours_is() {
    let bench = Bench::new();
    let Some(()) = bench.mount("boot") else { return };
    let fallback = bench.target().join("boot/efi/boot");
    fs::create_dir_all(&fallback).unwrap();
    fs::rename(bench.target().join("boot/efi"), bench.target().join("boot/Efi")).unwrap();
    let fallback = bench.target().join("boot/Efi/boot/BOOTX64.EFI");
    fs::write(&fallback, "another").unwrap();
    let reason = refused(bench.install(&for_systemd_boot()));
    assert_eq!(reason, "/boot/Efi/boot/BOOTX64.EFI is another boot loader");
    assert!(
        !bench.target().join("atomos").exists(),
        "it is seen before anything is done"
    );
    assert_eq!(fs::read_to_string(&fallback).unwrap(), "another");
    fs::write(&fallback, "#### LoaderInfo: systemd-boot 252 ####").unwrap();
    bench.install(&for_systemd_boot()).unwrap();
    assert_eq!(fs::read_to_string(&fallback).unwrap(), SYSTEMD_BOOT);
    bench.assert_installed();
}

#[test]
fn grub_does_not_take_the_place_of_another_loader_unasked() {
    let bench = Bench::new();
    let fallback = bench.target().join("efi/EFI/BOOT");
    fs::create_dir_all(&fallback).unwrap();
    fs::write(fallback.join("grubx64.efi"), "beside it").unwrap();
    let options = InstallOptions {
        esp: Some("efi".into()),
        ..in_a_directory(Loader::Grub)
    };
    bench.plan(&options).unwrap();
    fs::write(fallback.join("bootaa64.efi"), "another").unwrap();
    assert_eq!(
        refused(bench.plan(&options)),
        "/efi/EFI/BOOT/bootaa64.efi is another boot loader"
    );
    let asked = InstallOptions {
        existing: true,
        ..options.clone()
    };
    bench.plan(&asked).unwrap();
    // An interrupted run may have put it there.
    fs::create_dir_all(bench.target().join("atomos")).unwrap();
    fs::remove_file(fallback.join("bootaa64.efi")).unwrap();
    let fail = |_: &[String]| Err(io::Error::other("no"));
    let plan = bench.plan(&options).unwrap();
    plan.carry_out(&bench.source(), &fail, &NoProgress, &Cancel::new())
        .unwrap_err();
    fs::write(fallback.join("bootx64.efi"), "of the first run").unwrap();
    assert!(bench.plan(&options).unwrap().resumes);
}

#[test]
fn a_repeated_installation_onto_a_system_keeps_what_that_boots() {
    let bench = Bench::new();
    let first = InstallOptions {
        kargs: vec!["root=LABEL=x".to_owned(), "quiet".to_owned()],
        ..in_a_directory(Loader::None)
    };
    let (original, _) = bench.install(&first).unwrap();
    let again = InstallOptions {
        existing: true,
        kargs: vec!["root=LABEL=x".to_owned(), "splash".to_owned()],
        grub_device: Some("/dev/disk".into()),
        ..in_a_directory(Loader::Grub)
    };
    let fail = |_: &[String]| Err(io::Error::other("no such disk"));
    for _ in 0..3 {
        let plan = bench.plan(&again).unwrap();
        plan.carry_out(&bench.source(), &fail, &NoProgress, &Cancel::new())
            .unwrap_err();
    }
    let (report, _) = bench.install(&again).unwrap();
    assert!(report.deploy.is_none(), "the first try has made it");
    let sysroot = Sysroot::open(&bench.target(), &again.sysroot).unwrap();
    let made: Vec<_> = sysroot
        .state()
        .unwrap()
        .deployments
        .into_iter()
        .map(|one| one.id)
        .collect();
    assert_eq!(made, [report.deployment, original.deployment]);
}

/// Stops an installation at every point; what the firmware starts comes last; then it is run again.
fn interrupt_everywhere(mounts: &[&str], options: &InstallOptions, last: &str) {
    let mut bench = Bench::new();
    let Some(()) = bench.start_over(mounts) else {
        return;
    };
    let (points, done) = failpoint::trace(|| bench.install(options));
    done.unwrap();
    bench.assert_installed();
    assert!(points.len() > 15, "{points:?}");
    for (index, point) in points.iter().enumerate() {
        bench.start_over(mounts).expect("it could be made before");
        failpoint::stop_at(index, || bench.install(options)).unwrap_err();
        let visible = bench.target().join(last).exists();
        if visible {
            // Then everything that it leads to is there.
            let sysroot = Sysroot::open(&bench.target(), &SysrootOptions::default()).unwrap();
            assert_eq!(sysroot.boot_status().unwrap().entries.len(), 1, "{point}");
        }
        if *point == "install.done" {
            // Nothing is left to be done, and a second installation would be one.
            assert!(visible && !bench.target().join("atomos/installing").exists());
            continue;
        }
        let (report, _) = bench
            .install(options)
            .unwrap_or_else(|error| panic!("{point}: {error}"));
        bench.assert_installed();
        assert!(bench.target().join(last).exists(), "{point}");
        assert_eq!(report.deployment.serial, 0, "{point}: it was made twice");
    }
}

#[test]
fn an_interrupted_installation_can_be_run_again_wherever_it_stopped() {
    let grub = InstallOptions {
        grub_device: Some("/dev/disk".into()),
        ..in_a_directory(Loader::Grub)
    };
    interrupt_everywhere(&[""], &grub, "boot/grub/grub.cfg");
    interrupt_everywhere(&["", "boot"], &for_systemd_boot(), "boot/EFI/BOOT/BOOTX64.EFI");
}
