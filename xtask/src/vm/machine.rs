//! A machine: QEMU, its console in a file, and a port on which the guest takes scripts.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::quote;

use super::guest::LAST_WORDS;
use super::hardware::{Hardware, Places};
use super::patience::Patience;
use super::text::{base64_decode, base64_encode, plain_text};

/// How much of the console is shown when something fails.
const CONSOLE_TAIL: usize = 6000;
/// How long the guest may stay silent before the console is looked at.
const POLL: Duration = Duration::from_millis(250);
/// How long QEMU may take to open its socket.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// What a script in the guest may take of the emulator's processor time. An upgrade over the network takes one or two minutes.
const SCRIPT_LIMIT: Duration = Duration::from_secs(400);

/// What a guest may take of the emulator's processor time to say how it is, when a test has failed.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(40);

/// Lines on the console after which waiting is of no use.
const FATAL: [&str; 4] = [
    "Kernel panic",
    "atomos: the deployment could not be mounted",
    "You are in emergency mode",
    "error: no such",
];

/// A running machine. Killed when dropped.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    port: UnixStream,
    monitor: UnixStream,
    received: Vec<u8>,
    console: PathBuf,
    boot_limit: Duration,
    /// Whether the guest is up, and waits for a script.
    is_idle: bool,
    /// Counts the times that a guest came up.
    boots: Arc<AtomicU32>,
}

/// One time that the guest came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's name for it, which no other boot has.
    pub id: String,
    /// The version of the test's system that runs.
    pub version: String,
}

/// What a script in the guest came to.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status.
    pub status: i32,
    /// What it printed, on both outputs.
    pub text: String,
}

impl Machine {
    /// Switches a machine on. `boot_limit` is what a boot may take of the emulator's processor time.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub fn start(
        hardware: &Hardware,
        image: &Path,
        places: Places,
        boot_limit: Duration,
        boots: Arc<AtomicU32>,
    ) -> Result<Self> {
        for socket in [&places.agent, &places.monitor] {
            if socket.exists() {
                std::fs::remove_file(socket).context("cannot remove an old socket")?;
            }
        }
        let errors =
            File::create(&places.log).with_context(|| format!("cannot write {}", places.log.display()))?;
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(hardware.arguments(image, &places))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("cannot start `qemu-system-x86_64`")?;
        let port = connect(&mut qemu, &places.agent)
            .and_then(|port| Ok((port, connect(&mut qemu, &places.monitor)?)));
        let (port, monitor) = match port {
            Ok(both) => both,
            Err(error) => {
                end(&mut qemu);
                let why = std::fs::read_to_string(&places.log).unwrap_or_default();
                return Err(error.context(format!("QEMU did not start: {}", why.trim())));
            }
        };
        let mut machine = Self {
            qemu,
            port,
            monitor,
            received: Vec::new(),
            console: places.console,
            boot_limit,
            is_idle: false,
            boots,
        };
        if hardware.state.is_some() {
            machine.go_on()?;
        }
        Ok(machine)
    }

    /// Has it run once its state is loaded. QEMU forgets what it is told while it still loads.
    fn go_on(&mut self) -> Result<()> {
        let patience = Patience::new(self.qemu.id(), self.boot_limit);
        let mut said = Vec::new();
        loop {
            self.monitor("cont")?;
            self.monitor("info status")?;
            std::thread::sleep(POLL);
            let mut buffer = [0; 4096];
            match self.monitor.read(&mut buffer) {
                Ok(length) => said.extend_from_slice(&buffer[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error).context("cannot hear QEMU's monitor"),
            }
            if String::from_utf8_lossy(&said).contains("VM status: running") {
                return Ok(());
            }
            if patience.is_over() || self.qemu.try_wait().context("cannot wait for QEMU")?.is_some() {
                bail!("QEMU did not go on from the state that it was given");
            }
        }
    }

    /// Stands still, writes its state to a file, has `copy` take what belongs to it, and goes on.
    ///
    /// # Errors
    /// If QEMU cannot write it, or the copy fails.
    pub fn save(&mut self, state: &Path, copy: impl FnOnce() -> Result<()>) -> Result<()> {
        let [part, whole] = ["part", "whole"].map(|extension| state.with_extension(extension));
        let [from, to] = [&part, &whole].map(|path| quote(&path.to_string_lossy()));
        for left in [&part, &whole].into_iter().filter(|file| file.exists()) {
            std::fs::remove_file(left).with_context(|| format!("cannot remove {}", left.display()))?;
        }
        self.monitor("stop")?;
        // The file has its name once it is whole. The monitor takes the next command when this one is done.
        self.monitor(&format!("migrate \"exec:cat >{from} && mv {from} {to}\""))?;
        let patience = Patience::new(self.qemu.id(), self.boot_limit);
        while !whole.exists() {
            if patience.is_over() || self.qemu.try_wait().context("cannot wait for QEMU")?.is_some() {
                bail!("QEMU did not write its state to {}", state.display());
            }
            std::thread::sleep(POLL);
        }
        copy()?;
        // Last: others go on from it once it is there.
        std::fs::rename(&whole, state).with_context(|| format!("cannot name {}", state.display()))?;
        self.monitor("cont")
    }

    /// Waits until the guest has booted and takes scripts.
    ///
    /// # Errors
    /// If it does not come up; the message ends with the console's last lines.
    pub fn wait_for_boot(&mut self) -> Result<Boot> {
        let patience = Patience::new(self.qemu.id(), self.boot_limit);
        self.next_boot(&patience, &FATAL)
    }

    /// Waits until the guest has booted `version`, which it does only after `failures` boots of another one: those may come up
    /// for a while, or say on the console what would else end the wait. Returns the boot, and the others that came up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn wait_for_version(&mut self, version: &str, failures: u32) -> Result<(Boot, Vec<Boot>)> {
        let patience = Patience::new(self.qemu.id(), self.boot_limit * (failures + 1));
        let mut others = Vec::new();
        loop {
            let boot = self
                .next_boot(&patience, &[])
                .with_context(|| format!("{version} did not come up; before, there were {others:?}"))?;
            if boot.version == version {
                return Ok((boot, others));
            }
            others.push(boot);
        }
    }

    fn next_boot(&mut self, patience: &Patience, fatal: &[&str]) -> Result<Boot> {
        loop {
            let line = self.line(patience, fatal, "the guest to boot")?;
            // A guest that was reset may have left the beginning of a line.
            let Some(start) = line.rfind("ready ") else {
                continue;
            };
            let mut words = line[start..].split_whitespace().skip(1).map(str::to_owned);
            if let (Some(id), Some(version)) = (words.next(), words.next()) {
                self.boots.fetch_add(1, Ordering::Relaxed);
                self.is_idle = true;
                return Ok(Boot { id, version });
            }
        }
    }

    /// Has QEMU do something to the machine.
    ///
    /// # Errors
    /// If QEMU cannot be reached.
    pub fn monitor(&mut self, command: &str) -> Result<()> {
        writeln!(self.monitor, "{command}").context("cannot talk to QEMU's monitor")
    }

    /// Runs a script in the guest.
    ///
    /// # Errors
    /// If the guest does not answer. What the script's exit status means is the caller's to say.
    pub fn script(&mut self, script: &str) -> Result<Answer> {
        self.script_within(script, SCRIPT_LIMIT)
    }

    fn script_within(&mut self, script: &str, limit: Duration) -> Result<Answer> {
        self.send(script)?;
        let patience = Patience::new(self.qemu.id(), limit);
        let line = self.line(&patience, &FATAL, &format!("the guest to run `{script}`"))?;
        let mut words = line.split_whitespace();
        ensure!(
            words.next() == Some("done"),
            "the guest answered {line:?} to `{script}`"
        );
        let status = words
            .next()
            .and_then(|word| word.parse().ok())
            .context("the guest gave no exit status")?;
        let bytes =
            base64_decode(words.next().unwrap_or_default()).context("the guest's answer is garbled")?;
        self.is_idle = true;
        Ok(Answer {
            status,
            text: String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        })
    }

    /// Has the guest run a script whose end it may not live to tell.
    ///
    /// # Errors
    /// If the guest cannot be reached.
    pub fn send(&mut self, script: &str) -> Result<()> {
        self.is_idle = false;
        let line = format!("{}\n", base64_encode(script.as_bytes()));
        self.port
            .write_all(line.as_bytes())
            .context("cannot send a script to the guest")
    }

    /// Runs a script that must succeed, and returns what it printed.
    ///
    /// # Errors
    /// If it fails, or the guest does not answer.
    pub fn ask(&mut self, script: &str) -> Result<String> {
        let answer = self.script(script)?;
        if answer.status != 0 {
            bail!(
                "in the guest `{script}` failed ({}):\n{}",
                answer.status,
                answer.text
            );
        }
        Ok(answer.text)
    }

    /// Restarts the guest the ordinary way, and waits until it has booted again.
    ///
    /// # Errors
    /// If it does not come up, or never went down.
    pub fn reboot(&mut self) -> Result<()> {
        let before = self.ask("cat /proc/sys/kernel/random/boot_id")?;
        self.begin_reboot()?;
        let after = self.wait_for_boot()?;
        ensure!(before != after.id, "the guest did not restart");
        Ok(())
    }

    /// Has the guest restart, and waits for nothing.
    ///
    /// # Errors
    /// If the guest cannot be reached.
    pub fn begin_reboot(&mut self) -> Result<()> {
        self.send("systemctl --no-block reboot")
    }

    /// Shuts the guest down and waits until it is off. Returns all that its console ever showed.
    ///
    /// # Errors
    /// If it does not go off.
    pub fn power_off(mut self) -> Result<String> {
        self.send("systemctl --no-block poweroff")?;
        let patience = Patience::new(self.qemu.id(), self.boot_limit);
        while !patience.is_over() {
            if self.qemu.try_wait().context("cannot wait for QEMU")?.is_some() {
                return Ok(plain_text(
                    &std::fs::read(&self.console).context("cannot read the console")?,
                ));
            }
            std::thread::sleep(POLL);
        }
        bail!(
            "the guest did not go off; the end of its console:\n{}",
            self.console_tail()
        )
    }

    /// The last lines of the console.
    pub fn console_tail(&self) -> String {
        let text = plain_text(&std::fs::read(&self.console).unwrap_or_default());
        let start = text.len().saturating_sub(CONSOLE_TAIL);
        let start = (start..=text.len())
            .find(|index| text.is_char_boundary(*index))
            .unwrap_or(0);
        text[start..].to_owned()
    }

    /// The next line from the guest.
    fn line(&mut self, patience: &Patience, fatal: &[&str], waiting_for: &str) -> Result<String> {
        // A restart leaves the console's old lines in the file: only new ones count.
        let mut seen = self.console_length();
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let mut chunk = [0; 8192];
            match self.port.read(&mut chunk) {
                Ok(0) => bail!(
                    "QEMU ended while waiting for {waiting_for}; its console:\n{}",
                    self.console_tail()
                ),
                Ok(length) => self.received.extend_from_slice(&chunk[..length]),
                // Interrupted is what a read with a timeout is when this process was stopped, and goes on.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    if let Some(line) = self.fatal_line(fatal, &mut seen) {
                        // What follows is worth seeing.
                        std::thread::sleep(Duration::from_secs(2));
                        bail!(
                            "the guest gave up: {line}\nthe end of its console:\n{}",
                            self.console_tail()
                        );
                    }
                    if patience.is_over() {
                        bail!(
                            "timed out waiting for {waiting_for}; the end of the console:\n{}",
                            self.console_tail()
                        );
                    }
                }
                Err(error) => return Err(error).context("cannot hear the guest"),
            }
        }
    }

    fn console_length(&self) -> usize {
        std::fs::metadata(&self.console).map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(0))
    }

    /// A line after which the guest will not come up, among those since `seen`.
    fn fatal_line(&self, fatal: &[&str], seen: &mut usize) -> Option<String> {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        let text = plain_text(bytes.get(*seen..).unwrap_or_default());
        // The last line may not be whole yet, so it is looked at again.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        *seen = whole.max(*seen);
        text.lines()
            .find(|line| fatal.iter().any(|fatal| line.contains(fatal)))
            .map(|line| line.trim().to_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A test that has passed switches its machine off, and what was sent last is not answered.
        if self.is_idle
            && let Ok(answer) = self.script_within(LAST_WORDS, LAST_WORDS_LIMIT)
        {
            eprintln!("the machine, as the test leaves it:\n{}", answer.text);
        }
        end(&mut self.qemu);
    }
}

fn end(qemu: &mut Child) {
    // It may have ended by itself.
    let _ = qemu.kill();
    let _ = qemu.wait();
}

fn connect(qemu: &mut Child, socket: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match UnixStream::connect(socket) {
            Ok(port) => {
                port.set_read_timeout(Some(POLL))
                    .context("cannot set a timeout")?;
                return Ok(port);
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("its socket does not answer");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
        if let Some(status) = qemu.try_wait().context("cannot wait for QEMU")? {
            bail!("it ended ({status})");
        }
    }
}
