//! An archive as a layer.

use std::io::Read;

use crate::archive::{Decompressed, Member, MemberKind, TarError, TarReader};
use crate::commit::{Content, SourceKind};
use crate::digest::BlobId;
use crate::repo::LooseError;

use super::SourceError;
use super::overlay::{Overlay, Paths, Whiteout, dir, whiteout};

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
        let name = member.path.split(|byte| *byte == b'/').next_back();
        if !member.literal
            && let Some(whiteout) = name.and_then(whiteout)
        {
            remove(overlay, &member, &whiteout, paths).map_err(|rule| reader.bad(rule))?;
            continue;
        }
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

/// Does what a whiteout says. Its parent is looked for and not made: where nothing is, nothing has to go.
fn remove(
    overlay: &mut Overlay,
    member: &Member,
    whiteout: &Whiteout<'_>,
    paths: Paths,
) -> Result<(), String> {
    let name = member.path.split(|byte| *byte == b'/').next_back();
    let parent = &member.path[..member.path.len() - name.map_or(0, <[u8]>::len)];
    let Some(parent) = overlay.find(parent, paths)? else {
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
