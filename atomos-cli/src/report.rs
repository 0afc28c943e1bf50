//! Failures: the error, why it happened, and the next command to try.

use std::error::Error;
use std::io;

use libatomos::boot::BootError;
use libatomos::checkout::CheckoutError;
use libatomos::commit::{CommitError, OsTreeError};
use libatomos::composefs::ComposefsError;
use libatomos::error::ErrorKind;
use libatomos::export::ExportError;
use libatomos::fs::{FsError, LockError};
use libatomos::health::HealthError;
use libatomos::import::ImportError;
use libatomos::names::InvalidName;
use libatomos::oci::OciError;
use libatomos::ostree::OstreeError;
use libatomos::publish::PublishError;
use libatomos::pull::PullError;
use libatomos::remote::RemoteError;
use libatomos::repair::RepairError;
use libatomos::repo::RepoError;
use libatomos::sign::SignError;
use libatomos::source::SourceError;
use libatomos::sysroot::SysrootError;
use libatomos::transport::{TransportError, TransportErrorKind};

use crate::exit_code::{Failure, Outcome};
use crate::output::text::{escape_text, time};
use crate::ui::{Label, Ui};

/// Why the program cannot do what it was asked.
#[derive(Debug)]
pub struct CliError {
    cause: Cause,
    failure: Failure,
    hint: Option<String>,
}

#[derive(Debug)]
enum Cause {
    Repo(Box<RepoError>),
    Other(Box<dyn Error + Send + Sync>),
    /// Whoever reads stdout does not want more.
    BrokenPipe,
}

/// A failure of the program's own.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Own {
    what: String,
    #[source]
    source: Option<io::Error>,
}

impl CliError {
    fn new(kind: ErrorKind, error: impl Error + Send + Sync + 'static, hint: Option<String>) -> Self {
        Self {
            cause: Cause::Other(Box::new(error)),
            failure: Failure::Kind(kind),
            hint,
        }
    }

    fn own(what: impl Into<String>, source: Option<io::Error>, failure: Failure) -> Self {
        let what = what.into();
        Self {
            cause: Cause::Other(Box::new(Own { what, source })),
            failure,
            hint: None,
        }
    }

    /// Says that the command line cannot be followed.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::own(what, None, Failure::Usage)
    }

    /// Says what is wrong, of the given kind.
    pub fn of_kind(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self::own(what, None, Failure::Kind(kind))
    }

    /// Says that a system call failed; `what` is the whole first line.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
            _ => ErrorKind::Io,
        };
        Self::own(what, Some(source), Failure::Kind(kind))
    }

    /// Says that the result could not be written.
    pub fn stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                cause: Cause::BrokenPipe,
                failure: Failure::Kind(ErrorKind::Io),
                hint: None,
            };
        }
        Self::io("cannot write to stdout", error)
    }

    /// Sets the hint, which names a command or a file.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the coarse kind, if the library or the system failed.
    pub const fn kind(&self) -> Option<ErrorKind> {
        match self.failure {
            Failure::Kind(kind) => Some(kind),
            Failure::Usage => None,
        }
    }

    /// Returns the repository's error, if it is one.
    pub fn library(&self) -> Option<&RepoError> {
        match &self.cause {
            Cause::Repo(error) => Some(error),
            _ => None,
        }
    }
}

impl From<RepoError> for CliError {
    fn from(error: RepoError) -> Self {
        Self {
            failure: Failure::Kind(error.kind()),
            hint: hint_for_repo(&error),
            cause: Cause::Repo(Box::new(error)),
        }
    }
}

impl From<CommitError> for CliError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Repo(error) => error.into(),
            CommitError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_commit(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<ExportError> for CliError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Repo(error) => error.into(),
            ExportError::Fs(error) => error.into(),
            ExportError::Oci(error) => error.into(),
            ExportError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => Self::stdout(error),
            ExportError::Whiteout { .. } => {
                let hint = "a tar archive can have such names: `atomos export REV -o FILE`".to_owned();
                Self::new(error.kind(), error, Some(hint))
            }
            error => Self::new(error.kind(), error, None),
        }
    }
}

impl From<OstreeError> for CliError {
    fn from(error: OstreeError) -> Self {
        match error {
            OstreeError::Fs(error) => error.into(),
            error => {
                let hint = match &error {
                    OstreeError::RefNotFound { path, .. } => {
                        Some(format!("`ostree refs --repo={}` lists the refs", shown(path)))
                    }
                    OstreeError::Missing { .. } | OstreeError::Damaged { .. } => Some(
                        "`ostree fsck` looks through the repository; pull the ref there again".to_owned(),
                    ),
                    _ => None,
                };
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<ImportError> for CliError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Ostree(error) => error.into(),
            ImportError::Repo(error) => error.into(),
            error => {
                let hint = match &error {
                    ImportError::Diverged { .. } => Some("import under another name: --as REF".to_owned()),
                    _ => None,
                };
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<OciError> for CliError {
    fn from(error: OciError) -> Self {
        match error {
            OciError::Fs(error) => error.into(),
            error => {
                let hint = match &error {
                    OciError::NotFound { found, .. } => match found.is_empty() {
                        true => Some("the layout has no images".to_owned()),
                        false => Some(format!("it has: {}", found.join(", "))),
                    },
                    OciError::Ambiguous { .. } => Some("name one: LAYOUT:NAME".to_owned()),
                    OciError::Blob { .. } => Some("copy the image again".to_owned()),
                    _ => None,
                };
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<SourceError> for CliError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Commit(error) => error.into(),
            SourceError::Oci(error) => error.into(),
            error => {
                let hint = hint_for_source(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<CheckoutError> for CliError {
    fn from(error: CheckoutError) -> Self {
        match error {
            CheckoutError::Repo(error) => error.into(),
            CheckoutError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_checkout(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<ComposefsError> for CliError {
    fn from(error: ComposefsError) -> Self {
        match error {
            ComposefsError::Repo(error) => error.into(),
            ComposefsError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_composefs(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<FsError> for CliError {
    fn from(error: FsError) -> Self {
        let hint = hint_for_fs(&error);
        Self::new(error.kind(), error, hint)
    }
}

/// The only system calls of the program's own that fail in passing are those that write the result.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::stdout(error)
    }
}

impl From<InvalidName> for CliError {
    fn from(error: InvalidName) -> Self {
        Self::new(ErrorKind::Invalid, error, None)
    }
}

impl From<HealthError> for CliError {
    fn from(error: HealthError) -> Self {
        Self::new(error.kind(), error, None)
    }
}

impl From<SysrootError> for CliError {
    fn from(error: SysrootError) -> Self {
        match error {
            SysrootError::Repo(error) => error.into(),
            SysrootError::Pull(error) => (*error).into(),
            SysrootError::Checkout(error) => error.into(),
            SysrootError::Composefs(ComposefsError::Repo(error)) => error.into(),
            SysrootError::Composefs(ComposefsError::Fs(error)) => error.into(),
            SysrootError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_sysroot(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<RemoteError> for CliError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Repo(error) => error.into(),
            error => {
                let hint = hint_for_remote(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<PullError> for CliError {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Repo(error) => error.into(),
            PullError::Remote(error) => error.into(),
            PullError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_pull(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

impl From<RepairError> for CliError {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Repo(error) => error.into(),
            RepairError::Remote(error) => error.into(),
            RepairError::Pull(error) => (*error).into(),
            RepairError::Fs(error) => error.into(),
            error => Self::new(
                error.kind(),
                error,
                Some("`atomos remote list` lists the remotes".to_owned()),
            ),
        }
    }
}

impl From<PublishError> for CliError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Repo(error) => error.into(),
            PublishError::Fs(error) => error.into(),
            error => {
                let hint = hint_for_publish(&error);
                Self::new(error.kind(), error, hint)
            }
        }
    }
}

fn hint_for_remote(error: &RemoteError) -> Option<String> {
    Some(match error {
        RemoteError::NotFound { .. } => {
            "`atomos remote list` lists the remotes, `atomos remote add` adds one".to_owned()
        }
        RemoteError::Exists { name } => {
            format!("--force replaces it; `atomos remote show {name}` shows it")
        }
        RemoteError::Config { path, .. } => format!("look at {}", shown(path)),
        RemoteError::DamagedState { path, .. } => format!(
            "remove {}, if you are sure that nobody offers you an old version: the next record is then taken for the newest",
            shown(path)
        ),
        _ => return None,
    })
}

fn hint_for_pull(error: &PullError) -> Option<String> {
    Some(match error {
        PullError::Untrusted { .. } => {
            "`atomos remote show NAME` shows the keys that count; ask the publisher whether they are right"
                .to_owned()
        }
        PullError::Older { .. } => "ask the publisher, or name another mirror".to_owned(),
        PullError::Expired { expires, now, .. } => format!(
            "it was good until {}, and it is {} or later; look at this machine's clock; if it is right, the publisher has to publish again, and `bundle apply --accept-expired` takes a bundle all the same",
            time(*expires),
            time(*now)
        ),
        PullError::Incompatible { .. } => {
            "if this machine is one of those, say so in the remote's `compatible`".to_owned()
        }
        PullError::Withdrawn { .. } | PullError::Downgrade { .. } => {
            "--allow-downgrade takes it all the same".to_owned()
        }
        PullError::NoSuchRelease {
            remote, reference, ..
        } => {
            format!("`atomos history {remote} {reference}` lists what there is")
        }
        PullError::TooManyBytes { needed, .. } => format!("--max-bytes {needed} allows it"),
        PullError::NoSpace { .. } => "`atomos cleanup` and `atomos prune` make room".to_owned(),
        PullError::BadObject { .. } => "try again later: what came is kept".to_owned(),
        PullError::NoSuchRef { remote, .. } => format!(
            "`atomos remote show {remote}` shows where the site is; ask the publisher what its refs are"
        ),
        PullError::Gone { reference, .. } => format!(
            "sites keep a number of releases, and bundles are for certain versions: pull the newest one, {reference}, from a whole site"
        ),
        PullError::NotAMirror { .. } => "choose an empty directory with --to DIR".to_owned(),
        PullError::NoSubpath { path, .. } => format!(
            "pull it whole, then `atomos ls REMOTE:REF` lists what there is; {path} is looked for from the root of the tree"
        ),
        PullError::Transport(error) => return hint_for_transport(error),
        PullError::Cancelled(_) => "run the command again: it takes up what came".to_owned(),
        _ => return None,
    })
}

fn hint_for_transport(error: &TransportError) -> Option<String> {
    Some(match error.kind {
        TransportErrorKind::Temporary | TransportErrorKind::Cancelled => {
            "run the command again: it takes up what came".to_owned()
        }
        TransportErrorKind::NotFound | TransportErrorKind::Protocol | TransportErrorKind::TooLarge => {
            "`atomos remote show NAME` shows where the site is; what came is kept, and another mirror may have the rest"
                .to_owned()
        }
        TransportErrorKind::Denied => {
            "`atomos remote add --force` takes credentials: --user, --token-file, --netrc, --client-cert".to_owned()
        }
        TransportErrorKind::Untrusted => {
            "`atomos remote add --force --ca FILE` adds a certificate authority".to_owned()
        }
        _ => return None,
    })
}

fn hint_for_publish(error: &PublishError) -> Option<String> {
    Some(match error {
        PublishError::NotOurs { .. } => "choose an empty directory with --to DIR".to_owned(),
        PublishError::MissingKeys { .. } => {
            "name the secret keys with --key FILE; it can be repeated".to_owned()
        }
        PublishError::OtherKeys { .. } => {
            "sign with the keys that signed it; `atomos key set create` goes over to other keys".to_owned()
        }
        PublishError::KeySet { number: 1, .. } => {
            "name the keys that machines were given with --pinned FILE.pub; `atomos key set sign` adds signatures".to_owned()
        }
        PublishError::KeySet { .. } => {
            "`atomos key set show FILE --site DIR` says whose signatures are missing, `atomos key set sign` adds them".to_owned()
        }
        PublishError::Sign(SignError::Signing { .. }) => {
            "no record has changed; run the command by itself: from its standard input it reads what is to be signed, and it prints the 64 bytes of the signature".to_owned()
        }
        PublishError::Withdrawn { .. } => "commit it anew: what was withdrawn is not published again".to_owned(),
        PublishError::Clock { .. } => {
            "look at this machine's clock, and at that of the machine that signed or committed; where the other was wrong, --expires DAYS reaches past it, and a new key set (docs/keys.md) ends what a record said".to_owned()
        }
        PublishError::LastSequence { .. } => {
            "go over to a new key set, which starts the counter again: docs/keys.md, `atomos key set create`".to_owned()
        }
        PublishError::NoSuchRelease { .. } => {
            "`atomos history REMOTE REF` lists the releases of a site that is a remote".to_owned()
        }
        PublishError::Damaged { .. } => "`atomos site fsck DIR` says what else is damaged".to_owned(),
        PublishError::NothingLeft { .. } => {
            "publish a release that takes its place; it must be another commit, so commit it anew".to_owned()
        }
        PublishError::NoRefs { .. } => "`atomos commit --ref REF DIR` makes one".to_owned(),
        PublishError::Lock(error) => return hint_for_lock(error),
        PublishError::Cancelled(_) => "the site is as it was; run the command again".to_owned(),
        _ => return None,
    })
}

fn hint_for_sysroot(error: &SysrootError) -> Option<String> {
    Some(match error {
        SysrootError::NotASysroot { path, .. } => {
            format!("`atomos sysroot init --sysroot {}` makes one", shown(path))
        }
        SysrootError::StaterootNotFound { name, .. } => {
            format!("`atomos stateroot init {name}` makes it")
        }
        SysrootError::StaterootNotNamed { count: 0, .. } => {
            "`atomos stateroot init default` makes one".to_owned()
        }
        SysrootError::StaterootNotNamed { .. } => "name one with --stateroot NAME".to_owned(),
        SysrootError::DeploymentNotFound { .. }
        | SysrootError::AmbiguousDeployment { .. }
        | SysrootError::NothingToRollBackTo => "`atomos status` lists the deployments".to_owned(),
        SysrootError::AmbiguousVersion { .. } => "name one by its digest".to_owned(),
        SysrootError::NotFinished { .. } => {
            "`atomos finalize` finishes it, `atomos undeploy staged` gives it up".to_owned()
        }
        SysrootError::DamagedState { path, .. } if path.ends_with("staged.json") => {
            "`atomos undeploy staged` gives it up; then run the command again".to_owned()
        }
        SysrootError::KargsDoNotFit { id, .. } => format!(
            "deploy it anew with that argument: atomos deploy {} --karg atomos.composefs=WORD",
            id.commit.short()
        ),
        SysrootError::Composefs(ComposefsError::NotInImages { .. } | ComposefsError::TooLarge) => {
            "`--karg atomos.composefs=off` deploys its files".to_owned()
        }
        SysrootError::Composefs(ComposefsError::Kernel { .. }) => {
            "docs/composefs.md says what an image needs of the kernel".to_owned()
        }
        SysrootError::ImageDamaged { .. } => {
            "the disk or the memory is failing: `atomos fsck` says what else is damaged; deploying the commit again makes another image"
                .to_owned()
        }
        SysrootError::NoVerity { device: Some(device), .. } => {
            format!("give it the feature: tune2fs -O verity {}", shown(device))
        }
        SysrootError::NoVerity { .. } => "docs/composefs.md says what it takes".to_owned(),
        SysrootError::VerityDiffers { .. } => {
            "`atomos fsck` says whether the file or what its tree records is wrong, and `atomos fsck --repair` fetches it anew"
                .to_owned()
        }
        SysrootError::ReadBackDiffers { .. } => {
            "the disk or the memory is failing: nothing was switched; `atomos fsck` says what else is damaged"
                .to_owned()
        }
        SysrootError::InUse { reason, id } if *reason == "pinned" => {
            format!("`atomos unpin {}` lets it go", id.short())
        }
        SysrootError::NotDeployable { commit, .. } => {
            format!(
                "`atomos lint {}` says what a deployable tree needs",
                commit.short()
            )
        }
        SysrootError::NotInstallable { .. } => {
            "`atomos install --help` says what has to be mounted, and --existing takes what is there already"
                .to_owned()
        }
        SysrootError::NoOrigin { .. } => "`atomos switch REF` makes it follow one".to_owned(),
        SysrootError::Lock(error) => return hint_for_lock(error),
        SysrootError::Boot(BootError::NoSpace { .. }) => {
            "remove a deployment with `atomos undeploy ID`, then run the command again".to_owned()
        }
        SysrootError::Boot(_) => "`atomos boot recover` writes /boot again".to_owned(),
        SysrootError::Kargs(_) => "`atomos kargs` shows the arguments".to_owned(),
        SysrootError::Cancelled(_) => "nothing was changed; run the command again".to_owned(),
        _ => return None,
    })
}

fn hint_for_repo(error: &RepoError) -> Option<String> {
    Some(match error {
        RepoError::NotARepository { path, .. } => {
            format!(
                "`atomos init --repo {}` makes a repository in an empty directory",
                shown(path)
            )
        }
        RepoError::Occupied { .. } => {
            "choose an empty directory with --repo DIR, or another --mode".to_owned()
        }
        RepoError::TakesRoot { .. } => "run it as root, or use --mode bare-user".to_owned(),
        RepoError::Config { path, .. } => format!("look at {}", shown(path)),
        RepoError::UnsupportedRepository { .. } => {
            "use the version of atomos that wrote it, or a newer one".to_owned()
        }
        RepoError::RefNotFound { repo, .. } | RepoError::RevNotFound { repo, .. } => {
            format!("`atomos refs --repo {}` lists the refs", shown(repo))
        }
        RepoError::AmbiguousPrefix { .. } => "give more digits of the digest".to_owned(),
        RepoError::NoParent { commit } => format!("`atomos log {}` shows the history", commit.short()),
        RepoError::PathInTree { rev, .. } => format!("`atomos ls -R {rev}` lists the tree"),
        RepoError::RefMoved { name, .. } => {
            format!("look at it with `atomos log {name}`, then run the command again, or use --force")
        }
        RepoError::IsAlias { name, target } => format!(
            "name {target} itself; or `atomos refs --delete {name}` removes the alias, and `atomos refs --force --alias {name}=REF` points it elsewhere"
        ),
        RepoError::AliasLoop { name } => format!("`atomos refs --delete {name}` removes the alias"),
        RepoError::RefCollision { other, .. } => {
            format!("choose another name, or remove the other ref with `atomos refs --delete {other}`")
        }
        RepoError::PartialCommit { .. } => {
            "`atomos pull REMOTE REF` without --subpath brings the rest; `atomos checkout --subpath PATH` takes what is here".to_owned()
        }
        RepoError::ObjectMissing { .. } | RepoError::ObjectDamaged { .. } => {
            "`atomos fsck` tells which refs and paths it belongs to, `atomos fsck --repair --from SOURCE` brings it back"
                .to_owned()
        }
        RepoError::NoRoom { .. } => {
            "`atomos prune --dry-run` and `atomos cleanup --dry-run` say what they would free, `atomos stats` what each ref takes; `atomos undeploy` and `atomos refs --delete` let go of more; `atomos config min-free-space` says what is to stay free"
                .to_owned()
        }
        RepoError::WrongMode { needed, .. } => {
            format!("`atomos init --mode {needed}` makes such a repository")
        }
        RepoError::Lock(error) => return hint_for_lock(error),
        RepoError::Cancelled(_) => "run the command again: it takes up what was done".to_owned(),
        RepoError::Fs(error) => return hint_for_fs(error),
        _ => return None,
    })
}

fn hint_for_lock(error: &LockError) -> Option<String> {
    match error {
        LockError::Fs(error) => hint_for_fs(error),
        _ => Some("wait until it is done, or wait longer with --lock-timeout SECONDS".to_owned()),
    }
}

fn hint_for_commit(error: &CommitError) -> Option<String> {
    Some(match error {
        CommitError::SpecialFile { .. } => {
            "remove it, or leave such files out with --skip-special".to_owned()
        }
        CommitError::Remainder { root, commit } => {
            format!("`atomos show {commit}` shows it; remove what is left: rm -r {}", shown(root))
        }
        CommitError::NothingToAdopt { .. } => {
            "if an interrupted command has made the commit, it is all done: see atomos log REF; an empty tree needs no --adopt"
                .to_owned()
        }
        CommitError::SourceLeft { root, .. } => {
            format!("do not commit it again; remove it: rm -r {}", shown(root))
        }
        CommitError::SourceChanged { .. } => {
            "stop what writes to the tree, then run the command again".to_owned()
        }
        CommitError::NotSealable { .. } => "commit it with --os, or with --verity alone".to_owned(),
        CommitError::Composefs(error) => return hint_for_composefs(error),
        CommitError::OsTree(OsTreeError::NoKernel { .. }) => {
            "install a kernel package in the tree, or pass --allow-no-kernel".to_owned()
        }
        CommitError::OsTree(OsTreeError::KernelNotFound { .. }) => {
            "without --kernel, the newest is taken".to_owned()
        }
        CommitError::OsTree(_) => "change the tree, or commit it as it is, without --os".to_owned(),
        _ => return None,
    })
}

fn hint_for_source(error: &SourceError) -> Option<String> {
    Some(match error {
        SourceError::Archive { name, .. } if name.is_file() => {
            format!(
                "`tar -tvf {}` lists what another program makes of it",
                shown(name)
            )
        }
        SourceError::Adopt => "leave --adopt out".to_owned(),
        SourceError::Override { .. } => "remove its line from the list of modes".to_owned(),
        _ => return None,
    })
}

fn hint_for_checkout(error: &CheckoutError) -> Option<String> {
    Some(match error {
        CheckoutError::DestinationExists { path } => {
            format!(
                "choose another destination, or remove it first: rm -r {}",
                shown(path)
            )
        }
        CheckoutError::NoName { .. } => "name a directory that does not exist yet".to_owned(),
        CheckoutError::LinkMode { .. } => "use --link auto, or --link copy".to_owned(),
        CheckoutError::NotOurs { .. } => {
            "move these out of the way, or check out to a new directory; nothing was changed".to_owned()
        }
        CheckoutError::NotRecorded { path } => format!(
            "say what it is a checkout of: atomos checkout --update=FROM REV {}",
            shown(path)
        ),
        CheckoutError::Interrupted { .. } => {
            "repeat that update, or update to what it was before; then this one".to_owned()
        }
        CheckoutError::Busy { .. } => "wait until it is done".to_owned(),
        _ => return None,
    })
}

fn hint_for_composefs(error: &ComposefsError) -> Option<String> {
    Some(match error {
        ComposefsError::NotInImages { .. } | ComposefsError::TooLarge => {
            "check it out instead: atomos checkout REV DIR".to_owned()
        }
        ComposefsError::Exists { path } => {
            format!("choose another name, or remove it first: rm {}", shown(path))
        }
        ComposefsError::NoName { .. } => "name a file".to_owned(),
        ComposefsError::Kernel { .. } => "check it out instead: atomos checkout REV DIR".to_owned(),
        ComposefsError::Mounted { path } => format!("atomos umount {}", shown(path)),
        ComposefsError::NotMounted { .. } => "`findmnt -t overlay` lists what is mounted".to_owned(),
        _ => return None,
    })
}

fn hint_for_fs(error: &FsError) -> Option<String> {
    match error.kind() {
        ErrorKind::NoSpace => {
            Some("`atomos prune` removes what no ref leads to; then run the command again".to_owned())
        }
        ErrorKind::Denied if error.source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Some("the file system is mounted read-only; `findmnt -T PATH` says which".to_owned())
        }
        ErrorKind::Denied if !rustix::process::geteuid().is_root() => {
            Some("run it as root, or use a repository of your own: `atomos init --mode bare-user`".to_owned())
        }
        _ => None,
    }
}

fn shown(path: &std::path::Path) -> String {
    crate::output::text::escape_path(path)
}

/// Prints the failure and returns the exit code.
pub fn report(ui: &Ui, error: &CliError) -> u8 {
    let first: &dyn Error = match &error.cause {
        // The reader has seen what it wanted.
        Cause::BrokenPipe => return Outcome::Done.code(),
        Cause::Repo(error) => &**error,
        Cause::Other(error) => &**error,
    };
    ui.labelled(Label::Error, escape_text(&first.to_string()));
    let mut cause = first.source();
    while let Some(error) = cause {
        ui.line(format_args!("  caused by: {}", escape_text(&error.to_string())));
        cause = error.source();
    }
    if let Some(hint) = &error.hint {
        ui.labelled(Label::Hint, escape_text(hint));
    }
    error.failure.code()
}
