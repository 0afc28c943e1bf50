//! `atomos export`

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use libatomos::digest::CommitId;
use libatomos::export::{ExportCompression, ExportReport, ImageOptions, export_image, export_tar};
use libatomos::fs::Dir;
use libatomos::oci::{Layout, Platform};
use libatomos::repo::Repo;

use super::RunResult;
use super::commit_source::split_layout;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::output_file::write_output;
use crate::report::CliError;

/// Write a commit's tree as a tar archive or as an OCI image
///
/// The same tree is the same bytes, whenever and wherever it is exported: entries are sorted, owners are numbers, and
/// extended attributes are PAX records (SCHILY.xattr). `atomos commit --tar` of the archive has the same root digest. Every file is verified on its
/// way. A file appears under its name when it is complete; what goes to stdout, a pipe or a device is complete if the exit code is 0.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos export debian/13 -o debian-13.tar
  atomos export debian/13 | ssh host tar -C /srv/root --xattrs --xattrs-include='*' -xpf -
  atomos export debian/13 --compress zstd -o debian-13.tar.zst
  atomos export debian/13 --oci ./layout:debian-13     an image, for podman, skopeo or umoci")]
pub struct ExportArgs {
    /// The commit
    #[arg(value_name = "REV")]
    rev: String,

    /// Where the archive goes; - is standard output [default: -]
    #[arg(short, long, value_name = "FILE", conflicts_with = "oci")]
    output: Option<PathBuf>,

    /// Write an image of one layer into this OCI layout, which is made if it is missing, and replace the one of this name
    #[arg(long, value_name = "LAYOUT[:NAME]")]
    oci: Option<PathBuf>,

    /// How to compress [default: none for an archive, gzip for an image]
    #[arg(long, value_name = "HOW")]
    compress: Option<CompressArg>,

    /// Which machines an image is for [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", requires = "oci")]
    platform: Option<Platform>,
}

/// How to compress.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum CompressArg {
    /// Not at all
    None,
    /// As gzip does
    Gzip,
    /// As zstd does
    Zstd,
}

impl From<CompressArg> for ExportCompression {
    fn from(compress: CompressArg) -> Self {
        match compress {
            CompressArg::None => Self::None,
            CompressArg::Gzip => Self::Gzip,
            CompressArg::Zstd => Self::Zstd,
        }
    }
}

/// Runs the verb.
pub fn run(context: &Context, args: &ExportArgs) -> RunResult {
    let repo = context.open_repo()?;
    let commit = repo.resolve_commit(&args.rev)?;
    let (progress, cancel) = (context.progress(), context.cancel());
    if let Some(place) = &args.oci {
        let (path, name) = split_layout(place)?;
        return as_image(context, args, (&repo, &commit), &path, name);
    }
    let compression = args
        .compress
        .map_or(ExportCompression::None, ExportCompression::from);
    match args.output.as_deref().filter(|path| path.as_os_str() != "-") {
        None => {
            if context.json() {
                return Err(
                    CliError::usage("standard output cannot have both the archive and its report")
                        .with_hint("name a file: -o FILE"),
                );
            }
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(
                    CliError::usage("an archive is nothing for a terminal").with_hint("name a file: -o FILE")
                );
            }
            let report = export_tar(&repo, &commit, compression, stdout.lock(), progress, cancel)?;
            summary(context, &report, "standard output");
        }
        Some(path) => {
            let report = write_output(path, |file| {
                Ok(export_tar(&repo, &commit, compression, file, progress, cancel)?)
            })?;
            summary(context, &report, &path.display().to_string());
            if context.json() {
                context.ui().result(|out| json::write(out, &report))?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// Writes the commit into an image layout. A directory that was made for one that fails is removed.
fn as_image(
    context: &Context,
    args: &ExportArgs,
    (repo, commit): (&Repo, &CommitId),
    path: &Path,
    name: Option<String>,
) -> RunResult {
    let is_new = !path.exists();
    let mut options = ImageOptions::default();
    options.name = name;
    if let Some(compress) = args.compress {
        options.compression = compress.into();
    }
    if let Some(platform) = &args.platform {
        options.platform = platform.clone();
    }
    let (progress, cancel) = (context.progress(), context.cancel());
    let layout = Layout::ensure(Dir::ensure_ambient(path)?)?;
    let report = export_image(repo, commit, &layout, &options, progress, cancel).inspect_err(|_| {
        if is_new {
            // Another export may be writing into it by now, and then it stays.
            let _ = fs::remove_dir(path);
        }
    })?;
    summary(context, &report.export, &path.display().to_string());
    context.ui().result(|out| {
        if context.json() {
            json::write(out, &report)
        } else {
            writeln!(out, "{}", report.manifest)
        }
    })?;
    Ok(Outcome::Done)
}

fn summary(context: &Context, report: &ExportReport, place: &str) {
    context.ui().status(format_args!(
        "Exported {} to {}: {}, {}",
        report.commit.short(),
        text::escape_text(place),
        text::count(report.files, "file", "files"),
        text::size(report.bytes)
    ));
}
