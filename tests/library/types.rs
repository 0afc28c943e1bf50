//! Whatever an embedder holds can be sent to another thread and shared with it.

use libatomos::{
    boot, checkout, commit, digest, error, etc_merge, format, fs, names, os_var, progress, remote, repo,
    sysroot, transport,
};

fn shared<T: Send + Sync>() {}

/// Errors cross threads, and live in a `Box<dyn Error + Send + Sync>`.
fn error<T: std::error::Error + Send + Sync + 'static>() {}

/// That this compiles is the assertion.
#[test]
fn every_public_type_is_send_and_sync() {
    shared::<libatomos::Cancel>();
    shared::<Box<dyn progress::Progress>>();
    shared::<&dyn progress::Progress>();
    shared::<progress::NoProgress>();
    shared::<progress::Event<'_>>();

    shared::<repo::Repo>();
    shared::<repo::Transaction<'_>>();
    shared::<repo::Config>();
    shared::<repo::RefUpdate>();
    shared::<repo::RootRecord>();
    shared::<repo::TransactionStats>();
    shared::<repo::PruneOptions>();
    shared::<repo::PruneReport>();
    shared::<repo::FsckOptions>();
    shared::<repo::FsckReport>();
    shared::<repo::RepoStats>();
    shared::<repo::LocalPullOptions>();
    shared::<repo::LocalPullReport>();

    shared::<Box<dyn transport::Transport>>();
    shared::<transport::DirTransport>();
    shared::<transport::HttpTransport>();
    shared::<remote::RemoteConfig>();
    shared::<remote::RemoteState>();
    shared::<remote::Source<'_>>();
    shared::<remote::Attempts<'_, '_>>();

    shared::<commit::CommitOptions>();
    shared::<commit::CommitReport>();
    shared::<commit::SourceTree>();
    shared::<commit::OsTreeOptions>();
    shared::<commit::OsTreeReport>();
    shared::<checkout::CheckoutOptions>();
    shared::<checkout::CheckoutReport>();

    shared::<sysroot::Sysroot>();
    shared::<sysroot::SysrootLock>();
    shared::<sysroot::SysrootOptions>();
    shared::<sysroot::DeployOptions>();
    shared::<sysroot::DeployPreview>();
    shared::<sysroot::DeployReport>();
    shared::<sysroot::UpgradeOptions>();
    shared::<sysroot::UpgradeOutcome>();
    shared::<sysroot::CleanupOptions>();
    shared::<sysroot::CleanupReport>();
    shared::<sysroot::SwitchReport>();
    shared::<sysroot::State>();
    shared::<sysroot::Status>();
    shared::<sysroot::Origin>();
    shared::<sysroot::DeploymentId>();

    shared::<boot::BootDir>();
    shared::<boot::DesiredEntry>();
    shared::<boot::KernelArgs>();
    shared::<boot::KernelFiles>();
    shared::<boot::ReconcileOptions>();
    shared::<boot::ReconcilePlan>();
    shared::<etc_merge::MergeInput<'_>>();
    shared::<etc_merge::MergePlan>();
    shared::<etc_merge::MergeReport>();
    shared::<etc_merge::Policies>();
    shared::<etc_merge::Conflicts>();
    shared::<os_var::SeedReport>();

    shared::<fs::Dir>();
    shared::<fs::FileLock>();
    shared::<format::Commit>();
    shared::<format::DirTree>();
    shared::<format::Metadata>();
    shared::<digest::CommitId>();
    shared::<names::RefName>();
    shared::<error::ErrorKind>();
}

#[test]
fn every_error_is_send_and_sync() {
    error::<libatomos::Error>();
    error::<sysroot::SysrootError>();
    error::<sysroot::InvalidDeploymentId>();
    error::<boot::BootError>();
    error::<boot::KargsError>();
    error::<etc_merge::EtcMergeError>();
    error::<commit::CommitError>();
    error::<commit::OsTreeError>();
    error::<checkout::CheckoutError>();
    error::<transport::TransportError>();
    error::<remote::RemoteError>();
    error::<repo::RepoError>();
    error::<format::FormatError>();
    error::<fs::FsError>();
    error::<fs::LockError>();
    error::<names::InvalidName>();
    error::<digest::InvalidDigest>();
    error::<libatomos::cancel::Cancelled>();
}
