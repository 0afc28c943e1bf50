//! Commits, as `show` and `log` print them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use libatomos::digest::{CommitId, DirTreeId, hex};
use libatomos::format::{Commit, MetadataValue};
use libatomos::names::RefName;
use libatomos::remote::unverified_commits;
use libatomos::repo::{PartialCommits, Refs, Repo};
use serde::Serialize;

use super::list::MetadataModel;
use super::text::{escape_text, time};
use crate::report::CliError;

/// A commit, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CommitModel {
    commit: CommitId,
    root: DirTreeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<CommitId>,
    /// Seconds since 1970.
    time: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    body: String,
    /// Refs that name it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refs: Vec<RefName>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, MetadataValue>,
    root_metadata: MetadataModel,
    /// Nobody vouched for it when it was pulled.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unverified: bool,
    /// Paths of it that are here, where not all of it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partial: Vec<String>,
}

/// What a repository knows of its commits besides what they say.
#[derive(Debug)]
pub struct Marks {
    refs: Refs,
    unverified: BTreeSet<CommitId>,
    partial: PartialCommits,
}

impl Marks {
    /// Reads them.
    pub fn of(repo: &Repo) -> Result<Self, CliError> {
        Ok(Self {
            refs: repo.refs()?,
            unverified: unverified_commits(repo)?,
            partial: repo.partial_commits()?,
        })
    }
}

impl CommitModel {
    /// Takes a commit, and what its repository knows of it.
    pub fn new(id: CommitId, commit: Commit, marks: &Marks) -> Self {
        let partial = marks.partial.get(&id);
        Self {
            unverified: marks.unverified.contains(&id),
            partial: partial.into_iter().flatten().cloned().collect(),
            commit: id,
            root: commit.root,
            parent: commit.parent,
            time: commit.time,
            version: commit.version,
            subject: commit.subject,
            body: commit.body,
            refs: marks
                .refs
                .iter()
                .filter(|(_, named)| **named == id)
                .map(|(name, _)| name.clone())
                .collect(),
            metadata: commit.metadata,
            root_metadata: MetadataModel::new(&commit.root_metadata),
        }
    }

    /// Writes what one should know before one uses it.
    fn write_marks(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.unverified {
            writeln!(
                out,
                "Trust:   NOT VERIFIED: nobody vouched for it when it was pulled"
            )?;
        }
        for path in &self.partial {
            writeln!(out, "Partial: {}", escape_text(path))?;
        }
        Ok(())
    }

    /// Writes it as `log` does.
    pub fn write_brief(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "commit {}", self.commit)?;
        if !self.refs.is_empty() {
            let names: Vec<_> = self.refs.iter().map(RefName::as_str).collect();
            write!(out, " ({})", names.join(", "))?;
        }
        writeln!(out, "\nTime:    {}", time(self.time))?;
        if !self.version.is_empty() {
            writeln!(out, "Version: {}", escape_text(&self.version))?;
        }
        self.write_marks(out)?;
        if !self.subject.is_empty() {
            writeln!(out, "\n    {}", escape_text(&self.subject))?;
        }
        Ok(())
    }

    /// Writes all of it.
    pub fn write_whole(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "commit {}", self.commit)?;
        writeln!(out, "Tree:    {}", self.root)?;
        if let Some(parent) = self.parent {
            writeln!(out, "Parent:  {parent}")?;
        }
        for name in &self.refs {
            writeln!(out, "Ref:     {name}")?;
        }
        writeln!(out, "Time:    {}", time(self.time))?;
        if !self.version.is_empty() {
            writeln!(out, "Version: {}", escape_text(&self.version))?;
        }
        self.write_marks(out)?;
        for (key, value) in &self.metadata {
            let value = match value {
                MetadataValue::Text(text) => escape_text(text),
                MetadataValue::Number(number) => number.to_string(),
                MetadataValue::Bool(yes) => yes.to_string(),
                MetadataValue::Bytes(bytes) => format!("0x{}", hex(bytes)),
            };
            writeln!(out, "Key:     {} = {value}", escape_text(key))?;
        }
        if !self.subject.is_empty() {
            writeln!(out, "\n    {}", escape_text(&self.subject))?;
        }
        if !self.body.is_empty() {
            writeln!(out)?;
            for line in self.body.lines() {
                let line = format!("    {}", escape_text(line));
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }
}
