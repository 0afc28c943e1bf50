//! A machine: QEMU, its console in a file, and a port on which the guest takes scripts.
//!
//! Software emulation with one processor of an old kind. With two, QEMU 7.2's emulation sometimes loses the flags
//! register while the kernel patches its own code (a double fault, or a debug trap, one boot in four); with the AVX that
//! `-cpu max` offers, programs have gone wrong too. Both look like faults of what is tested, so neither is used.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Without what a server in a test has no use for, and its kernel would take seconds to find.
const MACHINE: &str = "q35,sata=off,smbus=off,vmport=off,hpet=off,i8042=off";
/// How much of the console is shown when something fails.
const CONSOLE_TAIL: usize = 6000;
/// How long the guest may stay silent before the console is looked at.
const POLL: Duration = Duration::from_millis(250);
/// How long QEMU may take to open its socket.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a script in the guest may take.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(150);

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
    received: Vec<u8>,
    console: PathBuf,
    boot_timeout: Duration,
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
    /// Starts a machine from a disk image. Its console goes to `console.log` in `work`.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub fn start(image: &Path, work: &Path, boot_timeout: Duration) -> Result<Self> {
        let console = work.join("console.log");
        let log = work.join("qemu.log");
        let socket = work.join("agent.sock");
        if socket.exists() {
            std::fs::remove_file(&socket).context("cannot remove an old socket")?;
        }
        let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-machine",
                MACHINE,
            ])
            .args(["-accel", "tcg", "-cpu", "Nehalem", "-smp", "1", "-m", "1024"])
            .arg("-drive")
            // What the guest flushed is in the host's cache, where only the host's own crash could lose it.
            .arg(format!(
                "file={},if=virtio,format=raw,cache=unsafe",
                image.display()
            ))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args([
                "-device",
                "virtio-rng-pci",
                "-device",
                "virtio-serial",
                "-chardev",
            ])
            .arg(format!(
                "socket,id=agent,path={},server=on,wait=off",
                socket.display()
            ))
            .args(["-device", "virtserialport,chardev=agent,name=atomos.test"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("cannot start `qemu-system-x86_64`")?;
        let port = match connect(&mut qemu, &socket) {
            Ok(port) => port,
            Err(error) => {
                end(&mut qemu);
                let why = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(error.context(format!("QEMU did not start: {}", why.trim())));
            }
        };
        Ok(Self {
            qemu,
            port,
            received: Vec::new(),
            console,
            boot_timeout,
        })
    }

    /// Waits until the guest has booted and takes scripts; returns the identity of this boot.
    ///
    /// # Errors
    /// If it does not come up; the message ends with the console's last lines.
    pub fn wait_for_boot(&mut self) -> Result<String> {
        let deadline = Instant::now() + self.boot_timeout;
        loop {
            let line = self.line(deadline, "the guest to boot")?;
            if let Some(boot_id) = line.strip_prefix("ready ") {
                return Ok(boot_id.trim().to_owned());
            }
        }
    }

    /// Runs a script in the guest.
    ///
    /// # Errors
    /// If the guest does not answer. What the script's exit status means is the caller's to say.
    pub fn script(&mut self, script: &str) -> Result<Answer> {
        self.send(script)?;
        let deadline = Instant::now() + SCRIPT_TIMEOUT;
        let line = self.line(deadline, &format!("the guest to run `{script}`"))?;
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
        Ok(Answer {
            status,
            text: String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        })
    }

    /// Has the guest run a script whose end it may not live to tell.
    fn send(&mut self, script: &str) -> Result<()> {
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
        self.send("systemctl --no-block reboot")?;
        let after = self.wait_for_boot()?;
        ensure!(before != after, "the guest did not restart");
        Ok(())
    }

    /// Shuts the guest down and waits until it is off. Returns all that its console ever showed.
    ///
    /// # Errors
    /// If it does not go off.
    pub fn power_off(mut self) -> Result<String> {
        self.send("systemctl --no-block poweroff")?;
        let deadline = Instant::now() + self.boot_timeout;
        while Instant::now() < deadline {
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
    fn line(&mut self, deadline: Instant, waiting_for: &str) -> Result<String> {
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
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let fatal = self.fatal_line(&mut seen);
                    if let Some(line) = fatal {
                        // What follows is worth seeing.
                        std::thread::sleep(Duration::from_secs(2));
                        bail!(
                            "the guest gave up: {line}\nthe end of its console:\n{}",
                            self.console_tail()
                        );
                    }
                    if Instant::now() > deadline {
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
    fn fatal_line(&self, seen: &mut usize) -> Option<String> {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        let text = plain_text(bytes.get(*seen..).unwrap_or_default());
        // The last line may not be whole yet, so it is looked at again.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        *seen = whole.max(*seen);
        text.lines()
            .find(|line| FATAL.iter().any(|fatal| line.contains(fatal)))
            .map(|line| line.trim().to_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
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

/// A console's bytes without what moves the cursor and changes colours.
fn plain_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut chars = String::from_utf8_lossy(bytes)
        .chars()
        .collect::<Vec<_>>()
        .into_iter()
        .peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next_if_eq(&'[').is_some() {
                    // Parameters, then one letter that ends the sequence.
                    while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                } else if chars.next().is_some_and(|c| c == '(') {
                    // The choice of a character set.
                    chars.next();
                }
            }
            '\n' | '\t' => text.push(c),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let value = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        for index in 0..4 {
            let six = (value >> (18 - 6 * index)) & 63;
            text.push(if index <= chunk.len() {
                char::from(ALPHABET[six as usize])
            } else {
                '='
            });
        }
    }
    text
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut value, mut bits) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = ALPHABET.iter().position(|letter| *letter == byte)?;
        value = value << 6 | u32::try_from(six).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(value >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_everybody_else_writes() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64_encode(plain.as_bytes()), encoded);
            assert_eq!(base64_decode(encoded).unwrap(), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(base64_decode(&base64_encode(&all)).unwrap(), all);
        assert_eq!(base64_decode("a*b"), None);
    }

    #[test]
    fn a_console_is_read_without_its_cursor() {
        let bytes = b"\x1b[H\x1b[J\x1b[1;31mFAILED\x1b[0m unit\r\n\x1b(Bnext\x07";
        assert_eq!(plain_text(bytes), "FAILED unit\nnext");
        assert_eq!(plain_text(b"\x1b["), "");
        assert_eq!(plain_text(b"\xff\x1b"), "\u{fffd}");
    }
}
