//! Access control lists: text in archives, bytes in extended attributes.
//!
//! The text is that of `acl_to_text`, `user:alice:rwx`, or star's with a number as the fourth part, `user:alice:rwx:1000`. A name
//! alone is refused: whom it means depends on the machine.

/// Tags of an entry, as the kernel numbers them.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Stands for no id.
const NO_ID: u32 = u32::MAX;

/// More entries than an attribute of 64 KiB holds.
const MAX_ENTRIES: usize = 8191;

/// Returns the attribute's bytes; `None` for a list that says no more than the mode does.
pub(super) fn from_text(text: &[u8], is_default: bool) -> Result<Option<Vec<u8>>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "its access control list is no text")?;
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for line in text.split(['\n', ',']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let entry = entry(line).ok_or_else(|| {
            format!("its access control list has the entry {line:?}, which names nobody by number")
        })?;
        if entries.len() == MAX_ENTRIES {
            return Err("its access control list is too long".to_owned());
        }
        entries.push(entry);
    }
    entries.sort_unstable();
    let twice = entries
        .windows(2)
        .any(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1));
    let has = |tag| entries.iter().any(|entry| entry.0 == tag);
    let named = has(USER) || has(GROUP);
    if entries.is_empty() || (!is_default && entries.len() == 3 && !named && !has(MASK)) {
        return Ok(None);
    }
    if twice || !has(USER_OBJ) || !has(GROUP_OBJ) || !has(OTHER) || (named && !has(MASK)) {
        return Err("its access control list is not complete, or has an entry twice".to_owned());
    }
    // Version 2; the kernel wants entries in this order.
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&permissions.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    Ok(Some(out))
}

/// What the attributes are called.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Takes an attribute's bytes apart: tag, id, permissions of each entry. `None` where the kernel would not keep them as they are.
pub(super) fn entries(bytes: &[u8]) -> Option<Vec<(u16, u32, u16)>> {
    let entries: Vec<(u16, u32, u16)> = bytes
        .strip_prefix(&2u32.to_le_bytes())?
        .chunks(8)
        .map(|entry| {
            let half = |at: usize| Some(u16::from_le_bytes(entry.get(at..at + 2)?.try_into().ok()?));
            let id = u32::from_le_bytes(entry.get(4..8)?.try_into().ok()?);
            Some((half(0)?, id, half(2)?))
        })
        .collect::<Option<_>>()?;
    let is_entry = |(tag, id, permissions): &(u16, u32, u16)| {
        *permissions <= 7
            && match *tag {
                USER | GROUP => *id != NO_ID,
                USER_OBJ | GROUP_OBJ | MASK | OTHER => *id == NO_ID,
                _ => false,
            }
    };
    let in_order = entries.windows(2).all(|pair| {
        let (first, second) = (pair[0].0, pair[1].0);
        first < second || (first == second && matches!(first, USER | GROUP))
    });
    let has = |tag| entries.iter().any(|entry| entry.0 == tag);
    let is_complete = has(USER_OBJ) && has(GROUP_OBJ) && has(OTHER);
    let is_masked = has(MASK) || !(has(USER) || has(GROUP));
    (entries.iter().all(is_entry) && in_order && is_complete && is_masked).then_some(entries)
}

/// Returns the permission bits that a file with this access list has, as the kernel shows them: the mask stands for the group. `None` for a
/// list that the kernel would not keep: one that says no more than the mode is none.
pub(crate) fn permissions(access: &[u8]) -> Option<u32> {
    let entries = entries(access)?;
    let of = |tag| {
        entries
            .iter()
            .find(|entry| entry.0 == tag)
            .map(|entry| u32::from(entry.2))
    };
    if entries.len() == 3 {
        return None;
    }
    Some(of(USER_OBJ)? << 6 | of(MASK)? << 3 | of(OTHER)?)
}

/// Returns the text of an attribute, which other programs read instead; `None` where the kernel would not keep it. It names everybody by
/// number.
pub(super) fn to_text(bytes: &[u8]) -> Option<String> {
    let lines = entries(bytes)?.into_iter().map(|(tag, id, permissions)| {
        let bits: String = [(4, 'r'), (2, 'w'), (1, 'x')]
            .map(|(bit, letter)| if permissions & bit != 0 { letter } else { '-' })
            .iter()
            .collect();
        match tag {
            USER => format!("user:{id}:{bits}"),
            GROUP => format!("group:{id}:{bits}"),
            USER_OBJ => format!("user::{bits}"),
            GROUP_OBJ => format!("group::{bits}"),
            MASK => format!("mask::{bits}"),
            _ => format!("other::{bits}"),
        }
    });
    Some(lines.collect::<Vec<_>>().join(","))
}

/// Returns whether the kernel would keep a default list as it is.
pub(crate) fn is_list(default: &[u8]) -> bool {
    entries(default).is_some()
}

/// Reads one entry: tag, id, permissions.
fn entry(line: &str) -> Option<(u16, u32, u16)> {
    let parts: Vec<&str> = line.split(':').map(str::trim).collect();
    let (kind, who, permissions) = match parts.as_slice() {
        // `other` and `mask` are also written with two parts.
        [kind, permissions] => (*kind, "", *permissions),
        [kind, who, permissions] => (*kind, *who, *permissions),
        [kind, who, permissions, number] => {
            if who.is_empty() {
                return None;
            }
            (*kind, *number, *permissions)
        }
        _ => return None,
    };
    let id = || who.parse::<u32>().ok().filter(|id| *id != NO_ID);
    let (tag, id) = match (kind, who.is_empty()) {
        ("user" | "u", true) => (USER_OBJ, NO_ID),
        ("user" | "u", false) => (USER, id()?),
        ("group" | "g", true) => (GROUP_OBJ, NO_ID),
        ("group" | "g", false) => (GROUP, id()?),
        ("mask" | "m", true) => (MASK, NO_ID),
        ("other" | "o", true) => (OTHER, NO_ID),
        _ => return None,
    };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_becomes_the_kernel_s_bytes() {
        let text = b"user::rw-\nuser:alice:r--:1000\ngroup::r--\nmask::r--\nother::---\n";
        let bytes = from_text(text, false).unwrap().unwrap();
        assert_eq!(&bytes[..4], [2, 0, 0, 0]);
        assert_eq!(&bytes[4..12], [1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(&bytes[12..20], [2, 0, 4, 0, 0xe8, 3, 0, 0]);
        assert_eq!(bytes.len(), 4 + 5 * 8);
        assert_eq!(
            to_text(&bytes).unwrap(),
            "user::rw-,user:1000:r--,group::r--,mask::r--,other::---"
        );
        let short = b"user::rw-,user:1000:r--,group::r--,mask::r--,other::---";
        assert_eq!(from_text(short, false).unwrap().unwrap(), bytes);
    }

    #[test]
    fn what_the_mode_says_is_no_list_and_a_name_is_nobody() {
        let plain = b"user::rw-,group::r--,other::r--";
        assert_eq!(from_text(plain, false).unwrap(), None);
        assert!(from_text(plain, true).unwrap().is_some());
        for text in [
            &b"user::rw-,user:alice:r--,group::r--,mask::r--,other::r--"[..],
            b"user::rw-,user:1:r--,group::r--,other::r--",
            b"user::rw-,user:1:r--,user:1:r--,group::r--,mask::r--,other::r--",
            b"user::rw-,group::q--,other::r--",
            b"user::rw-",
        ] {
            from_text(text, false).unwrap_err();
        }
    }
}
