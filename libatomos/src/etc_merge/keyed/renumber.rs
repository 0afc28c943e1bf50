//! Accounts that the new version gives another id, which the merge takes where nobody changed them here.
//!
//! An image that is built anew may number the users of its packages in another order. What they own in `/var` then belongs to nobody, or to
//! whoever has the number now, and no merge of text can mend that: it is told.

use serde::Serialize;

use crate::etc_merge::path::{EtcPath, escape};
use crate::etc_merge::planner::{Text, read_text};
use crate::fs::{Dir, FsError};

use super::table::{AccountFile, number_at};
use super::{MAX_FILE, records};

/// A user or group whose id is another in the new `/etc` than it was here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Renumbered {
    /// `passwd` or `group`.
    pub file: AccountFile,
    /// Its name, escaped as paths are.
    pub name: String,
    /// The uid or gid that it had.
    pub before: u32,
    /// The one that it has.
    pub after: u32,
}

/// Compares the accounts of two `/etc`.
pub(in crate::etc_merge) fn renumbered(before: &Dir, after: &Dir) -> Result<Vec<Renumbered>, FsError> {
    let mut found = Vec::new();
    for file in [AccountFile::Passwd, AccountFile::Group] {
        let path = EtcPath::root().join(file.name().as_bytes());
        let (Text::Bytes(before), Text::Bytes(after)) = (
            read_text(before, &path, MAX_FILE)?,
            read_text(after, &path, MAX_FILE)?,
        ) else {
            continue;
        };
        let after = records(file, &after);
        for (name, line) in records(file, &before) {
            let now = after.get(name).and_then(|line| number_at(line, 2));
            if let (Some(before), Some(after)) = (number_at(line, 2), now)
                && before != after
            {
                let name = escape(name);
                found.push(Renumbered {
                    file,
                    name,
                    before,
                    after,
                });
            }
        }
    }
    Ok(found)
}
