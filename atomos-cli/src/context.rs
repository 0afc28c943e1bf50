//! What a verb works with: the global options, the repository, the person it talks to.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libatomos::cancel::Cancel;
use libatomos::fs::{LockNotice, Patience, make_writable_in_private};
use libatomos::progress::Progress;
use libatomos::pull::SessionOptions;
use libatomos::repo::{Repo, RepoError};
use libatomos::sysroot::{BOOTED, Sysroot, SysrootOptions};

use crate::cli::Globals;
use crate::output::text::{escape_text, shell_word};
use crate::progress::Renderer;
use crate::report::CliError;
use crate::signals;
use crate::ui::Ui;

/// Where the repository of a sysroot lies.
const SYSROOT_REPO: &str = "atomos/repo";

thread_local! {
    /// Whether this thread has mounts of its own. Mounts belong to threads, not to processes.
    static OWN_MOUNTS: Cell<bool> = const { Cell::new(false) };
}

/// The surroundings of one run.
pub struct Context {
    globals: Globals,
    ui: Ui,
    cancel: Cancel,
    progress: Renderer,
}

impl Context {
    /// Installs the signal handlers and opens what the global options name, the repository excepted.
    pub fn new(globals: Globals, ui: Ui) -> Result<Self, CliError> {
        let cancel = signals::install().map_err(|error| CliError::io("cannot handle signals", error))?;
        let progress = Renderer::new(&ui, globals.progress_fd)?;
        Ok(Self {
            globals,
            ui,
            cancel,
            progress,
        })
    }

    /// Returns the way to the person.
    pub fn ui(&self) -> &Ui {
        &self.ui
    }

    /// Returns the flag that Ctrl-C sets.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Returns who is told of progress.
    pub fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    /// Returns whether the result is to be JSON.
    pub fn json(&self) -> bool {
        self.globals.json
    }

    /// Returns the repository that was named, or `None` where the sysroot's is meant.
    pub fn named_repo(&self) -> Option<&Path> {
        self.globals.repo.as_deref()
    }

    /// Opens the repository: the one that was named, else the sysroot's.
    pub fn open_repo(&self) -> Result<Repo, CliError> {
        match self.named_repo() {
            Some(path) => self.open_repo_at(path),
            None => {
                self.make_writable()?;
                let path = self.sysroot_repo();
                self.open_repo_at(&path).map_err(|error| match error.library() {
                    Some(RepoError::NotARepository { .. }) => error.with_hint(
                        "name a repository with --repo DIR or ATOMOS_REPO; `atomos init --repo DIR` makes one",
                    ),
                    _ => error,
                })
            }
        }
    }

    /// Opens the same repository to read it, in the mounts that everybody sees.
    pub fn open_repo_as_it_is(&self) -> Result<Repo, CliError> {
        self.open_repo_at(
            &self
                .named_repo()
                .map_or_else(|| self.sysroot_repo(), Path::to_owned),
        )
    }

    /// Calls `each` in a thread of its own. It may have mounts of its own then, and the caller's stay as they are.
    pub fn apart<T: Send>(&self, each: impl FnOnce() -> Result<T, CliError> + Send) -> Result<T, CliError> {
        std::thread::scope(|scope| match scope.spawn(each).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Opens the repository at `path`, with the global options applied.
    pub fn open_repo_at(&self, path: &Path) -> Result<Repo, CliError> {
        let mut repo = Repo::open(path)?;
        repo.set_lock_timeout(Duration::from_secs(self.globals.lock_timeout));
        repo.set_lock_notice(self.lock_notice());
        Ok(repo)
    }

    /// Returns how locks are waited for that are not a repository's.
    pub fn patience(&self) -> Patience {
        Patience {
            timeout: Duration::from_secs(self.globals.lock_timeout),
            notice: self.lock_notice(),
        }
    }

    /// Says whom a command waits for.
    fn lock_notice(&self) -> LockNotice {
        let ui = self.ui;
        LockNotice::new(move |wait| ui.status(escape_text(&wait.to_string())))
    }

    /// Returns where the sysroot's repository lies.
    pub fn sysroot_repo(&self) -> PathBuf {
        self.globals.sysroot.join(SYSROOT_REPO)
    }

    /// Returns the command `atomos VERB PATHS` as it is to be typed to reach the same repository, from whatever directory and environment.
    pub fn command(&self, verb: &str, paths: &[&Path]) -> String {
        // Where there is no working directory, a name is what it is.
        let word = |path: &Path| shell_word(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let mut command = format!("atomos {verb}");
        match self.named_repo() {
            Some(repo) => command.push_str(&format!(" --repo {}", word(repo))),
            None if self.sysroot_path() == Path::new("/") => {}
            None => command.push_str(&format!(" --sysroot {}", word(self.sysroot_path()))),
        }
        for path in paths {
            command.push(' ');
            command.push_str(&word(path));
        }
        command
    }

    /// Returns how to talk to remotes. The library does not read the environment, so this does.
    pub fn session_options(&self) -> SessionOptions {
        let read = |name: &str, other: Option<&str>| {
            let mut values = std::iter::once(name).chain(other).map(std::env::var);
            values.find_map(|value| value.ok().filter(|value| !value.is_empty()))
        };
        let all = || read("all_proxy", Some("ALL_PROXY"));
        let mut options = SessionOptions::default();
        // HTTP_PROXY in capitals may come from a request to a CGI program, so it does not count, as with curl.
        options.proxies.http = read("http_proxy", None).or_else(all);
        options.proxies.https = read("https_proxy", Some("HTTPS_PROXY")).or_else(all);
        options.proxies.except = read("no_proxy", Some("NO_PROXY"));
        options
    }

    /// Returns the path of the sysroot.
    pub fn sysroot_path(&self) -> &Path {
        &self.globals.sysroot
    }

    /// Returns how a sysroot is to be opened.
    pub fn sysroot_options(&self) -> SysrootOptions {
        let mut options = SysrootOptions::default();
        options.lock_timeout = Duration::from_secs(self.globals.lock_timeout);
        options.lock_notice = self.lock_notice();
        if let Some(root) = &self.globals.host_root {
            options.host_root.clone_from(root);
        }
        options
    }

    /// Opens the sysroot to look at it.
    pub fn open_sysroot(&self) -> Result<Sysroot, CliError> {
        Ok(Sysroot::open(&self.globals.sysroot, &self.sysroot_options())?)
    }

    /// Opens the sysroot to change it.
    pub fn open_sysroot_to_write(&self) -> Result<Sysroot, CliError> {
        self.make_writable()?;
        self.open_sysroot()
    }

    /// A booted system has its physical root read-only; this thread, and those it starts, get mounts of
    /// their own, in which it is not.
    fn make_writable(&self) -> Result<(), CliError> {
        let booted = self.globals.sysroot == Path::new("/") && Path::new("/").join(BOOTED).exists();
        if booted && rustix::process::geteuid().is_root() && !OWN_MOUNTS.replace(true) {
            make_writable_in_private(&[Path::new("/sysroot"), Path::new("/boot")])?;
        }
        Ok(())
    }

    /// Takes what was drawn off the terminal.
    pub fn finish(&self) {
        self.progress.finish();
    }
}
