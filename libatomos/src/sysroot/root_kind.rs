//! What a deployment's root is made of: files, an image of them, or both.
//!
//! The tree says it in its `prepare-root.conf`, and the deployment's kernel arguments override that: they are what
//! `atomos-prepare-root` reads when it boots. So a deployment is made for what will be asked of it, and kernel arguments that would ask for
//! something else later are refused.

use serde::Serialize;

use crate::boot::KernelArgs;
use crate::digest::CommitId;
use crate::format::{Commit, Node};
use crate::fs::{Dir, FsError, read_up_to};
use crate::repo::{Located, RepoError};

use super::{DeploymentId, Sysroot, SysrootError, layout};

/// What a deployment's root is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RootKind {
    /// Its directory has every file (`composefs = off`).
    #[default]
    Files,
    /// Its directory has every file, and beside it lies an image, which is booted where the kernel can (`wanted`).
    FilesAndImage,
    /// An image, which the kernel must be able to mount. Its directory has what is administered there (`required`).
    Image,
    /// The same, and nothing of it is believed that somebody has not sealed: the image when it boots, files as they are read (`verified`).
    VerifiedImage,
}

impl RootKind {
    /// Whether there is an image.
    #[must_use]
    pub const fn has_image(self) -> bool {
        !matches!(self, Self::Files)
    }

    /// Whether the directory has every file.
    #[must_use]
    pub const fn has_files(self) -> bool {
        !matches!(self, Self::Image | Self::VerifiedImage)
    }

    /// The kind that a word asks for.
    fn of_word(word: &str) -> Option<Self> {
        match word {
            "off" => Some(Self::Files),
            "wanted" => Some(Self::FilesAndImage),
            "required" => Some(Self::Image),
            "verified" => Some(Self::VerifiedImage),
            _ => None,
        }
    }

    /// Whether what asks for `asked` boots a deployment of this kind as it is meant to.
    const fn answers(self, asked: Self) -> bool {
        match asked {
            Self::Files => self.has_files(),
            // Where there is none, its files are booted, with a warning.
            Self::FilesAndImage => true,
            Self::Image => self.has_image(),
            Self::VerifiedImage => matches!(self, Self::VerifiedImage),
        }
    }
}

/// Where a tree says what it asks of `atomos-prepare-root`.
const CONF: &str = "usr/lib/atomos/prepare-root.conf";

/// Bytes of it that are read.
const MAX_CONF: u64 = 64 * 1024;

/// The key in it.
const KEY: &str = "composefs";

/// The kernel argument that overrides it.
const KARG: &str = "atomos.composefs";

/// What the words can be.
const WORDS: &str = "off, wanted, required or verified";

/// Returns what a `prepare-root.conf` asks for, by the rules of `atomos-prepare-root`; `None` where it says nothing.
fn asked_by_file(text: &str) -> Result<Option<RootKind>, String> {
    let mut asked = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some((key, word)) = line.split_once('=') else {
            continue;
        };
        let word = word.trim_start();
        if key.trim_end() == KEY {
            let kind = RootKind::of_word(word)
                .ok_or_else(|| format!("/{CONF}:{}: {KEY} cannot be {word:?}: it is {WORDS}", number + 1))?;
            asked = Some(kind);
        }
    }
    Ok(asked)
}

/// Returns what kernel arguments ask for; `None` where they say nothing.
fn asked_by_kargs(kargs: &KernelArgs) -> Result<Option<RootKind>, String> {
    let mut asked = None;
    for word in kargs.get_all(KARG) {
        let kind = RootKind::of_word(&word)
            .ok_or_else(|| format!("the kernel argument {KARG} cannot be {word:?}: it is {WORDS}"))?;
        asked = Some(kind);
    }
    Ok(asked)
}

impl Sysroot {
    /// Returns what a deployment of the commit with these kernel arguments is made of.
    ///
    /// # Errors
    /// If that cannot be read: it may ask for protection.
    pub(super) fn root_kind_for(
        &self,
        id: &CommitId,
        commit: &Commit,
        kargs: &KernelArgs,
    ) -> Result<RootKind, SysrootError> {
        let refuse = |reason: String| SysrootError::NotDeployable { commit: *id, reason };
        let by_file = match self.repo.locate("", commit.root, None, CONF.as_bytes()) {
            Ok(Located::Entry(entry)) => match entry.node {
                Node::File { size, .. } if size > MAX_CONF => {
                    return Err(refuse(format!("its /{CONF} has more than {MAX_CONF} bytes")));
                }
                Node::File { size: 0, .. } => None,
                Node::File { blob, .. } => {
                    let file = self.repo.open_blob(&blob)?;
                    let mut bytes = vec![0; MAX_CONF as usize];
                    let read =
                        read_up_to(&file, &mut bytes).map_err(|error| FsError::new("read", CONF, error))?;
                    asked_by_file(&String::from_utf8_lossy(&bytes[..read])).map_err(refuse)?
                }
                _ => return Err(refuse(format!("its /{CONF} is not a file"))),
            },
            Ok(Located::Root(..)) | Err(RepoError::PathInTree { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(asked_by_kargs(kargs)
            .map_err(refuse)?
            .or(by_file)
            .unwrap_or_default())
    }

    /// Fails for kernel arguments with which the deployment, as it was made, would not boot.
    pub(super) fn check_kargs_fit(&self, id: &DeploymentId, kargs: &KernelArgs) -> Result<(), SysrootError> {
        let kind = root_kind(&self.deployments_dir(&id.stateroot)?, id)?;
        let refuse = |reason: String| SysrootError::KargsDoNotFit {
            id: id.clone(),
            reason,
        };
        let asked = match asked_by_kargs(kargs).map_err(refuse)? {
            Some(asked) => asked,
            // What the tree itself asks for. Whoever removes the argument gets that.
            None => match self.repo.load_commit(&id.commit) {
                Ok(commit) => self.root_kind_for(&id.commit, &commit, kargs)?,
                Err(_) => return Ok(()),
            },
        };
        match kind.answers(asked) {
            true => Ok(()),
            false if asked == RootKind::VerifiedImage => Err(refuse(format!(
                "it was not made to be verified, as {KARG}=verified asks"
            ))),
            false if kind.has_image() => Err(refuse(format!(
                "its root is an image, and it has no files to boot with {KARG}=off"
            ))),
            false => Err(refuse(format!("it has no image to boot with {KARG}=required"))),
        }
    }
}

/// Returns what the deployment was made of, by what lies beside it.
pub(super) fn root_kind(deployments: &Dir, id: &DeploymentId) -> Result<RootKind, SysrootError> {
    Ok(match deployments.exists(layout::skeleton(id))? {
        true if deployments.exists(layout::seal(id))? => RootKind::VerifiedImage,
        true => RootKind::Image,
        false if deployments.exists(layout::image(id))? => RootKind::FilesAndImage,
        false => RootKind::Files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_the_kernel_arguments_override_the_file() {
        assert_eq!(asked_by_file(""), Ok(None));
        assert_eq!(
            asked_by_file("etc = transient\nnonsense\n#composefs = x"),
            Ok(None)
        );
        assert_eq!(
            asked_by_file(" composefs =required # all of it\n"),
            Ok(Some(RootKind::Image))
        );
        assert_eq!(
            asked_by_file("composefs=required\ncomposefs = wanted"),
            Ok(Some(RootKind::FilesAndImage))
        );
        let kargs = |text: &str| text.parse::<KernelArgs>().unwrap();
        assert_eq!(asked_by_kargs(&kargs("ro quiet")), Ok(None));
        assert_eq!(
            asked_by_kargs(&kargs("atomos.composefs=required atomos.composefs=off")),
            Ok(Some(RootKind::Files))
        );
        assert_eq!(
            asked_by_kargs(&kargs("ro -- atomos.composefs=required")),
            Ok(None),
            "it is init's"
        );
    }

    #[test]
    fn a_word_that_is_not_understood_is_never_passed_over() {
        assert_eq!(
            asked_by_file("\ncomposefs = requird\ncomposefs = off").unwrap_err(),
            "/usr/lib/atomos/prepare-root.conf:2: composefs cannot be \"requird\": it is off, wanted, required or verified"
        );
        for text in ["atomos.composefs=", "atomos.composefs=Off"] {
            assert!(asked_by_kargs(&text.parse().unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn arguments_fit_what_there_is() {
        use RootKind::{Files, FilesAndImage, Image, VerifiedImage};
        let all = [Files, FilesAndImage, Image, VerifiedImage];
        let fitting: Vec<_> = all
            .into_iter()
            .flat_map(|kind| all.map(|asked| (kind, asked)))
            .filter(|(kind, asked)| kind.answers(*asked))
            .collect();
        assert_eq!(
            fitting,
            [
                (Files, Files),
                (Files, FilesAndImage),
                (FilesAndImage, Files),
                (FilesAndImage, FilesAndImage),
                (FilesAndImage, Image),
                (Image, FilesAndImage),
                (Image, Image),
                (VerifiedImage, FilesAndImage),
                (VerifiedImage, Image),
                (VerifiedImage, VerifiedImage),
            ]
        );
    }
}
