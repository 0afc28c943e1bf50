//! `atomos cat`

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use libatomos::error::ErrorKind;
use libatomos::format::Node;
use libatomos::fs::{FsError, hash_file};
use libatomos::repo::{LastLink, Located, ObjectKind, Repo, RepoError};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{change, text};
use crate::report::CliError;

/// Print files of a tree
///
/// Writes the bytes of the files to stdout, one after the other. Links are followed within the tree, as they are in a
/// system booted from it. A file's bytes are verified before the first of them is written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos cat debian/13 /usr/lib/os-release
  atomos cat 'debian/13^' /usr/lib/os-release")]
pub struct CatArgs {
    /// A ref, a digest, or the beginning of one
    rev: String,

    /// Paths of files in the tree
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Runs the verb.
pub fn run(context: &Context, args: &CatArgs) -> RunResult {
    let repo = context.open_repo()?;
    context.ui().result(|out| -> Result<(), CliError> {
        for path in &args.paths {
            let mut file = open_verified(&repo, &args.rev, path)?;
            io::copy(&mut file, out)?;
        }
        Ok(())
    })?;
    Ok(Outcome::Done)
}

fn open_verified(repo: &Repo, rev: &str, path: &OsString) -> Result<File, CliError> {
    let (root, metadata) = repo.resolve_tree(rev)?;
    let bytes = path.as_bytes();
    let not_a_file = |kind: &str| {
        CliError::of_kind(
            ErrorKind::Invalid,
            format!(
                "cannot print {} in {rev}: it is a {kind}",
                text::escape_bytes(bytes)
            ),
        )
        .with_hint(format!(
            "`atomos ls -l {rev} {}` shows it",
            text::escape_bytes(bytes)
        ))
    };
    let blob = match repo.locate_through_links(rev, root, metadata, bytes, LastLink::Follow)? {
        Located::Root(..) => return Err(not_a_file("directory")),
        Located::Entry(entry) => match entry.node {
            Node::File { blob, .. } => blob,
            node => return Err(not_a_file(change::kind(&node))),
        },
    };
    let mut file = repo
        .open_blob(&blob)
        .map_err(|error| repo.explain_missing(repo.resolve_commit(rev).ok(), error))?;
    let read = |error| CliError::from(FsError::new("read the blob", blob.to_string(), error));
    let (found, _) = hash_file(&file).map_err(read)?;
    if found != blob {
        return Err(RepoError::ObjectDamaged {
            kind: ObjectKind::Blob,
            digest: *blob.digest(),
            reason: format!("its bytes have the digest {found}"),
        }
        .into());
    }
    file.rewind().map_err(read)?;
    Ok(file)
}
