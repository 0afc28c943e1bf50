//! The three-way rule: what becomes of one path, given the default it had, what it is here, and the new default.
//!
//! The rule is a pure function; `docs/etc-merge.md` holds it as a table, which a test runs against it row by row.
//! An entry is merged in two units, and each other extended attribute by itself:
//!
//! - the **content unit**: kind, bytes (or target, or numbers), owner, setuid and setgid, capabilities;
//! - the **mode unit**: permission bits, sticky bit, access control lists.
//!
//! Within a unit nothing is mixed. Somebody who edits a script that upstream then makes setuid would otherwise have
//! made a root shell of the edit; so would an owner from one side and a setuid bit from the other. Between the units
//! mixing is the point: a local `chmod` and a new default content both survive. Where the mixture would be more
//! open than the side that the content is from, the stricter of the two modes is taken, as it is when both sides
//! changed the mode.
//!
//! A conflict is an outcome, not an error: what is here stays, and the conflict is reported.

use serde::{Deserialize, Serialize};

use crate::format::{Metadata, Xattrs};

use super::acl::{self, Access};
use super::entry::{
    ACL_ACCESS, ACL_DEFAULT, CAPABILITY, EtcEntry, EtcNode, IMA, LABEL, SPECIAL, is_plain_xattr,
};

/// Which side an outcome comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// Neither side changed anything.
    Unchanged,
    /// The new default stands, because nothing was changed here.
    Default,
    /// What is here stands.
    Mine,
    /// Both sides are the same.
    Agreed,
    /// One unit is from here, the other is the new default's.
    Mixed,
    /// The content was merged line by line, or account by account.
    Merged,
    /// What is here is left behind, because a policy says so.
    Policy,
}

/// In what the two sides exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConflictKind {
    /// The content unit was changed on both sides. Mine stays.
    Content,
    /// The mode unit was changed on both sides, or the mixture would be too open. The stricter mode was taken.
    Mode,
    /// An extended attribute was changed on both sides. Mine stays.
    Xattrs,
    /// It was deleted here and changed in the new default. It stays deleted.
    DeletedHere,
    /// It was changed here and is not in the new default any more. Mine stays.
    DeletedThere,
    /// The two sides are of different kinds. Mine stays, with all beneath it.
    Type,
    /// Accounts, groups or ranges of ids exclude each other. Mine stay.
    Keyed,
}

impl ConflictKind {
    /// Returns the word for it, which is also the one in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Mode => "mode",
            Self::Xattrs => "xattrs",
            Self::DeletedHere => "deleted-here",
            Self::DeletedThere => "deleted-there",
            Self::Type => "type",
            Self::Keyed => "keyed",
        }
    }
}

/// What becomes of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Where it comes from.
    pub verdict: Verdict,
    /// What will be there; `None` for nothing.
    pub result: Option<EtcEntry>,
    /// In what the sides excluded each other; empty when they did not.
    pub conflicts: Vec<ConflictKind>,
}

impl Outcome {
    pub(super) fn clean(verdict: Verdict, result: Option<&EtcEntry>) -> Self {
        Self {
            verdict,
            result: result.cloned(),
            conflicts: Vec::new(),
        }
    }

    fn mine(result: Option<&EtcEntry>, conflict: ConflictKind) -> Self {
        Self {
            verdict: Verdict::Mine,
            result: result.cloned(),
            conflicts: vec![conflict],
        }
    }
}

/// Merges one path: `base` is the default it had, `mine` what is here, `theirs` the new default.
#[must_use]
pub fn merge(base: Option<&EtcEntry>, mine: Option<&EtcEntry>, theirs: Option<&EtcEntry>) -> Outcome {
    if same(base, mine) {
        let verdict = if same(base, theirs) {
            Verdict::Unchanged
        } else {
            Verdict::Default
        };
        return Outcome::clean(verdict, theirs);
    }
    if same(mine, theirs) {
        return Outcome::clean(Verdict::Agreed, theirs);
    }
    if same(base, theirs) {
        return Outcome::clean(Verdict::Mine, mine);
    }
    match (base, mine, theirs) {
        (Some(base), None, Some(theirs)) if base.same_but_for_label(theirs) => {
            Outcome::clean(Verdict::Mine, None)
        }
        (Some(base), Some(mine), theirs)
            if base.same_but_for_label(mine)
                && theirs.is_none_or(|theirs| !theirs.node.same_kind(&base.node)) =>
        {
            Outcome::clean(Verdict::Default, theirs)
        }
        (_, None, _) => Outcome::mine(None, ConflictKind::DeletedHere),
        (_, Some(_), None) => Outcome::mine(mine, ConflictKind::DeletedThere),
        (_, Some(mine), Some(theirs)) if !mine.node.same_kind(&theirs.node) => {
            Outcome::mine(Some(mine), ConflictKind::Type)
        }
        (_, Some(mine), Some(theirs)) => {
            // A base of another kind says nothing about what changed.
            merge_units(base.filter(|base| base.node.same_kind(&mine.node)), mine, theirs)
        }
    }
}

fn same(a: Option<&EtcEntry>, b: Option<&EtcEntry>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.same(b),
        _ => false,
    }
}

/// Where one unit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Agreed,
    Mine,
    Theirs,
    Conflict,
}

fn choose<T: PartialEq>(base: Option<T>, mine: &T, theirs: &T) -> Choice {
    match base {
        _ if mine == theirs => Choice::Agreed,
        Some(base) if base == *mine => Choice::Theirs,
        Some(base) if base == *theirs => Choice::Mine,
        _ => Choice::Conflict,
    }
}

/// What may not be mixed with another side's: see the module.
#[derive(PartialEq)]
struct ContentUnit<'e> {
    node: &'e EtcNode,
    owner: (u32, u32),
    special: u32,
    capability: Option<&'e [u8]>,
    ima: Option<&'e [u8]>,
}

fn content_unit(entry: &EtcEntry) -> ContentUnit<'_> {
    let metadata = &entry.metadata;
    ContentUnit {
        node: &entry.node,
        owner: (metadata.uid, metadata.gid),
        special: metadata.mode & SPECIAL,
        capability: metadata.xattrs.get(CAPABILITY),
        ima: metadata.xattrs.get(IMA),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ModeUnit {
    access: Access,
    default_acl: Option<Vec<u8>>,
}

fn mode_unit(entry: &EtcEntry) -> ModeUnit {
    let xattr = |name| entry.metadata.xattrs.get(name).map(<[u8]>::to_vec);
    ModeUnit {
        access: Access {
            mode: entry.metadata.mode & !SPECIAL,
            acl: xattr(ACL_ACCESS),
        },
        default_acl: xattr(ACL_DEFAULT),
    }
}

/// Merges two entries of one kind, unit by unit.
fn merge_units(base: Option<&EtcEntry>, mine: &EtcEntry, theirs: &EtcEntry) -> Outcome {
    let mut conflicts = Vec::new();
    let content = choose(base.map(content_unit), &content_unit(mine), &content_unit(theirs));
    if content == Choice::Conflict {
        conflicts.push(ConflictKind::Content);
    }
    let content_is_mine = matches!(content, Choice::Mine | Choice::Conflict);
    let from = if content_is_mine { mine } else { theirs };

    let (my_mode, their_mode) = (mode_unit(mine), mode_unit(theirs));
    let (mode, mode_conflict) = match choose(base.map(mode_unit), &my_mode, &their_mode) {
        Choice::Agreed => (their_mode, false),
        Choice::Theirs if content_is_mine => not_more_open(from, their_mode, &my_mode),
        Choice::Mine if content == Choice::Theirs && is_privileged(from) => {
            not_more_open(from, my_mode, &their_mode)
        }
        Choice::Theirs => (their_mode, false),
        Choice::Mine => (my_mode, false),
        Choice::Conflict => {
            let access = acl::stricter(&my_mode.access, &their_mode.access);
            (ModeUnit { access, ..my_mode }, true)
        }
    };
    if mode_conflict {
        conflicts.push(ConflictKind::Mode);
    }

    let (mut xattrs, xattr_conflict) = merge_plain_xattrs(base, mine, theirs);
    if xattr_conflict {
        conflicts.push(ConflictKind::Xattrs);
    }
    let mut set = |name: &[u8], value: Option<&[u8]>| {
        if let Some(value) = value {
            xattrs.insert(name.to_vec(), value.to_vec());
        }
    };
    set(CAPABILITY, from.metadata.xattrs.get(CAPABILITY));
    set(IMA, from.metadata.xattrs.get(IMA));
    set(ACL_ACCESS, mode.access.acl.as_deref());
    set(ACL_DEFAULT, mode.default_acl.as_deref());
    set(LABEL, merge_label(base, mine, theirs, from));

    let result = EtcEntry {
        node: from.node.clone(),
        metadata: Metadata {
            mode: from.metadata.mode & SPECIAL | mode.access.mode,
            uid: from.metadata.uid,
            gid: from.metadata.gid,
            mtime: from.metadata.mtime,
            xattrs,
        },
    };
    // The whole of one side keeps that side's time as well.
    let (verdict, result) = if result.same(mine) {
        (Verdict::Mine, mine.clone())
    } else if result.same(theirs) {
        (Verdict::Default, theirs.clone())
    } else {
        (Verdict::Mixed, result)
    };
    Outcome {
        verdict,
        result: Some(result),
        conflicts,
    }
}

fn is_privileged(entry: &EtcEntry) -> bool {
    !entry.is_dir() && (entry.metadata.mode & SPECIAL != 0 || entry.metadata.xattrs.get(CAPABILITY).is_some())
}

/// Returns `chosen`, the mode from one side for a content from the other, less what would open that content to
/// somebody to whom its own side's mode, `own`, does not; and whether anything had to go.
///
/// A configuration file in which somebody keeps a password is not opened to the world because the default, which
/// has none, now is. To execute or to search is not to read, so that much follows the new default for files; what is
/// privileged must not become executable for more people either, nor must a directory that was given to another
/// owner become open for more.
fn not_more_open(content: &EtcEntry, chosen: ModeUnit, own: &ModeUnit) -> (ModeUnit, bool) {
    let access = if chosen.access.acl.is_some() || own.access.acl.is_some() {
        acl::stricter(&chosen.access, &own.access)
    } else {
        let guarded = if is_privileged(content) || content.is_dir() {
            0o777
        } else {
            0o066
        };
        Access {
            mode: chosen.access.mode & !(guarded & !own.access.mode),
            acl: None,
        }
    };
    let less = access != chosen.access;
    (
        ModeUnit {
            access,
            default_acl: chosen.default_acl,
        },
        less,
    )
}

fn merge_plain_xattrs(base: Option<&EtcEntry>, mine: &EtcEntry, theirs: &EtcEntry) -> (Xattrs, bool) {
    let (my, their) = (&mine.metadata.xattrs, &theirs.metadata.xattrs);
    let mut merged = Xattrs::new();
    let mut conflict = false;
    let names = my.iter().chain(their.iter()).map(|(name, _)| name);
    for name in names.filter(|name| is_plain_xattr(name)) {
        let choice = choose(
            base.map(|base| base.metadata.xattrs.get(name)),
            &my.get(name),
            &their.get(name),
        );
        conflict |= choice == Choice::Conflict;
        let value = match choice {
            Choice::Theirs | Choice::Agreed => their.get(name),
            Choice::Mine | Choice::Conflict => my.get(name),
        };
        if let Some(value) = value {
            merged.insert(name.to_vec(), value.to_vec());
        }
    }
    (merged, conflict)
}

/// A label that both sides changed goes with the content: it says what the content may be used for.
fn merge_label<'a>(
    base: Option<&EtcEntry>,
    mine: &'a EtcEntry,
    theirs: &'a EtcEntry,
    content: &'a EtcEntry,
) -> Option<&'a [u8]> {
    let label = |entry: &'a EtcEntry| entry.metadata.xattrs.get(LABEL);
    let base = base.map(|base| base.metadata.xattrs.get(LABEL));
    match choose(base, &label(mine), &label(theirs)) {
        Choice::Agreed | Choice::Theirs => label(theirs),
        Choice::Mine => label(mine),
        Choice::Conflict => label(content),
    }
}
