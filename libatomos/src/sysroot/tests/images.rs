//! Deployments whose root is an image: what is made, what is removed, and every point at which that can be interrupted.

use super::*;
use crate::commit::{ScanOptions, hash_directory};
use crate::composefs::{ComposefsError, ImageReport, RootTree};
use crate::fs::hash_file;
use crate::repo::TreeSource;
use crate::sysroot::{FINALIZER, FinalizeOptions, FinalizeOutcome, Finish, ReadBack, RootKind};

fn asks_for(tree: &Path, word: &str) {
    fs::create_dir_all(tree.join("usr/lib/atomos")).unwrap();
    fs::write(
        tree.join("usr/lib/atomos/prepare-root.conf"),
        format!("composefs = {word}\n"),
    )
    .unwrap();
    fs::create_dir_all(tree.join("usr/bin")).unwrap();
    fs::write(tree.join("usr/bin/tool"), "a tool\n").unwrap();
}

pub(super) fn required(tree: &Path) {
    asks_for(tree, "required");
}

pub(super) fn wanted(tree: &Path) {
    asks_for(tree, "wanted");
}

fn with_kargs(kargs: &[&str]) -> DeployOptions {
    DeployOptions {
        kargs: kargs
            .iter()
            .map(|arg| KargsChange::Append((*arg).to_owned()))
            .collect(),
        ..DeployOptions::default()
    }
}

impl Machine {
    fn try_to_deploy(&self, options: &DeployOptions) -> Result<DeployReport, SysrootError> {
        self.sysroot().deploy("os", options, &NoProgress, &Cancel::new())
    }

    /// What lies beside the deployment's directory, by what follows its name.
    fn beside(&self, report: &DeployReport) -> Vec<String> {
        let root = self.root_of(report);
        let prefix = format!("{}.", report.deployment.dir_name());
        let mut names: Vec<String> = fs::read_dir(root.parent().unwrap())
            .unwrap()
            .filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.strip_prefix(&prefix).map(str::to_owned)
            })
            .collect();
        names.sort();
        names
    }

    pub(super) fn image_of(&self, report: &DeployReport) -> PathBuf {
        let root = self.root_of(report);
        root.with_file_name(format!("{}.image", report.deployment.dir_name()))
    }

    /// Makes `host` what is seen where the deployment's image runs, and looks at the sysroot from there.
    pub(super) fn booted_from_image(&self, report: &DeployReport, host: &Path) -> Sysroot {
        use std::os::unix::fs::MetadataExt;
        let stat = fs::metadata(self.root_of(report)).unwrap();
        fs::create_dir_all(host.join("run/atomos")).unwrap();
        let record = format!(
            r#"{{"stateroot":"os","deployment":"{}","path":"/x","device":{},"inode":{},"composefs":true}}"#,
            report.deployment.dir_name(),
            stat.dev(),
            stat.ino()
        );
        fs::write(host.join("run/atomos/booted"), record).unwrap();
        let options = SysrootOptions {
            host_root: host.to_owned(),
            ..SysrootOptions::default()
        };
        Sysroot::open(&self.path("sysroot"), &options).unwrap()
    }
}

/// Whether what failed says that this kernel cannot, after telling so.
fn kernel_cannot(error: &SysrootError) -> bool {
    let cannot = matches!(error, SysrootError::Composefs(ComposefsError::Kernel { .. }));
    if cannot {
        eprintln!("skipped: {error}");
    }
    cannot
}

#[test]
fn the_tree_decides_what_a_deployment_is_made_of() {
    let machine = Machine::new();
    machine.commit("1", required);
    let one = machine.deploy("os");
    assert_eq!(one.root, RootKind::Image);
    assert_eq!(
        machine.beside(&one),
        ["complete", "image", "image.json", "origin", "skeleton"]
    );
    let root = machine.root_of(&one);
    assert!(!root.join("usr/bin").exists(), "files are in the image alone");
    assert!(!root.join("sysroot").exists(), "it is not to be taken for a root");
    for path in [
        "etc/hostname",
        "usr/etc/hostname",
        "usr/lib/modules/6.1/vmlinuz",
        "usr/lib/atomos",
    ] {
        assert!(root.join(path).exists(), "{path}");
    }
    let var = machine.path("sysroot/atomos/deploy/os/var/lib/app/data");
    assert_eq!(fs::read_to_string(var).unwrap(), "seed\n");

    // What is known of the image is what it is.
    let image: ImageReport = one.image.clone().unwrap();
    let file = fs::File::open(machine.image_of(&one)).unwrap();
    let (digest, bytes) = hash_file(&file).unwrap();
    assert_eq!((*digest.digest(), bytes), (image.digest, image.bytes));
    let status = machine.sysroot().status().unwrap();
    assert_eq!(status.deployments[0].root, RootKind::Image);
    assert_eq!(status.deployments[0].image.as_ref(), Some(&image));
    assert!(status.deployments[0].complete && !status.deployments[0].image_booted);

    machine.commit("2", wanted);
    let two = machine.deploy("os");
    assert_eq!(two.root, RootKind::FilesAndImage);
    assert_eq!(
        machine.beside(&two),
        ["complete", "image", "image.json", "origin"]
    );
    assert!(machine.root_of(&two).join("usr/bin/tool").exists());
    assert_ne!(two.image.as_ref().unwrap().digest, image.digest);

    machine.commit("3", |tree| asks_for(tree, "off"));
    let three = machine.deploy("os");
    assert_eq!((three.root, three.image.as_ref()), (RootKind::Files, None));
    assert_eq!(machine.beside(&three), ["complete", "origin"]);
    // Retention let the first go.
    assert_eq!(machine.beside(&one), [""; 0]);
    machine.assert_bootable();
    machine.assert_clean();
}

#[test]
fn kernel_arguments_override_the_tree_and_must_fit_what_was_made() {
    let machine = Machine::new();
    machine.commit("1", required);
    let files = machine
        .try_to_deploy(&with_kargs(&[
            "atomos.composefs=required",
            "atomos.composefs=off",
        ]))
        .unwrap();
    assert_eq!(files.root, RootKind::Files);
    let edit = |changes: &[KargsChange]| machine.sysroot().edit_kargs(None, changes, &NoProgress);
    let delete = |arg: &str| KargsChange::Delete(arg.to_owned());
    let append = |arg: &str| KargsChange::Append(arg.to_owned());
    // Without arguments the tree would ask for an image that there is not.
    let error = edit(&[
        delete("atomos.composefs=off"),
        delete("atomos.composefs=required"),
    ])
    .unwrap_err();
    assert!(matches!(error, SysrootError::KargsDoNotFit { .. }), "{error}");
    assert!(error.to_string().contains("it has no image"), "{error}");
    edit(&[append("atomos.composefs=wanted")]).unwrap();

    let image = machine
        .try_to_deploy(&with_kargs(&["atomos.composefs=required"]))
        .unwrap();
    assert_eq!(image.root, RootKind::Image);
    edit(&[append("quiet")]).unwrap();
    let error = edit(&[append("atomos.composefs=off")]).unwrap_err();
    assert!(error.to_string().contains("it has no files to boot"), "{error}");
    let error = edit(&[append("atomos.composefs=Off")]).unwrap_err();
    assert!(error.to_string().contains("cannot be \"Off\""), "{error}");
    machine.assert_bootable();
    machine.assert_clean();
}

#[test]
fn a_word_that_is_not_understood_refuses_the_deploy_before_anything_is_written() {
    let machine = Machine::new();
    machine.commit("1", |tree| asks_for(tree, "requird"));
    let error = machine.try_to_deploy(&DeployOptions::default()).unwrap_err();
    assert!(matches!(error, SysrootError::NotDeployable { .. }), "{error}");
    assert!(
        error.to_string().contains("composefs cannot be \"requird\""),
        "{error}"
    );
    machine.commit("2", |tree| {
        fs::create_dir_all(tree.join("usr/lib/atomos/prepare-root.conf")).unwrap();
    });
    let error = machine.try_to_deploy(&DeployOptions::default()).unwrap_err();
    assert!(error.to_string().contains("is not a file"), "{error}");
    let deployments = machine.path("sysroot/atomos/deploy/os/deploy");
    assert_eq!(fs::read_dir(deployments).unwrap().count(), 0);
    assert!(machine.sysroot().repo().list_roots().unwrap().is_empty());
}

#[test]
fn upgrades_to_and_from_images_interrupted_anywhere_leave_the_old_version_or_the_new() {
    let operation = |machine: &Machine| {
        let report = machine.try_to_deploy(&DeployOptions::default())?;
        let hostname = fs::read_to_string(machine.root_of(&report).join("etc/hostname")).unwrap();
        assert_eq!(hostname, "mine\n");
        let image = machine.image_of(&report).exists();
        assert_eq!(image, report.root.has_image());
        Ok(())
    };
    survives_every_interruption_of(|_| (), required, 6, operation);
    survives_every_interruption_of(required, wanted, 6, operation);
    survives_every_interruption_of(required, |_| (), 6, operation);
}

#[test]
fn a_staged_image_interrupted_anywhere_is_finished_by_the_next_run() {
    let prepare = || {
        let machine = Machine::new();
        machine.commit("1", required);
        let one = machine.deploy("os");
        let host = machine.path("host");
        let running = machine.booted_from_image(&one, &host);
        fs::write(host.join(FINALIZER), "").unwrap();
        machine.commit("2", required);
        (machine, one, running)
    };
    let operation = |running: &Sysroot| -> Result<DeployReport, SysrootError> {
        let report = running.deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new())?;
        assert!(report.staged);
        let options = FinalizeOptions { at_shutdown: true };
        match running.finalize(&options, &NoProgress, &Cancel::new())? {
            FinalizeOutcome::Finished(report) => Ok(*report),
            other => panic!("{other:?}"),
        }
    };
    let (_machine, _, running) = prepare();
    let (points, result) = failpoint::trace(|| operation(&running).map(drop));
    result.unwrap();
    for point in [
        "deploy.image",
        "deploy.image-written",
        "deploy.image-named",
        "deploy.skeleton",
    ] {
        assert!(points.contains(&point), "{points:?}");
    }
    for (index, point) in points.iter().enumerate() {
        let (machine, one, running) = prepare();
        fs::write(machine.root_of(&one).join("etc/hostname"), "mine\n").unwrap();
        failpoint::stop_at(index, || operation(&running)).expect_err(point);
        machine.assert_bootable();
        running.recover_boot(&NoProgress).unwrap();
        // The next shutdown finishes what the record names; what it does not name is staged again.
        let options = FinalizeOptions { at_shutdown: true };
        let outcome = running.finalize(&options, &NoProgress, &Cancel::new()).unwrap();
        if matches!(outcome, FinalizeOutcome::NothingStaged)
            && running.state().unwrap().deployments.len() == 1
        {
            operation(&running).unwrap_or_else(|error| panic!("again after {point}: {error}"));
        }
        running
            .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        let state = running.state().unwrap();
        assert_eq!(state.deployments.len(), 2, "after {point}");
        let two = DeployReport {
            deployment: state.deployments[0].id.clone(),
            ..one
        };
        assert_eq!(
            machine.beside(&two),
            ["complete", "image", "image.json", "origin", "skeleton"],
            "after {point}"
        );
        assert_eq!(
            fs::read_to_string(machine.root_of(&two).join("etc/hostname")).unwrap(),
            "mine\n",
            "after {point}"
        );
        machine.assert_bootable();
        machine.assert_clean();
    }
}

#[test]
fn what_is_staged_is_made_anew_where_the_arguments_ask_for_another_root() {
    let machine = Machine::new();
    machine.commit("1", required);
    let one = machine.deploy("os");
    let host = machine.path("host");
    let running = machine.booted_from_image(&one, &host);
    assert_eq!(running.booted().unwrap().as_ref(), Some(&one.deployment));
    assert!(running.status().unwrap().deployments[0].image_booted);
    fs::write(host.join(FINALIZER), "").unwrap();
    machine.commit("2", required);
    let deploy = |options: &DeployOptions| {
        running
            .deploy("os", options, &NoProgress, &Cancel::new())
            .unwrap()
    };
    let staged = deploy(&DeployOptions::default());
    assert!(staged.staged && staged.root == RootKind::Image);
    let now = deploy(&DeployOptions {
        finish: Finish::Now,
        ..with_kargs(&["atomos.composefs=off"])
    });
    assert_eq!((now.root, now.staged), (RootKind::Files, false));
    assert_eq!(now.discarded.as_ref(), Some(&staged.deployment));
    assert!(machine.root_of(&now).join("usr/bin/tool").exists());
    assert_eq!(machine.beside(&staged), [""; 0]);
    machine.assert_bootable();
}

#[test]
fn an_undeployed_image_goes_and_one_that_is_lost_is_told_of() {
    let machine = Machine::new();
    machine.commit("1", required);
    let one = machine.deploy("os");
    machine.commit("2", required);
    let two = machine.deploy("os");
    fs::rename(machine.image_of(&one), machine.path("aside")).unwrap();
    let sysroot = machine.sysroot();
    let status = sysroot.status().unwrap();
    assert!(!status.deployments[1].complete && status.deployments[0].complete);
    assert!(
        status.warnings.iter().any(|text| text.contains("not whole")),
        "{:?}",
        status.warnings
    );
    let error = sysroot.rollback(None, &NoProgress).unwrap_err();
    assert!(error.to_string().contains("it is missing"), "{error}");
    fs::rename(machine.path("aside"), machine.image_of(&one)).unwrap();
    sysroot.rollback(None, &NoProgress).unwrap();
    sysroot
        .undeploy(&two.deployment.to_string(), &NoProgress)
        .unwrap();
    assert_eq!(machine.beside(&two), [""; 0]);
    assert_eq!(
        machine.beside(&one),
        ["complete", "image", "image.json", "origin", "skeleton"]
    );
    machine.assert_clean();
}

#[test]
fn what_an_interrupted_run_left_of_an_image_is_counted_and_removed() {
    let prepare = || {
        let machine = Machine::new();
        machine.commit("1", |_| ());
        machine.deploy("os");
        machine.commit("2", required);
        machine
    };
    let other = prepare();
    let (points, _) = failpoint::trace(|| other.deploy("os"));
    let machine = prepare();
    for stop in ["deploy.image-written", "deploy.image-recorded"] {
        let index = points.iter().position(|point| *point == stop).unwrap();
        failpoint::stop_at(index, || machine.try_to_deploy(&DeployOptions::default())).unwrap_err();
        let dry = CleanupOptions { dry_run: true };
        let sysroot = machine.sysroot();
        let report = sysroot.cleanup(&dry, &NoProgress, &Cancel::new()).unwrap();
        assert!(
            report.orphans.iter().any(|path| path.contains(".image")),
            "{report:?}"
        );
        assert!(report.orphan_bytes >= 4096, "{report:?}");
        sysroot
            .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        let left = fs::read_dir(machine.path("sysroot/atomos/deploy/os/deploy")).unwrap();
        assert_eq!(left.count(), 3, "directory, origin and marker of the first");
    }
}

#[test]
fn objects_and_the_image_are_read_back_from_the_disk() {
    let machine = Machine::new();
    machine.commit("1", required);
    let always = DeployOptions {
        read_back: ReadBack::Always,
        ..DeployOptions::default()
    };
    let one = machine.try_to_deploy(&always).unwrap();
    let read = one.read_back.unwrap();
    let image = one.image.as_ref().unwrap().bytes;
    assert!(read.files > 4 && read.bytes > image, "{read:?}");

    let sysroot = machine.sysroot();
    let deployments = sysroot.deployments_dir(&one.deployment.stateroot).unwrap();
    assert_eq!(
        sysroot.read_back_image(&one.deployment, &deployments).unwrap(),
        Some(image)
    );
    let path = machine.image_of(&one);
    let mut bytes = fs::read(&path).unwrap();
    bytes[2000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = sysroot
        .read_back_image(&one.deployment, &deployments)
        .unwrap_err();
    assert!(matches!(error, SysrootError::ImageDamaged { .. }), "{error}");

    machine.commit("2", |tree| {
        required(tree);
        fs::write(tree.join("usr/bin/new"), "a new tool\n").unwrap();
    });
    let blob = crate::digest::Digest::of(b"a new tool\n");
    let object = machine
        .path("sysroot/atomos/repo/objects")
        .join(crate::repo::object_path(&blob));
    fs::write(object, "a bad tool\n").unwrap();
    let error = machine.try_to_deploy(&always).unwrap_err();
    assert!(matches!(error, SysrootError::ReadBackDiffers { .. }), "{error}");
    assert_eq!(sysroot.state().unwrap().deployments.len(), 1);
}

#[test]
fn an_image_is_not_made_over_objects_that_are_missing_or_too_short() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    machine.commit("2", required);
    let blob = crate::digest::Digest::of(b"a tool\n");
    let object = machine
        .path("sysroot/atomos/repo/objects")
        .join(crate::repo::object_path(&blob));
    fs::write(&object, "a too\n").unwrap();
    let error = machine.try_to_deploy(&DeployOptions::default()).unwrap_err();
    assert!(error.to_string().contains("the tree records 7"), "{error}");
    fs::remove_file(&object).unwrap();
    let error = machine.try_to_deploy(&DeployOptions::default()).unwrap_err();
    assert!(error.to_string().contains(&blob.to_string()), "{error}");
    let left = fs::read_dir(machine.path("sysroot/atomos/deploy/os/deploy")).unwrap();
    assert_eq!(left.count(), 3, "directory, origin and marker of the first");
    fs::write(&object, "a tool\n").unwrap();
    machine.deploy("os");
}

#[test]
fn a_tree_that_no_image_can_have_has_its_files_where_an_image_is_only_wanted() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: making a device needs root");
        return;
    }
    let machine = Machine::new();
    let with_device = |tree: &Path| {
        let device = rustix::fs::makedev(0, 0);
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("usr/whiteout"), kind, mode, device).unwrap();
    };
    machine.commit("1", |tree| {
        wanted(tree);
        with_device(tree);
    });
    let one = machine.deploy("os");
    assert_eq!(one.image, None);
    assert_eq!(machine.beside(&one), ["complete", "origin"]);
    machine.commit("2", |tree| {
        required(tree);
        with_device(tree);
    });
    let error = machine.try_to_deploy(&DeployOptions::default()).unwrap_err();
    assert!(matches!(error, SysrootError::Composefs(_)), "{error}");
    assert_eq!(machine.beside(&one), ["complete", "origin"]);
    machine.assert_clean();
}

#[test]
fn an_image_shows_the_commit_and_its_usr_can_be_written_to_for_a_while() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let test = || {
        // Nobody else sees what is mounted in here.
        crate::fs::make_writable_in_private(&[]).unwrap();
        // EROFS takes no file that lies in memory.
        let machine = Machine::in_directory(tempfile::tempdir().unwrap());
        let commit = machine.commit("1", required);
        let one = machine.deploy("os");
        let host = machine.path("host");
        let running = machine.booted_from_image(&one, &host);
        let tree = match running.booted_tree(&one.deployment) {
            Err(error) if kernel_cannot(&error) => return,
            other => other.unwrap(),
        };
        let (root, metadata, _) = hash_directory(
            tree.try_clone().unwrap(),
            &ScanOptions::default(),
            &NoProgress,
            &Cancel::new(),
        )
        .unwrap();
        let commit = running.repo().load_commit(&commit).unwrap();
        let shown = RootTree::new(running.repo(), commit.root).unwrap();
        assert_eq!((root, &metadata), (shown.root(), &commit.root_metadata));
        assert!(shown.dirtree(&root).unwrap().get(b"etc").is_some());

        let usr = host.join("usr");
        fs::create_dir(&usr).unwrap();
        assert!(running.overlaid_usr().unwrap().is_none());
        assert!(running.overlay_usr().unwrap());
        assert!(
            !running.overlay_usr().unwrap(),
            "a second time there is nothing to do"
        );
        assert!(running.overlaid_usr().unwrap().is_some());
        assert_eq!(fs::read_to_string(usr.join("bin/tool")).unwrap(), "a tool\n");
        fs::write(usr.join("bin/tool"), "tried\n").unwrap();
        fs::write(usr.join("bin/other"), "new\n").unwrap();
        assert_eq!(fs::read_to_string(usr.join("bin/tool")).unwrap(), "tried\n");
        drop(tree);
        let again = running.booted_tree(&one.deployment).unwrap();
        assert_eq!(again.read("usr/bin/tool", 100).unwrap(), b"a tool\n");
        machine.assert_clean();
    };
    std::thread::spawn(test).join().unwrap();
}

/// The initramfs may have fallen back to one that the list of deployments has let go of: the objects are its files.
#[test]
fn what_runs_keeps_its_objects_and_can_be_left_though_no_list_has_it() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    let running = machine.booted_into(&one);
    let deploy = || {
        running
            .deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new())
            .unwrap()
    };
    machine.commit("2", |_| ());
    deploy();
    machine.commit("3", |_| ());
    deploy();
    let mut state = running.state().unwrap();
    let stranger = crate::DeploymentId {
        serial: 9,
        ..one.deployment.clone()
    };
    let target = state.rollback_target(Some(&stranger)).unwrap();
    assert_eq!(target.id, one.deployment);
    state.deployments.retain(|other| other.id != one.deployment);
    state
        .save(&Dir::open_ambient(machine.path("sysroot/atomos")).unwrap())
        .unwrap();
    running.recover_boot(&NoProgress).unwrap();
    running
        .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert!(running.repo().load_commit(&one.deployment.commit).is_ok());
}
