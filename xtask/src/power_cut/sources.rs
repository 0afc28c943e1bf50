//! What the library's source says of its syncs: where they are, and why no cut shows some.
//!
//! An argument is a comment above the call: `No power cut shows this sync`, `this order` where a rename might as well come
//! first, or `this sync or order`; then a colon and the reason. It is checked that each is needed: one whose fault a cut does show is stale.

use std::path::Path;

use anyhow::{Context, Result};

use super::watcher::Fault;

/// What the comment above a call begins with whose absence no cut shows.
const NO_CUT_SHOWS: &str = "No power cut shows this ";

/// How many lines above a call its comment may begin.
const ABOVE: usize = 14;

/// What makes something last.
const CALLS: [&str; 4] = [
    ".sync_fs()",
    ".write_atomic(",
    "watch::syncs(Sync::",
    "flush(boot)",
];

/// Where the functions are that are counted where they are called.
const CALLED: [&str; 2] = ["boot/flush.rs", "fs/dir.rs"];

/// Files whose syncs no scenario makes, and why.
pub const UNTRIED: [(&str, &str); 18] = [
    (
        "boot/grub_env.rs",
        "counts of boots, which GRUB alone makes; its failpoints are stopped at one by one",
    ),
    (
        "boot/menu.rs",
        "FAT, which the kernel of the test machine may not know; its failpoints are stopped at one by one",
    ),
    (
        "boot/switch.rs",
        "FAT, which the kernel of the test machine may not know; its failpoints are stopped at one by one",
    ),
    (
        "boot/install.rs",
        "a kernel that a disk has damaged is written again",
    ),
    (
        "oci/write.rs",
        "an export, which is no part of the store: it is made again; its failpoints are stopped at one by one",
    ),
    (
        "publish/",
        "publishing, which is no part of an update: a site is made again from its repository",
    ),
    ("pull/mirror.rs", "mirroring, which is no part of an update"),
    (
        "remote/",
        "a person adds a remote or has it forgotten, sees it fail, and does it again",
    ),
    (
        "repo/init.rs",
        "a new repository: what is interrupted is begun again",
    ),
    (
        "repo/partial.rs",
        "a pull of a part of a tree, which cannot be deployed",
    ),
    (
        "sysroot/boots.rs",
        "failed boots, which no scenario has; its failpoints are stopped at one by one",
    ),
    ("sysroot/etc.rs", "a person resolves a conflict"),
    (
        "sysroot/finalize.rs",
        "a finish that was interrupted is begun again",
    ),
    (
        "sysroot/image_repair.rs",
        "an image that is made anew by hand; its failpoints are stopped at one by one",
    ),
    (
        "sysroot/init.rs",
        "a new sysroot: what is interrupted is begun again",
    ),
    (
        "sysroot/install/",
        "a new machine: what is interrupted is installed again",
    ),
    (
        "sysroot/reserve.rs",
        "a disk that is full, which no scenario has; tests fill one of each file system",
    ),
    (
        "sysroot/staged.rs",
        "the reason of a finish that failed, for people",
    ),
];

/// An argument in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The file, below the library's sources.
    pub file: String,
    /// The line where it begins.
    pub line: usize,
    /// The line of the sync that it is about, which is the next one.
    pub sync: Option<usize>,
    /// What no cut shows: `sync`, `order`, or `sync or order`.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl Argument {
    /// Returns whether it argues about the fault.
    #[must_use]
    pub fn is_about(&self, fault: &Fault) -> bool {
        let (site, what) = match fault {
            Fault::Skip(site) => (site, "sync"),
            Fault::Late { rename, .. } => (rename, "order"),
        };
        // Another sync just below has to be argued by itself.
        let last = match what {
            "sync" => self.sync.unwrap_or(self.line),
            _ => self.line + ABOVE,
        };
        place(site).is_some_and(|(file, line)| {
            file == self.file
                && self.what.split(" or ").any(|mine| mine == what)
                && line > self.line
                && line <= last
        })
    }
}

/// Returns the file and the line of a site, such as `syncfs repo/refs.rs:89`.
fn place(site: &str) -> Option<(&str, usize)> {
    let (file, line) = site.split_once(' ')?.1.rsplit_once(':')?;
    Some((file, line.parse().ok()?))
}

/// What is found in the sources.
#[derive(Debug, Default)]
pub struct Sources {
    /// Why no cut shows some faults.
    pub arguments: Vec<Argument>,
    /// Where something is made to last: file and line.
    pub calls: Vec<(String, usize)>,
}

impl Sources {
    /// Reads the library's sources, without their tests.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut found = Self::default();
        found.walk(directory, directory)?;
        found.calls.sort();
        Ok(found)
    }

    fn walk(&mut self, top: &Path, directory: &Path) -> Result<()> {
        let fail = || format!("cannot list {}", directory.display());
        for entry in std::fs::read_dir(directory).with_context(fail)? {
            let path = entry.with_context(fail)?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && name != "tests" && name != "testing" {
                self.walk(top, &path)?;
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let file = path.strip_prefix(top).expect("it is beneath").to_string_lossy();
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                self.add(&file, &text);
            }
        }
        Ok(())
    }

    fn add(&mut self, file: &str, text: &str) {
        let all: Vec<_> = text.lines().collect();
        // The tests are a file's last part.
        let is_tests = |at: usize| {
            // A module in a file of its own may be named at the top.
            let begins = |line: &&str| line.starts_with("mod ") && line.ends_with('{');
            all[at] == "#[cfg(test)]" && all[at..].iter().take(4).any(begins)
        };
        let end = (0..all.len()).find(|at| is_tests(*at)).unwrap_or(all.len());
        let lines: Vec<_> = all[..end].iter().map(|line| line.trim_start()).collect();
        for (number, line) in lines.iter().enumerate() {
            if let Some((what, reason)) =
                comment(line).and_then(|text| text.strip_prefix(NO_CUT_SHOWS)?.split_once(':'))
            {
                let rest = lines[number + 1..].iter().map_while(|line| comment(line));
                let reason: Vec<_> = std::iter::once(reason.trim()).chain(rest).collect();
                self.arguments.push(Argument {
                    file: file.to_owned(),
                    line: number + 1,
                    sync: None,
                    what: what.to_owned(),
                    reason: reason.join(" "),
                });
            } else if comment(line).is_none()
                && !CALLED.contains(&file)
                && CALLS.iter().any(|call| line.contains(call))
            {
                self.calls.push((file.to_owned(), number + 1));
            }
        }
        for argument in self.arguments.iter_mut().filter(|argument| argument.file == file) {
            let below = argument.line..=argument.line + ABOVE;
            let mut calls = self.calls.iter().filter(|(found, _)| found == file);
            argument.sync = calls
                .find(|(_, line)| below.contains(line))
                .map(|(_, line)| *line);
        }
    }

    /// Returns the calls that none of `passed` is, by file and line, each with the reason why nothing passes there, if
    /// there is one; and the reasons that are for nothing.
    #[must_use]
    pub fn untried<'a>(
        &self,
        passed: impl Iterator<Item = &'a String>,
        reasons: &'static [(&'static str, &'static str)],
    ) -> (Vec<(String, Option<&'static str>)>, Vec<&'static str>) {
        let passed: Vec<_> = passed.filter_map(|site| place(site)).collect();
        let mut unused: Vec<_> = reasons.iter().map(|(prefix, _)| *prefix).collect();
        let mut untried = Vec::new();
        for (file, line) in &self.calls {
            if passed.contains(&(file.as_str(), *line)) {
                continue;
            }
            let reason = reasons.iter().find(|(prefix, _)| file.starts_with(prefix));
            unused.retain(|prefix| reason.is_none_or(|(found, _)| found != prefix));
            untried.push((format!("{file}:{line}"), reason.map(|(_, reason)| *reason)));
        }
        (untried, unused)
    }
}

/// Returns the text of a line that is a comment, and not a document's.
fn comment(line: &str) -> Option<&str> {
    line.strip_prefix("// ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "fn a() {\n    // No power cut shows this sync: it is\n    // the last.\n    dir.sync_fs()?;\n    \
                        // dir.sync_fs()\n    dir.write_atomic(\"x\", b\"\", 0)?;\n}\n\n#[cfg(test)]\nmod tests {\n    dir.sync_fs();\n}\n";

    fn sources() -> Sources {
        let mut sources = Sources::default();
        sources.add("b/a.rs", TEXT);
        sources
    }

    #[test]
    fn calls_and_arguments_are_found_outside_of_tests_and_comments() {
        let found = sources();
        assert_eq!(found.calls, [("b/a.rs".to_owned(), 4), ("b/a.rs".to_owned(), 6)]);
        let [argument] = &found.arguments[..] else {
            panic!("{:?}", found.arguments);
        };
        assert_eq!((argument.line, argument.reason.as_str()), (2, "it is the last."));
    }

    #[test]
    fn an_argument_is_about_what_is_below_it_and_of_its_kind() {
        let argument = &sources().arguments[0];
        let skip = |site: &str| argument.is_about(&Fault::Skip(site.to_owned()));
        assert!(skip("syncfs b/a.rs:4"));
        assert!(!skip("syncfs b/a.rs:6"), "that is the next sync");
        assert!(!skip("syncfs b/a.rs:1") && !skip("syncfs b/a.rs:40") && !skip("syncfs c/a.rs:4"));
        let late = Fault::Late {
            sync: "syncfs b/a.rs:4".to_owned(),
            rename: "renamed b/a.rs:6".to_owned(),
        };
        assert!(!argument.is_about(&late), "it argues about the sync alone");
    }

    #[test]
    fn what_nothing_passes_needs_a_reason_and_a_reason_needs_something() {
        let passed = ["syncfs b/a.rs:4".to_owned()];
        let (untried, unused) = sources().untried(passed.iter(), &[("b/", "why"), ("c/", "why")]);
        assert_eq!(untried, [("b/a.rs:6".to_owned(), Some("why"))]);
        assert_eq!(unused, ["c/"]);
        let (untried, _) = sources().untried(passed.iter(), &[]);
        assert_eq!(untried[0].1, None);
    }

    #[test]
    fn every_reason_is_for_a_file_that_makes_something_last() {
        let found = Sources::read(&crate::workspace::root().join("libatomos/src")).unwrap();
        let (_, unused) = found.untried(std::iter::empty(), &UNTRIED);
        assert_eq!(unused, Vec::<&str>::new());
    }

    #[test]
    fn every_argument_in_the_library_stands_above_a_call() {
        let found = Sources::read(&crate::workspace::root().join("libatomos/src")).unwrap();
        for argument in &found.arguments {
            assert!(
                argument.sync.is_some() || argument.what == "order",
                "{argument:?}"
            );
        }
    }
}
