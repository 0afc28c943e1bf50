//! Images that are not what they were made as: how they are found, and made anew.

use super::images::{required, wanted};
use super::*;
use crate::composefs::ImageReport;
use crate::sysroot::{ImageProblem, ImageRepairOptions, ImagesRepair, ImagesReport};

impl Machine {
    fn check_images(&self) -> ImagesReport {
        self.sysroot().check_images(&NoProgress, &Cancel::new()).unwrap()
    }

    fn repair_images(&self) -> ImagesRepair {
        self.sysroot()
            .repair_images(&ImageRepairOptions::default(), &NoProgress, &Cancel::new())
            .unwrap()
    }

    /// What is wrong, by the names that programs read.
    fn problems(&self) -> Vec<String> {
        let of = |finding: &crate::sysroot::ImageFinding| {
            let json = serde_json::to_value(finding).unwrap();
            json["problem"].as_str().unwrap().to_owned()
        };
        self.check_images().findings.iter().map(of).collect()
    }

    fn record_of(&self, report: &DeployReport) -> PathBuf {
        let mut name = self.image_of(report).into_os_string();
        name.push(".json");
        name.into()
    }

    /// A machine that has a deployment of files, one of an image, and one of both.
    fn of_each_kind() -> (Self, DeployReport, DeployReport) {
        let machine = Self::new();
        machine.commit("1", |_| ());
        machine.deploy("os");
        machine.commit("2", required);
        let image = machine.deploy("os");
        machine.commit("3", wanted);
        let both = machine.sysroot().deploy(
            "os",
            &DeployOptions {
                keep: Some(3),
                ..DeployOptions::default()
            },
            &NoProgress,
            &Cancel::new(),
        );
        (machine, image, both.unwrap())
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn sound_images_are_looked_at_and_files_have_none() {
    let (machine, image, both) = Machine::of_each_kind();
    let report = machine.check_images();
    assert_eq!((report.checked, report.findings.as_slice()), (2, &[][..]));
    let bytes = |report: &DeployReport| report.image.as_ref().unwrap().bytes;
    assert_eq!(report.bytes, bytes(&image) + bytes(&both));
    let before = fs::metadata(machine.image_of(&image)).unwrap();
    assert!(machine.repair_images().repaired.is_empty());
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        fs::metadata(machine.image_of(&image)).unwrap().ino(),
        before.ino()
    );
}

#[test]
fn whatever_is_damaged_is_named_and_made_as_it_was() {
    type Damage = fn(&Machine, &DeployReport);
    let damages: [(&[&str], Damage); 7] = [
        (&["wrong-digest"], |machine, report| {
            flip(&machine.image_of(report), 2000)
        }),
        (&["wrong-digest"], |machine, report| {
            fs::write(machine.image_of(report), "").unwrap();
        }),
        (&["missing"], |machine, report| {
            fs::remove_file(machine.image_of(report)).unwrap();
        }),
        (&["unreadable"], |machine, report| {
            fs::remove_file(machine.image_of(report)).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", machine.image_of(report)).unwrap();
        }),
        (&["malformed"], |machine, report| {
            fs::remove_file(machine.record_of(report)).unwrap();
        }),
        (&["malformed"], |machine, report| {
            fs::write(machine.record_of(report), "{\"bytes\": ").unwrap();
        }),
        // A record that is damaged and can be read says that the image is.
        (&["wrong-digest"], |machine, report| {
            let mut record: ImageReport =
                serde_json::from_slice(&fs::read(machine.record_of(report)).unwrap()).unwrap();
            record.digest = crate::digest::Digest::of(b"another");
            fs::write(machine.record_of(report), serde_json::to_vec(&record).unwrap()).unwrap();
        }),
    ];
    let (machine, image, both) = Machine::of_each_kind();
    let files = |report: &DeployReport| {
        [machine.image_of(report), machine.record_of(report)].map(|path| fs::read(path).unwrap())
    };
    let (good_image, good_both) = (files(&image), files(&both));
    for (number, (expected, damage)) in damages.into_iter().enumerate() {
        damage(&machine, &image);
        assert_eq!(machine.problems(), expected, "damage {number}");
        // A dry run finds out, and changes nothing.
        let dry = ImageRepairOptions { dry_run: true };
        let before = machine.listing_of_deployments();
        let plan = machine
            .sysroot()
            .repair_images(&dry, &NoProgress, &Cancel::new())
            .unwrap();
        assert_eq!((plan.repaired.len(), plan.lost.len()), (1, 0), "damage {number}");
        assert_eq!(machine.problems(), expected, "damage {number}");
        assert_eq!(machine.listing_of_deployments(), before);

        let report = machine.repair_images();
        assert_eq!(report.repaired.len(), 1, "damage {number}: {report:?}");
        assert_eq!(report.repaired[0].deployment, image.deployment);
        assert!(!report.repaired[0].booted && report.lost.is_empty());
        assert_eq!(files(&image), good_image, "damage {number}");
        assert_eq!(files(&both), good_both, "damage {number}");
        assert_eq!(machine.problems(), [""; 0], "damage {number}");
        machine.assert_bootable();
        machine.assert_clean();
    }
}

impl Machine {
    fn listing_of_deployments(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("sysroot/atomos/deploy/os/deploy")).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn the_image_of_a_version_that_was_given_up_is_nobodys() {
    let (machine, image, _) = Machine::of_each_kind();
    flip(&machine.image_of(&image), 2000);
    let sysroot = machine.sysroot();
    let mut state = sysroot.state().unwrap();
    state
        .deployments
        .retain(|deployment| deployment.id != image.deployment);
    state.save(&sysroot.atomos).unwrap();
    fs::write(machine.root_of(&image).with_extension("0.bad"), "").unwrap();
    // An entry leads to it still.
    assert_eq!(machine.problems(), ["wrong-digest"]);
    sysroot.recover_boot(&NoProgress).unwrap();
    assert_eq!(machine.problems(), [""; 0]);
    assert!(machine.repair_images().repaired.is_empty());
    // One that is not bad might take the place of another.
    fs::remove_file(machine.root_of(&image).with_extension("0.bad")).unwrap();
    assert_eq!(machine.problems(), ["wrong-digest"]);
    sysroot
        .cleanup(&Default::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert_eq!(machine.problems(), [""; 0]);
    machine.assert_bootable();
}

#[test]
fn an_image_that_another_version_laid_out_otherwise_is_no_damage() {
    let (machine, image, _) = Machine::of_each_kind();
    // Bytes at the end that this version does not write, and the record of them.
    let path = machine.image_of(&image);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(&[0; 4096]);
    fs::write(&path, &bytes).unwrap();
    let mut record: ImageReport =
        serde_json::from_slice(&fs::read(machine.record_of(&image)).unwrap()).unwrap();
    (record.bytes, record.digest) = (bytes.len() as u64, crate::digest::Digest::of(&bytes));
    fs::write(machine.record_of(&image), serde_json::to_vec(&record).unwrap()).unwrap();
    assert_eq!(machine.problems(), [""; 0]);
    assert!(machine.repair_images().repaired.is_empty());
    assert_eq!(fs::read(&path).unwrap(), bytes);
    // Damaged, it is made as this version makes it, with a record of that.
    flip(&path, 2000);
    assert_eq!(machine.problems(), ["wrong-digest"]);
    assert_eq!(machine.repair_images().repaired.len(), 1);
    assert_eq!(fs::metadata(&path).unwrap().len(), image.image.unwrap().bytes);
    assert_eq!(machine.problems(), [""; 0]);
}

#[test]
fn a_repair_of_an_image_interrupted_anywhere_leaves_it_as_bad_or_better_and_the_next_goes_on() {
    let damaged = || {
        let (machine, image, _) = Machine::of_each_kind();
        let good = fs::read(machine.image_of(&image)).unwrap();
        flip(&machine.image_of(&image), 2000);
        // Of another digest than is made: all that lies beside it has to follow.
        fs::write(machine.record_of(&image), "").unwrap();
        (machine, image, good)
    };
    let (machine, ..) = damaged();
    let repair = |machine: &Machine| {
        machine
            .sysroot()
            .repair_images(&ImageRepairOptions::default(), &NoProgress, &Cancel::new())
    };
    let (points, result) = failpoint::trace(|| repair(&machine));
    result.unwrap();
    assert_eq!(
        points,
        ["made", "synced", "renamed", "recorded", "durable"].map(|point| format!("repair-image.{point}"))
    );
    for (index, point) in points.iter().enumerate() {
        let (machine, image, good) = damaged();
        let bad = fs::read(machine.image_of(&image)).unwrap();
        failpoint::stop_at(index, || repair(&machine)).expect_err(point);
        let now = fs::read(machine.image_of(&image)).unwrap();
        assert!(now == bad || now == good, "after {point}");
        machine.assert_bootable();
        repair(&machine).unwrap();
        assert_eq!(machine.problems(), [""; 0], "after {point}");
        assert_eq!(fs::read(machine.image_of(&image)).unwrap(), good, "after {point}");
        assert!(
            machine
                .listing_of_deployments()
                .iter()
                .all(|name| !name.starts_with('.')),
            "after {point}"
        );
    }
    // What an interrupted repair left and no other takes up is an orphan.
    let (machine, image, _) = damaged();
    failpoint::stop_at(1, || repair(&machine)).unwrap_err();
    let left = |machine: &Machine| {
        machine
            .listing_of_deployments()
            .iter()
            .filter(|name| name.starts_with('.'))
            .count()
    };
    assert_eq!(left(&machine), 1);
    let options = CleanupOptions::default();
    machine
        .sysroot()
        .cleanup(&options, &NoProgress, &Cancel::new())
        .unwrap();
    assert_eq!(left(&machine), 0);
    assert!(machine.image_of(&image).exists());
}

#[test]
fn an_image_whose_directories_are_lost_is_named_and_the_others_are_made() {
    let (machine, image, both) = Machine::of_each_kind();
    flip(&machine.image_of(&image), 2000);
    flip(&machine.image_of(&both), 2000);
    let sysroot = machine.sysroot();
    let commit = sysroot.repo().load_commit(&image.deployment.commit).unwrap();
    let root = machine
        .path("sysroot/atomos/repo/dirtrees")
        .join(crate::repo::object_path(commit.root.digest()));
    let bytes = fs::read(&root).unwrap();
    fs::remove_file(&root).unwrap();
    let report = machine.repair_images();
    assert_eq!(report.repaired.len(), 1, "{report:?}");
    assert_eq!(report.repaired[0].deployment, both.deployment);
    assert_eq!(report.lost.len(), 1);
    assert_eq!(report.lost[0].deployment, image.deployment);
    assert!(
        report.lost[0].reason.contains(&commit.root.to_string()),
        "{report:?}"
    );
    assert!(
        machine
            .listing_of_deployments()
            .iter()
            .all(|name| !name.starts_with('.'))
    );
    fs::write(&root, bytes).unwrap();
    // Which image is right does not depend on whether a file is there.
    let blob = crate::digest::Digest::of(b"a tool\n");
    let object = machine
        .path("sysroot/atomos/repo/objects")
        .join(crate::repo::object_path(&blob));
    fs::remove_file(object).unwrap();
    assert_eq!(machine.repair_images().repaired.len(), 1);
    assert_eq!(machine.problems(), [""; 0]);
}

#[test]
fn what_is_staged_is_looked_at_and_what_runs_is_replaced_beside_itself() {
    use crate::sysroot::FINALIZER;
    let machine = Machine::new();
    machine.commit("1", required);
    let one = machine.deploy("os");
    let host = machine.path("host");
    let running = machine.booted_from_image(&one, &host);
    fs::write(host.join(FINALIZER), "").unwrap();
    machine.commit("2", required);
    let two = running
        .deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert!(two.staged);
    for report in [&one, &two] {
        flip(&machine.image_of(report), 2000);
    }
    let open = fs::File::open(machine.image_of(&one)).unwrap();
    let report = running
        .repair_images(&ImageRepairOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    let booted: Vec<_> = report
        .repaired
        .iter()
        .map(|one| (&one.deployment, one.booted))
        .collect();
    let mut expected = [(&one.deployment, true), (&two.deployment, false)];
    expected.sort();
    assert_eq!(booted, expected);
    // Who has it open goes on reading what it was.
    use std::os::unix::fs::MetadataExt;
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    assert_eq!(machine.problems(), [""; 0]);
    // A truth that cannot be read hides no damage of what is finished.
    flip(&machine.image_of(&one), 2000);
    fs::write(machine.path("sysroot/atomos/deployments.json"), "{").unwrap();
    let found = running
        .check_images(&NoProgress, &Cancel::new())
        .unwrap()
        .findings;
    assert_eq!(found.len(), 1);
    assert!(
        matches!(found[0].problem, ImageProblem::WrongDigest { .. }),
        "{found:?}"
    );
}

#[test]
fn a_deployment_that_was_never_finished_is_none() {
    let (machine, image, _) = Machine::of_each_kind();
    flip(&machine.image_of(&image), 2000);
    let marker = machine.root_of(&image);
    let marker = marker.with_file_name(format!("{}.complete", image.deployment.dir_name()));
    fs::remove_file(marker).unwrap();
    let report = machine.check_images();
    assert_eq!((report.checked, report.findings.len()), (1, 0));
}

#[test]
fn a_repository_that_has_no_deployments_beside_it_yet_has_no_images() {
    let machine = Machine::new();
    fs::remove_dir_all(machine.path("sysroot/atomos/deploy")).unwrap();
    assert_eq!(machine.check_images(), ImagesReport::default());
    assert_eq!(machine.repair_images(), ImagesRepair::default());
}
