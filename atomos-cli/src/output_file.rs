//! The file that a verb writes where a person said, with `-o FILE`.
//!
//! A regular file is replaced by one rename when the new one is complete, and so is nothing. Anything else that has the name is not
//! ours to replace: what is written goes into the device or the pipe that is there. Links are followed, as every tool follows them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::output::text;
use crate::report::CliError;

/// Links that lead to one another before the kernel gives up.
const MAX_LINKS: usize = 40;

/// Names that are tried for a temporary file. Runs that were killed leave some, and in a container every run may have the same id.
const MAX_NAMES: usize = 1000;

/// Has `write` write the file `path`.
///
/// # Errors
/// If `write` fails, or the file cannot be written. What was there is then as it was, if it is a regular file or nothing.
pub fn write_output<T>(path: &Path, write: impl FnOnce(&File) -> Result<T, CliError>) -> Result<T, CliError> {
    let failed = |error| CliError::io(format!("cannot write {}", text::escape_path(path)), error);
    match Place::of(path).map_err(failed)? {
        Place::Open(file) => {
            let written = write(&file)?;
            sync_stream(&file).map_err(failed)?;
            Ok(written)
        }
        Place::Replaced(path) => {
            let (temporary, file) = create_beside(&path).map_err(failed)?;
            let written = write(&file).and_then(|written| {
                file.sync_all()
                    .and_then(|()| fs::rename(&temporary, &path))
                    .map_err(failed)?;
                Ok(written)
            });
            if written.is_err() {
                // What is reported is why it was not written.
                let _ = fs::remove_file(&temporary);
            }
            written
        }
    }
}

/// Where the bytes go.
enum Place {
    /// Into what is there.
    Open(File),
    /// Into a new file, which then gets this name. It is no link.
    Replaced(PathBuf),
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            // It may be a link to a file that is yet to be made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::Replaced(follow_links(path)));
            }
            Err(error) => return Err(error),
        };
        // Whoever opened a file for our standard output goes on with that one, and perhaps at its end: not with another of its name.
        let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from)?;
        if is_same(&stdout.metadata()?, &found) {
            return Ok(Self::Open(stdout));
        }
        if found.is_file() {
            let target = follow_links(path);
            // A link in /proc leads to a file that may have no name any more.
            if fs::symlink_metadata(&target).is_ok_and(|target| is_same(&target, &found)) {
                return Ok(Self::Replaced(target));
            }
        }
        OpenOptions::new().write(true).open(path).map(Self::Open)
    }
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Returns the path that the links at the end of `path` lead to, whether there is something or not.
fn follow_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Makes a new file beside `path`. A file or a link that has the name is somebody's: another name is taken.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "that is no name for a file"))?;
    for number in 0..MAX_NAMES {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", std::process::id()));
        if number > 0 {
            temporary.push(format!(".{number}"));
        }
        let temporary = path.with_file_name(temporary);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Has the disk take what was written into something that was there. A pipe or a terminal has none.
fn sync_stream(file: &File) -> io::Result<()> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_block_device() {
        file.sync_all()?;
    }
    Ok(())
}
