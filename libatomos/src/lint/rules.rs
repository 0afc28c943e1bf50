//! The checks themselves.

use std::collections::BTreeMap;

use super::view::{Kind, Node, View};
use super::{Check, LintFinding, LintReport, prepare_root};
use crate::commit::USR_MERGED;
use crate::os_var::FACTORY_VAR;
use crate::unpack::{Compressed, UpdateCost};

/// Directories that something is mounted on when a deployment starts. `/etc` is made when it is deployed.
const MOUNT_POINTS: [&str; 8] = ["boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var"];

/// What is writable by nature.
const PLACES: [&str; 5] = ["home", "opt", "root", "srv", "usr/local"];

/// Package databases, in `/var`.
const PACKAGE_DATABASES: [&str; 3] = ["lib/dpkg", "lib/rpm", "lib/pacman"];

/// Secrets of one machine, in `/var`.
const MACHINE_SECRETS: [&str; 4] = [
    "lib/systemd/random-seed",
    "lib/systemd/credential.secret",
    "lib/dbus/machine-id",
    "lib/NetworkManager/secret_key",
];

/// Where, and what it costs.
type Found = (Vec<String>, Option<UpdateCost>);

pub(super) struct Findings(BTreeMap<Check, Found>);

impl Findings {
    fn add(&mut self, check: Check) {
        self.0.entry(check).or_default();
    }

    pub(super) fn at(&mut self, check: Check, path: impl AsRef<[u8]>) {
        let path = String::from_utf8_lossy(path.as_ref()).into_owned();
        self.0.entry(check).or_default().0.push(path);
    }

    fn compressed(&mut self, what: Compressed, path: impl AsRef<[u8]>, bytes: u64) {
        let check = match what {
            Compressed::Modules => Check::CompressedModules,
            Compressed::Documents => Check::CompressedDocuments,
            Compressed::Initramfs => Check::CompressedInitramfs,
        };
        self.at(check, path);
        let (_, cost) = self.0.entry(check).or_default();
        cost.get_or_insert_default().add(bytes);
    }
}

/// Runs every check.
pub(super) fn run(view: &View) -> LintReport {
    let mut found = Findings(BTreeMap::new());
    shape(view, &mut found);
    etc(view, &mut found);
    kernel(view, &mut found);
    prepare_root::check(view, &mut found);
    var(view, &mut found);
    boots(view, &mut found);
    every_entry(view, &mut found);
    let mut findings: Vec<LintFinding> = found
        .0
        .into_iter()
        .map(|(name, (paths, cost))| LintFinding {
            name,
            severity: name.severity(),
            text: name.text(),
            paths,
            cost,
        })
        .collect();
    findings.sort_by_key(|finding| (finding.severity, finding.name));
    LintReport { findings }
}

fn shape(view: &View, found: &mut Findings) {
    if view.dir("usr").is_none() {
        found.add(Check::NoUsr);
    }
    for name in USR_MERGED.iter().filter(|name| view.dir(name).is_some()) {
        found.at(Check::NotUsrMerged, name);
    }
    for name in MOUNT_POINTS.iter().filter(|name| view.dir(name).is_none()) {
        found.at(Check::MissingMountPoint, name);
    }
    let init = view.resolve("sbin/init");
    if !init.is_some_and(|node| matches!(view.node(node).kind, Kind::File { .. })) {
        found.add(Check::NoInit);
    }
    let release = ["etc/os-release", "usr/lib/os-release"];
    if !release.iter().any(|path| view.resolve(path).is_some()) {
        found.add(Check::NoOsRelease);
    }
    for path in PLACES.iter().filter(|path| view.dir(path).is_some()) {
        found.at(Check::PlaceNotLinked, path);
    }
}

fn etc(view: &View, found: &mut Findings) {
    match (view.has_entries("etc"), view.has_entries("usr/etc")) {
        (true, true) => found.add(Check::EtcAndUsrEtc),
        (true, false) => found.add(Check::EtcNotMoved),
        (false, true) => {}
        (false, false) => found.add(Check::NoUsrEtc),
    }
    for dir in ["etc", "usr/etc"] {
        let id = format!("{dir}/machine-id");
        if let Some(node) = view.file(&id)
            && view.node(node).kind != (Kind::File { size: 0 })
        {
            found.at(Check::MachineId, &id);
        }
        let Some(ssh) = view.dir(&format!("{dir}/ssh")) else {
            continue;
        };
        for child in view.children(ssh) {
            let name = &view.node(*child).name;
            if name.starts_with(b"ssh_host_") && name.ends_with(b"_key") {
                found.at(Check::SshHostKeys, [dir.as_bytes(), b"/ssh/", name].concat());
            }
        }
    }
}

fn kernel(view: &View, found: &mut Findings) {
    if view.has_entries("boot") {
        found.add(Check::BootNotEmpty);
    }
    let modules = view.dir("usr/lib/modules");
    let children = modules.map_or(&[][..], |modules| view.children(modules));
    let versions: Vec<String> = children
        .iter()
        .filter(|child| matches!(view.node(**child).kind, Kind::Dir { .. }))
        .map(|child| {
            format!(
                "usr/lib/modules/{}",
                String::from_utf8_lossy(&view.node(*child).name)
            )
        })
        .collect();
    let (kernels, others): (Vec<&String>, Vec<&String>) = versions
        .iter()
        .partition(|version| view.file(&format!("{version}/vmlinuz")).is_some());
    match kernels.as_slice() {
        [] => found.add(Check::NoKernel),
        [_] => {}
        several => {
            for version in several {
                found.at(Check::SeveralKernels, version.as_str());
            }
        }
    }
    for version in kernels {
        let has_initramfs = ["initramfs.img", "initramfs"]
            .iter()
            .any(|name| view.file(&format!("{version}/{name}")).is_some());
        if !has_initramfs {
            found.at(Check::NoInitramfs, version);
        }
    }
    if view.file("usr/lib/atomos/atomos-prepare-root").is_none() {
        found.add(Check::NoPrepareRoot);
    }
    for version in others.iter().filter(|version| view.has_entries(version)) {
        found.at(Check::UnusedModules, version);
    }
}

/// What a machine needs to leave a version that fails. Kernel arguments, `panic=` among them, are no part of a tree: `deploy`
/// and `status` say it of those.
fn boots(view: &View, found: &mut Findings) {
    if view.dir("usr/lib/atomos/health.d").is_none() {
        found.add(Check::NoHealthChecks);
    }
    let mentions = |dir: &str| {
        let children = view.dir(dir).map_or(&[][..], |dir| view.children(dir));
        let names = children.iter().map(|child| &view.node(*child).name);
        names
            .into_iter()
            .any(|name| name.windows(8).any(|part| part == b"watchdog"))
    };
    let places = ["usr/lib/systemd/system.conf.d", "usr/etc/systemd/system.conf.d"];
    if !places.iter().any(|dir| mentions(dir)) {
        found.add(Check::NoWatchdog);
    }
}

fn var(view: &View, found: &mut Findings) {
    if view.has_entries("var") {
        found.add(Check::VarNotEmpty);
    }
    for var in ["var", FACTORY_VAR] {
        for path in PACKAGE_DATABASES {
            let path = format!("{var}/{path}");
            if view.has_entries(&path) {
                found.at(Check::PackageDatabaseInVar, path);
            }
        }
        for path in MACHINE_SECRETS {
            let path = format!("{var}/{path}");
            if view.file(&path).is_some() {
                found.at(Check::MachineSecret, path);
            }
        }
    }
    for home in ["home", "var/home", "usr/share/factory/var/home"] {
        if let Some(top) = view.dir(home) {
            view.walk(top, home, |path, node| {
                if !matches!(node.kind, Kind::Dir { .. }) {
                    found.at(Check::HomeContent, path);
                }
            });
        }
    }
}

fn every_entry(view: &View, found: &mut Findings) {
    view.walk(0, "", |path, node| {
        if std::str::from_utf8(&node.name).is_err() {
            found.at(Check::NameNotUtf8, path);
        }
        if node.kind == Kind::Device {
            found.at(Check::DeviceNode, path);
        }
        if is_file(node) && node.mode & 0o6000 != 0 {
            found.at(Check::SetUid, path);
        }
        let sticky_dir = matches!(node.kind, Kind::Dir { .. }) && node.mode & 0o1000 != 0;
        let writable = node.mode & 0o002 != 0 && !matches!(node.kind, Kind::Symlink { .. });
        if path.starts_with(b"usr/") && writable && !sticky_dir {
            found.at(Check::WorldWritable, path);
        }
        if let Kind::File { size } = node.kind
            && let Some((what, ..)) = Compressed::of_path(path)
        {
            found.compressed(what, path, size);
        }
    });
    for (path, bytes) in &view.initramfs {
        found.compressed(Compressed::Initramfs, path, *bytes);
    }
}

fn is_file(node: &Node) -> bool {
    matches!(node.kind, Kind::File { .. })
}
