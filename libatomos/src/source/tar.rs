//! An archive as a layer.

use std::io::Read;

use crate::archive::{Decompressed, MemberKind, TarError, TarReader};
use crate::commit::{Content, SourceKind};
use crate::digest::BlobId;
use crate::repo::LooseError;

use super::overlay::{Overlay, Paths, Whiteout, dir, whiteout};
use super::{SourceError, attributes};

/// Keeps the bytes of a member; returns the blob that they are.
pub(super) type Keep<'a> = dyn FnMut(&mut dyn Read) -> Result<BlobId, LooseError> + 'a;

/// Reads an archive, compressed or not, into a layer.
pub(super) fn apply(
    overlay: &mut Overlay,
    stream: impl Read,
    paths: Paths,
    keep: &mut Keep<'_>,
) -> Result<(), SourceError> {
    let begin = |source| TarError::Read {
        member: None,
        offset: 0,
        source,
    };
    apply_plain(overlay, Decompressed::new(stream).map_err(begin)?, paths, keep)
}

/// Reads an archive that is not compressed.
pub(super) fn apply_plain(
    overlay: &mut Overlay,
    stream: impl Read,
    paths: Paths,
    keep: &mut Keep<'_>,
) -> Result<(), SourceError> {
    let mut reader = TarReader::new(stream);
    while let Some(mut member) = reader.next_member()? {
        crate::fs::drop_transient(&mut member.metadata.xattrs);
        if !member.literal {
            let (parent, name) = split(&member.path);
            if let Some(whiteout) = whiteout(name) {
                remove(overlay, parent, &whiteout, paths).map_err(|rule| reader.bad(rule))?;
                continue;
            }
            if is_reserved(overlay, parent, paths).map_err(|rule| reader.bad(rule))? {
                continue;
            }
        }
        attributes::check(&member).map_err(|rule| reader.bad(rule))?;
        let place = overlay
            .place(&member.path, paths)
            .map_err(|rule| reader.bad(rule))?;
        let (metadata, kind) = match member.kind {
            MemberKind::File { size } => {
                let blob = match keep(&mut reader) {
                    Ok(blob) => blob,
                    Err(LooseError::Read(error)) => return Err(reader.read_error(error).into()),
                    Err(LooseError::Store(error)) => return Err(error.into()),
                };
                let content = Content::Stored(blob);
                (member.metadata, SourceKind::File { size, content })
            }
            MemberKind::HardLink(target) => {
                linked(overlay, &target, paths).map_err(|rule| reader.bad(rule))?
            }
            MemberKind::Dir => (member.metadata, dir()),
            MemberKind::Symlink(target) => (member.metadata, SourceKind::Symlink(target.into())),
            MemberKind::Char(major, minor) => (member.metadata, SourceKind::Char(major, minor)),
            MemberKind::Block(major, minor) => (member.metadata, SourceKind::Block(major, minor)),
            MemberKind::Fifo => (member.metadata, SourceKind::Fifo),
        };
        overlay
            .put(place, metadata, kind)
            .map_err(|rule| reader.bad(rule))?;
    }
    Ok(())
}

/// Parts a member's name from the path of its directory. That of a directory may end with a slash.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let start = path[..end]
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    path[..end].split_at(start)
}

/// Does what a whiteout says. Its parent is looked for as that of an addition is, and not made: where nothing is, nothing has to go.
fn remove(overlay: &mut Overlay, parent: &[u8], whiteout: &Whiteout<'_>, paths: Paths) -> Result<(), String> {
    let Some(parent) = overlay.find_dir(parent, paths)? else {
        return Ok(());
    };
    match whiteout {
        Whiteout::Entry(name) => overlay.remove_lower(parent, name),
        Whiteout::Directory => {
            overlay.purge(parent);
            Ok(())
        }
        Whiteout::Reserved => Ok(()),
    }
}

/// Returns whether the path leads through a reserved name, which means nothing to a tree, and so does what is in it. A directory that is
/// called so has come as one whose name means itself.
fn is_reserved(overlay: &mut Overlay, path: &[u8], paths: Paths) -> Result<bool, String> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    for (end, _) in ends {
        let (_, name) = split(&path[..end]);
        if whiteout(name) == Some(Whiteout::Reserved) && overlay.find(&path[..end], paths)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns what another name of `target` is: the same metadata and the same bytes. An archive that was given a file twice links it
/// to itself, which changes nothing.
fn linked(
    overlay: &mut Overlay,
    target: &[u8],
    paths: Paths,
) -> Result<(crate::format::Metadata, SourceKind), String> {
    let shown = target.escape_ascii();
    let Some(node) = overlay
        .find(target, paths)
        .map_err(|rule| format!("it is a hard link to {shown}, and of that {rule}"))?
    else {
        return Err(format!(
            "it is a hard link to {shown}, which does not stand before it"
        ));
    };
    let (tree, index) = (overlay.tree(), node);
    let node = tree.node(index);
    if matches!(node.kind, SourceKind::Dir { .. }) {
        return Err(format!("it is a hard link to {shown}, which is a directory"));
    }
    Ok((node.metadata.clone(), tree.kind_for_another(index)))
}

#[cfg(test)]
mod tests {
    use crate::archive::{Member, TarWriter};
    use crate::digest::Digest;
    use crate::format::Metadata;

    use super::*;

    /// Lays layers over one another, as those of an image; a name ends with a slash, has a link's target after an arrow, or is that of a file.
    fn layers(layers: &[&[&str]]) -> Overlay {
        let mut overlay = Overlay::new();
        for names in layers {
            let mut writer = TarWriter::new(Vec::new());
            for name in *names {
                let (path, kind) = match name.split_once(" -> ") {
                    Some((path, target)) => (path, MemberKind::Symlink(target.into())),
                    None if name.ends_with('/') => (*name, MemberKind::Dir),
                    None => (*name, MemberKind::File { size: 0 }),
                };
                let metadata = Metadata::with_mode(0o755);
                let (path, literal) = (path.as_bytes().to_vec(), false);
                let member = Member {
                    path,
                    metadata,
                    kind,
                    literal,
                };
                writer.write_member(&member).unwrap();
            }
            let bytes = writer.finish().unwrap();
            overlay.begin_layer();
            let mut keep = |_: &mut dyn Read| Ok(BlobId::new(Digest::of(b"")));
            apply_plain(&mut overlay, bytes.as_slice(), Paths::Rooted, &mut keep).unwrap();
        }
        overlay
    }

    fn has(layers: Overlay, path: &str) -> bool {
        layers.finish().find(path).is_some()
    }

    #[test]
    fn a_whiteout_goes_the_way_that_an_addition_goes() {
        let lower: &[&str] = &["t/k", "t/l", "t/deep/m", "a -> t", "b -> /a/deep", "loop -> loop"];
        assert!(!has(layers(&[lower, &["a/.wh.k"]]), "t/k"));
        assert!(has(layers(&[lower, &["a/.wh.k"]]), "t/l"));
        assert!(!has(layers(&[lower, &["b/.wh.m"]]), "t/deep/m"));
        let opaque = || layers(&[lower, &["a/.wh..wh..opq", "a/new"]]);
        assert!(!has(opaque(), "t/k") && !has(opaque(), "t/deep") && has(opaque(), "t/new"));
        // The link itself is an entry of the root.
        assert!(has(layers(&[lower, &[".wh.a"]]), "t/k"));
        assert!(!has(layers(&[lower, &[".wh.a"]]), "a"));
        assert!(has(layers(&[lower, &["nowhere/.wh.k"]]), "t/k"));
        // What was a directory below, and is a file.
        assert!(has(layers(&[lower, &["t/deep", "t/deep/.wh.m"]]), "t/deep"));
    }

    #[test]
    fn what_is_under_a_reserved_name_is_not_of_the_tree() {
        let lower: &[&str] = &["d/one"];
        for name in [
            ".wh..wh.plnk/x",
            ".wh..wh.plnk/",
            "d/.wh..wh.orph/a/b",
            "d/.wh..wh..opq/",
        ] {
            let tree = layers(&[lower, &[name]]).finish();
            let marks = tree.find(".wh..wh.plnk").or(tree.find("d/.wh..wh.orph"));
            assert_eq!(marks.or(tree.find("d/.wh..wh..opq")), None, "{name}");
        }
    }
}
