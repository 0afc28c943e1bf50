//! The image that a commit's tree makes, known and signed before any machine has made it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::composefs::{ComposefsError, RootTree, Seal, add_image, write_image};
use crate::digest::DirTreeId;
use crate::format::{Commit, Metadata, MetadataValue, Node};
use crate::progress::{Event, Progress};
use crate::repo::{Repo, Transaction, TreeSource};
use crate::sign::{KeyId, Signer};
use crate::verity::VerityDigest;

use super::{CommitError, CommitOptions};

/// Who seals what a tree makes.
#[derive(Clone, Default)]
pub struct Sealers(Vec<Arc<dyn Signer>>);

impl Sealers {
    /// Adds one.
    pub fn add(&mut self, signer: Arc<dyn Signer>) {
        self.0.push(signer);
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.iter().map(|signer| signer.public().id())
    }

    /// Returns whether all of them have sealed a commit already.
    pub(super) fn have_all_sealed(&self, commit: &Commit) -> bool {
        let seal = Seal::of_commit(commit).ok().flatten();
        let signed = |signer: &Arc<dyn Signer>| {
            seal.as_ref()
                .is_some_and(|seal| seal.signer_among([&signer.public()]).is_some())
        };
        self.0.iter().all(signed)
    }
}

impl fmt::Debug for Sealers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

/// Makes the image that a deployment's root would be, and forgets it; returns its digest. `None` for a tree that is none of an operating
/// system, and for one that no image can have: both are errors where it is to be sealed.
pub(super) fn image_of(
    repo: &Repo,
    transaction: &Transaction<'_>,
    root: DirTreeId,
    metadata: &Metadata,
    options: &CommitOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Option<VerityDigest>, CommitError> {
    let must = !options.sealers.is_empty();
    if !is_deployable(transaction, root)? {
        return match must {
            true => Err(CommitError::NotSealable {
                reason: "it is not deployable: it has no /usr/etc, or an /etc besides".to_owned(),
            }),
            false => Ok(None),
        };
    }
    let tree = RootTree::new(transaction, root)?;
    let file = repo.dir().create_unnamed(0o600)?;
    let room = repo.room()?;
    let take = |bytes| Ok(room.take(bytes).map(drop)?);
    match write_image(&tree, tree.root(), metadata, &file, &take, cancel) {
        Ok(report) => match report.verity {
            Some(verity) => Ok(Some(verity)),
            None => Err(CommitError::NotSealable {
                reason: "not every file of it has an fs-verity digest".to_owned(),
            }),
        },
        Err(error @ (ComposefsError::NotInImages { .. } | ComposefsError::TooLarge)) if !must => {
            let text = format!("{error}; the commit has its files' digests alone");
            progress.report(Event::Warning { text: &text });
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether it has the shape that a deployment asks for: what it makes of `/etc` is what the image has a place for.
fn is_deployable(trees: &dyn TreeSource, root: DirTreeId) -> Result<bool, CommitError> {
    let top = trees.dirtree(&root)?;
    let Some(Node::Dir { tree: usr }) = top.get(b"usr").map(|entry| entry.node.clone()) else {
        return Ok(false);
    };
    let usr = trees.dirtree(&usr)?;
    let is_dir = usr
        .get(b"etc")
        .is_some_and(|entry| matches!(entry.node, Node::Dir { .. }));
    Ok(is_dir && top.get(b"etc").is_none())
}

/// Adds to the commit's metadata what it says of its image, signed where it is sealed.
pub(super) fn add(
    image: VerityDigest,
    root: DirTreeId,
    options: &CommitOptions,
    metadata: &mut BTreeMap<String, MetadataValue>,
) -> Result<(), CommitError> {
    if options.sealers.is_empty() {
        add_image(&image, metadata);
        return Ok(());
    }
    let signers: Vec<&dyn Signer> = options.sealers.0.iter().map(AsRef::as_ref).collect();
    Seal::sign(image, root, &options.version, &signers)?.add_to(metadata);
    Ok(())
}
