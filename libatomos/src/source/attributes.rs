//! Extended attributes of a member, before they are a tree's: what no file system would take, or what the kernel would keep in another form,
//! could be committed and never checked out.

use crate::archive::{Member, MemberKind, acl};

/// The namespaces that Linux has, as far as a tree may have attributes of them.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"btrfs."];

const CAPABILITIES: &[u8] = b"security.capability";

/// Fails for a member whose attributes cannot be kept; says which.
pub(super) fn check(member: &Member) -> Result<(), String> {
    let kind = &member.kind;
    // A hard link has those of what it is a name of.
    if matches!(kind, MemberKind::HardLink(_)) {
        return Ok(());
    }
    for (name, value) in member.metadata.xattrs.iter() {
        let rule = match name {
            acl::ACCESS | acl::DEFAULT if matches!(kind, MemberKind::Symlink(_)) => {
                Some("a symbolic link has no access control list")
            }
            acl::ACCESS => match acl::permissions(value) {
                None => Some("the list is not as the kernel keeps it"),
                Some(permissions) if permissions != member.metadata.mode & 0o777 => {
                    Some("the list does not fit the mode")
                }
                Some(_) => None,
            },
            acl::DEFAULT if !matches!(kind, MemberKind::Dir) => Some("only a directory has a default list"),
            acl::DEFAULT => (!acl::is_list(value)).then_some("the list is not as the kernel keeps it"),
            CAPABILITIES => (!is_capabilities(value)).then_some("it is not as the kernel keeps it"),
            _ if name.starts_with(b"user.") && !matches!(kind, MemberKind::File { .. } | MemberKind::Dir) => {
                Some("only files and directories have attributes of users")
            }
            _ if !NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) => {
                Some("Linux has no such attributes")
            }
            _ => None,
        };
        if let Some(rule) = rule {
            let shown = name.escape_ascii();
            return Err(format!("its extended attribute {shown} cannot be kept: {rule}"));
        }
    }
    Ok(())
}

/// Returns whether these are capabilities of a file in a form that is read as it was written: of version 2, or of version 3 for a root that is
/// another than the machine's.
fn is_capabilities(value: &[u8]) -> bool {
    let word = |at: usize| {
        let bytes = value.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    // The lowest bit says that they are effective.
    match (word(0).map(|magic| magic & !1), value.len()) {
        (Some(0x0200_0000), 20) => true,
        (Some(0x0300_0000), 24) => word(20).is_some_and(|root| root != 0 && root != u32::MAX),
        _ => false,
    }
}
