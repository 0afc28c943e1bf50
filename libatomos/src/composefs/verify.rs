//! Whether the kernel verifies the files that an image leads to.
//!
//! An image of a tree that records fs-verity digests has them, too, and an overlay that is mounted to require them opens no file that the
//! kernel does not verify as what the image says. The files themselves are the store's, and have to be given fs-verity: a
//! deployment that is verified does that.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::digest::{BlobId, DirTreeId};
use crate::format::Node;
use crate::fs::verity_of;
use crate::repo::{ObjectKind, Repo, RepoError, TreeSource, object_path};
use crate::verity::VerityDigest;

/// Blobs, with their sizes and the fs-verity digests that their tree records.
pub(crate) type FilesToVerify = BTreeMap<BlobId, (u64, VerityDigest)>;

/// Lists the blobs that the tree's files are, with their sizes and digests; those without bytes have none.
pub(crate) fn files_to_verify(
    source: &dyn TreeSource,
    root: DirTreeId,
    cancel: &Cancel,
) -> Result<FilesToVerify, RepoError> {
    let (mut files, mut seen, mut trees) = (BTreeMap::new(), HashSet::new(), vec![root]);
    while let Some(tree) = trees.pop() {
        cancel.check()?;
        if !seen.insert(tree) {
            continue;
        }
        for entry in source.dirtree(&tree)?.entries() {
            match &entry.node {
                Node::Dir { tree } => trees.push(*tree),
                // The image was made of them, so each has one; of two that differ the kernel says which is wrong.
                Node::File {
                    size,
                    blob,
                    verity: Some(verity),
                } if *size > 0 => {
                    files.insert(*blob, (*size, VerityDigest::from_bytes(*verity)));
                }
                _ => {}
            }
        }
    }
    Ok(files)
}

/// What to make of a file of which the kernel does not say whether it verifies it: it has no fs-verity, or the file is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Others tell of it.
    PassedOver,
    /// It cannot be read through an image that requires verification.
    Unverified,
}

/// Returns which of the files the kernel does not verify as what they should be.
pub(crate) fn unverified_files(
    repo: &Repo,
    files: &FilesToVerify,
    unknown: Unknown,
    cancel: &Cancel,
) -> Result<Vec<BlobId>, RepoError> {
    let objects = repo.kind_dir(ObjectKind::Blob);
    let is_verified = |blob: &BlobId, expected: &VerityDigest| {
        let path = object_path(blob.digest());
        let file = objects.open_file(&path);
        match file.and_then(|file| verity_of(&file, path.as_ref())) {
            Ok(found) => found == Some(*expected),
            Err(_) => unknown == Unknown::PassedOver,
        }
    };
    crate::parallel::pool(None).install(|| {
        let unverified = files.par_iter().map(|(blob, (_, expected))| {
            cancel.check()?;
            Ok((!is_verified(blob, expected)).then_some(*blob))
        });
        let unverified: Vec<Option<BlobId>> = unverified.collect::<Result<_, RepoError>>()?;
        Ok(unverified.into_iter().flatten().collect())
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Tests arrange by path.
mod tests {
    use std::fs;

    use super::super::{ComposefsError, FilesAre, Image, overlay};
    use super::*;
    use crate::commit::commit;
    use crate::fs::{Dir, protect, why_no_verity};
    use crate::progress::NoProgress;
    use crate::testing::TestRepo;

    /// A repository on a disk, with a commit of two files that records their digests where that is asked for.
    fn committed(verity: bool) -> TestRepo {
        let repo = TestRepo::on_disk();
        let tree = repo.scratch().join("tree");
        fs::create_dir(&tree).unwrap();
        for name in ["one", "two"] {
            fs::write(tree.join(name), format!("the bytes of {name}\n")).unwrap();
        }
        fs::write(tree.join("empty"), "").unwrap();
        let mut options = TestRepo::options("os");
        options.verity = verity;
        let source = Dir::open_ambient(&tree).unwrap();
        commit(repo.repo(), source, &options, &NoProgress, &Cancel::new()).unwrap();
        repo
    }

    fn image(repo: &TestRepo) -> Image {
        Image::make(repo.repo(), "os", b"", &Cancel::new()).unwrap()
    }

    fn refusal(repo: &TestRepo) -> String {
        let error = image(repo).check_files(repo.repo(), &Cancel::new()).unwrap_err();
        assert!(matches!(error, ComposefsError::NotVerifiable { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn what_is_missing_for_verified_files_is_said() {
        let refused = refusal(&committed(false));
        assert!(
            refused.contains("does not record the fs-verity digest"),
            "{refused}"
        );
        let refused = refusal(&committed(true));
        assert!(refused.contains("does not verify 2 of 2 files"), "{refused}");
    }

    #[test]
    fn a_file_that_is_not_what_was_recorded_is_not_opened_through_a_verified_mount() {
        if !crate::testing::is_root_or_skip("mounting") {
            return;
        }
        let repo = committed(true);
        if let Some((reason, _)) = why_no_verity(repo.repo().dir()).unwrap() {
            return eprintln!("skipped: {reason}");
        }
        let objects = repo.path().join("objects");
        let path = move |name: &str| {
            let digest = crate::digest::Digest::of(format!("the bytes of {name}\n").as_bytes());
            objects.join(object_path(&digest))
        };
        let verify = |path: std::path::PathBuf| {
            let file = fs::File::open(&path).unwrap();
            protect(&file, &path).unwrap()
        };
        let _ = verify(path("one"));
        assert!(refusal(&repo).contains("does not verify 1 of 2 files"));
        let _ = verify(path("two"));
        let image = image(&repo);
        image.check_files(repo.repo(), &Cancel::new()).unwrap();
        let shown = std::thread::spawn(move || {
            // Nobody else sees what is mounted in here.
            crate::fs::make_writable_in_private(&[]).unwrap();
            let try_to_mount = |files| overlay(repo.repo(), &image, "test", repo.path(), files, None);
            if let Err(error @ ComposefsError::Kernel { .. }) = try_to_mount(FilesAre::Verified) {
                return eprintln!("skipped: {error}");
            }
            let mount = |files| {
                let mount = Dir::from_fd(try_to_mount(files).unwrap(), repo.path());
                mount.open_dir(".").unwrap()
            };
            assert_eq!(
                mount(FilesAre::Verified).read("one", 100).unwrap(),
                b"the bytes of one\n"
            );
            // The same bytes, in a file that the kernel does not verify.
            let bytes = fs::read(path("one")).unwrap();
            fs::remove_file(path("one")).unwrap();
            fs::write(path("one"), bytes).unwrap();
            let verified = mount(FilesAre::Verified);
            let error = verified.read("one", 100).unwrap_err();
            assert_eq!(
                error.source.raw_os_error(),
                Some(rustix::io::Errno::IO.raw_os_error())
            );
            assert_eq!(verified.read("two", 100).unwrap(), b"the bytes of two\n");
            assert_eq!(
                mount(FilesAre::Believed).read("one", 100).unwrap(),
                b"the bytes of one\n"
            );
        });
        shown.join().unwrap();
    }
}
