//! `atomos remote`

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use libatomos::error::ErrorKind;
use libatomos::remote::{RemoteConfig, RemoteName, RemoteState};
use serde::Serialize;

use super::RunResult;
use super::key::read_public;
use super::key_set;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::quantity;
use crate::report::CliError;

/// Add, list and remove remotes
///
/// A remote is a published site, with the keys that its records must be signed by. Its configuration lies in the repository, in
/// `remotes/NAME.toml`, which may be edited; `remotes/NAME.state` has what was seen of it, so that an old version is not taken
/// for a new one. What was seen is forgotten where other keys are put there: what the old ones vouched for counts no more.
///
/// Besides what `add` writes there may stand, in seconds, `connect-timeout` (15 where it is missing), `stall-timeout` (30, without
/// a byte) and `request-timeout` (3600, for one request), and `retries` (4): how often a mirror that fails is asked again. A key
/// that is not known is an error.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Add(Box<AddArgs>),
    List(ListArgs),
    Show(NameArgs),
    Remove(RemoveArgs),
}

/// Add a remote
///
/// URL is http, https or file, or an absolute path of a directory, such as a USB stick. Nothing is asked of it yet.
///
/// --no-verify believes whatever comes, from whomever. `atomos status` says so of every deployment that is made of it, for ever.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos remote add origin https://os.example.org --key release-key.pub
  atomos remote add origin https://os.example.org --mirror https://mirror.example.net/os --key release-key.pub
  atomos remote add usb /media/usb/site --key release-key.pub
  atomos remote add origin https://os.example.org --key-set keys-3.json
  atomos remote add lab http://10.0.0.1:8080 --no-verify")]
struct AddArgs {
    /// What to call it
    name: RemoteName,

    /// Where the site is
    url: String,

    /// Another place where the same site is; asked when the first one fails. It is told nothing of who asks: no user, token, certificate or header,
    /// unless it is on the site's own server, and what netrc has for its host
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,

    /// A public key, of which any signs, or a directory of them (`*.pub`, `*.pem`)
    #[arg(
        long,
        value_name = "FILE|DIR",
        conflicts_with_all = ["no_verify", "key_set"]
    )]
    key: Vec<PathBuf>,

    /// A key set of the site (its file keys/N), instead of keys: for machines that are made after keys were replaced
    #[arg(long, value_name = "FILE", conflicts_with = "no_verify")]
    key_set: Option<PathBuf>,

    /// Believe whatever comes
    #[arg(long)]
    no_verify: bool,

    /// What this machine is; versions that are for certain machines must name one of these
    #[arg(long, value_name = "NAME")]
    compatible: Vec<String>,

    /// Certificate authorities in PEM, besides the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// This machine's certificate in PEM
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,

    /// The certificate's key in PEM
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,

    /// A proxy, or `none`; otherwise the environment says, by `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,

    /// The user, with --password-file
    #[arg(long, requires = "password_file")]
    user: Option<String>,

    /// A file with the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,

    /// A file with a bearer token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A command that prints a bearer token
    #[arg(long, value_name = "COMMAND")]
    token_command: Option<String>,

    /// A file with a user and a password for each host
    #[arg(long, value_name = "FILE")]
    netrc: Option<PathBuf>,

    /// A header to send, as `Name: value`
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,

    /// Bytes per second, such as 500k or 2M
    #[arg(long, value_name = "RATE", value_parser = quantity::rate)]
    limit_rate: Option<u64>,

    /// Connections at once
    #[arg(long, value_name = "N")]
    jobs: Option<std::num::NonZeroUsize>,

    /// Replace a remote of this name; what was seen of it is forgotten if the keys are others
    #[arg(long)]
    force: bool,
}

/// List the remotes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos remote list")]
struct ListArgs {}

/// Show a remote's configuration, and what was seen of it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos remote show origin")]
struct NameArgs {
    /// The remote
    name: RemoteName,
}

/// Remove a remote
///
/// Its configuration goes, and what was seen of it. What was pulled from it stays, and so do its refs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos remote remove origin")]
struct RemoveArgs {
    /// The remote
    name: RemoteName,
}

/// A remote, for programs. Secrets are in files, and headers may be secrets: only their names are shown.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct RemoteModel {
    name: String,
    urls: Vec<String>,
    keys: Vec<String>,
    no_verify: bool,
    compatible: Vec<String>,
    key_set: u64,
    seen: Vec<SeenModel>,
    /// The rest of it, by the names that it has in the file.
    settings: BTreeMap<String, serde_json::Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SeenModel {
    #[serde(rename = "ref")]
    reference: String,
    key_set: u64,
    sequence: u64,
}

/// Runs the verb.
pub fn run(context: &Context, args: &RemoteArgs) -> RunResult {
    match &args.verb {
        Verb::Add(args) => add(context, args)?,
        Verb::List(_) => list(context)?,
        Verb::Show(args) => show(context, &args.name)?,
        Verb::Remove(args) => {
            RemoteConfig::remove(&context.open_repo()?, &args.name)?;
            context.ui().status(format_args!("Removed remote {}", args.name));
        }
    }
    Ok(Outcome::Done)
}

fn absolute(path: &Option<PathBuf>) -> Result<Option<PathBuf>, CliError> {
    path.as_ref()
        .map(|path| {
            std::path::absolute(path)
                .map_err(|error| CliError::io(format!("cannot find {}", path.display()), error))
        })
        .transpose()
}

/// Returns the file, or the keys in a directory, by name.
fn key_files(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error| CliError::io(format!("cannot read {}", path.display()), error);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file
            .extension()
            .is_some_and(|name| name == "pub" || name == "pem")
        {
            files.push(file);
        }
    }
    if files.is_empty() {
        let what = format!(
            "there is no key in {}: no file ends with .pub or .pem",
            path.display()
        );
        return Err(CliError::of_kind(ErrorKind::NotFound, what)
            .with_hint("`atomos key generate FILE` makes a key: FILE is secret, FILE.pub is public"));
    }
    files.sort();
    Ok(files)
}

fn config(args: &AddArgs) -> Result<RemoteConfig, CliError> {
    if args.key.is_empty() && args.key_set.is_none() && !args.no_verify {
        return Err(
            CliError::usage("it has to be said whose signatures count").with_hint(
                "--key FILE names a public key, --key-set FILE a key set of the site; --no-verify believes whatever comes",
            ),
        );
    }
    let mut config = RemoteConfig::default();
    config.urls = std::iter::once(&args.url).chain(&args.mirror).cloned().collect();
    for path in &args.key {
        for file in key_files(path)? {
            let key = read_public(&file)?.to_pem();
            if !config.keys.contains(&key) {
                config.keys.push(key);
            }
        }
    }
    config.key_set = match &args.key_set {
        Some(file) => {
            let draft = key_set::read(file)?;
            Some(String::from_utf8_lossy(&draft.encode()).trim_end().to_owned())
        }
        None => None,
    };
    config.no_verify = args.no_verify;
    config.compatible.clone_from(&args.compatible);
    config.ca_file = absolute(&args.ca)?;
    config.client_cert = absolute(&args.client_cert)?;
    config.client_key = absolute(&args.client_key)?;
    config.proxy.clone_from(&args.proxy);
    config.user.clone_from(&args.user);
    config.password_file = absolute(&args.password_file)?;
    config.token_file = absolute(&args.token_file)?;
    config.token_command.clone_from(&args.token_command);
    config.netrc_file = absolute(&args.netrc)?;
    config.limit_rate = args.limit_rate;
    config.jobs = args.jobs.map(Into::into);
    for header in &args.header {
        let (name, value) = header.split_once(':').ok_or_else(|| {
            // It may be a secret: it stays out of the message.
            CliError::usage("a --header takes a name, a colon and a value")
        })?;
        config
            .headers
            .insert(name.trim().to_owned(), value.trim().to_owned());
    }
    config
        .check()
        .map_err(|reason| CliError::usage(format!("cannot use this as a remote: {reason}")))?;
    Ok(config)
}

fn add(context: &Context, args: &AddArgs) -> Result<(), CliError> {
    let repo = context.open_repo()?;
    let config = config(args)?;
    let ui = context.ui();
    if !args.force {
        config.create(&repo, &args.name)?;
    } else if config.replace(&repo, &args.name)? {
        ui.status(format_args!(
            "The keys are others: what was seen of {} is forgotten",
            args.name
        ));
    }
    if config.no_verify {
        ui.warning(format_args!(
            "whatever {} sends will be believed, whoever made it",
            args.name
        ));
    }
    ui.status(format_args!(
        "Added remote {}: {}",
        args.name,
        text::escape_text(&args.url)
    ));
    Ok(())
}

fn model(context: &Context, name: &RemoteName) -> Result<RemoteModel, CliError> {
    let repo = context.open_repo()?;
    let config = RemoteConfig::load(&repo, name)?;
    let pinned = config
        .pinned_keys()
        .map_err(|reason| CliError::of_kind(libatomos::ErrorKind::Invalid, reason))?;
    // As the next pull sees it.
    let mut state = RemoteState::load(&repo, name)?;
    state.begin_with(pinned);
    let trusted = state.keys.as_ref();
    Ok(RemoteModel {
        name: name.to_string(),
        keys: trusted.map_or_else(Vec::new, |keys| {
            keys.set().record.keys.iter().map(ToString::to_string).collect()
        }),
        key_set: trusted.map_or(0, libatomos::sign::TrustedKeys::number),
        settings: settings(&config),
        urls: config.urls,
        no_verify: config.no_verify,
        compatible: config.compatible,
        seen: state
            .refs
            .iter()
            .map(|(reference, seen)| SeenModel {
                reference: reference.to_string(),
                key_set: seen.order.0,
                sequence: seen.order.1,
            })
            .collect(),
    })
}

/// Returns what stands in the file besides URLs, keys and names, without secrets.
fn settings(config: &RemoteConfig) -> BTreeMap<String, serde_json::Value> {
    let shown_already = ["urls", "keys", "key-set", "no-verify", "compatible"];
    match serde_json::to_value(config.without_secrets()) {
        Ok(serde_json::Value::Object(all)) => all
            .into_iter()
            .filter(|(key, _)| !shown_already.contains(&key.as_str()))
            .collect(),
        _ => BTreeMap::new(),
    }
}

fn list(context: &Context) -> Result<(), CliError> {
    let names = RemoteConfig::list(&context.open_repo()?)?;
    let mut models = Vec::new();
    let mut failed = None;
    // One that cannot be read must not hide the others.
    for name in &names {
        match model(context, name) {
            Ok(model) => models.push(model),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let done = || failed.map_or(Ok(()), Err);
    if context.json() {
        context.ui().result(|out| json::write(out, &models))?;
        return done();
    }
    context.ui().result(|out| {
        for model in &models {
            let note = if model.no_verify { "  NOT VERIFIED" } else { "" };
            writeln!(
                out,
                "{}  {}{note}",
                model.name,
                text::escape_text(&model.urls.join(" "))
            )?;
        }
        Ok::<(), std::io::Error>(())
    })?;
    done()
}

fn show(context: &Context, name: &RemoteName) -> Result<(), CliError> {
    let model = model(context, name)?;
    if context.json() {
        return context.ui().result(|out| json::write(out, &model));
    }
    context.ui().result(|out| {
        writeln!(out, "Remote: {}", model.name)?;
        for url in &model.urls {
            writeln!(out, "URL: {}", text::escape_text(url))?;
        }
        if model.no_verify {
            writeln!(out, "Keys: NOT VERIFIED: whatever comes is believed")?;
        }
        for key in &model.keys {
            writeln!(out, "Key: {key} (key set {})", model.key_set)?;
        }
        for name in &model.compatible {
            writeln!(out, "Compatible: {}", text::escape_text(name))?;
        }
        for (key, value) in &model.settings {
            let value = match value {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            writeln!(out, "Setting: {key} = {}", text::escape_text(&value))?;
        }
        for seen in &model.seen {
            writeln!(
                out,
                "Seen: {} (key set {}, sequence {})",
                seen.reference, seen.key_set, seen.sequence
            )?;
        }
        Ok::<(), std::io::Error>(())
    })
}
