//! Who signs: keys in files, and programs that have the key elsewhere: a hardware token, a service.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use libatomos::commit::Sealers;
use libatomos::sign::{PublicKey, SignError, Signer};

use crate::commands::key::{read_public, read_secret};
use crate::report::CliError;

/// The options of every verb that signs.
#[derive(Debug, Args)]
pub struct SigningArgs {
    /// A secret key to sign with; can be repeated
    #[arg(long, value_name = "FILE", required_unless_present = "sign_command")]
    key: Vec<PathBuf>,

    /// A command that signs what it reads, for keys that are not in files; can be repeated, each with its --public
    #[arg(long, value_name = "COMMAND", requires = "public")]
    sign_command: Vec<String>,

    /// The public key of what --sign-command makes
    #[arg(long, value_name = "FILE", requires = "sign_command")]
    public: Vec<PathBuf>,
}

impl SigningArgs {
    /// Reads the keys.
    pub fn signers(&self) -> Result<Vec<Box<dyn Signer>>, CliError> {
        signers(
            &self.key,
            ("--sign-command", &self.sign_command),
            ("--public", &self.public),
        )
    }
}

/// The options of a verb that can seal what it makes.
#[derive(Debug, Args)]
pub struct SealArgs {
    /// Sign the image that a deployment's root would be, with this secret key; can be repeated. Implies --verity
    ///
    /// What is signed is the image's fs-verity digest, with the tree's digest and the version. The signature is kept in the commit. A
    /// machine whose initramfs has the public key, and whose tree asks for `composefs = verified`, boots nothing else.
    #[arg(long, value_name = "FILE")]
    seal: Vec<PathBuf>,

    /// As --seal, by a command that signs what it reads, for keys that are not in files; can be repeated, each with its --seal-public
    #[arg(long, value_name = "COMMAND", requires = "seal_public")]
    seal_command: Vec<String>,

    /// The public key of what --seal-command makes
    #[arg(long, value_name = "FILE", requires = "seal_command")]
    seal_public: Vec<PathBuf>,
}

impl SealArgs {
    /// Reads the keys.
    pub fn sealers(&self) -> Result<Sealers, CliError> {
        let mut sealers = Sealers::default();
        let found = signers(
            &self.seal,
            ("--seal-command", &self.seal_command),
            ("--seal-public", &self.seal_public),
        )?;
        for signer in found {
            sealers.add(signer.into());
        }
        Ok(sealers)
    }
}

/// Reads keys in files, and those that commands have, each with its public key. The options' names are for messages.
fn signers(
    keys: &[PathBuf],
    (command_option, commands): (&str, &[String]),
    (public_option, publics): (&str, &[PathBuf]),
) -> Result<Vec<Box<dyn Signer>>, CliError> {
    let mut signers: Vec<Box<dyn Signer>> = Vec::new();
    for file in keys {
        signers.push(Box::new(read_secret(file)?));
    }
    if commands.len() != publics.len() {
        return Err(CliError::usage(format!(
            "{} {command_option} and {} {public_option} were given, and each takes the other",
            commands.len(),
            publics.len()
        )));
    }
    for (command, public) in commands.iter().zip(publics) {
        signers.push(Box::new(CommandSigner {
            command: command.clone(),
            public: read_public(public)?,
        }));
    }
    Ok(signers)
}

/// Returns the signers as the library takes them.
pub fn borrowed(signers: &[Box<dyn Signer>]) -> Vec<&dyn Signer> {
    signers.iter().map(AsRef::as_ref).collect()
}

/// Runs a command for each signature. It reads what is to be signed from its standard input, which is a file, and prints the
/// 64 bytes of the signature.
#[derive(Debug)]
struct CommandSigner {
    /// For `sh -c`.
    command: String,
    /// The key that verifies what the command prints.
    public: PublicKey,
}

/// A signature in hexadecimal, with a line end, and some room.
const MAX_OUTPUT: u64 = 1024;

/// Bytes of an ed25519 signature.
const SIGNATURE: usize = 64;

impl Signer for CommandSigner {
    fn public(&self) -> PublicKey {
        self.public.clone()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let fail = |reason: String| SignError::Signing {
            key: self.public.id(),
            reason,
        };
        let mut input = anonymous_file().map_err(|error| fail(format!("cannot make a file: {error}")))?;
        input
            .write_all(message)
            .and_then(|()| input.seek(SeekFrom::Start(0)).map(drop))
            .map_err(|error| fail(format!("cannot write a file: {error}")))?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", &self.command])
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| fail(format!("cannot run the command: {error}")))?;
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(MAX_OUTPUT)
                .read_to_end(&mut output)
                .map_err(|error| fail(format!("cannot read what the command prints: {error}")))?;
        }
        let status = child
            .wait()
            .map_err(|error| fail(format!("cannot wait for the command: {error}")))?;
        if output.len() as u64 == MAX_OUTPUT {
            // It may have been ended by the pipe that nobody reads any more, so how it ended says nothing.
            return Err(fail(format!(
                "the command printed {MAX_OUTPUT} bytes or more, and a signature has 64, or 128 hexadecimal digits"
            )));
        }
        if !status.success() {
            return Err(fail(format!("the command failed: {status}")));
        }
        if output.len() == SIGNATURE {
            return Ok(output);
        }
        from_hex(&output).ok_or_else(|| {
            fail(format!(
                "the command printed {} bytes, and a signature has 64, or 128 hexadecimal digits",
                output.len()
            ))
        })
    }
}

/// Makes a file that has no name.
fn anonymous_file() -> std::io::Result<std::fs::File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(rustix::fs::memfd_create("atomos-sign", flags)?.into())
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim();
    if text.len() != 2 * SIGNATURE {
        return None;
    }
    (0..SIGNATURE)
        .map(|index| u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok())
        .collect()
}
