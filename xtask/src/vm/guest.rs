//! What is asked inside a machine.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::disk::Kind;
use super::machine::Machine;
use super::versions::Version;

/// The stateroot of every test.
pub const STATEROOT: &str = "debian";

/// Edits of a machine's owner: one file changed, one added, one deleted, a directory closed; and data in /var.
pub const EDIT: &str = "set -e
echo edited >>/etc/atomos-vm-test/edited
echo mine >/etc/atomos-vm-test/added
rm /etc/atomos-vm-test/deleted
chmod 0700 /etc/atomos-vm-test/closed
echo precious >/var/lib/precious
";

/// Every edit is still there.
pub const EDITS_ARE_KEPT: &str = "set -e
test \"$(tail -n 1 /etc/atomos-vm-test/edited)\" = edited
test \"$(cat /etc/atomos-vm-test/added)\" = mine
test ! -e /etc/atomos-vm-test/deleted
test \"$(stat -c %a /etc/atomos-vm-test/closed)\" = 700
test \"$(cat /var/lib/precious)\" = precious
";

/// Gives the machine its address in QEMU's network, which has no other one to take it.
pub const JOIN_NETWORK: &str = "set -e
for interface in /sys/class/net/e*; do
	ip link set \"${interface##*/}\" up
	ip address add 10.0.2.15/24 dev \"${interface##*/}\"
done
ip route replace default via 10.0.2.2
";

/// How a machine is, for whoever has nothing but the test's output.
pub const LAST_WORDS: &str = "
echo \"version $(cat /usr/lib/atomos-vm-test/version), $(cat /run/atomos/booted)\"
cat /proc/cmdline
atomos status
atomos boot status
systemctl --failed --no-legend --plain
df -h /boot /sysroot
journalctl --boot --no-pager --output short-monotonic --unit 'atomos-*'
journalctl --boot --no-pager --output short-monotonic --priority warning --lines 40
";

/// The machine runs this version's tree and kernel, and says so everywhere.
///
/// # Errors
/// If it does not.
pub fn check_version(machine: &mut Machine, version: &Version, commit: &str) -> Result<()> {
    let found = machine.ask("cat /usr/lib/atomos-vm-test/version; echo; cat /etc/atomos-vm-test/followed")?;
    let expected = format!("{}\n{}", version.name, version.followed());
    ensure!(
        found == expected.trim_end(),
        "the machine runs {found:?}, not {}",
        version.name
    );
    machine
        .ask("test -d \"/usr/lib/modules/$(uname -r)\"")
        .context("the kernel is another version's")?;
    let booted = json(&machine.ask("cat /run/atomos/booted")?)?;
    // A deployment that was made again has a higher serial.
    let deployment = booted["deployment"].as_str().unwrap_or_default();
    ensure!(
        deployment
            .strip_prefix(commit)
            .is_some_and(|rest| rest.starts_with('.')),
        "/run/atomos/booted says {booted}"
    );
    machine.ask(&format!(
        "grep -q 'atomos={STATEROOT}/{deployment}' /proc/cmdline"
    ))?;
    let status = status(machine)?;
    let booted = booted_deployment(&status)?;
    ensure!(booted["commit"] == commit, "another commit is booted: {status}");
    Ok(())
}

/// What `atomos status --json` says.
///
/// # Errors
/// If it fails, or says what is not JSON.
pub fn status(machine: &mut Machine) -> Result<Value> {
    json(&machine.ask("atomos status --json")?)
}

/// The one deployment that is booted.
///
/// # Errors
/// If it is not exactly one.
pub fn booted_deployment(status: &Value) -> Result<&Value> {
    let deployments = status["deployments"]
        .as_array()
        .with_context(|| format!("no list of deployments in {status}"))?;
    let booted: Vec<&Value> = deployments
        .iter()
        .filter(|deployment| deployment["booted"] == true)
        .collect();
    let [booted] = booted.as_slice() else {
        bail!("{} deployments are booted: {status}", booted.len())
    };
    Ok(booted)
}

/// What may be written and what may not.
///
/// # Errors
/// If something is otherwise.
pub fn check_mounts(machine: &mut Machine, kind: Kind) -> Result<()> {
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
    for (directory, label, file_system) in [
        ("/boot", &kind.labels()[0], kind.boot),
        ("/sysroot", &kind.labels()[1], kind.root),
    ] {
        let found = machine.ask(&format!("findmnt --noheadings --output LABEL,FSTYPE {directory}"))?;
        let found: Vec<&str> = found.split_whitespace().collect();
        ensure!(
            found == [label.as_str(), file_system.name()],
            "{directory} is {found:?}"
        );
    }
    Ok(())
}

/// systemd is content: a read-only root upsets nothing.
///
/// # Errors
/// If a unit failed.
pub fn check_health(machine: &mut Machine) -> Result<()> {
    let answer = machine.script("systemctl is-system-running --wait")?;
    if answer.text != "running" {
        let failed = machine
            .ask("systemctl --failed --no-legend --plain; journalctl -b -p err --no-pager | tail -40")?;
        bail!("the system is {}:\n{failed}", answer.text);
    }
    Ok(())
}

/// Reads JSON.
///
/// # Errors
/// If it is none.
pub fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text:?}"))
}
