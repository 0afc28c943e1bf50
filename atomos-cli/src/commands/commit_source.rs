//! What `atomos commit` commits: arguments whose order on the command line is the order of layers.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind as ClapErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use libatomos::error::ErrorKind;
use libatomos::fs::Dir;
use libatomos::oci::{Layout, Platform};
use libatomos::repo::Repo;
use libatomos::source::Source;

use crate::input::Input;
use crate::output::text;
use crate::report::CliError;

/// One source, not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceArg {
    /// A directory.
    Dir(PathBuf),
    /// An archive; `-` is standard input.
    Tar(PathBuf),
    /// A commit.
    Rev(String),
    /// An image in a layout: `LAYOUT` or `LAYOUT:NAME`.
    Oci(PathBuf),
}

/// The sources in their order.
#[derive(Debug, Clone, Default)]
pub struct SourceArgs(pub Vec<SourceArg>);

/// The options' names.
const DIR: &str = "source";
const TAR: &str = "tar";
const TREE: &str = "tree";
const OCI: &str = "oci";

impl SourceArg {
    /// Reads `KIND=WHAT`.
    fn parse_tree(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let wrong = || "a tree is dir=DIR, tar=FILE, oci=LAYOUT[:NAME] or ref=REV".to_owned();
        let equals = bytes.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let rest = OsStr::from_bytes(&bytes[equals + 1..]);
        match &bytes[..equals] {
            b"dir" => Ok(Self::Dir(rest.into())),
            b"tar" => Ok(Self::Tar(rest.into())),
            b"oci" => Ok(Self::Oci(rest.into())),
            b"ref" => Ok(Self::Rev(rest.to_str().ok_or_else(wrong)?.to_owned())),
            _ => Err(wrong()),
        }
    }

    /// Opens it.
    pub fn open(&self, repo: &Repo, platform: Option<&Platform>) -> Result<Source, CliError> {
        Ok(match self {
            Self::Dir(path) => Source::Dir(open_dir(path)?),
            Self::Tar(path) if path.as_os_str() == "-" => Source::Tar {
                name: PathBuf::from("the archive on standard input"),
                stream: Box::new(Input::open()?),
            },
            Self::Tar(path) => Source::Tar {
                name: path.clone(),
                stream: Box::new(open_file(path)?),
            },
            Self::Rev(rev) => Source::Commit(repo.resolve_commit(rev)?),
            Self::Oci(place) => {
                let (path, name) = split_layout(place)?;
                Source::Oci {
                    layout: Layout::open(Dir::open_ambient(path)?)?,
                    name,
                    platform: platform.cloned(),
                }
            }
        })
    }
}

fn open_dir(path: &Path) -> Result<Dir, CliError> {
    Dir::open_ambient(path).map_err(|error| match error.source.kind() {
        io::ErrorKind::NotADirectory => CliError::of_kind(
            ErrorKind::Invalid,
            format!("{} is not a directory", text::escape_path(path)),
        )
        .with_hint("an archive is committed by --tar FILE"),
        _ => error.into(),
    })
}

/// Takes `LAYOUT:NAME` apart, at the first colon: names of images have more of them, as `docker.io/library/debian:12` has. A directory
/// that has a colon in its own name is taken for what it is.
pub fn split_layout(place: &Path) -> Result<(PathBuf, Option<String>), CliError> {
    let bytes = place.as_os_str().as_bytes();
    let colons = || (0..bytes.len()).filter(|at| bytes[*at] == b':');
    let before = |colon: usize| Path::new(OsStr::from_bytes(&bytes[..colon]));
    let colon = match place.is_dir() {
        true => None,
        false => colons()
            .find(|colon| before(*colon).is_dir())
            .or_else(|| colons().next()),
    };
    let Some(colon) = colon else {
        return Ok((place.to_owned(), None));
    };
    match std::str::from_utf8(&bytes[colon + 1..]) {
        Ok(name) if !name.is_empty() && colon > 0 => Ok((before(colon).to_owned(), Some(name.to_owned()))),
        _ => Err(CliError::usage(format!(
            "{} is no LAYOUT:NAME: before the colon stands a directory, after it the name of an image",
            place.display()
        ))
        .with_hint("without a name, leave the colon out")),
    }
}

/// Opens a file that is named on the command line, as the shell would: the caller says where it is.
pub fn open_file(path: &Path) -> Result<File, CliError> {
    File::open(path).map_err(|error| libatomos::fs::FsError::new("open", path, error).into())
}

impl Args for SourceArgs {
    fn augment_args(command: Command) -> Command {
        command
            .arg(
                Arg::new(TAR)
                    .long(TAR)
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .action(ArgAction::Append)
                    .help("Commit a tar archive; - is standard input")
                    .long_help(
                        "Commit a tar archive; - is standard input\n\n\
                         It may be compressed by gzip, xz or zstd, and is read once, from its start, without being unpacked \
                         anywhere. Owners are its numbers; names of users are not looked at. A file called .wh.NAME removes \
                         NAME from the sources before, and .wh..wh..opq everything in its directory.",
                    ),
            )
            .arg(
                Arg::new(OCI)
                    .long(OCI)
                    .value_name("LAYOUT[:NAME]")
                    .value_parser(value_parser!(PathBuf))
                    .action(ArgAction::Append)
                    .help("Commit an image of an OCI layout")
                    .long_help(
                        "Commit an image of an OCI layout\n\n\
                         Its layers are laid over one another, whiteouts applied, and every digest is checked. Without NAME, the \
                         layout must have one image. `skopeo copy docker://IMAGE oci:LAYOUT:NAME` makes a layout.",
                    ),
            )
            .arg(
                Arg::new(TREE)
                    .long(TREE)
                    .value_name("KIND=WHAT")
                    .value_parser(clap::builder::OsStringValueParser::new())
                    .action(ArgAction::Append)
                    .help("Commit dir=DIR, tar=FILE, oci=LAYOUT[:NAME] or ref=REV")
                    .long_help(
                        "Commit dir=DIR, tar=FILE, oci=LAYOUT[:NAME] or ref=REV\n\n\
                         Several sources, of any kind, are laid over one another in the order in which they are given: a \
                         directory adds to one that is there, anything else replaces what has its name.",
                    ),
            )
            .arg(
                Arg::new(DIR)
                    .value_name("DIR")
                    .value_parser(value_parser!(PathBuf))
                    .action(ArgAction::Append)
                    .num_args(1..)
                    .required_unless_present_any([TAR, OCI, TREE])
                    .help("The directory to commit; several are laid over one another"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SourceArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found: Vec<(usize, SourceArg)> = Vec::new();
        let indices = |name: &str| matches.indices_of(name).into_iter().flatten();
        let paths = |name: &str| matches.get_many::<PathBuf>(name).into_iter().flatten().cloned();
        found.extend(indices(DIR).zip(paths(DIR).map(SourceArg::Dir)));
        found.extend(indices(TAR).zip(paths(TAR).map(SourceArg::Tar)));
        found.extend(indices(OCI).zip(paths(OCI).map(SourceArg::Oci)));
        let trees = matches.get_many::<std::ffi::OsString>(TREE).into_iter().flatten();
        for (index, text) in indices(TREE).zip(trees) {
            let tree = SourceArg::parse_tree(text)
                .map_err(|error| clap::Error::raw(ClapErrorKind::ValueValidation, format!("{error}\n")))?;
            found.push((index, tree));
        }
        found.sort_by_key(|(index, _)| *index);
        let sources: Vec<SourceArg> = found.into_iter().map(|(_, source)| source).collect();
        let stdin = |source: &&SourceArg| matches!(source, SourceArg::Tar(path) if path.as_os_str() == "-");
        if sources.iter().filter(stdin).count() > 1 {
            let text = "standard input can be read once\n";
            return Err(clap::Error::raw(ClapErrorKind::ArgumentConflict, text));
        }
        Ok(Self(sources))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
