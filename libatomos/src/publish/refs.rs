//! The names of a site's refs, which are paths of files.

use std::path::Path;

use crate::fs::{FsError, Patience};
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
            let within = |outer: &RefName, inner: &RefName| {
                let rest = inner.as_str().strip_prefix(outer.as_str());
                rest.is_some_and(|rest| rest.starts_with('/'))
            };
            let collides = |other: &&RefName| within(reference, other) || within(other, reference);
            if let Some(other) = published.iter().find(collides) {
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
