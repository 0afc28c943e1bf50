//! Objects as OSTree writes them, and as a fuzzer spoils them.

use crate::format::limits;

use super::gvariant::{write_file_header, write_offsets, write_xattrs};
use super::object::{Checksum, OstreeCommit, OstreeDirMeta, OstreeDirTree, OstreeFile};

/// Reads bytes as each kind of object: they are refused or have values that can be.
pub(crate) fn check_object(bytes: &[u8]) {
    if let Ok(commit) = OstreeCommit::decode(bytes) {
        assert!(commit.time >= 0 && !commit.subject.contains(&0));
    }
    if let Ok(tree) = OstreeDirTree::decode(bytes) {
        assert!(tree.files.iter().all(|(name, _)| !name.contains(&0)));
        assert!(tree.files.len() + tree.dirs.len() <= bytes.len());
    }
    if let Ok(OstreeDirMeta(metadata)) = OstreeDirMeta::decode(bytes) {
        assert!(metadata.mode & !limits::MODE_MASK == 0);
    }
    if let Ok((file, _)) = OstreeFile::decode_archived(bytes)
        && file.check().is_ok()
    {
        let _ = file.metadata();
        assert!(file.hashed_header().len() > file.target.len() + file.xattrs.len());
    }
}

/// Returns the checksum of bytes.
pub(crate) fn checksum(bytes: &[u8]) -> Checksum {
    Checksum::of(bytes)
}

/// Returns some extended attributes, `a(ayay)`.
pub(crate) fn xattrs() -> Vec<u8> {
    write_xattrs([(&b"user.a"[..], &b"b"[..]), (&b"user.c"[..], &b""[..])].into_iter())
}

/// Returns a directory's metadata, or, with another type in `mode`, what a repository of the mode `bare-user` keeps of a file.
pub(crate) fn meta(mode: u32) -> Vec<u8> {
    let numbers = [1000, 1000, mode].map(u32::to_be_bytes);
    [numbers.as_flattened(), &xattrs()].concat()
}

/// Returns the start of a file in an archive: the length of its header, and that.
pub(crate) fn archived(mode: u32, target: &[u8], size: u64) -> Vec<u8> {
    let header = archived_header(mode, target, size);
    [&(header.len() as u32).to_be_bytes()[..], &[0; 4], &header].concat()
}

/// Returns what an archive has of a file before its bytes.
pub(crate) fn archived_header(mode: u32, target: &[u8], size: u64) -> Vec<u8> {
    let xattrs = xattrs();
    let header = write_file_header(1000, 1000, mode, target, &xattrs);
    // Its numbers and texts, and where the target ends, which has moved by the eight bytes of the size.
    let mut out = size.to_be_bytes().to_vec();
    out.extend_from_slice(&header[..16 + target.len() + 1]);
    let end = out.len();
    out.extend_from_slice(&xattrs);
    write_offsets(&mut out, 0, std::iter::once(end));
    out
}

/// Returns a directory.
pub(crate) fn tree(files: &[(&str, Checksum)], dirs: &[(&str, Checksum, Checksum)]) -> Vec<u8> {
    let files = files.iter().map(|(name, sum)| (*name, vec![*sum]));
    let files = entries(&files.collect::<Vec<_>>());
    let dirs = dirs.iter().map(|(name, tree, meta)| (*name, vec![*tree, *meta]));
    let dirs = entries(&dirs.collect::<Vec<_>>());
    let mut out = [&files[..], &dirs].concat();
    write_offsets(&mut out, 0, std::iter::once(files.len()));
    out
}

/// Writes an array of names with checksums.
fn entries(entries: &[(&str, Vec<Checksum>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut ends = Vec::new();
    for (name, sums) in entries {
        let start = out.len();
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        let mut inner = vec![out.len() - start];
        for sum in sums {
            out.extend_from_slice(&sum.0);
            inner.push(out.len() - start);
        }
        // The last member ends where the offsets begin, and these stand in the reverse order.
        inner.pop();
        inner.reverse();
        write_offsets(&mut out, start, inner.into_iter());
        ends.push(out.len());
    }
    write_offsets(&mut out, 0, ends.into_iter());
    out
}

/// Returns a commit that says that it is of version 1.
pub(crate) fn commit(
    parent: Option<Checksum>,
    subject: &str,
    root: &Checksum,
    root_meta: &Checksum,
) -> Vec<u8> {
    // The value is aligned to eight, as its key is long, too.
    let entry = [&b"version\0"[..], b"1\0\0s", &[8]].concat();
    let mut out = [&entry[..], &[entry.len() as u8]].concat();
    let mut ends = vec![out.len()];
    if let Some(parent) = parent {
        out.extend_from_slice(&parent.0);
    }
    ends.extend([out.len(), out.len()]);
    for text in [subject, "body"] {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
        ends.push(out.len());
    }
    out.resize(out.len().next_multiple_of(8), 0);
    out.extend_from_slice(&1_700_000_000u64.to_be_bytes());
    out.extend_from_slice(&root.0);
    ends.push(out.len());
    out.extend_from_slice(&root_meta.0);
    ends.reverse();
    write_offsets(&mut out, 0, ends.into_iter());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_as_they_are_written_here() {
        let sum = checksum(b"x");
        let read = OstreeCommit::decode(&commit(Some(sum), "subject", &sum, &sum)).unwrap();
        assert_eq!(
            (read.parent, read.version.as_deref()),
            (Some(sum), Some(&b"1"[..]))
        );
        assert!(OstreeCommit::decode(&commit(None, "", &sum, &sum)).is_ok());
        let read = OstreeDirTree::decode(&tree(&[("a", sum), ("b", sum)], &[("c", sum, sum)])).unwrap();
        assert_eq!((read.files.len(), read.dirs.len()), (2, 1));
        assert!(OstreeDirMeta::decode(&meta(0o040_755)).is_ok());
        let (file, size) = OstreeFile::decode_archived(&archived_header(0o120_777, b"target", 7)).unwrap();
        assert_eq!((file.link(), size), (Some(&b"target"[..]), 7));
        file.check().unwrap();
        assert_eq!(file.metadata().unwrap().xattrs.iter().count(), 2);
    }
}
