//! Booting what a cut has left: GRUB, Debian's kernel and `atomos-prepare-root` in an emulated machine.
//!
//! The disks are the machine's own, as the power cut left them: GRUB reads its menu and its kernels, the kernel replays the
//! journals, and a user space of one program says by its serial port what has booted (`guest/init`).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kit::Kit;
use super::phase::Phase;
use super::scenario::Recording;
use super::trial::{self, Choice, Planned};
use crate::random::Random;
use crate::vm::hardware::bare_arguments;
use crate::vm::patience::Patience;

/// The emulator's processor time that a boot may take; it takes a tenth of that.
const LIMIT: Duration = Duration::from_secs(150);

/// How often it is looked whether it is over.
const POLL: Duration = Duration::from_millis(100);

/// Megabytes of memory.
const MEMORY: u32 = 384;

/// Cuts that are found for each phase, to choose one of.
const CHOICE: usize = 12;

/// What a machine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The deployment, `<stateroot>/<commit>.<serial>`.
    pub deployment: String,
    /// The version of its tree.
    pub version: String,
    /// The version that the initramfs is of.
    pub initramfs: String,
    /// Whether `/run/atomos/booted` is there.
    pub prepared: bool,
    /// The digest of all that it read of `/usr` and `/etc`: see [`digest`].
    pub digest: String,
}

/// Boots the disks, in the order of the scenario: the root, then `/boot`. Returns when the machine has switched itself off.
///
/// # Errors
/// If it does not boot.
pub fn boot(kit: &Kit, disks: &[PathBuf], place: &Path) -> Result<Said> {
    let console = place.join("console");
    let mut words = bare_arguments(MEMORY, &console);
    words.push("-no-reboot".to_owned());
    let [root, boot] = disks else {
        bail!("a machine that boots has a root and a /boot");
    };
    for (name, path, option) in [
        ("loader", &kit.loader, ",readonly=on"),
        ("boot", boot, ",cache=unsafe"),
        ("root", root, ",cache=unsafe"),
    ] {
        let index = if name == "loader" { ",bootindex=1" } else { "" };
        words.extend([
            "-drive".to_owned(),
            format!("file={},if=none,id={name},format=raw{option}", path.display()),
            "-device".to_owned(),
            format!("virtio-blk-pci,drive={name}{index}"),
        ]);
    }
    let qemu = Command::new("qemu-system-x86_64")
        .args(&words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start `qemu-system-x86_64`")?;
    wait(qemu)?;
    let text = std::fs::read(&console).with_context(|| format!("cannot read {}", console.display()))?;
    let text = String::from_utf8_lossy(&text);
    parse(&text).with_context(|| format!("the machine did not boot; its console says: {}", tail(&text)))
}

fn wait(mut qemu: Child) -> Result<()> {
    let patience = Patience::new(qemu.id(), LIMIT);
    loop {
        if qemu.try_wait().context("cannot wait for QEMU")?.is_some() {
            return Ok(());
        }
        if patience.is_over() {
            // It says what there is to say on its console.
            qemu.kill()
                .and_then(|()| qemu.wait())
                .context("cannot end QEMU")?;
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

fn parse(console: &str) -> Option<Said> {
    let line = console
        .lines()
        .find_map(|line| line.split_once("power-cut-boot: "))?
        .1;
    let words: Vec<_> = line.split_whitespace().collect();
    let [deployment, version, initramfs, prepared, digest, "end"] = words[..] else {
        return None;
    };
    Some(Said {
        deployment: deployment.to_owned(),
        version: version.to_owned(),
        initramfs: initramfs.to_owned(),
        prepared: prepared == "yes",
        digest: digest.to_owned(),
    })
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Returns what a machine whose root is `tree` should say that it read.
///
/// # Errors
/// If the tree cannot be read.
pub fn digest(tree: &Path) -> Result<String> {
    let script = "cd \"$1\" && find usr etc -type f ! -name .pwd.lock -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum";
    let mut command = Command::new("sh");
    command.args(["-euc", script, "digest"]).arg(tree);
    let text = crate::process::capture(&mut command)?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Chooses one cut of each phase, at which some of the writes were lost and some were not.
pub fn choose<S>(recording: &Recording<S>, seed: u64) -> Vec<Planned> {
    let choice = Choice {
        points: CHOICE * Phase::ALL.len(),
        each_phase: |_| CHOICE,
        seed,
    };
    let all = trial::choose(recording, &choice);
    let mut random = Random::new(seed);
    let mut chosen: Vec<Planned> = Vec::new();
    for phase in Phase::ALL {
        let mut of_phase: Vec<_> = all.iter().filter(|planned| planned.phase == phase).collect();
        if of_phase.iter().any(|planned| !planned.cut.survivors.is_empty()) {
            of_phase.retain(|planned| !planned.cut.survivors.is_empty());
        }
        if !of_phase.is_empty() {
            let at = random.below(of_phase.len() as u64) as usize;
            chosen.push(of_phase[at].clone());
        }
    }
    chosen.sort_by_key(|planned| planned.cut.at);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_is_found_among_what_its_loader_and_its_kernel_say() {
        let console = "GRUB loading.\r\n[    1.0] foo\r\npower-cut-boot: os/ab.0 3 3 yes 0f0f end\r\n[ 9.9] reboot: Power down\r\n";
        let said = parse(console).unwrap();
        assert_eq!(
            (said.deployment.as_str(), said.version.as_str()),
            ("os/ab.0", "3")
        );
        assert_eq!((said.prepared, said.digest.as_str()), (true, "0f0f"));
        assert_eq!(parse("power-cut-boot: os/ab.0 3 3 yes"), None, "it was cut short");
        assert_eq!(parse("Kernel panic - not syncing"), None);
    }
}
