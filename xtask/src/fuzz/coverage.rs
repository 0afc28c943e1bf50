//! How much of a decoder a corpus reaches, in lines.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{Logged, capture};
use crate::workspace;

use super::decoders::Decoder;

/// Lines of a decoder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Lines with code.
    pub lines: usize,
    /// Those that no input of the corpus reached: file and line.
    pub missed: Vec<(String, usize)>,
}

impl Coverage {
    /// The share that was reached, in hundredths, rounded down.
    #[must_use]
    pub fn percent(&self) -> usize {
        (self.lines - self.missed.len()) * 100 / self.lines.max(1)
    }
}

/// How often each line was run, by file.
type Counts = BTreeMap<PathBuf, BTreeMap<usize, u64>>;

/// Returns a path without the `..` that a module has which is taken from another crate.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Reads what `llvm-cov export --format=lcov` prints.
fn parse(lcov: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut file = None;
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = Some(counts.entry(plain(Path::new(path))).or_default());
        } else if let Some(data) = line.strip_prefix("DA:") {
            let numbers = data
                .split_once(',')
                .and_then(|(line, count)| Some((line.parse::<usize>().ok()?, count.parse::<u64>().ok()?)));
            match (numbers, &mut file) {
                (Some((line, count)), Some(lines)) => *lines.entry(line).or_default() += count,
                _ => bail!("llvm-cov printed what is not understood: {line}"),
            }
        }
    }
    Ok(counts)
}

/// Counts the decoder's lines. `read` gives the text of a file of the workspace.
fn count(
    decoder: &Decoder,
    root: &Path,
    counts: &Counts,
    read: impl Fn(&Path) -> Result<String>,
) -> Result<Coverage> {
    let mut coverage = Coverage::default();
    for part in decoder.parts {
        let path = root.join(part.file);
        let lines = counts.get(&path);
        for function in part.lines(&read(&path)?)? {
            let mut found = lines
                .into_iter()
                .flat_map(|lines| lines.range(function.clone()))
                .peekable();
            // What nothing leads to is not in the program, and would not be missed.
            if found.peek().is_none() {
                bail!(
                    "the target {} has no code of {}, line {}",
                    decoder.target,
                    part.file,
                    function.start()
                );
            }
            for (line, count) in found {
                coverage.lines += 1;
                if *count == 0 {
                    coverage.missed.push((part.file.to_owned(), *line));
                }
            }
        }
    }
    Ok(coverage)
}

/// Where the tools of the compiler's LLVM are, and the machine that it compiles for.
#[derive(Debug)]
pub struct Tools {
    cov: PathBuf,
    host: String,
}

impl Tools {
    /// Looks for them.
    ///
    /// # Errors
    /// If they are not there; the message says how to get them.
    pub fn find() -> Result<Self> {
        let version = capture(Command::new("rustc").arg("-vV"))?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("`rustc -vV` names no host")?.to_owned();
        let sysroot = capture(Command::new("rustc").args(["--print", "sysroot"]))?;
        let bin = Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(&host)
            .join("bin");
        for tool in ["llvm-cov", "llvm-profdata"] {
            if !bin.join(tool).is_file() {
                bail!("there is no {tool}; `rustup component add llvm-tools` installs it");
            }
        }
        Ok(Self {
            cov: bin.join("llvm-cov"),
            host,
        })
    }

    /// Builds the target once more, so that it counts, and gives it its corpus.
    ///
    /// # Errors
    /// If that fails.
    pub fn measure(&self, decoder: &Decoder, log: &Logged) -> Result<Coverage> {
        let (root, target) = (workspace::root(), decoder.target);
        let place = root.join("fuzz/coverage").join(target);
        // What another build has counted there does not fit this one.
        if place.exists() {
            std::fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
        }
        log.run(&mut super::cargo_fuzz(&["coverage", "-s", "none", target]))?;
        let program = root
            .join(format!("target/{0}/coverage/{0}/release", self.host))
            .join(target);
        let profile = format!("--instr-profile={}", place.join("coverage.profdata").display());
        let mut command = Command::new(&self.cov);
        command.args(["export", "--format=lcov", &profile]).arg(program);
        count(decoder, &root, &parse(&capture(&mut command)?)?, |path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        })
    }
}

/// Returns lines as people write them: `a.rs:3-5,9`.
#[must_use]
pub fn shown(missed: &[(String, usize)]) -> Vec<String> {
    let mut files: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for (file, line) in missed {
        let ranges = files.entry(file).or_default();
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == *line => *end = *line,
            _ => ranges.push((*line, *line)),
        }
    }
    let range = |(start, end): &(usize, usize)| match start == end {
        true => start.to_string(),
        false => format!("{start}-{end}"),
    };
    let line = |(file, ranges): (&str, Vec<(usize, usize)>)| {
        format!(
            "{file}:{}",
            ranges.iter().map(range).collect::<Vec<_>>().join(",")
        )
    };
    files.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::decoders::{Part, Which};
    use super::*;

    const SOURCE: &str = "fn one() {\n    a();\n    b();\n}\n\nfn two() {\n    c();\n}\n";

    fn decoder(which: Which) -> Decoder {
        let parts = Box::leak(Box::new([Part { file: "a.rs", which }]));
        Decoder { target: "t", parts }
    }

    fn counted(lcov: &str, which: Which) -> Result<Coverage> {
        count(&decoder(which), Path::new("/w"), &parse(lcov)?, |_| {
            Ok(SOURCE.to_owned())
        })
    }

    #[test]
    fn lines_of_the_decoder_alone_are_counted() {
        let lcov = "SF:/w/b.rs\nDA:2,7\nend_of_record\nSF:/w/fuzz/../a.rs\nFN:1,one\nDA:1,4\nDA:2,4\nDA:3,0\nDA:4,4\nDA:7,0\nend_of_record\n";
        let one = counted(lcov, Which::Of(&["one"])).unwrap();
        assert_eq!((one.lines, one.percent()), (4, 75));
        assert_eq!(one.missed, [("a.rs".to_owned(), 3)]);
        let all = counted(lcov, Which::But(&[])).unwrap();
        assert_eq!((all.lines, all.percent()), (5, 60));
        assert_eq!(shown(&all.missed), ["a.rs:3,7"]);
    }

    #[test]
    fn code_that_is_not_in_the_program_is_an_error() {
        let error = counted("SF:/w/a.rs\nDA:1,4\n", Which::But(&[])).unwrap_err();
        assert!(error.to_string().contains("no code of a.rs, line 6"), "{error}");
        assert!(counted("", Which::Of(&["one"])).is_err());
        assert!(parse("SF:a\nDA:x,1\n").is_err());
        assert!(parse("DA:1,1\n").is_err());
    }

    #[test]
    fn lines_in_a_row_are_shown_as_one() {
        let missed = [3, 4, 5, 9].map(|line| ("a.rs".to_owned(), line));
        assert_eq!(shown(&missed), ["a.rs:3-5,9"]);
        assert!(shown(&[]).is_empty());
    }
}
