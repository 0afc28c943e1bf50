//! What is wrong with a tree, said before anybody boots it.
//!
//! A check looks at names, kinds, modes and sizes, so a committed tree is linted from its dirtrees and a directory from
//! one listing. The contents that are looked at are the initramfs's, which does not say in its name whether it is
//! compressed, and what `atomos-prepare-root` and systemd are told; where there are dirtrees alone, nothing is said of them.
//! Three severities: with an *error* the tree cannot be deployed or will
//! not start; a *warning* is something that few people want; an *info* is worth knowing. `Err` means that the tree
//! could not be looked at; what is bad about it is in the report.
//!
//! The names of findings are stable: programs match them, and never the text.

mod prepare_root;
mod rules;
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
mod view;

use std::fmt;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::commit::{CommitError, ScanOptions, SourceTree};
use crate::composefs::Seal;
use crate::digest::{CommitId, DirTreeId};
use crate::fs::Dir;
use crate::repo::{Repo, RepoError, TreeSource};
use crate::unpack::UpdateCost;

use view::View;

/// What systemd's own settings are called, and the directory that holds more of them begins with.
const SYSTEM_CONF: &str = "/systemd/system.conf";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The tree cannot be deployed, or will not start.
    Error,
    /// Few people want it.
    Warning,
    /// Worth knowing.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

macro_rules! checks {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal $severity:ident $text:literal;)*) => {
        /// What is looked for. Each has a stable name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Check {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Check {
            /// Every check.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns how bad a finding of it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// Says what is wrong, and why that matters.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

checks! {
    /// There is no `/usr`.
    NoUsr "no-usr" Error "there is no directory /usr: this is no root file system";
    /// `/bin` and its like are directories.
    NotUsrMerged "not-usr-merged" Error
        "must be a link into /usr: an upgrade replaces /usr as a whole";
    /// No `vmlinuz` beside any modules.
    NoKernel "no-kernel" Error "there is no kernel in /usr/lib/modules/<version>/vmlinuz";
    /// More than one `vmlinuz`.
    SeveralKernels "several-kernels" Error "there are several kernels, and which one boots is not decided";
    /// Defaults are not where a merge looks for them.
    EtcNotMoved "etc-not-moved" Error "/etc has files; the defaults of a tree lie in /usr/etc";
    /// Defaults in two places.
    EtcAndUsrEtc "etc-and-usr-etc" Error "both /etc and /usr/etc have files; only /usr/etc is used";
    /// No defaults at all.
    NoUsrEtc "no-usr-etc" Error "there is no directory /usr/etc to make a deployment's /etc from";
    /// The running system needs a directory there.
    MissingMountPoint "missing-mount-point" Error
        "must be a directory: something is mounted on it when the system starts";
    /// Nothing to start.
    NoInit "no-init" Error "/sbin/init does not lead to a file: the kernel has nothing to start";
    /// The kernel has to find the root file system by itself.
    NoInitramfs "no-initramfs" Warning
        "the kernel has no initramfs.img: it must find and mount the root file system alone";
    /// Nothing would make a deployment the root.
    NoPrepareRoot "no-prepare-root" Error
        "there is no /usr/lib/atomos/atomos-prepare-root: no deployment of the tree boots; where the initramfs has it from elsewhere, put it there, too; bootloader-hooks/";
    /// `atomos-prepare-root` would stop, or pass over what was meant.
    PrepareRootConf "prepare-root-conf" Error
        "a line that atomos-prepare-root does not understand, or no file: it passes the line over, or does not boot";
    /// A watchdog that bites a healthy machine.
    WatchdogNotFed "watchdog-not-fed" Error
        "the watchdog is started, and systemd does not take it over: set RuntimeWatchdogSec= in system.conf.d";
    /// An initramfs with keys boots nothing else.
    SealKeysUnused "seal-keys-unused" Error
        "a key of who may seal images, and prepare-root.conf does not say `composefs = verified`: with the key in its initramfs the tree does not boot";
    /// Nobody could vouch for the image.
    VerifiedWithoutKey "verified-without-key" Warning
        "`composefs = verified`, and no key in /usr/lib/atomos/seal.d: unless its initramfs has one from elsewhere, the tree does not boot";
    /// A commit that is deployed nowhere.
    NotSealed "not-sealed" Error
        "`composefs = verified`, and no key in /usr/lib/atomos/seal.d has sealed the commit: it is not deployed; `commit --seal`";
    /// Content that a mount hides.
    VarNotEmpty "var-not-empty" Warning
        "/var is not empty: the machine's own is mounted over it; new machines take /usr/share/factory/var";
    /// Content that a mount hides.
    BootNotEmpty "boot-not-empty" Warning "/boot is not empty: the machine's own is mounted over it";
    /// A writable place that will be read-only.
    PlaceNotLinked "place-not-linked" Warning
        "is a directory and will be read-only; where it is to be written to, it is a link into /var";
    /// The database would be the first version's forever.
    PackageDatabaseInVar "package-database-in-var" Warning
        "the package database is in /var, so after an upgrade it tells of the version before";
    /// The tree names one machine.
    MachineId "machine-id" Warning "the machine-id is filled in: every machine with this tree would have the same";
    /// Private keys in a public place.
    SshHostKeys "ssh-host-keys" Warning
        "a private host key: every machine with this tree would have it, and so would whoever reads the tree";
    /// Secrets that a machine makes for itself.
    MachineSecret "machine-secret" Warning "belongs to one machine, and must not be shared";
    /// Anybody may write.
    WorldWritable "world-writable" Warning "can be written by every user where the file system allows it";
    /// Somebody's files.
    HomeContent "home-content" Warning "files in a home directory: new machines get them, existing ones do not";
    /// The boot menu has no name for it.
    NoOsRelease "no-os-release" Warning "there is no os-release: the boot menu cannot say what it starts";
    /// Other programs may stumble.
    NameNotUtf8 "name-not-utf8" Warning "the name is not UTF-8; atomos keeps it, other programs may not";
    /// Devices are made at start.
    DeviceNode "device-node" Warning "a device node: /dev is made at each start, and elsewhere few expect one";
    /// Patches of compressed files save nothing.
    CompressedModules "compressed-modules" Warning
        "compressed kernel modules: an update that changes them sends them whole; `commit --os --unpack modules`";
    /// Patches of compressed files save nothing.
    CompressedDocuments "compressed-documents" Warning
        "compressed documents: an update that changes them sends them whole; `commit --os --unpack docs`";
    /// Patches of compressed files save nothing.
    CompressedInitramfs "compressed-initramfs" Warning
        "a compressed initramfs: each update sends it whole; docs/os-tree.md says how it is built uncompressed";
    /// A machine that hangs stays so.
    NoWatchdog "no-watchdog" Warning
        "nothing names a watchdog (no *watchdog* in system.conf.d): a version that hangs is not left by itself; bootloader-hooks/systemd has the file";
    /// Nobody says that a boot was good.
    NoHealthChecks "no-health-checks" Info
        "there is no /usr/lib/atomos/health.d: boots of this version are not counted, and nothing goes back by itself";
    /// Kernel modules for nothing.
    UnusedModules "unused-modules" Info "modules of a kernel that the tree does not have";
    /// Bits that give rights.
    SetUid "setuid" Info "runs with its owner's or group's rights, whoever starts it";
}

impl Serialize for Check {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct LintFinding {
    /// What was looked for.
    pub name: Check,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, for people.
    pub text: &'static str,
    /// Where; bytes that are not UTF-8 are replaced. Empty where something is missing altogether.
    pub paths: Vec<String>,
    /// What compression costs, as an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<UpdateCost>,
}

/// Everything that was found, the worst first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct LintReport {
    /// The findings; of each check at most one, with all its paths.
    pub findings: Vec<LintFinding>,
}

impl LintReport {
    /// Adds what no path can be named of.
    fn add(&mut self, name: Check) {
        self.findings.push(LintFinding {
            name,
            severity: name.severity(),
            text: name.text(),
            paths: Vec::new(),
            cost: None,
        });
        self.findings
            .sort_by_key(|finding| (finding.severity, finding.name));
    }

    /// Returns the number of findings of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }

    /// Returns whether nothing keeps the tree from being deployed.
    #[must_use]
    pub fn is_deployable(&self) -> bool {
        self.count(Severity::Error) == 0
    }
}

/// Lints a stored tree.
pub fn lint_tree(trees: &dyn TreeSource, root: &DirTreeId, cancel: &Cancel) -> Result<LintReport, RepoError> {
    Ok(rules::run(&View::of_dirtrees(trees, root, cancel)?))
}

/// Lints a commit: its tree, and whether it is sealed as that asks for.
pub fn lint_commit(repo: &Repo, id: &CommitId, cancel: &Cancel) -> Result<LintReport, RepoError> {
    let commit = repo.load_commit(id)?;
    let view = View::of_dirtrees(repo, &commit.root, cancel)?;
    let mut report = rules::run(&view);
    if !prepare_root::is_verified(&view) {
        return Ok(report);
    }
    let is_sealed = match Seal::of_commit(&commit) {
        Ok(Some(seal)) => seal.why_not_of_tree(repo, &commit)?.is_none(),
        // What is damaged seals nothing.
        Ok(None) | Err(_) => false,
    };
    if !is_sealed {
        report.add(Check::NotSealed);
    }
    Ok(report)
}

/// Lints a directory, as it would be committed without any change.
pub fn lint_directory(root: Dir, cancel: &Cancel) -> Result<LintReport, CommitError> {
    let options = ScanOptions {
        skip_special: true,
        ..ScanOptions::default()
    };
    let tree = SourceTree::scan(root, &options, cancel)?;
    Ok(rules::run(&View::of_source(&tree)?))
}
