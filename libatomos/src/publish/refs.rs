//! The names of a site's refs, which are paths of files.

use std::path::Path;

use crate::fs::{FileKind, FsError, Patience};
use crate::names::RefName;
use crate::site::record_path;

use super::PublishError;
use super::site_dir::SiteDir;
use super::site_writer::SiteWriter;

impl SiteDir {
    /// Refuses a name that lies within that of a ref of the site, or the other way round: a file would have to be a directory.
    pub(super) fn check_names(&self, refs: &[RefName]) -> Result<(), PublishError> {
        let published = self.refs()?;
        for reference in refs {
            if let Some(other) = published.iter().find(|other| other.collides_with(reference)) {
                return Err(PublishError::Collision {
                    reference: reference.clone(),
                    other: other.clone(),
                    path: self.dir().path().to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl SiteWriter {
    /// Removes directories that have no ref any more from where the records of `refs` are to be: what is left where a removal
    /// was interrupted, or a record was removed by hand. Names that collide have been refused.
    pub(super) fn free_places(&self, refs: &[RefName]) -> Result<(), PublishError> {
        for reference in refs {
            let path = record_path(reference);
            let stat = match self.site.dir().stat_optional(&path) {
                // What is in the way is told where the record is read.
                Err(error) if error.source.kind() == std::io::ErrorKind::NotADirectory => continue,
                stat => stat?,
            };
            if stat.is_some_and(|stat| stat.kind == FileKind::Dir) {
                self.free(Path::new(&path))?;
            }
        }
        Ok(())
    }

    fn free(&self, path: &Path) -> Result<(), PublishError> {
        let dir = self.site.dir();
        for entry in dir.open_dir(path)?.entries()? {
            let inner = path.join(&entry.name);
            let name = entry.name.to_string_lossy();
            if dir.stat(&inner)?.kind == FileKind::Dir {
                self.free(&inner)?;
            } else if name.starts_with('.') && name.ends_with(".new") {
                // A record that was about to get its name.
                dir.remove_file(&inner)?;
            }
        }
        Ok(dir.remove_dir(path)?)
    }
}

/// Takes a ref off the site at `path`: removes its record, and directories that are empty then. Releases stay as they do when a site is
/// pruned, so that nothing begins anew that machines know.
///
/// # Errors
/// [`PublishError::NoSuchRef`], [`PublishError::NotASite`], or what the file system says; the ref is there still.
pub fn remove_site_ref(path: &Path, reference: &RefName, patience: &Patience) -> Result<(), PublishError> {
    let repository = SiteDir::open(path)?.repository().to_owned();
    let writer = SiteWriter::open(path, &repository, patience)?;
    let site = &writer.site;
    if !site.refs()?.contains(reference) {
        return Err(site.no_such_ref(reference));
    }
    let record = record_path(reference);
    site.dir().remove_file(&record)?;
    // Another ref may be called as the directory was.
    for parent in Path::new(&record).ancestors().skip(1) {
        // `refs` itself stays.
        if parent.components().count() < 2 {
            break;
        }
        match site.dir().remove_dir(parent) {
            Err(error) if is_not_empty(&error) => break,
            result => result?,
        }
    }
    writer.sync()
}

fn is_not_empty(error: &FsError) -> bool {
    error.source.kind() == std::io::ErrorKind::DirectoryNotEmpty
}
