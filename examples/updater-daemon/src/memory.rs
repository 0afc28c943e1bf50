//! What the updater remembers from one start to the next.
//!
//! A text file of lines, `good <deployment>` and `rejected <commit>`, replaced by a rename. It lies outside of `/etc`: a
//! rollback takes `/etc` back, and with it would go the memory of why.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use libatomos::digest::CommitId;
use libatomos::sysroot::DeploymentId;

use crate::Error;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What was last found to work.
    pub(crate) good: Option<DeploymentId>,
    /// What did not work here.
    pub(crate) rejected: BTreeSet<CommitId>,
}

impl Memory {
    pub(crate) fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("memory");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(|error| Error::Memory(path.clone(), error))?,
        };
        Self::parse(&text).ok_or_else(|| Error::Memory(path, io::ErrorKind::InvalidData.into()))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut memory = Self::default();
        for line in text.lines() {
            match line.split_once(' ')? {
                ("good", id) => memory.good = Some(id.parse().ok()?),
                ("rejected", commit) => {
                    memory.rejected.insert(commit.parse().ok()?);
                }
                _ => return None,
            }
        }
        Some(memory)
    }

    fn to_text(&self) -> String {
        let good = self.good.iter().map(|id| format!("good {id}\n"));
        let rejected = self.rejected.iter().map(|commit| format!("rejected {commit}\n"));
        good.chain(rejected).collect()
    }

    pub(crate) fn save(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join("memory");
        self.write(directory, &path)
            .map_err(|error| Error::Memory(path, error))
    }

    fn write(&self, directory: &Path, path: &PathBuf) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let temporary = directory.join("memory.new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(self.to_text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_round_trips_and_refuses_what_it_does_not_know() {
        let digest = "ab".repeat(32);
        let memory = Memory {
            good: Some(format!("os/{digest}.0").parse().unwrap()),
            rejected: [digest.parse().unwrap()].into(),
        };
        assert_eq!(Memory::parse(&memory.to_text()), Some(memory));
        assert_eq!(Memory::parse("better something\n"), None);
        assert_eq!(Memory::parse("good nothing\n"), None);
    }
}
