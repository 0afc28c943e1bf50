//! A place to run the program in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// 2024-02-29 12:34:56 UTC.
pub const EPOCH: &str = "1709210096";

/// What the program did.
#[derive(Debug)]
pub struct Run {
    pub out: String,
    pub err: String,
    pub code: i32,
}

impl Run {
    fn new(output: Output, scratch: &Path) -> Self {
        let redact = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("the program writes UTF-8");
            text.replace(scratch.to_str().expect("the path is text"), "[SCRATCH]")
        };
        Self {
            out: redact(output.stdout),
            err: redact(output.stderr),
            code: output.status.code().expect("the program was not killed"),
        }
    }

    /// Asserts that the exit code is `code`, and returns the run.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Asserts that it succeeded, and returns stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        self.code(0).out
    }

    /// Asserts that it succeeded, and reads stdout as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A directory with a repository of mode bare-user in `repo`, which takes no rights and depends on nobody's.
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes the directory, and the repository in it.
    pub fn new() -> Self {
        let scratch = Self::empty();
        scratch.atomos(&["init", "--mode", "bare-user"]).code(0);
        scratch
    }

    /// Makes the directory alone.
    pub fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the program, with nothing of the caller's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atomos"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            // How long something takes is the machine\'s affair.
            .env("ATOMOS_PROGRESS", "never")
            .env("ATOMOS_REPO", self.path("repo"))
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .stdin(Stdio::null());
        command
    }

    /// Runs the program.
    pub fn atomos(&self, args: &[&str]) -> Run {
        self.run(&mut self.command(args))
    }

    /// Runs a command that [`Scratch::command`] made.
    pub fn run(&self, command: &mut Command) -> Run {
        Run::new(command.output().unwrap(), self.dir.path())
    }

    /// Writes a file and the directories above it, with fixed modes.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        let mut made = Vec::new();
        let mut parent = path.parent();
        while let Some(dir) = parent.filter(|dir| !dir.exists()) {
            made.push(dir.to_owned());
            parent = dir.parent();
        }
        for dir in made.iter().rev() {
            fs::create_dir(dir).unwrap();
            set_mode(dir, 0o755);
        }
        fs::write(&path, bytes).unwrap();
        set_mode(&path, 0o644);
    }

    /// Sets permission bits.
    pub fn chmod(&self, name: &str, mode: u32) {
        set_mode(&self.path(name), mode);
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: &str, name: &str) {
        std::os::unix::fs::symlink(target, self.path(name)).unwrap();
    }

    /// Makes a small tree in `tree`: a merged `/usr`, a setting, a program.
    pub fn tree(&self) {
        self.write("tree/etc/motd", "hello\n");
        self.write("tree/usr/bin/sh", "#!\n");
        self.chmod("tree/usr/bin/sh", 0o755);
        self.write("tree/usr/lib/os-release", "ID=test\n");
        self.symlink("usr/bin", "tree/bin");
        self.symlink("../usr/lib/os-release", "tree/etc/os-release");
    }

    /// Commits `tree` as the ref `os`, with everything that depends on the machine fixed, and returns the digest.
    pub fn commit(&self, subject: &str) -> String {
        self.atomos(&[
            "commit", "-b", "os", "-s", subject, "--owner", "0:0", "--mtime", "zero", "tree",
        ])
        .ok()
        .trim_end()
        .to_owned()
    }

    /// Returns the file that an object lies in.
    pub fn object(&self, kind: &str, digest: &str) -> PathBuf {
        self.path("repo").join(kind).join(&digest[..2]).join(&digest[2..])
    }

    /// Overwrites an object with other bytes.
    pub fn damage(&self, kind: &str, digest: &str) {
        let path = self.object(kind, digest);
        set_mode(&path, 0o644);
        fs::write(path, "damaged").unwrap();
    }
}

/// What publishing and pulling take: a publisher's repository in `repo` with a release of `os`, a key in `key`, its site in
/// `site`, and a repository `client` that has it as the remote `origin`.
pub fn published() -> Scratch {
    let scratch = Scratch::new();
    scratch.tree();
    // Enough to be worth a pack, and patches.
    scratch.write("tree/usr/lib/data", numbers(4000));
    scratch.atomos(&["key", "generate", "key"]).code(0);
    scratch.version("1");
    scratch.publish(&[]).code(0);
    scratch.new_client();
    scratch
}

/// Returns text that compresses, but not to nothing.
pub fn numbers(count: u32) -> String {
    (0..count)
        .map(|number| format!("{}\n", number.wrapping_mul(2_654_435_761)))
        .collect()
}

impl Scratch {
    /// Commits `tree` as a version of `os`, and returns the digest.
    pub fn version(&self, version: &str) -> String {
        self.write("tree/usr/lib/version", format!("{version}\n"));
        self.atomos(&[
            "commit",
            "-b",
            "os",
            "--version",
            version,
            "--owner",
            "0:0",
            "--mtime",
            "zero",
            "tree",
        ])
        .ok()
        .trim_end()
        .to_owned()
    }

    /// Publishes to `site`, signed by `key` unless other keys are named.
    pub fn publish(&self, more: &[&str]) -> Run {
        let signed = more.iter().any(|arg| matches!(*arg, "--key" | "--sign-command"));
        let key: &[&str] = if signed { &[] } else { &["--key", "key"] };
        self.atomos(&[&["publish", "--to", "site"], key, more].concat())
    }

    /// Makes the repository `client`, which has nothing yet, with `site` as the remote `origin`.
    pub fn new_client(&self) {
        self.atomos(&["init", "--repo", "client", "--mode", "bare-user"])
            .code(0);
        let site = self.path("site");
        let site = site.to_str().unwrap();
        self.client(&["remote", "add", "origin", site, "--key", "key.pub"])
            .code(0);
    }

    /// Runs the program on the repository `client`.
    pub fn client(&self, args: &[&str]) -> Run {
        self.run(self.command(args).env("ATOMOS_REPO", self.path("client")))
    }

    /// Returns the file of the site's release that was made last.
    pub fn newest_release(&self) -> PathBuf {
        let files = fs::read_dir(self.path("site/releases")).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        files
            .max_by_key(|file| fs::metadata(file).unwrap().modified().unwrap())
            .unwrap()
    }

    /// Returns the bytes of all files of the site, by path.
    pub fn site_files(&self) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
        let mut files = std::collections::BTreeMap::new();
        let mut stack = vec![self.path("site")];
        while let Some(dir) = stack.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.file_name().is_some_and(|name| name == ".publish") {
                    continue;
                }
                if path.is_dir() {
                    stack.push(path);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    files.insert(path, bytes);
                }
            }
        }
        files
    }
}

/// Returns whether a tool is installed. Says so where it is not, as the reason for leaving something out.
pub fn has_tool(tool: &str, what: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()));
    if !found {
        eprintln!("there is no {tool}: {what} is not tested");
    }
    found
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns whether the test runs as root. Says so where it does not, as the reason for leaving something out.
pub fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: {what} is not tested");
    }
    root
}
