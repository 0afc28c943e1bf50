//! Deployments that are to be verified: what is sealed is what is made, and what would not boot is not made.

use super::*;
use crate::commit::{CommitError, CommitReport, Sealers};
use crate::composefs::{SEAL_KEY, Seal, VERITY_KEY, image_verity};
use crate::digest::BlobId;
use crate::format::MetadataValue;
use crate::fs::why_no_verity;
use crate::sign::{SecretKey, Signer};
use crate::sysroot::{ImageProblem, ImageRepairOptions, RootKind};

const CONF: &str = "usr/lib/atomos/prepare-root.conf";

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn sealed_by(seeds: &[u8]) -> CommitOptions {
    let mut sealers = Sealers::default();
    for seed in seeds {
        sealers.add(std::sync::Arc::new(key(*seed)));
    }
    CommitOptions {
        reference: Some("os".parse().unwrap()),
        version: "13.1".to_owned(),
        time: Some(0),
        sealers,
        ..CommitOptions::default()
    }
}

impl Machine {
    /// Makes a tree that asks for `word`, with these keys for its initramfs.
    fn tree(&self, word: &str, keys: &[u8]) -> PathBuf {
        // What makes one is a commit of it, which is not needed.
        self.commit("1", |tree| {
            fs::create_dir_all(tree.join("usr/lib/atomos/seal.d")).unwrap();
            fs::write(tree.join(CONF), format!("composefs = {word}\n")).unwrap();
            fs::write(tree.join("usr/lib/atomos/seal.d/README"), "keys").unwrap();
            for seed in keys {
                let path = tree.join(format!("usr/lib/atomos/seal.d/{seed}.pub"));
                fs::write(path, key(*seed).public().to_pem()).unwrap();
            }
        });
        self.path("tree-1")
    }

    fn try_to_commit(&self, tree: &Path, options: &CommitOptions) -> Result<CommitReport, CommitError> {
        let source = Dir::open_ambient(tree).unwrap();
        commit(
            self.sysroot().repo(),
            source,
            options,
            &NoProgress,
            &Cancel::new(),
        )
    }

    fn refusal(&self) -> SysrootError {
        let before = self.listing();
        let options = DeployOptions::default();
        let error = self
            .sysroot()
            .deploy("os", &options, &NoProgress, &Cancel::new())
            .unwrap_err();
        assert_eq!(self.listing(), before, "nothing is made: {error}");
        error
    }

    fn listing(&self) -> Vec<PathBuf> {
        let mut names = Vec::new();
        for dir in [
            "sysroot/atomos/deploy/os/deploy",
            "sysroot/atomos/repo",
            "sysroot/atomos/repo/roots",
        ] {
            let entries = fs::read_dir(self.path(dir)).unwrap();
            names.extend(entries.map(|entry| entry.unwrap().path()));
        }
        names.sort();
        names
    }

    fn has_verity(&self) -> bool {
        let why = why_no_verity(self.sysroot().repo().dir()).unwrap();
        if let Some((reason, _)) = &why {
            eprintln!("skipped in part: {reason}");
        }
        why.is_none()
    }
}

#[test]
fn what_is_sealed_is_the_image_that_a_machine_makes() {
    let machine = Machine::new();
    let tree = machine.tree("required", &[]);
    let report = machine.try_to_commit(&tree, &sealed_by(&[1, 2])).unwrap();
    let again = machine
        .try_to_commit(
            &tree,
            &CommitOptions {
                parent: crate::commit::Parent::Commit(
                    machine
                        .sysroot()
                        .repo()
                        .load_commit(&report.commit)
                        .unwrap()
                        .parent
                        .unwrap(),
                ),
                threads: Some(1),
                no_cache: true,
                ..sealed_by(&[1, 2])
            },
        )
        .unwrap();
    assert_eq!(
        report.commit, again.commit,
        "a seal depends on the tree and the keys alone"
    );
    let loaded = machine.sysroot().repo().load_commit(&report.commit).unwrap();
    let seal = Seal::of_commit(&loaded).unwrap().unwrap();
    for seed in [1, 2] {
        assert!(seal.signer_among([&key(seed).public()]).is_some());
    }
    assert_eq!(seal.sealed.tree, report.root);
    assert_eq!(report.image_verity, Some(seal.sealed.image));
    let deployed = machine.deploy("os");
    assert_eq!(deployed.root, RootKind::Image);
    assert_eq!(deployed.image.unwrap().verity, Some(seal.sealed.image));
}

#[test]
fn digests_alone_are_recorded_without_a_key_and_nothing_without_being_asked() {
    let machine = Machine::new();
    let tree = machine.tree("required", &[]);
    let options = CommitOptions {
        verity: true,
        ..sealed_by(&[])
    };
    let report = machine.try_to_commit(&tree, &options).unwrap();
    let sysroot = machine.sysroot();
    let loaded = sysroot.repo().load_commit(&report.commit).unwrap();
    assert_eq!(image_verity(&loaded).unwrap(), report.image_verity);
    assert!(loaded.metadata.contains_key(VERITY_KEY) && !loaded.metadata.contains_key(SEAL_KEY));
    let plain = machine.try_to_commit(&tree, &sealed_by(&[])).unwrap();
    let loaded = sysroot.repo().load_commit(&plain.commit).unwrap();
    assert!(loaded.metadata.is_empty());
    assert_ne!(plain.root, report.root);
    let deployed = machine.deploy("os");
    assert_eq!(deployed.image.unwrap().verity, None, "it says nothing of files");
}

#[test]
fn an_unchanged_tree_is_committed_again_only_for_a_seal_that_it_lacks() {
    let machine = Machine::new();
    let tree = machine.tree("required", &[]);
    let commit_by = |seeds: &[u8]| {
        let options = CommitOptions {
            skip_if_unchanged: true,
            ..sealed_by(seeds)
        };
        machine.try_to_commit(&tree, &options).unwrap().commit
    };
    let one = commit_by(&[1]);
    assert_eq!(commit_by(&[1]), one);
    let both = commit_by(&[1, 2]);
    assert_ne!(both, one);
    assert_eq!(commit_by(&[2]), both);
    assert_ne!(commit_by(&[3]), both);
}

#[test]
fn what_cannot_be_deployed_is_not_sealed() {
    let machine = Machine::new();
    let tree = machine.tree("required", &[]);
    fs::create_dir(tree.join("etc")).unwrap();
    let error = machine.try_to_commit(&tree, &sealed_by(&[1])).unwrap_err();
    assert!(matches!(error, CommitError::NotSealable { .. }), "{error}");
    let options = CommitOptions {
        verity: true,
        ..sealed_by(&[])
    };
    let report = machine.try_to_commit(&tree, &options).unwrap();
    assert_eq!(report.image_verity, None);
}

#[test]
fn what_would_not_boot_is_refused_before_anything_is_made() {
    let machine = Machine::new();
    let tree = machine.tree("verified", &[1, 2]);
    machine.try_to_commit(&tree, &sealed_by(&[])).unwrap();
    let error = machine.refusal();
    assert!(error.to_string().contains("it is not sealed"), "{error}");
    machine.try_to_commit(&tree, &sealed_by(&[3])).unwrap();
    let error = machine.refusal();
    assert!(
        error.to_string().contains(&key(3).public().id().to_string()),
        "{error}"
    );
    // The seal of another version.
    let report = machine.try_to_commit(&tree, &sealed_by(&[1])).unwrap();
    let sysroot = machine.sysroot();
    let mut loaded = sysroot.repo().load_commit(&report.commit).unwrap();
    loaded.version = "13.2".to_owned();
    let transaction = sysroot.repo().begin().unwrap();
    let id = transaction.store_commit(&loaded).unwrap();
    transaction.set_ref(RefUpdate {
        name: "os".parse().unwrap(),
        expected: None,
        new: Some(id),
    });
    transaction.commit().unwrap();
    let error = machine.refusal();
    assert!(error.to_string().contains("it is of version \"13.1\""), "{error}");
}

/// `atomos-prepare-root` reads keys as text, and demands a seal by one of them where there is a file that should be one.
#[test]
fn a_key_that_would_not_count_when_it_boots_does_not_count_before() {
    use base64::Engine as _;
    let machine = Machine::new();
    let wire = [
        &b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..],
        key(1).public().as_bytes(),
    ]
    .concat();
    let line = format!(
        "ssh-ed25519 {}",
        base64::engine::general_purpose::STANDARD.encode(wire)
    );
    let tree = machine.tree("verified", &[]);
    let path = tree.join("usr/lib/atomos/seal.d/1.pub");
    for bytes in [[line.as_bytes(), b" Andr\xe9\n"].concat(), Vec::new()] {
        fs::write(&path, bytes).unwrap();
        machine.try_to_commit(&tree, &sealed_by(&[1])).unwrap();
        let error = machine.refusal().to_string();
        assert!(error.contains("is an ed25519 public key"), "{error}");
    }
    fs::write(&path, format!("{line} Andre\n")).unwrap();
    machine.try_to_commit(&tree, &sealed_by(&[1])).unwrap();
    if machine.has_verity() {
        machine.deploy("os");
    } else {
        assert!(matches!(machine.refusal(), SysrootError::NoVerity { .. }));
    }
}

#[test]
fn a_file_system_that_cannot_verify_is_one_error_and_one_that_can_gets_a_seal() {
    let machine = Machine::new();
    let tree = machine.tree("verified", &[1]);
    let report = machine.try_to_commit(&tree, &sealed_by(&[1])).unwrap();
    if !machine.has_verity() {
        let error = machine.refusal();
        assert!(matches!(error, SysrootError::NoVerity { .. }), "{error}");
        return;
    }
    let deployed = machine.deploy("os");
    assert_eq!(deployed.root, RootKind::VerifiedImage);
    let status = machine.sysroot().status().unwrap();
    assert_eq!(status.deployments[0].sealed_by, [key(1).public().id()]);
    let again = machine.deploy(&report.commit.to_string());
    assert_eq!(again.image, deployed.image);
}

/// As a machine that can would have made it; what boots is not asked here.
#[test]
fn a_seal_beside_the_image_says_what_the_deployment_is_and_which_arguments_fit() {
    let machine = Machine::new();
    let tree = machine.tree("required", &[]);
    let report = machine.try_to_commit(&tree, &sealed_by(&[1])).unwrap();
    let deployed = machine.deploy("os");
    let sysroot = machine.sysroot();
    let loaded = sysroot.repo().load_commit(&report.commit).unwrap();
    let Some(MetadataValue::Text(seal)) = loaded.metadata.get(SEAL_KEY) else {
        panic!("it is sealed");
    };
    let path = machine.root_of(&deployed);
    let path = path.with_file_name(format!("{}.seal", deployed.deployment.dir_name()));
    fs::write(&path, seal).unwrap();
    let status = sysroot.status().unwrap();
    assert_eq!(status.deployments[0].root, RootKind::VerifiedImage);
    assert_eq!(status.deployments[0].sealed_by, [key(1).public().id()]);
    assert_eq!(status.deployments[0].verified_by, None);
    machine
        .sysroot()
        .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert!(path.exists(), "it is the deployment's");
}

/// As a machine that can would have made it: the seal is compared with the commit's, and what the kernel verifies only where it can say.
#[test]
fn a_seal_that_is_damaged_or_lost_is_found_and_written_again_where_the_kernel_can_verify() {
    let machine = Machine::new();
    let tree = machine.tree("required", &[]);
    let report = machine.try_to_commit(&tree, &sealed_by(&[1])).unwrap();
    let deployed = machine.deploy("os");
    let sysroot = machine.sysroot();
    let loaded = sysroot.repo().load_commit(&report.commit).unwrap();
    let seal = Seal::of_commit(&loaded).unwrap().unwrap().encode();
    let path = machine.root_of(&deployed);
    let path = path.with_file_name(format!("{}.seal", deployed.deployment.dir_name()));
    // Nobody has had the files verified.
    let is_of_files = |problem: &ImageProblem| matches!(problem, ImageProblem::UnverifiedFiles { .. });
    let problems = || -> Vec<ImageProblem> {
        let report = machine
            .sysroot()
            .check_images(&NoProgress, &Cancel::new())
            .unwrap();
        let problems = report.findings.into_iter().map(|finding| finding.problem);
        problems.filter(|problem| !is_of_files(problem)).collect()
    };
    assert_eq!(problems(), [], "nothing asks for a seal");
    fs::write(&path, &seal).unwrap();
    let not_verified = match machine.has_verity() {
        true => vec![ImageProblem::WrongVerity {
            sealed: report.image_verity.unwrap(),
            found: None,
        }],
        false => Vec::new(),
    };
    assert_eq!(problems(), not_verified);
    let with_seal = [&not_verified[..], &[ImageProblem::WrongSeal]].concat();
    fs::write(&path, &seal[1..]).unwrap();
    assert_eq!(problems(), with_seal);
    // What was made to be verified, and has no seal any more.
    fs::remove_file(&path).unwrap();
    assert_eq!(problems(), []);
    let truth = machine.path("sysroot/atomos/deployments.json");
    let text = fs::read_to_string(&truth).unwrap();
    fs::write(
        &truth,
        text.replace("root=LABEL=root", "atomos.composefs=verified"),
    )
    .unwrap();
    assert_eq!(problems(), with_seal);
    let repaired = machine
        .sysroot()
        .repair_images(&ImageRepairOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    match machine.has_verity() {
        true => {
            assert_eq!((repaired.repaired.len(), repaired.lost.len()), (1, 0));
            assert_eq!(fs::read(&path).unwrap(), seal);
            assert_eq!(problems(), []);
        }
        false => {
            assert_eq!((repaired.repaired.len(), repaired.lost.len()), (0, 1));
            let reason = &repaired.lost[0].reason;
            assert!(reason.contains("cannot do that"), "{reason}");
            assert_eq!(problems(), with_seal);
        }
    }
}

#[test]
fn a_verified_root_that_was_tampered_with_is_found_and_repaired_from_wherever_that_was_interrupted() {
    let prepare = || {
        let machine = Machine::new();
        let tree = machine.tree("verified", &[1]);
        let report = machine.try_to_commit(&tree, &sealed_by(&[1])).unwrap();
        machine.has_verity().then_some((machine, report))
    };
    let Some((machine, report)) = prepare() else {
        return;
    };
    let tamper = |machine: &Machine, deployed: &DeployReport| {
        let replace = |path: &Path| {
            // The same bytes, in a file that the kernel does not verify.
            let bytes = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            fs::write(path, bytes).unwrap();
        };
        replace(&machine.image_of(deployed));
        let blob = crate::digest::Digest::of(b"keys");
        let objects = machine.path("sysroot/atomos/repo/objects");
        replace(&objects.join(crate::repo::object_path(&blob)));
        fs::remove_file(machine.image_of(deployed).with_extension("seal")).unwrap();
        BlobId::new(blob)
    };
    let problems = |machine: &Machine| -> Vec<ImageProblem> {
        let report = machine
            .sysroot()
            .check_images(&NoProgress, &Cancel::new())
            .unwrap();
        report
            .findings
            .into_iter()
            .map(|finding| finding.problem)
            .collect()
    };
    let repair = |machine: &Machine| {
        machine
            .sysroot()
            .repair_images(&ImageRepairOptions::default(), &NoProgress, &Cancel::new())
    };
    let deployed = machine.deploy("os");
    assert_eq!(problems(&machine), []);
    let blob = tamper(&machine, &deployed);
    let sealed = report.image_verity.unwrap();
    assert_eq!(
        problems(&machine),
        [
            ImageProblem::WrongVerity { sealed, found: None },
            ImageProblem::WrongSeal,
            ImageProblem::UnverifiedFiles {
                files: 1,
                first: blob
            }
        ]
    );
    let (points, repaired) = failpoint::trace(|| repair(&machine));
    assert_eq!(repaired.unwrap().repaired.len(), 1);
    assert_eq!(problems(&machine), []);
    assert_eq!(
        points,
        [
            "made",
            "synced",
            "renamed",
            "recorded",
            "sealed",
            "durable",
            "verity-files",
            "verified"
        ]
        .map(|point| format!("repair-image.{point}"))
    );
    for (index, point) in points.iter().enumerate() {
        let (machine, _) = prepare().unwrap();
        let deployed = machine.deploy("os");
        tamper(&machine, &deployed);
        failpoint::stop_at(index, || repair(&machine)).expect_err(point);
        repair(&machine).unwrap();
        assert_eq!(problems(&machine), [], "after {point}");
        let status = machine.sysroot().status().unwrap();
        assert_eq!(
            status.deployments[0].root,
            RootKind::VerifiedImage,
            "after {point}"
        );
        machine.assert_bootable();
    }
}
