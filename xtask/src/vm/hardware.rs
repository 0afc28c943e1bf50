//! What a machine consists of, as QEMU's arguments.
//!
//! Software emulation with one processor of an old kind. With two, QEMU 7.2's emulation sometimes loses the flags
//! register while the kernel patches its own code (a double fault, or a debug trap, one boot in four); with the AVX that
//! `-cpu max` offers, programs have gone wrong too. Both look like faults of what is tested, so neither is used.

use std::path::{Path, PathBuf};

use super::firmware::Firmware;
use crate::process::quote;

/// Without what a server in a test has no use for, and its kernel would take seconds to find.
const MACHINE: &str = "q35,sata=off,smbus=off,vmport=off,hpet=off,i8042=off";

/// Megabytes that a tested machine has.
pub const MEMORY: u32 = 1024;

/// Returns QEMU's arguments for a machine that has nothing but a processor, `memory` megabytes, and a console in a file.
pub fn bare_arguments(memory: u32, console: &Path) -> Vec<String> {
    let mut words: Vec<String> = ["-nodefaults", "-no-user-config", "-display", "none"]
        .into_iter()
        .chain([
            "-machine", MACHINE, "-accel", "tcg", "-cpu", "Nehalem", "-smp", "1",
        ])
        .map(str::to_owned)
        .collect();
    words.extend(["-m".to_owned(), memory.to_string()]);
    words.extend(["-serial".to_owned(), format!("file:{}", console.display())]);
    words
}

/// What a machine consists of, besides its disk.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// What runs before the loader.
    pub firmware: Firmware,
    /// A network of QEMU's own, in which this machine is 10.0.2.2.
    pub network: bool,
    /// A watchdog that resets the machine when nobody tells it that all is well.
    pub watchdog: bool,
    /// What its clock says when it is switched on; the present where nothing is said.
    pub clock: Option<&'static str>,
    /// The state of a machine like this one, which it goes on from instead of being switched on.
    pub state: Option<PathBuf>,
}

/// Where QEMU is reached, and what it writes, in a directory.
#[derive(Debug, Clone)]
pub struct Places {
    /// What the guest's console says.
    pub console: PathBuf,
    /// QEMU's own complaints.
    pub log: PathBuf,
    /// The port on which the guest takes scripts.
    pub agent: PathBuf,
    /// QEMU's monitor.
    pub monitor: PathBuf,
}

impl Places {
    /// Those of the `number`th machine that is started in `work`.
    pub fn new(work: &Path, number: usize) -> Self {
        let numbered = |name: &str, suffix: &str| {
            work.join(if number == 1 {
                format!("{name}.{suffix}")
            } else {
                format!("{name}-{number}.{suffix}")
            })
        };
        Self {
            console: numbered("console", "log"),
            log: numbered("qemu", "log"),
            agent: numbered("agent", "sock"),
            monitor: numbered("monitor", "sock"),
        }
    }
}

impl Hardware {
    /// The least that boots.
    pub const fn new(firmware: Firmware) -> Self {
        Self {
            firmware,
            network: false,
            watchdog: false,
            clock: None,
            state: None,
        }
    }

    /// QEMU's arguments for this machine with the disk in `image`.
    pub fn arguments(&self, image: &Path, places: &Places) -> Vec<String> {
        let mut words = bare_arguments(MEMORY, &places.console);
        let mut add =
            |words_of_option: &[&str]| words.extend(words_of_option.iter().map(|word| (*word).to_owned()));
        // What the guest flushed is in the host's cache, where only the host's own crash could lose it.
        let drive = format!("file={},if=none,id=disk,format=raw,cache=unsafe", image.display());
        add(&[
            "-drive",
            &drive,
            "-device",
            "virtio-blk-pci,drive=disk,bootindex=1",
        ]);
        add(&["-device", "virtio-rng-pci", "-device", "virtio-serial"]);
        let socket =
            |id: &str, path: &Path| format!("socket,id={id},path={},server=on,wait=off", path.display());
        add(&["-chardev", &socket("agent", &places.agent)]);
        add(&["-device", "virtserialport,chardev=agent,name=atomos.test"]);
        add(&["-chardev", &socket("monitor", &places.monitor)]);
        add(&["-mon", "chardev=monitor,mode=readline"]);
        if self.network {
            // No ROM: a firmware would try to boot from the network, and wait.
            add(&["-netdev", "user,id=net"]);
            add(&["-device", "virtio-net-pci,id=nic,netdev=net,romfile="]);
        }
        if self.watchdog {
            add(&["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        if let Some(clock) = self.clock {
            add(&["-rtc", &format!("base={clock}")]);
        }
        if let Some(state) = &self.state {
            // Not before the agent's port is connected: the guest would see it closed.
            let file = quote(&state.to_string_lossy());
            add(&["-S", "-incoming", &format!("exec:cat {file}")]);
        }
        words.extend(self.firmware.arguments());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_what_was_asked_for_and_nothing_else() {
        let places = Places::new(Path::new("work"), 1);
        let plain = Hardware::new(Firmware::Bios);
        let words = plain.arguments(Path::new("disk.img"), &places).join(" ");
        for absent in ["netdev", "i6300esb", "-rtc", "pflash", "-incoming"] {
            assert!(!words.contains(absent), "{absent} in {words}");
        }
        assert!(words.contains("file=disk.img,"));
        let full = Hardware {
            network: true,
            watchdog: true,
            clock: Some("1970-01-01"),
            state: Some("v1 state".into()),
            firmware: Firmware::Uefi {
                variables: "vars".into(),
            },
        };
        let words = full.arguments(Path::new("disk.img"), &places).join(" ");
        for present in [
            "netdev=net",
            "i6300esb",
            "base=1970-01-01",
            "pflash",
            "exec:cat 'v1 state'",
        ] {
            assert!(words.contains(present), "no {present} in {words}");
        }
    }

    #[test]
    fn a_second_machine_leaves_the_logs_of_the_first() {
        let [first, second] = [1, 2].map(|number| Places::new(Path::new("work"), number));
        assert_eq!(first.console, Path::new("work/console.log"));
        assert_eq!(second.console, Path::new("work/console-2.log"));
    }
}
