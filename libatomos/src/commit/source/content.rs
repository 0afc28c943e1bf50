//! The bytes of a tree's files, wherever they come from.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::format::Xattrs;
use crate::fs::{FsError, read_xattrs};
use crate::unpack::{Codec, Unpacker};

use super::super::CommitError;
use super::{Content, SourceKind, SourceTree};

impl SourceTree {
    /// Returns the bytes of a file node; more than `limit` of them are an error.
    pub fn read(&self, index: u32, limit: usize) -> Result<Option<Vec<u8>>, CommitError> {
        let node = self.node(index);
        let SourceKind::File { content, .. } = &node.kind else {
            return Ok(None);
        };
        let limited = |file: File| -> Result<Vec<u8>, CommitError> {
            let mut bytes = Vec::new();
            let fail = |error| FsError::new("read", String::from_utf8_lossy(&node.name).as_ref(), error);
            file.take(limit as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(fail)?;
            if bytes.len() > limit {
                return Err(fail(io::Error::other(format!("it holds more than {limit} bytes"))).into());
            }
            Ok(bytes)
        };
        let unpacked = |file: File, codec, path: PathBuf| {
            unpack(&file, codec, limit).map_err(|source| CommitError::Unpack { path, source })
        };
        Ok(Some(match content {
            Content::Bytes(bytes) => bytes.to_vec(),
            Content::Disk { directory, name } => {
                let (root, path) = self.place(*directory, name.as_deref(), &node.name);
                root.read(path, limit)?
            }
            Content::Unpacked {
                directory,
                name,
                codec,
            } => {
                let (root, path) = self.place(*directory, name.as_deref(), &node.name);
                unpacked(root.open_file(&path)?, *codec, path)?
            }
            Content::Stored(blob) => limited(self.blob_files().open(blob)?)?,
            Content::UnpackedBlob { blob, codec } => {
                let path = PathBuf::from(OsStr::from_bytes(&node.name));
                unpacked(self.blob_files().open(blob)?, *codec, path)?
            }
        }))
    }

    /// Opens the file on disk that a node's content comes from; `None` for what comes from nowhere.
    pub(crate) fn open_content(&self, index: u32) -> Result<Option<File>, CommitError> {
        let node = self.node(index);
        let SourceKind::File { content, .. } = &node.kind else {
            return Ok(None);
        };
        Ok(match content {
            Content::Disk { directory, name } | Content::Unpacked { directory, name, .. } => {
                let (root, path) = self.place(*directory, name.as_deref(), &node.name);
                Some(root.open_file(path)?)
            }
            Content::Stored(blob) | Content::UnpackedBlob { blob, .. } => Some(self.blob_files().open(blob)?),
            Content::Bytes(_) => None,
        })
    }

    /// Returns a file's extended attributes: those of the file on disk where its content is one, else the node's.
    pub(crate) fn xattrs_of(&self, index: u32) -> Result<Xattrs, CommitError> {
        let node = self.node(index);
        let SourceKind::File {
            content: Content::Disk { .. } | Content::Unpacked { .. },
            ..
        } = &node.kind
        else {
            return Ok(node.metadata.xattrs.clone());
        };
        Ok(match self.open_content(index)? {
            Some(file) => read_xattrs(&file, Path::new(OsStr::from_bytes(&node.name)))?,
            None => Xattrs::new(),
        })
    }
}

fn unpack(file: &File, codec: Codec, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let unpacker = Unpacker::new(codec, file, file.metadata()?.len())?;
    unpacker.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::other(format!("it holds more than {limit} bytes")));
    }
    Ok(bytes)
}
