//! `/etc` becomes `/usr/etc`, and stops being one machine's.

use super::super::{Content, SourceKind};
use super::OsTreeError;
use super::report::DropReason;
use super::shaper::Shaper;

pub(super) fn arrange(shaper: &mut Shaper<'_>) -> Result<(), OsTreeError> {
    move_to_usr(shaper)?;
    // A stamp that says when the directory was last brought up to date with /usr: it would keep systemd's
    // ConditionNeedsUpdate= from firing after an upgrade.
    shaper.drop_path("usr/etc/.updated", "usr/etc", DropReason::Volatile);
    empty_machine_id(shaper);
    Ok(())
}

fn move_to_usr(shaper: &mut Shaper<'_>) -> Result<(), OsTreeError> {
    let Some(etc) = shaper.tree.find("etc") else {
        return Ok(());
    };
    if !shaper.is_dir(etc) {
        return Err(shaper.in_the_way("etc", "directory"));
    }
    match shaper.tree.find("usr/etc") {
        None => {}
        Some(defaults) if !shaper.is_dir(defaults) => return Err(shaper.in_the_way("usr/etc", "directory")),
        Some(_) if shaper.is_empty(etc) => {
            shaper.drop_path("etc", "", DropReason::Replaced);
            return Ok(());
        }
        Some(defaults) if shaper.is_empty(defaults) => {
            shaper.drop_path("usr/etc", "usr", DropReason::Replaced);
        }
        Some(_) => return Err(OsTreeError::BothEtc),
    }
    shaper.note_moved(etc, "etc", "usr/etc");
    let usr = shaper.dir("usr").expect("a tree without /usr was refused");
    let etc = shaper.take("etc", "etc").expect("it was found");
    shaper.tree.attach(usr, etc);
    Ok(())
}

/// An empty machine-id says "not yet known" to systemd: it makes one at the first start and writes it, without
/// taking the start for a first boot, which would enable and disable units by preset. Mode and owner stay.
fn empty_machine_id(shaper: &mut Shaper<'_>) {
    let path = "usr/etc/machine-id";
    let Some(node) = shaper.tree.find(path) else {
        return;
    };
    if let SourceKind::File { size, content } = &mut shaper.tree.node_mut(node).kind
        && *size > 0
    {
        *size = 0;
        *content = Content::Bytes(Box::default());
        shaper.note_generated(path, "emptied: it named one machine");
    }
}
