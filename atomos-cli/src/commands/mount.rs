//! `atomos mount`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use libatomos::composefs::{self, ComposefsError, FilesAre, Image, MountId};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::report::CliError;

/// Mount a tree without checking it out
///
/// Makes an image of the names and metadata of REV, and mounts it on DIR, over the repository: nothing is linked or copied. What is
/// mounted is read-only and has owners, modes, times and extended attributes as they were committed. The commit is kept from
/// `atomos prune` until `atomos umount DIR`, or until the machine has booted again.
///
/// Where the repository's file system is mounted with nosuid, nodev or noexec, so is the tree, and with the first two where the repository does
/// not belong to root alone.
///
/// Takes root, and Linux 6.12 or newer with EROFS and overlayfs. Reading a file does not check its bytes: `atomos fsck` does, and the kernel
/// with --verify. That takes a tree that records fs-verity digests (`atomos commit --verity`), and files that have fs-verity: those of
/// deployments whose root is verified when it boots.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos mount debian/13 /mnt
  atomos mount --subpath /usr/share debian/13^ /mnt
  atomos checkout --composefs debian/13 debian.img && atomos mount --image debian.img /mnt
  atomos umount /mnt")]
pub struct MountArgs {
    /// The directory of the tree that is wanted
    #[arg(long, value_name = "P", conflicts_with = "image")]
    subpath: Option<OsString>,

    /// Mount an image that `atomos checkout --composefs` made: a file, in place of REV
    #[arg(long)]
    image: bool,

    /// Have the kernel compare what is read of each file with the fs-verity digest that the tree records, and mount nothing where it does not
    #[arg(long, conflicts_with = "image")]
    verify: bool,

    /// A ref, a digest, or the beginning of one
    #[arg(value_name = "REV|FILE")]
    source: OsString,

    /// Where to mount it: a directory, which is hidden meanwhile
    dir: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    dir: String,
    bytes: u64,
    digest: libatomos::Digest,
    verified: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &MountArgs) -> RunResult {
    let id = MountId::new()?;
    // On a machine that runs a deployment the repository is written to in mounts that nobody else sees; this one is to be seen.
    let image = context.apart(|| prepare(context, args, &id))?;
    let files = match args.verify {
        true => FilesAre::Verified,
        false => FilesAre::Believed,
    };
    if let Err(error) = composefs::mount(&context.open_repo_as_it_is()?, &image, &args.dir, &id, files) {
        // The first error is the one to tell.
        drop(context.apart(|| Ok(id.release(&context.open_repo()?)?)));
        return Err(explain(context, args, error));
    }
    let ui = context.ui();
    if context.json() {
        let report = Report {
            dir: args.dir.display().to_string(),
            bytes: image.bytes,
            digest: image.digest,
            verified: args.verify,
        };
        ui.result(|out| json::write(out, &report))?;
    }
    ui.status(format_args!(
        "Mounted on {}, read-only{}, until `{}`; the image has {}",
        text::escape_path(&args.dir),
        if args.verify { " and verified" } else { "" },
        context.command("umount", &[&args.dir]),
        text::size(image.bytes)
    ));
    Ok(Outcome::Done)
}

/// Says how to unmount what is mounted already. Only the repository that it was mounted from lets go of its commit.
fn explain(context: &Context, args: &MountArgs, error: ComposefsError) -> CliError {
    let is_mounted = matches!(error, ComposefsError::Mounted { .. });
    let error = CliError::from(error);
    if !is_mounted {
        return error;
    }
    let is_ours = || -> Result<bool, CliError> {
        let other = composefs::mounted(&args.dir)?;
        let repo = context.open_repo_as_it_is()?;
        Ok(other.map(|other| other.is_held(&repo)).transpose()? == Some(true))
    };
    let command = context.command("umount", &[&args.dir]);
    error.with_hint(match is_ours() {
        Ok(true) => command,
        _ => format!("{command}, with --repo where another repository has mounted it"),
    })
}

/// Makes or copies the image, and has its commit stay.
fn prepare(context: &Context, args: &MountArgs, id: &MountId) -> Result<Image, CliError> {
    let repo = context.open_repo()?;
    if args.image {
        context
            .ui()
            .warning("what the image needs is kept only as long as a ref or something else keeps it");
        return Ok(Image::open(&repo, Path::new(&args.source))?);
    }
    let rev = args
        .source
        .to_str()
        .ok_or_else(|| CliError::usage("a revision is UTF-8"))?;
    // Pruning between the look at a commit and the record that keeps it would remove what is to be mounted.
    let _shared = repo.lock_shared()?;
    repo.resolve_tree(rev)?;
    let commit = repo.resolve_commit(rev).ok();
    if commit.is_none() {
        context
            .ui()
            .warning("a tree that no commit was named for is kept only as long as something else keeps it");
    }
    let subpath = args.subpath.as_ref().map_or(&b""[..], |path| path.as_bytes());
    // A ref may name another commit by now than the one that is kept.
    let rev = commit.map_or_else(|| rev.to_owned(), |commit| commit.to_string());
    // The record waits for the disk, and the image for the processor.
    let (made, held) = std::thread::scope(|scope| {
        let making = std::thread::Builder::new()
            .spawn_scoped(scope, || Image::make(&repo, &rev, subpath, context.cancel()));
        let held = commit.map_or(Ok(()), |commit| id.hold(&repo, commit));
        let made = match making {
            Ok(making) => making
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => Image::make(&repo, &rev, subpath, context.cancel()),
        };
        (made, held)
    });
    let made = held.map_err(CliError::from).and_then(|()| {
        let made = made?;
        if args.verify {
            made.check_files(&repo, context.cancel())?;
        }
        Ok(made)
    });
    if made.is_err() {
        // The first error is the one to tell.
        drop(id.release(&repo));
    }
    made
}
