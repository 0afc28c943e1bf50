//! The smoke test: a machine boots what atomos deployed, upgrades itself, and goes back.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::disk::{BOOT_LABEL, Disk, ROOT_LABEL};
use super::machine::Machine;
use super::steps::Steps;
use super::{Options, Programs, tree};
use crate::debian::Trees;
use crate::process::{capture, run};

const STATEROOT: &str = "debian";
const REF: &str = "debian/trixie";

/// Short on the console, so that an emulated serial port does not slow the boot; no mitigations, which cost
/// emulation more than they do a processor.
const KERNEL_ARGUMENTS: [&str; 10] = [
    "root=LABEL=atomos-root",
    "ro",
    "console=ttyS0",
    "panic=10",
    "loglevel=5",
    "systemd.show_status=auto",
    "mitigations=off",
    "audit=0",
    "apparmor=0",
    "modprobe.blacklist=evdev,i2c_i801,iTCO_wdt,joydev,lpc_ich,pcspkr,psmouse",
];

/// What the machine's owner has in `/etc`, not the tree: where `/boot` is.
const FSTAB: &str = "LABEL=atomos-boot /boot ext4 ro,nosuid,nodev 0 2\n";
/// The loader does not wait for a person.
const GRUB_SETTINGS: &str = "set timeout=0\n";

/// What a version of the test's system is, beside Debian.
struct Version {
    name: &'static str,
    /// A default in /etc that changes with every version and nobody edits.
    followed: &'static str,
}

const V1: Version = Version {
    name: "v1",
    followed: "default of v1\n",
};
const V2: Version = Version {
    name: "v2",
    followed: "default of v2\n",
};

/// Edits of a machine's owner: one file changed, one added, one deleted, a directory closed; and data in /var.
const EDIT: &str = "set -e
echo edited >>/etc/atomos-vm-test/edited
echo mine >/etc/atomos-vm-test/added
rm /etc/atomos-vm-test/deleted
chmod 0700 /etc/atomos-vm-test/closed
echo precious >/var/lib/precious
";

/// Every edit is still there.
const EDITS_ARE_KEPT: &str = "set -e
test \"$(tail -n 1 /etc/atomos-vm-test/edited)\" = edited
test \"$(cat /etc/atomos-vm-test/added)\" = mine
test ! -e /etc/atomos-vm-test/deleted
test \"$(stat -c %a /etc/atomos-vm-test/closed)\" = 700
test \"$(cat /var/lib/precious)\" = precious
";

/// Runs the test on two Debian trees. Only inside the namespaces of [`super::enter_namespace`].
///
/// # Errors
/// If a step fails; for a machine that does not come up, with the end of its console.
pub fn smoke(trees: &Trees, programs: &Programs, options: &Options) -> Result<()> {
    let steps = Steps::start();
    let work = super::make_work_directory(&options.work)?;

    steps.say("preparing the trees: atomos, its hooks, a small initramfs");
    let prepare = |lower: &Path, version: &Version| {
        let files: [tree::TestFile<'_>; 5] = [
            ("usr/lib/atomos-vm-test/version", version.name, 0o644),
            ("etc/atomos-vm-test/followed", version.followed, 0o644),
            ("etc/atomos-vm-test/edited", "a default\n", 0o644),
            ("etc/atomos-vm-test/deleted", "a default\n", 0o644),
            ("etc/atomos-vm-test/closed/default", "a default\n", 0o644),
        ];
        tree::prepare(lower, &work.join(version.name), programs, &files)
    };
    let (tree_v1, tree_v2) = (prepare(&trees.v1, &V1)?, prepare(&trees.v2, &V2)?);

    steps.say("making the disk");
    let disk = Disk::create(&work)?;
    let mounted = disk.mount(&work.join("disk"))?;
    let root = &mounted.root;
    install_loader_configuration(root)?;
    let host = Host {
        atomos: &programs.atomos,
        root,
    };
    host.sysroot(&["sysroot", "init"])?;
    host.sysroot(&["stateroot", "init", STATEROOT])?;
    steps.say("committing and deploying v1");
    let v1 = host.commit(&tree_v1.path, &V1)?;
    host.deploy()?;
    host.write_fstab(&v1)?;
    steps.say("committing v2 to the same ref, to be found by the machine");
    let v2 = host.commit(&tree_v2.path, &V2)?;
    mounted.unmount()?;
    drop((tree_v1, tree_v2));

    steps.say("first boot: v1");
    let mut machine = Machine::start(disk.image(), &work, options.boot_timeout)?;
    machine.wait_for_boot()?;
    steps.say("v1 is up");
    check_version(&mut machine, &V1, &v1)?;
    check_mounts(&mut machine)?;
    check_health(&mut machine)?;
    machine.ask(EDIT)?;
    let packages_v1 = machine.ask("dpkg-query -W")?;
    steps.say("upgrading from the machine's own repository");
    machine.ask("atomos upgrade --now")?;
    check_version(&mut machine, &V1, &v1).context("an upgrade changed the running system")?;
    check_mounts(&mut machine).context("an upgrade left something writable")?;

    steps.say("second boot: v2");
    machine.reboot()?;
    steps.say("v2 is up");
    check_version(&mut machine, &V2, &v2)?;
    check_mounts(&mut machine)?;
    check_health(&mut machine)?;
    machine
        .ask(EDITS_ARE_KEPT)
        .context("an edit did not survive the upgrade")?;
    let packages_v2 = machine.ask("dpkg-query -W")?;
    ensure!(
        packages_v1 != packages_v2,
        "dpkg lists the same packages in both versions"
    );
    machine.ask("echo later >/etc/atomos-vm-test/only-in-v2")?;
    steps.say("rolling back");
    machine.ask("atomos rollback")?;

    steps.say("third boot: v1 again");
    machine.reboot()?;
    steps.say("v1 is up");
    check_version(&mut machine, &V1, &v1)?;
    check_mounts(&mut machine)?;
    machine
        .ask(EDITS_ARE_KEPT)
        .context("the /etc of v1 is not as it was left")?;
    machine
        .ask("test ! -e /etc/atomos-vm-test/only-in-v2")
        .context("an edit made in v2 shows in v1")?;
    ensure!(
        machine.ask("dpkg-query -W")? == packages_v1,
        "dpkg does not list v1's packages after the rollback"
    );
    let console = machine.power_off()?;
    if let Some(line) = console.lines().find(|line| line.contains("FAILED")) {
        bail!("systemd failed at something: {}", line.trim());
    }
    disk.check(&work)?;
    // From outside: the machine would take minutes to hash a gigabyte.
    let mounted = disk.mount(&work.join("disk"))?;
    let host = Host {
        atomos: &programs.atomos,
        root: &mounted.root,
    };
    host.sysroot(&["--quiet", "fsck"])?;
    mounted.unmount()?;
    steps.say("passed");
    if !options.keep {
        super::remove_work_directory(&work)?;
    }
    Ok(())
}

/// `atomos` on the host, working on the mounted disk.
struct Host<'a> {
    atomos: &'a Path,
    root: &'a Path,
}

impl Host<'_> {
    fn sysroot(&self, words: &[&str]) -> Result<()> {
        run(Command::new(self.atomos)
            .arg("--sysroot")
            .arg(self.root)
            .args(words))
    }

    fn commit(&self, tree: &Path, version: &Version) -> Result<String> {
        let commit = capture(
            Command::new(self.atomos)
                .arg("--quiet")
                .arg("--repo")
                .arg(self.root.join("atomos/repo"))
                .args(["commit", "--os", "--ref", REF, "--version", version.name])
                .arg(tree),
        )?;
        Ok(commit.trim().to_owned())
    }

    fn deploy(&self) -> Result<()> {
        let mut words = vec!["deploy", REF, "--stateroot", STATEROOT];
        for argument in KERNEL_ARGUMENTS {
            words.extend(["--karg", argument]);
        }
        self.sysroot(&words)
    }

    /// What an installer leaves in the deployment's `/etc`.
    fn write_fstab(&self, commit: &str) -> Result<()> {
        let etc = self
            .root
            .join(format!("atomos/deploy/{STATEROOT}/deploy/{commit}.0/etc"));
        std::fs::write(etc.join("fstab"), FSTAB)
            .with_context(|| format!("cannot write below {}", etc.display()))
    }
}

fn install_loader_configuration(root: &Path) -> Result<()> {
    let grub = root.join("boot/grub");
    let fixed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bootloader-hooks/grub/grub.cfg");
    std::fs::create_dir_all(&grub)
        .and_then(|()| std::fs::copy(&fixed, grub.join("grub.cfg")))
        .and_then(|_| std::fs::write(grub.join("custom.cfg"), GRUB_SETTINGS))
        // Asks for a menu file: this GRUB reads no entries.
        .and_then(|()| std::fs::write(grub.join("atomos.enabled"), ""))
        .with_context(|| format!("cannot write below {}", grub.display()))
}

/// The machine runs this version's tree and kernel, and says so everywhere.
fn check_version(machine: &mut Machine, version: &Version, commit: &str) -> Result<()> {
    let found = machine.ask("cat /usr/lib/atomos-vm-test/version /etc/atomos-vm-test/followed")?;
    let expected = format!("{}{}", version.name, version.followed);
    ensure!(
        found == expected.trim_end(),
        "the machine runs {found:?}, not {}",
        version.name
    );
    machine
        .ask("test -d \"/usr/lib/modules/$(uname -r)\"")
        .context("the kernel is another version's")?;
    let booted = json(&machine.ask("cat /run/atomos/booted")?)?;
    let deployment = format!("{commit}.0");
    ensure!(
        booted["deployment"] == deployment.as_str(),
        "/run/atomos/booted says {booted}"
    );
    machine.ask(&format!(
        "grep -q 'atomos={STATEROOT}/{deployment}' /proc/cmdline"
    ))?;
    let status = json(&machine.ask("atomos status --json")?)?;
    check_status(&status, commit).with_context(|| format!("`atomos status --json` says {status}"))
}

fn check_status(status: &Value, commit: &str) -> Result<()> {
    let deployments = status["deployments"]
        .as_array()
        .context("no list of deployments")?;
    let booted: Vec<&Value> = deployments
        .iter()
        .filter(|deployment| deployment["booted"] == true)
        .collect();
    let [booted] = booted.as_slice() else {
        bail!("{} deployments are booted", booted.len())
    };
    ensure!(booted["commit"] == commit, "another commit is booted");
    Ok(())
}

/// What may be written and what may not.
fn check_mounts(machine: &mut Machine) -> Result<()> {
    for directory in ["/", "/usr", "/usr/bin", "/sysroot", "/boot"] {
        let answer = machine.script(&format!("touch {directory}/atomos-vm-test"))?;
        ensure!(answer.status != 0, "{directory} is writable");
        ensure!(
            answer.text.contains("Read-only file system"),
            "{directory}: {}",
            answer.text
        );
    }
    for directory in [
        "/etc",
        "/var",
        "/tmp",
        "/run",
        "/root",
        "/home",
        "/opt",
        "/srv",
        "/usr/local",
    ] {
        let file = format!("{directory}/atomos-vm-test.file");
        machine
            .ask(&format!("touch {file} && rm {file}"))
            .with_context(|| format!("{directory} is not writable"))?;
    }
    let source = machine
        .ask("findmnt --noheadings --output LABEL /boot; findmnt --noheadings --output LABEL /sysroot")?;
    ensure!(
        source == format!("{BOOT_LABEL}\n{ROOT_LABEL}"),
        "/boot and /sysroot are {source:?}"
    );
    Ok(())
}

/// systemd is content: a read-only root upsets nothing.
fn check_health(machine: &mut Machine) -> Result<()> {
    let answer = machine.script("systemctl is-system-running --wait")?;
    if answer.text != "running" {
        let failed = machine
            .ask("systemctl --failed --no-legend --plain; journalctl -b -p err --no-pager | tail -40")?;
        bail!("the system is {}:\n{failed}", answer.text);
    }
    Ok(())
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text:?}"))
}
