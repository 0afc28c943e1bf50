//! Which tests there are: a story, and the disk that it happens on.

use anyhow::Result;

use super::disk::Kind;
use super::lab::Stage;
use super::stories;

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The one that needs no network. Under four minutes.
    Smoke,
    /// What continuous integration runs. Under eight minutes.
    Quick,
    /// Everything. Under an hour.
    Whole,
}

/// A test.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name, by which it is chosen, and its directory is called.
    pub name: &'static str,
    /// What it shows, in one line.
    pub shows: &'static str,
    /// The disk that it happens on.
    pub kind: Kind,
    /// The runs that it is a part of.
    pub levels: &'static [Level],
    /// What happens.
    pub story: fn(Stage<'_>) -> Result<()>,
}

/// All tests, in the order in which they run.
pub const SCENARIOS: [Scenario; 11] = [
    Scenario {
        name: "smoke",
        shows: "boots; upgrades from its own repository; rolls back",
        kind: Kind::GRUB_EXT4,
        levels: &[Level::Smoke, Level::Whole],
        story: stories::smoke,
    },
    Scenario {
        name: "quick",
        shows: "boots; upgrades over HTTP; comes back by itself when the kernel panics; rolls back",
        kind: Kind::GRUB_EXT4,
        levels: &[Level::Quick],
        story: stories::http_and_panic,
    },
    Scenario {
        name: "http",
        shows: "the same, and comes back by itself when init hangs, and when a health check fails",
        kind: Kind::GRUB_EXT4,
        levels: &[Level::Whole],
        story: stories::http_and_all_that_fails,
    },
    Scenario {
        name: "emergency",
        shows: "as quick, but comes back by itself from emergency mode, where /boot cannot be mounted",
        kind: Kind::GRUB_EXT4,
        levels: &[Level::Whole],
        story: stories::http_and_emergency,
    },
    Scenario {
        name: "http-xfs",
        shows: "as quick, with GRUB on XFS",
        kind: Kind::GRUB_XFS,
        levels: &[Level::Whole],
        story: stories::http_and_panic,
    },
    Scenario {
        name: "http-uefi",
        shows: "as quick, with systemd-boot on an EFI system partition",
        kind: Kind::UEFI_BTRFS,
        levels: &[Level::Whole],
        story: stories::http_and_panic,
    },
    Scenario {
        name: "trouble",
        shows: "/boot full, disk full, clock at 1970, network gone in the middle",
        kind: Kind::GRUB_EXT4,
        levels: &[Level::Whole],
        story: stories::trouble,
    },
    Scenario {
        name: "trouble-uefi",
        shows: "the same with systemd-boot on an EFI system partition",
        kind: Kind::UEFI_BTRFS,
        levels: &[Level::Whole],
        story: stories::trouble,
    },
    Scenario {
        name: "dracut",
        shows: "goes over to a version that dracut's initramfs boots",
        kind: Kind::GRUB_EXT4,
        levels: &[Level::Whole],
        story: stories::dracut,
    },
    Scenario {
        name: "composefs",
        shows: "goes over to versions whose root is an image, comes back by itself from one that is damaged, and back to files",
        kind: Kind::GRUB_EXT4,
        levels: &[Level::Whole],
        story: stories::composefs,
    },
    Scenario {
        name: "sealed",
        shows: "goes over to versions that are verified when they boot and as they are read, and boots nothing that was tampered with",
        kind: Kind::GRUB_EXT4,
        levels: &[Level::Whole],
        story: stories::sealed,
    },
];

/// The tests of a level; or those that are named, wherever they belong.
///
/// # Errors
/// If there is none of that name.
pub fn select(level: Level, names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS
            .iter()
            .filter(|scenario| scenario.levels.contains(&level))
            .collect());
    }
    names
        .iter()
        .map(|name| {
            SCENARIOS
                .iter()
                .find(|scenario| scenario.name == name)
                .ok_or_else(|| anyhow::anyhow!("there is no test `{name}`; there are: {}", known()))
        })
        .collect()
}

fn known() -> String {
    SCENARIOS.map(|scenario| scenario.name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_every_test_is_a_part_of_the_whole_or_shared_by_a_smaller_run() {
        let mut names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SCENARIOS.len());
        for level in [Level::Smoke, Level::Quick, Level::Whole] {
            assert!(!select(level, &[]).unwrap().is_empty(), "{level:?}");
        }
        assert!(SCENARIOS.iter().all(|scenario| !scenario.levels.is_empty()));
    }

    #[test]
    fn a_test_is_found_by_its_name_and_another_name_is_an_error_that_lists_them() {
        let found = select(Level::Quick, &["smoke".to_owned()]).unwrap();
        assert_eq!(found.len(), 1);
        let error = select(Level::Quick, &["smoek".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("there are: smoke"), "{error}");
    }
}
