//! What stands in the way of a deployment, and the next command to try.

use std::path::Path;

use libatomos::boot::BootError;
use libatomos::composefs::ComposefsError;
use libatomos::etc_merge::EtcMergeError;
use libatomos::health::HealthError;
use libatomos::sysroot::SysrootError;

use crate::output::text::shell_word;

use super::store::hint_for_lock;
use super::{CliError, shown};

impl From<HealthError> for CliError {
    fn from(error: HealthError) -> Self {
        Self::new(error.kind(), error, None)
    }
}

impl From<SysrootError> for CliError {
    fn from(error: SysrootError) -> Self {
        match error {
            SysrootError::Repo(error) => error.into(),
            SysrootError::Pull(error) => (*error).into(),
            SysrootError::Checkout(error) => error.into(),
            SysrootError::Composefs(ComposefsError::Repo(error)) => error.into(),
            SysrootError::Composefs(ComposefsError::Fs(error)) => error.into(),
            SysrootError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_sysroot(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

fn hint_for_sysroot(error: &SysrootError) -> Option<String> {
    Some(match error {
        SysrootError::NotASysroot { path, .. } => {
            format!("`atomos sysroot init --sysroot {}` makes one", shown(path))
        }
        SysrootError::StaterootNotFound { name, .. } => {
            format!("`atomos stateroot init {name}` makes it")
        }
        SysrootError::StaterootNotNamed { count: 0, .. } => {
            "`atomos stateroot init default` makes one".to_owned()
        }
        SysrootError::StaterootNotNamed { .. } => "name one with --stateroot NAME".to_owned(),
        SysrootError::DeploymentNotFound { .. }
        | SysrootError::AmbiguousDeployment { .. }
        | SysrootError::NothingToRollBackTo => "`atomos status` lists the deployments".to_owned(),
        SysrootError::AmbiguousVersion { .. } => "name one by its digest".to_owned(),
        SysrootError::NotFinished { .. } => {
            "`atomos finalize` finishes it, `atomos undeploy staged` gives it up".to_owned()
        }
        SysrootError::BootNotMounted { path } => format!(
            "mount it: mount {0}; or, if the loader reads this directory from now on: atomos boot recover --directory",
            shown(path)
        ),
        SysrootError::ChangedMeanwhile { .. } => {
            "nothing was deployed; `atomos status` shows what there is, and the same command starts from there".to_owned()
        }
        SysrootError::OthersEntry { paths, .. } => {
            let paths: Vec<_> = paths.iter().map(|path| shell_word(path)).collect();
            format!(
                "give this one another name: --stateroot NAME; or, where the other system is gone or is this one, made anew, remove its entries: rm {}",
                paths.join(" ")
            )
        }
        SysrootError::DamagedState { path, .. } if path.ends_with("staged.json") => {
            "`atomos undeploy staged` gives it up; then run the command again".to_owned()
        }
        SysrootError::DamagedState { path, .. } if path.ends_with("deployments.json") => {
            "`atomos boot recover --from-entries` makes the list anew from what /boot boots".to_owned()
        }
        SysrootError::KargsDoNotFit { id, .. } => format!(
            "deploy it anew with that argument: atomos deploy {} --karg atomos.composefs=WORD",
            id.commit.short()
        ),
        SysrootError::OwnKarg { .. } => {
            "leave it out; `atomos deploy` and `atomos rollback` choose what boots".to_owned()
        }
        SysrootError::Composefs(ComposefsError::NotInImages { .. } | ComposefsError::TooLarge) => {
            "`--karg atomos.composefs=off` deploys its files".to_owned()
        }
        SysrootError::Composefs(ComposefsError::Kernel { .. }) => {
            "docs/composefs.md says what an image needs of the kernel".to_owned()
        }
        SysrootError::ImageDamaged { .. } => {
            "the disk or the memory is failing: `atomos fsck` says what else is damaged; deploying the commit again makes another image"
                .to_owned()
        }
        SysrootError::NoVerity {
            device: Some(device), ..
        } => format!("give it the feature: tune2fs -O verity {}", shown(device)),
        SysrootError::NoVerity { .. } => "docs/composefs.md says what it takes".to_owned(),
        SysrootError::VerityDiffers { .. } => {
            "`atomos fsck` says whether the file or what its tree records is wrong, and `atomos fsck --repair` fetches it anew"
                .to_owned()
        }
        SysrootError::ReadBackDiffers { .. } => {
            "the disk or the memory is failing: nothing was switched; `atomos fsck` says what else is damaged"
                .to_owned()
        }
        SysrootError::InUse { reason, id, .. } if *reason == "pinned" => {
            format!("`atomos unpin {}` lets it go", id.short())
        }
        SysrootError::NotDeployable { commit, .. } => {
            format!(
                "`atomos lint {}` says what a deployable tree needs",
                commit.short()
            )
        }
        SysrootError::NotInstallable { .. } => {
            "`atomos install --help` says what has to be mounted, and which options take what is there as it is"
                .to_owned()
        }
        SysrootError::NoPlaceForGrub { .. } => {
            "name the disk that a BIOS starts with --grub-device DISK; for UEFI, mount the EFI system partition at boot/efi in DIR; \
             --bootloader none installs none, and --grub-config-only is for a GRUB that is there"
                .to_owned()
        }
        SysrootError::NoOrigin { .. } => "`atomos switch REF` makes it follow one".to_owned(),
        SysrootError::Lock(error) => return hint_for_lock(error),
        SysrootError::Boot(BootError::NoSpace { path, droppable, .. }) if droppable.is_empty() => {
            format!("make room in {}: nothing of what atomos has there can go", shown(path))
        }
        SysrootError::Boot(BootError::NoSpace { .. }) => {
            "remove a deployment with `atomos undeploy ID`, then run the command again".to_owned()
        }
        SysrootError::Boot(BootError::NoKernel { .. } | BootError::NotAFile { .. }) => {
            "`atomos lint REV` says what a deployable tree needs".to_owned()
        }
        SysrootError::Boot(_) => "`atomos boot recover` writes /boot again".to_owned(),
        SysrootError::EtcMerge(EtcMergeError::LocalChanges { path, .. }) => {
            let word = shell_word(&Path::new("/etc").join(path.as_path()));
            format!(
                "name a path in it; or `atomos etc reset {word} --recursive --dry-run` prints all that would be lost, and the same without --dry-run does it"
            )
        }
        SysrootError::Kargs(_) => "`atomos kargs` shows the arguments".to_owned(),
        SysrootError::Cancelled(_) => "nothing was changed; run the command again".to_owned(),
        _ => return None,
    })
}
