//! `atomos commit`

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use libatomos::commit::{CommitOutcome, CommitReport, KernelChoice, MtimePolicy, OsTreeOptions, Parent};
use libatomos::names::RefName;
use libatomos::oci::Platform;
use libatomos::repo::Repo;
use libatomos::source::{SourceOptions, StatOverride, commit_sources};

use super::RunResult;
use super::commit_source::{SourceArgs, open_file};
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, os_tree, text};
use crate::report::CliError;
use crate::signing::SealArgs;

/// Commit a directory, an archive, or several of them
///
/// Stores the files that the repository does not have yet, makes a commit of the whole tree, and moves the ref to
/// it. Prints the commit's digest, alone, on stdout. Until the ref moves nothing of it can be seen; an interrupted run is
/// taken up by the next one.
///
/// The digest of the tree (REV^{tree}) depends on names, contents, owners, modes, times and extended attributes, and on
/// nothing else. SOURCE_DATE_EPOCH in the environment, in seconds since 1970, sets the commit's time and the latest time
/// that a file keeps, so that the same tree with the same parent and message is the same commit everywhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos commit -b debian/13 --os -s 'Debian 13.1' --version 13.1 ./rootfs
  atomos commit -b debian/13 --os --unpack modules,docs ./rootfs     smaller updates, more room on disk
  atomos commit -b debian/13 --skip-if-unchanged --unchanged-exit-77 ./rootfs
  atomos commit -b app --owner 0:0 --mtime zero ./build     the same digest whoever builds it
  curl -s https://images.example/root.tar.zst | atomos commit -b base --os --tar -
  atomos commit -b base --os --oci ./layout:bookworm
  atomos commit -b debian/13 --os --seal seal-key ./rootfs     to be verified when it boots
  atomos commit -b custom --tree ref=base --tree tar=fixes.tar ./overlay     each over those before")]
pub struct CommitArgs {
    /// The ref to move to the new commit; it is made if it is missing
    #[arg(short = 'b', long = "ref", value_name = "REF")]
    reference: Option<RefName>,

    /// One line about the commit
    #[arg(short, long, value_name = "S", default_value = "", hide_default_value = true, value_parser = parse_line)]
    subject: String,

    /// More lines about the commit
    #[arg(long, value_name = "B", default_value = "", hide_default_value = true)]
    body: String,

    /// The version of the operating system in the tree
    #[arg(long, value_name = "V", default_value = "", hide_default_value = true, value_parser = parse_line)]
    version: String,

    /// The commit that this one follows, or none [default: what the ref names]
    #[arg(long, value_name = "REV|none")]
    parent: Option<String>,

    /// Make an ordinary root file system deployable first, and say what was changed
    ///
    /// Moves /etc to /usr/etc, the kernel and its initramfs from /boot to /usr/lib/modules, the package database to
    /// /usr/lib/sysimage, and what is in /var to /usr/share/factory/var, from which a machine's /var is seeded. /home,
    /// /root, /opt, /srv, /usr/local, /mnt and /media become links into /var. Caches, logs and device nodes are left out,
    /// and /etc/machine-id is emptied. DIR itself is not changed.
    #[arg(long)]
    os: bool,

    /// With --os, boot this kernel (as `uname -r` says it) [default: the newest]
    #[arg(long, value_name = "VERSION", requires = "os")]
    kernel: Option<String>,

    /// With --os, take a tree that has no kernel: for containers
    #[arg(long, requires = "os", conflicts_with = "kernel")]
    allow_no_kernel: bool,

    /// With --os, unpack these, so that patches of them are small
    ///
    /// Patches of compressed files save nothing. Kernel modules (`.ko.xz`, `.ko.zst`, `.ko.gz`) are unpacked, and
    /// modules.dep, modules.dep.bin and modules.order name them as they are then called; a module's signature is inside
    /// it and stays. Of documents, what ends in `.gz` beneath /usr/share/doc, /usr/share/man and /usr/share/info is
    /// unpacked, and links to it follow. The tree needs more room on disk, and about as much to send. What is compressed
    /// and not unpacked is warned of, with what it costs.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', requires = "os")]
    unpack: Vec<UnpackArg>,

    /// Which modification times to record
    #[arg(long, value_name = "POLICY", default_value = "keep")]
    mtime: Mtime,

    /// Record this owner for everything
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner)]
    owner: Option<(u32, u32)>,

    /// Make DIR's files the store's own, and remove what was in DIR
    ///
    /// For a tree that was built to be committed and that nobody works in. Where DIR lies on the repository's file system, its files
    /// are not copied but get a name in the store; those with other names, or that somebody has open for writing, are copied. When
    /// the commit is durable, DIR is emptied. An interrupted run leaves DIR's files where they are, but do not write to them then: run
    /// it again, which may say that the commit is made and only the rest of DIR is to be removed.
    #[arg(long)]
    adopt: bool,

    /// Read every file again
    ///
    /// A file whose inode, size and times (mtime and ctime, to the nanosecond) are those that it had when it was last committed to
    /// this repository is taken to be what it was then, and is not read. This is how to distrust that.
    #[arg(long)]
    no_cache: bool,

    /// Record the digest by which the kernel can verify each file as it is read (fs-verity)
    ///
    /// SHA-256, blocks of 4096 bytes, no salt: what `fsverity digest FILE` prints. It is computed while the file is read anyway, and kept in
    /// the dirtree, so the tree's digest is another one than without. Of a tree that can be deployed the digest of the image that its root
    /// would be is kept in the commit, too.
    #[arg(long)]
    verity: bool,

    #[command(flatten)]
    seal: SealArgs,

    /// Change modes as this file says
    ///
    /// A line for each file, as OSTree has them: MODE PATH. The bits of MODE, or +MODE, are added, and =MODE replaces. A number
    /// is decimal, and octal if it begins with a 0: `+04000 /usr/bin/su`. A path that the sources do not have is an
    /// error.
    #[arg(long, value_name = "FILE")]
    statoverride: Option<PathBuf>,

    /// Of an image for several kinds of machines, take that for this one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", requires = "oci")]
    platform: Option<Platform>,

    /// Leave sockets out instead of failing
    #[arg(long)]
    skip_special: bool,

    /// Make no commit when the tree is the parent's; print the parent's digest
    #[arg(long)]
    skip_if_unchanged: bool,

    /// With --skip-if-unchanged, exit with 77 when no commit was made
    #[arg(long, requires = "skip_if_unchanged")]
    unchanged_exit_77: bool,

    #[command(flatten)]
    sources: SourceArgs,
}

/// What to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UnpackArg {
    /// Kernel modules
    Modules,
    /// Documents, manual pages and info files
    Docs,
}

/// Which modification times to record.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mtime {
    /// The files' own
    Keep,
    /// Those of the parent commit, for files in which nothing else changed
    Parent,
    /// 1970, for everything
    Zero,
}

impl From<Mtime> for MtimePolicy {
    fn from(mtime: Mtime) -> Self {
        match mtime {
            Mtime::Keep => Self::Keep,
            Mtime::Parent => Self::Parent,
            Mtime::Zero => Self::Zero,
        }
    }
}

fn parse_line(text: &str) -> Result<String, String> {
    if text.contains('\n') {
        return Err("it is one line; more lines about the commit are its --body".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    text.split_once(':')
        .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)))
        .ok_or_else(|| "an owner is two numbers, as 0:0".to_owned())
}

/// Returns `SOURCE_DATE_EPOCH` (<https://reproducible-builds.org/specs/source-date-epoch/>). Bytes that are no number must not pass for
/// an unset variable: the commit would silently be another one.
fn source_date_epoch() -> Result<Option<i64>, CliError> {
    let Some(value) = std::env::var_os("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    match value.to_str().and_then(|value| value.parse().ok()) {
        Some(epoch) => Ok(Some(epoch)),
        None => Err(CliError::usage(format!(
            "SOURCE_DATE_EPOCH is {value:?}, and not a number of seconds since 1970"
        ))
        .with_hint("unset it, or set it: SOURCE_DATE_EPOCH=$(date +%s)")),
    }
}

/// Runs the verb.
pub fn run(context: &Context, args: CommitArgs) -> RunResult {
    let epoch = source_date_epoch()?;
    let repo = context.open_repo()?;
    let sources = args
        .sources
        .0
        .iter()
        .map(|source| source.open(&repo, args.platform.as_ref()));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let mut all = SourceOptions::default();
    if let Some(path) = &args.statoverride {
        all.overrides = stat_overrides(path)?;
    }
    let options = &mut all.commit;
    options.parent = parent(&repo, &args)?;
    options.reference = args.reference;
    options.subject = args.subject;
    options.body = args.body;
    options.version = args.version;
    options.time = epoch;
    options.epoch = epoch;
    options.mtime = args.mtime.into();
    options.owner = args.owner;
    options.scan.skip_special = args.skip_special;
    options.adopt = args.adopt;
    options.no_cache = args.no_cache;
    options.verity = args.verity;
    options.sealers = args.seal.sealers()?;
    options.skip_if_unchanged = args.skip_if_unchanged;
    if args.os {
        let mut os = OsTreeOptions::default();
        os.kernel = match args.kernel {
            Some(version) => KernelChoice::Version(version),
            None if args.allow_no_kernel => KernelChoice::NewestOrNone,
            None => KernelChoice::Newest,
        };
        os.unpack.modules = args.unpack.contains(&UnpackArg::Modules);
        os.unpack.documents = args.unpack.contains(&UnpackArg::Docs);
        options.os = Some(os);
    }
    let report = commit_sources(&repo, sources, &all, context.progress(), context.cancel())?;
    render(context, &report)?;
    Ok(
        if report.outcome == CommitOutcome::Unchanged && args.unchanged_exit_77 {
            Outcome::NothingToDo
        } else {
            Outcome::Done
        },
    )
}

/// More than any list of modes has.
const MAX_LIST: u64 = 16 * 1024 * 1024;

fn stat_overrides(path: &Path) -> Result<Vec<StatOverride>, CliError> {
    let mut text = Vec::new();
    open_file(path)?
        .take(MAX_LIST)
        .read_to_end(&mut text)
        .map_err(|error| libatomos::fs::FsError::new("read", path, error))?;
    StatOverride::parse_list(&text).map_err(|error| {
        let what = format!("cannot read the list of modes {}: {error}", path.display());
        CliError::of_kind(error.kind(), what)
    })
}

fn parent(repo: &Repo, args: &CommitArgs) -> Result<Parent, CliError> {
    Ok(match args.parent.as_deref() {
        None => Parent::Ref,
        Some("none") => Parent::None,
        Some(rev) => Parent::Commit(repo.resolve_commit(rev)?),
    })
}

fn render(context: &Context, report: &CommitReport) -> Result<(), CliError> {
    let ui = context.ui();
    for path in &report.skipped {
        let shown = text::escape_path(path);
        match report.mounted_directories.contains(path) {
            true => ui.warning(format_args!(
                "left out what is mounted on {shown}: the tree has an empty directory there, with the owner and mode of what is mounted"
            )),
            false => ui.warning(format_args!("left out {shown}")),
        }
    }
    if let Some(os) = &report.os {
        let mut changes = Vec::new();
        os_tree::write(&mut changes, os).expect("memory takes all that is written");
        for line in String::from_utf8_lossy(&changes).lines() {
            ui.status(line);
        }
        for warning in &os.warnings {
            ui.warning(text::escape_text(&os_tree::describe_warning(warning)));
        }
    }
    let tree = format!(
        "{}, {}",
        text::count(report.files, "file", "files"),
        text::size(report.bytes)
    );
    match report.outcome {
        CommitOutcome::Unchanged => {
            let stats = &report.stats;
            let mut line = format!(
                "Unchanged: the tree ({tree}) is that of {}",
                report.commit.short()
            );
            let lacked = stats.blobs_added + stats.variants_added + stats.dirtrees_added;
            if lacked > 0 {
                line += &format!(
                    "; stored {} that the repository lacked",
                    text::count(lacked, "object", "objects")
                );
            }
            ui.status(line);
        }
        CommitOutcome::Created => {
            let stats = &report.stats;
            let mut line = format!(
                "Committed {}: {tree}; {}, {}",
                report.commit.short(),
                text::count(stats.blobs_added, "new blob", "new blobs"),
                text::size(stats.bytes_added)
            );
            if stats.resumed > 0 {
                line += &format!(
                    "; {} taken over from an interrupted run",
                    text::grouped(stats.resumed)
                );
            }
            ui.status(line);
        }
    }
    if let Some(image) = &report.image_verity {
        ui.status(format_args!("Its image has the fs-verity digest {image}"));
    }
    ui.result(|out| {
        if context.json() {
            json::write(out, report)
        } else {
            writeln!(out, "{}", report.commit)
        }
    })
}
