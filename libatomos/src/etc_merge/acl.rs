//! The stricter of two access rights: permission bits, with an access control list where there is one.
//!
//! A POSIX ACL extends the nine permission bits by named users and groups; the group bits then are the mask, which
//! caps everybody but owner and others (`acl(5)`). The stricter right gives nobody what one of the two would not
//! give. Taking away an ACL is not always stricter (the mask becomes the owning group's right), nor is keeping one,
//! so the two are intersected entry by entry.

use std::collections::BTreeMap;

/// The access rights of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    /// Permission bits and the sticky bit.
    pub mode: u32,
    /// The attribute `system.posix_acl_access`, where there is one.
    pub acl: Option<Vec<u8>>,
}

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id in entries that name nobody.
const NO_ID: u32 = u32::MAX;
const STICKY: u32 = 0o1000;

/// Rights by class, with the mask applied.
struct Rights {
    owner: u16,
    group: u16,
    other: u16,
    /// Named users and groups, by tag and id.
    named: BTreeMap<(u16, u32), u16>,
}

/// Returns an access right that gives nobody more than either does.
pub(super) fn stricter(a: &Access, b: &Access) -> Access {
    let sticky = (a.mode | b.mode) & STICKY;
    let plain = Access {
        mode: a.mode & b.mode & 0o777 | sticky,
        acl: None,
    };
    if a.acl.is_none() && b.acl.is_none() {
        return plain;
    }
    let (Some(first), Some(second)) = (rights(a), rights(b)) else {
        // Not an ACL as the kernel writes it: its owner alone keeps a right.
        return Access {
            mode: plain.mode & (0o700 | STICKY),
            acl: None,
        };
    };
    let mut named = BTreeMap::new();
    for key in first.named.keys().chain(second.named.keys()) {
        named.insert(*key, right_of(&first, *key) & right_of(&second, *key));
    }
    let owner = first.owner & second.owner;
    let group = first.group & second.group;
    let other = first.other & second.other;
    let mask = named.values().fold(group, |mask, right| mask | right);
    let mode = u32::from(owner) << 6 | u32::from(mask) << 3 | u32::from(other) | sticky;
    // Where nobody but the owner has a right, a list would say no more than the mode does.
    let says_more = !named.is_empty() && mask | other != 0;
    let acl = says_more.then(|| encode(owner, group, mask, other, &named));
    Access { mode, acl }
}

/// Returns what `rights` gives somebody named, at least: who is not named there may be in any of its groups or in
/// none.
fn right_of(rights: &Rights, key: (u16, u32)) -> u16 {
    match rights.named.get(&key) {
        Some(right) => *right,
        None => rights
            .named
            .values()
            .fold(rights.group & rights.other, |least, right| least & right),
    }
}

fn rights(access: &Access) -> Option<Rights> {
    let Some(acl) = &access.acl else {
        let class = |shift: u32| (access.mode >> shift & 7) as u16;
        return Some(Rights {
            owner: class(6),
            group: class(3),
            other: class(0),
            named: BTreeMap::new(),
        });
    };
    let (version, entries) = acl.split_at_checked(4)?;
    if version != VERSION.to_le_bytes() || entries.len() % 8 != 0 {
        return None;
    }
    let mut rights = Rights {
        owner: 0,
        group: 0,
        other: 0,
        named: BTreeMap::new(),
    };
    let mut mask = 7;
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let right = u16::from_le_bytes([entry[2], entry[3]]) & 7;
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        match tag {
            USER_OBJ => rights.owner = right,
            GROUP_OBJ => rights.group = right,
            OTHER => rights.other = right,
            MASK => mask = right,
            USER | GROUP => {
                rights.named.insert((tag, id), right);
            }
            _ => return None,
        }
    }
    rights.group &= mask;
    for right in rights.named.values_mut() {
        *right &= mask;
    }
    Some(rights)
}

fn encode(owner: u16, group: u16, mask: u16, other: u16, named: &BTreeMap<(u16, u32), u16>) -> Vec<u8> {
    let mut acl = VERSION.to_le_bytes().to_vec();
    let mut push = |tag: u16, right: u16, id: u32| {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&right.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    };
    // The kernel wants them in the order of their tags.
    push(USER_OBJ, owner, NO_ID);
    for ((tag, id), right) in named.iter().filter(|((tag, _), _)| *tag == USER) {
        push(*tag, *right, *id);
    }
    push(GROUP_OBJ, group, NO_ID);
    for ((tag, id), right) in named.iter().filter(|((tag, _), _)| *tag == GROUP) {
        push(*tag, *right, *id);
    }
    push(MASK, mask, NO_ID);
    push(OTHER, other, NO_ID);
    acl
}

/// Returns an ACL for tests: the classes' rights and named users'.
#[cfg(test)]
pub(super) fn test_acl(owner: u16, group: u16, mask: u16, other: u16, users: &[(u32, u16)]) -> Vec<u8> {
    let named = users.iter().map(|(id, right)| ((USER, *id), *right)).collect();
    encode(owner, group, mask, other, &named)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn access(owner: u16, group: u16, mask: u16, other: u16, named: &BTreeMap<(u16, u32), u16>) -> Access {
        Access {
            mode: u32::from(owner) << 6
                | u32::from(if named.is_empty() { group } else { mask }) << 3
                | u32::from(other),
            acl: (!named.is_empty()).then(|| encode(owner, group, mask, other, named)),
        }
    }

    /// What the kernel grants (`posix_acl_permission`): the owner's entry, a named user's, any group's that has the
    /// right, others'.
    fn granted(access: &Access, uid: u32, groups: &[u32], want: u16) -> bool {
        let rights = rights(access).unwrap();
        if uid == 0 {
            return rights.owner & want == want;
        }
        if let Some(right) = rights.named.get(&(USER, uid)) {
            return right & want == want;
        }
        let mut in_one = false;
        for group in groups {
            let right = match group {
                0 => Some(&rights.group),
                _ => rights.named.get(&(GROUP, *group)),
            };
            if let Some(right) = right {
                in_one = true;
                if right & want == want {
                    return true;
                }
            }
        }
        !in_one && rights.other & want == want
    }

    fn any_access() -> impl Strategy<Value = Access> {
        let named =
            prop::collection::btree_map((prop_oneof![Just(USER), Just(GROUP)], 1u32..3), 0u16..8, 0..3);
        (0u16..8, 0u16..8, 0u16..8, 0u16..8, named)
            .prop_map(|(owner, group, mask, other, named)| access(owner, group, mask, other, &named))
    }

    proptest! {
        #[test]
        fn the_stricter_right_gives_nobody_more_than_either(a in any_access(), b in any_access()) {
            let both = stricter(&a, &b);
            for uid in 0..3 {
                for groups in [&[][..], &[0], &[1], &[2], &[0, 1], &[1, 2], &[0, 2], &[0, 1, 2]] {
                    for want in 1..8 {
                        if granted(&both, uid, groups, want) {
                            prop_assert!(granted(&a, uid, groups, want), "{uid} {groups:?} {want}");
                            prop_assert!(granted(&b, uid, groups, want), "{uid} {groups:?} {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn taking_an_acl_away_does_not_give_the_group_the_mask() {
        let with_acl = Access {
            mode: 0o660,
            acl: Some(test_acl(6, 0, 6, 0, &[(7, 6)])),
        };
        let plain = Access {
            mode: 0o660,
            acl: None,
        };
        let both = stricter(&with_acl, &plain);
        assert!(!granted(&both, 5, &[0], 4));
        assert!(!granted(&both, 7, &[], 4));
    }

    #[test]
    fn an_acl_that_cannot_be_read_leaves_the_owner_alone() {
        let broken = Access {
            mode: 0o777,
            acl: Some(vec![2, 0]),
        };
        let plain = Access {
            mode: 0o755,
            acl: None,
        };
        assert_eq!(stricter(&broken, &plain).mode, 0o700);
    }
}
