//! Key sets, and who has signed them.

use std::io::{self, Write};

use libatomos::sign::{KeyId, KeySet, KeySetDraft, Role, Signed};
use serde::Serialize;

use super::text;

/// A key set, for programs.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Model {
    number: u64,
    repository: String,
    time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
    root: RoleModel,
    record: RoleModel,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<RoleModel>,
    /// Root keys of this set that have signed it, and how many more it takes.
    own: SignedModel,
    /// The same of the set before, where that is at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<SignedModel>,
    /// Everybody who says to have signed.
    signers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct RoleModel {
    keys: Vec<String>,
    threshold: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SignedModel {
    signed: Vec<String>,
    open: Vec<String>,
    missing: usize,
}

/// Returns ids as text.
pub fn ids<'k>(keys: impl IntoIterator<Item = &'k KeyId>) -> Vec<String> {
    keys.into_iter().map(ToString::to_string).collect()
}

impl Model {
    /// Takes what there is to say of a set; of the signatures for the set before, where that is at hand.
    pub fn of(draft: &KeySetDraft, before: Option<&KeySet>) -> Self {
        let set = draft.set();
        Self {
            number: set.number,
            repository: set.repository.clone(),
            time: set.time,
            expires: set.expires,
            root: RoleModel::of(&set.root),
            record: RoleModel::of(&set.record),
            release: set.release.as_ref().map(RoleModel::of),
            own: SignedModel::of(&draft.signed_by_its_own()),
            before: before.map(|before| SignedModel::of(&draft.signed_by_root_of(before))),
            signers: draft.signers().map(|id| id.to_string()).collect(),
        }
    }
}

impl RoleModel {
    fn of(role: &Role) -> Self {
        Self {
            keys: ids(&role.keys),
            threshold: role.threshold,
        }
    }
}

impl SignedModel {
    fn of(signed: &Signed) -> Self {
        Self {
            signed: ids(&signed.by),
            open: ids(&signed.open),
            missing: signed.missing(),
        }
    }
}

/// Writes the set for people.
pub fn describe(out: &mut dyn Write, draft: &KeySetDraft) -> io::Result<()> {
    let set = draft.set();
    let own = draft.signed_by_its_own();
    writeln!(out, "Key set: {}", set.number)?;
    writeln!(out, "Repository: {}", text::escape_text(&set.repository))?;
    writeln!(out, "Made: {}", text::time(set.time))?;
    if let Some(expires) = set.expires {
        writeln!(out, "Expires: {}", text::time(expires))?;
    }
    let mut role = |name: &str, role: &Role, note: &dyn Fn(&KeyId) -> &'static str| {
        writeln!(out, "{name}: {} of {}", role.threshold, role.keys.len())?;
        for id in &role.keys {
            writeln!(out, "  {id}{}", note(id))?;
        }
        Ok::<(), io::Error>(())
    };
    role("Root", &set.root, &|id| {
        if own.by.contains(id) { "  signed" } else { "" }
    })?;
    role("Record", &set.record, &|_| "")?;
    match &set.release {
        Some(release) => role("Release", release, &|_| "")?,
        None => writeln!(out, "Release: as records")?,
    }
    for id in draft.signers().filter(|id| !set.root.keys.contains(id)) {
        writeln!(out, "Signed also by: {id}")?;
    }
    Ok(())
}
