//! `atomos key`

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use libatomos::error::ErrorKind;
use libatomos::sign::{PublicKey, SecretKey, SignError, Signer};
use serde::Serialize;

use super::RunResult;
use super::key_set::{self, KeySetArgs};
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::report::CliError;

/// Make and look at keys
///
/// What is published is signed with ed25519 keys. A secret key is a PEM file as `openssl genpkey -algorithm ed25519` writes it, or
/// one of `ssh-keygen -t ed25519` without a passphrase; both kinds are read. docs/keys.md says how to keep and to replace them.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Generate(GenerateArgs),
    Show(ShowArgs),
    Set(KeySetArgs),
}

/// Make a key
///
/// Writes the secret key to FILE, which only its owner can read, and the public key to FILE.pub. Existing files are left alone.
/// Whoever has FILE can sign for you; machines that are to believe you need FILE.pub.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos key generate release-key")]
struct GenerateArgs {
    /// Where to write the secret key
    file: PathBuf,
}

/// Show a key's id
///
/// FILE is a secret or a public key. The id names the key in messages and key sets.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos key show release-key.pub")]
struct ShowArgs {
    /// The key
    file: PathBuf,
}

#[derive(Serialize)]
struct KeyModel {
    id: String,
    public: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: &KeyArgs) -> RunResult {
    let public = match &args.verb {
        Verb::Set(args) => return key_set::run(context, args),
        Verb::Generate(args) => generate(context, &args.file)?,
        Verb::Show(args) => {
            let text = read_text(&args.file)?;
            match SecretKey::parse(&text) {
                Ok(secret) => secret.public(),
                Err(error) if text.contains("PRIVATE KEY") => return Err(unusable(&args.file, error)),
                Err(_) => PublicKey::parse(&text).map_err(|error| unusable(&args.file, error))?,
            }
        }
    };
    let model = KeyModel {
        id: public.id().to_string(),
        public: public.to_pem(),
    };
    if context.json() {
        context.ui().result(|out| json::write(out, &model))?;
    } else {
        context.ui().result(|out| writeln!(out, "{}", model.id))?;
    }
    Ok(Outcome::Done)
}

fn generate(context: &Context, file: &Path) -> Result<PublicKey, CliError> {
    let secret = SecretKey::generate().map_err(|error| CliError::io("cannot make a key", error))?;
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);
    if public_file.exists() {
        return Err(exists(&public_file));
    }
    let write = |path: &Path, mode: u32, pem: &str| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .and_then(|mut file| {
                let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
                // Half a key is in the way of the next try, and is of no use.
                written.inspect_err(|_| drop(std::fs::remove_file(path)))
            })
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => exists(path),
                _ => CliError::io(format!("cannot write {}", text::escape_path(path)), error),
            })
    };
    write(file, 0o600, &secret.to_pem())?;
    // Nothing was signed by it yet.
    write(&public_file, 0o644, &secret.public().to_pem())
        .inspect_err(|_| drop(std::fs::remove_file(file)))?;
    context.ui().status(format_args!(
        "Wrote the secret key to {}, and the public one to {}",
        file.display(),
        public_file.display()
    ));
    Ok(secret.public())
}

fn exists(path: &Path) -> CliError {
    CliError::io(
        format!("cannot write {}", text::escape_path(path)),
        std::io::ErrorKind::AlreadyExists.into(),
    )
    .with_hint("choose another name; whoever signs with the old key would miss it")
}

/// Reads a small text file.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|error| CliError::io(format!("cannot read {}", path.display()), error))
}

/// Reads a key, or says how to make one where there is none.
fn read_key(path: &Path) -> Result<String, CliError> {
    read_text(path).map_err(|error| match error.kind() {
        Some(ErrorKind::NotFound) => {
            error.with_hint("`atomos key generate FILE` makes a key: FILE is secret, FILE.pub is public")
        }
        _ => error,
    })
}

/// Reads a public key.
pub fn read_public(path: &Path) -> Result<PublicKey, CliError> {
    PublicKey::parse(&read_key(path)?).map_err(|error| unusable(path, error))
}

/// Reads a secret key.
pub fn read_secret(path: &Path) -> Result<SecretKey, CliError> {
    SecretKey::parse(&read_key(path)?).map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, error: SignError) -> CliError {
    let shown = text::escape_path(path);
    let failure = CliError::of_kind(error.kind(), format!("cannot use the key {shown}: {error}"));
    match error {
        SignError::EncryptedKey { format: "PEM" } => failure.with_hint(format!(
            "`openssl pkey -in {shown} -out FILE` writes it without; or sign with a command: --sign-command COMMAND --public FILE"
        )),
        SignError::EncryptedKey { .. } => failure.with_hint(format!(
            "`ssh-keygen -p -N '' -f {shown}` takes it off, best off a copy; or sign with a command: --sign-command COMMAND --public FILE"
        )),
        SignError::InvalidKey { what: "public", .. } => failure.with_hint(
            "`atomos key generate FILE` writes the public key to FILE.pub; `openssl pkey -in KEY -pubout` and ssh-keygen make them, too",
        ),
        _ => failure.with_hint(
            "`atomos key generate FILE`, `openssl genpkey -algorithm ed25519` and `ssh-keygen -t ed25519` make keys",
        ),
    }
}
