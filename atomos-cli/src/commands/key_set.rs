//! `atomos key set`

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use libatomos::publish::SiteDir;
use libatomos::sign::{KeyId, KeySet, KeySetDraft, PublicKey, Role, SignError, Signed};

use super::RunResult;
use super::key::read_public;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::key_set::{Model, describe, ids};
use crate::output::{json, text};
use crate::output_file::write_output;
use crate::report::CliError;
use crate::signing::SigningArgs;

/// A key set has at most this much, as a published file.
const MAX_FILE: u64 = 64 * 1024;

/// Say which keys count: replace keys, and demand several signatures
///
/// Machines begin with the keys that `remote add --key` gave them. A key set replaces those: it says which keys sign records, which sign
/// releases, and which root keys sign the next set. Machines follow the sets one by one, so every key can be replaced, even while a
/// machine is off for years. A set counts when enough root keys of the set before it have signed it, and enough of its own.
///
/// `create` writes the set to a file. The holders of root keys add their signatures with `sign`, to the file or to copies of it, which
/// `merge` brings together. `atomos publish --key-set FILE` goes over to it. docs/keys.md has all of it step by step.
#[derive(Debug, Args)]
pub struct KeySetArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Box<CreateArgs>),
    Sign(SignArgs),
    Merge(MergeArgs),
    Show(ShowArgs),
}

/// Begin a key set
///
/// It follows the newest one of --site, or the one in the file --after, and has what is not said anew from there. Without either, it is
/// the first set of the repository. A KEY is a file with a public key, or the id of a key in the set before.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos key set create --site /srv/www/os --root a.pub --root b.pub --root c.pub --root-threshold 2 \\
      --record online.pub -o keys-1.json
  atomos key set create --site /srv/www/os --record new-online.pub -o keys-2.json")]
struct CreateArgs {
    /// The published site that it is for
    #[arg(long, value_name = "DIR", conflicts_with = "after")]
    site: Option<PathBuf>,

    /// The key set that it follows
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,

    /// A key that signs the next key set; can be repeated
    #[arg(long, value_name = "KEY")]
    root: Vec<String>,

    /// How many root keys it takes [default: as before, or 1]
    #[arg(long, value_name = "N")]
    root_threshold: Option<usize>,

    /// A key that signs records; can be repeated
    #[arg(long, value_name = "KEY")]
    record: Vec<String>,

    /// How many record keys it takes [default: as before, or 1]
    #[arg(long, value_name = "N")]
    record_threshold: Option<usize>,

    /// A key that signs releases, and is kept offline; can be repeated. Without one, who signs records signs releases
    #[arg(long, value_name = "KEY")]
    release: Vec<String>,

    /// How many release keys it takes [default: as before, or 1]
    #[arg(long, value_name = "N")]
    release_threshold: Option<usize>,

    /// Have releases signed by the record keys again
    #[arg(long, conflicts_with_all = ["release", "release_threshold"])]
    no_release: bool,

    /// For how many days the set is to be believed, while there is no newer one [default: for ever]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36500))]
    expires: Option<u32>,

    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Sign a key set
///
/// Shows what the set says, and adds signatures to the file. Look at it before: whoever has the keys that it names can replace all others.
/// Nothing but the file and the key is needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos key set sign keys-2.json --key root-a
  atomos key set sign keys-2.json --sign-command 'my-token sign' --public token.pub")]
struct SignArgs {
    /// The key set
    file: PathBuf,

    /// The key set that it follows, to tell whether the signature counts there
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,

    #[command(flatten)]
    signing: SigningArgs,
}

/// Bring signatures of copies together
///
/// Adds to FILE the signatures that the copies of it have.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos key set merge keys-2.json from-alice.json from-bob.json")]
struct MergeArgs {
    /// The key set
    file: PathBuf,

    /// Copies of it
    #[arg(value_name = "COPY", required = true)]
    copies: Vec<PathBuf>,
}

/// Show a key set, and which signatures it lacks
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos key set show keys-2.json
  atomos key set show --site /srv/www/os")]
struct ShowArgs {
    /// The key set; the newest one of --site where none is named
    #[arg(required_unless_present = "site")]
    file: Option<PathBuf>,

    /// The published site that it is for: tells who signs for the set before
    #[arg(long, value_name = "DIR", conflicts_with = "after")]
    site: Option<PathBuf>,

    /// The key set that it follows
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(context: &Context, args: &KeySetArgs) -> RunResult {
    match &args.verb {
        Verb::Create(args) => create(context, args),
        Verb::Sign(args) => sign(context, args),
        Verb::Merge(args) => merge(context, args),
        Verb::Show(args) => show(context, args),
    }
}

/// Reads a key set, or a draft of one.
pub fn read(path: &Path) -> Result<KeySetDraft, CliError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| CliError::io(format!("cannot read {}", text::escape_path(path)), error))?;
    let unusable = |reason: String, kind| {
        let shown = text::escape_path(path);
        CliError::of_kind(kind, format!("cannot use the key set {shown}: {reason}"))
            .with_hint("`atomos key set create` makes one")
    };
    if bytes.len() as u64 > MAX_FILE {
        let reason = "it has more than 64 KiB".to_owned();
        return Err(unusable(reason, libatomos::ErrorKind::Invalid));
    }
    KeySetDraft::decode(&bytes).map_err(|error| unusable(error.to_string(), libatomos::ErrorKind::Invalid))
}

/// Replaces the file by one rename.
fn write(path: &Path, draft: &KeySetDraft) -> Result<(), CliError> {
    write_output(path, |mut file| {
        file.write_all(&draft.encode())
            .map_err(|error| CliError::io(format!("cannot write {}", text::escape_path(path)), error))
    })
}

fn unacceptable(error: &SignError) -> CliError {
    CliError::of_kind(libatomos::ErrorKind::Invalid, error.to_string())
}

fn create(context: &Context, args: &CreateArgs) -> RunResult {
    let (repository, before) = match (&args.site, &args.after) {
        (Some(site), _) => {
            let site = SiteDir::open(site)?;
            (site.repository().to_owned(), site.newest_key_set()?)
        }
        (None, Some(file)) => {
            let set = read(file)?.set().clone();
            (set.repository.clone(), Some(set))
        }
        (None, None) => (context.open_repo()?.config().id.clone(), None),
    };
    let mut keys = Keys {
        before: before.as_ref(),
        used: BTreeMap::new(),
    };
    let old = |role: fn(&KeySet) -> Option<&Role>| before.as_ref().and_then(role);
    let root = keys.role(
        "root",
        &args.root,
        args.root_threshold,
        old(|set| Some(&set.root)),
    )?;
    let record = keys.role(
        "record",
        &args.record,
        args.record_threshold,
        old(|set| Some(&set.record)),
    )?;
    let release = if args.no_release {
        None
    } else {
        let old = old(|set| set.release.as_ref());
        keys.role("release", &args.release, args.release_threshold, old)?
    };
    let (Some(root), Some(record)) = (root, record) else {
        return Err(
            CliError::usage("a first key set takes --root KEY and --record KEY")
                .with_hint("--site DIR or --after FILE name the key set that this one follows"),
        );
    };
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() as i64);
    let set = KeySet {
        repository,
        number: before.as_ref().map_or(0, |set| set.number) + 1,
        time,
        expires: args.expires.map(|days| time + i64::from(days) * 24 * 3600),
        keys: keys.used,
        root,
        record,
        release,
    };
    if set.root.threshold == set.root.keys.len() {
        context.ui().warning(
            "the next key set takes all of the root keys: if one is lost, machines cannot be told of new keys any more",
        );
    }
    let draft = KeySetDraft::new(set).map_err(|error| unacceptable(&error))?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.output)
        .and_then(|mut file| file.write_all(&draft.encode()))
        .map_err(|error| {
            let shown = text::escape_path(&args.output);
            let exists = error.kind() == io::ErrorKind::AlreadyExists;
            let error = CliError::io(format!("cannot write {shown}"), error);
            if exists {
                error.with_hint("others may be signing that file: choose another name with -o FILE")
            } else {
                error
            }
        })?;
    present(context, &draft, before.as_ref(), &args.output)
}

/// Finds keys for roles, and remembers those that were used.
struct Keys<'a> {
    before: Option<&'a KeySet>,
    used: BTreeMap<KeyId, PublicKey>,
}

impl Keys<'_> {
    fn role(
        &mut self,
        name: &str,
        keys: &[String],
        threshold: Option<usize>,
        before: Option<&Role>,
    ) -> Result<Option<Role>, CliError> {
        let ids: BTreeSet<KeyId> = if keys.is_empty() {
            before.map(|role| role.keys.clone()).unwrap_or_default()
        } else {
            keys.iter().map(|key| self.find(key)).collect::<Result<_, _>>()?
        };
        if ids.is_empty() {
            return match threshold {
                Some(_) => Err(CliError::usage(format!("--{name}-threshold takes keys"))
                    .with_hint(format!("name them with --{name} KEY"))),
                None => Ok(None),
            };
        }
        let threshold = threshold.or(before.map(|role| role.threshold)).unwrap_or(1);
        if threshold == 0 || threshold > ids.len() {
            return Err(CliError::usage(format!(
                "the role {name} would take {threshold} signatures of {}",
                text::count(ids.len() as u64, "key", "keys")
            ))
            .with_hint(format!(
                "set it with --{name}-threshold N, or name more keys with --{name} KEY"
            )));
        }
        if let Some(before) = self.before {
            for id in &ids {
                if let Some(key) = before.keys.get(id) {
                    self.used.insert(*id, key.clone());
                }
            }
        }
        Ok(Some(Role { keys: ids, threshold }))
    }

    fn find(&mut self, key: &str) -> Result<KeyId, CliError> {
        if let (Ok(id), false) = (key.parse::<KeyId>(), Path::new(key).exists()) {
            return match self.before {
                Some(before) if before.keys.contains_key(&id) => Ok(id),
                _ => Err(CliError::of_kind(
                    libatomos::ErrorKind::NotFound,
                    format!("the key set before has no key {id}"),
                )
                .with_hint("name a file with the public key")),
            };
        }
        let public = read_public(Path::new(key))?;
        let id = public.id();
        self.used.insert(id, public);
        Ok(id)
    }
}

fn sign(context: &Context, args: &SignArgs) -> RunResult {
    let mut draft = read(&args.file)?;
    let before = read_before(args.after.as_deref())?;
    for signer in args.signing.signers()? {
        let id = signer.public().id();
        let is_own = draft.set().root.keys.contains(&id);
        match &before {
            _ if is_own => {}
            Some(before) if before.root.keys.contains(&id) => {}
            Some(before) => {
                return Err(CliError::of_kind(
                    libatomos::ErrorKind::Untrusted,
                    format!(
                        "key {id} is a root key neither of key set {} nor of key set {}: its signature would not count",
                        draft.set().number,
                        before.number
                    ),
                )
                .with_hint(format!("`atomos key set show {}` lists the root keys", text::escape_path(&args.file))));
            }
            // What machines were given is not written anywhere here.
            None if draft.set().number == 1 => context.ui().status(format_args!(
                "{id} is no root key of this set: its signature counts if machines were given that key"
            )),
            None => context.ui().warning(format_args!(
                "{id} is no root key of this set: its signature counts only if it is one of the set before"
            )),
        }
        draft.sign(signer.as_ref()).map_err(|error| {
            CliError::of_kind(error.kind(), error.to_string())
                .with_hint("the file is as it was; run the command by itself to see what it prints")
        })?;
        context.ui().status(format_args!("Signed with key {id}"));
    }
    write(&args.file, &draft)?;
    present(context, &draft, before.as_ref(), &args.file)
}

fn merge(context: &Context, args: &MergeArgs) -> RunResult {
    let mut draft = read(&args.file)?;
    for copy in &args.copies {
        let added = draft.merge(&read(copy)?).map_err(|error| {
            let shown = text::escape_path(copy);
            CliError::of_kind(
                libatomos::ErrorKind::Conflict,
                format!("cannot take signatures from {shown}: {error}"),
            )
            .with_hint(format!(
                "`atomos key set show {shown}` shows it; only copies of one file can be merged"
            ))
        })?;
        context.ui().status(format_args!(
            "{}: {}",
            text::escape_path(copy),
            text::count(added.len() as u64, "new signature", "new signatures")
        ));
    }
    write(&args.file, &draft)?;
    present(context, &draft, None, &args.file)
}

fn show(context: &Context, args: &ShowArgs) -> RunResult {
    let site = args.site.as_deref().map(SiteDir::open).transpose()?;
    let (draft, file) = match (&args.file, &site) {
        (Some(file), _) => (read(file)?, file.clone()),
        (None, Some(site)) => {
            let newest = site.newest_key_set()?.ok_or_else(|| {
                CliError::of_kind(
                    libatomos::ErrorKind::NotFound,
                    format!("the site {} has no key set", text::escape_path(site.dir().path())),
                )
                .with_hint(
                    "machines go by the keys that they were given; `atomos key set create` begins a set",
                )
            })?;
            let file = site.dir().path().join(format!("keys/{}", newest.number));
            (read(&file)?, file)
        }
        (None, None) => return Err(CliError::usage("a file or --site DIR is needed")),
    };
    let before = match &site {
        Some(site) if draft.set().number > 1 => Some(site.key_set(draft.set().number - 1)?),
        _ => read_before(args.after.as_deref())?,
    };
    if args.file.is_none() {
        // It is published, so it lacks nothing.
        return print(context, &draft, before.as_ref());
    }
    present(context, &draft, before.as_ref(), &file)
}

fn read_before(file: Option<&Path>) -> Result<Option<KeySet>, CliError> {
    file.map(|file| Ok(read(file)?.set().clone())).transpose()
}

/// Prints the set as the result, and says on the side what it lacks.
fn present(context: &Context, draft: &KeySetDraft, before: Option<&KeySet>, file: &Path) -> RunResult {
    let set = draft.set();
    if let Some(before) = before
        && (before.number.checked_add(1) != Some(set.number) || before.repository != set.repository)
    {
        return Err(CliError::of_kind(
            libatomos::ErrorKind::Conflict,
            format!(
                "key set {} of repository {} does not follow key set {} of repository {}",
                set.number, set.repository, before.number, before.repository
            ),
        ));
    }
    print(context, draft, before)?;
    let own = draft.signed_by_its_own();
    let by_before = before.map(|before| draft.signed_by_root_of(before));
    let ui = context.ui();
    let mut complete = true;
    let mut lacks = |signed: &Signed, whose: &str| {
        if signed.missing() > 0 {
            complete = false;
            ui.status(format_args!(
                "It takes {} by root keys of {whose}: {}",
                text::count(signed.missing() as u64, "more signature", "more signatures"),
                ids(&signed.open).join(", ")
            ));
        }
    };
    lacks(&own, "its own");
    match (&by_before, set.number) {
        (Some(signed), number) => lacks(signed, &format!("key set {}", number - 1)),
        (None, 1) if draft.signers().any(|id| !draft.set().root.keys.contains(&id)) => {}
        (None, 1) => ui.status("A key that machines were given has to sign it, too"),
        (None, number) => ui.status(format_args!(
            "Root keys of key set {} have to sign it, too",
            number - 1
        )),
    }
    if complete && by_before.is_some() {
        ui.status(format_args!(
            "Everybody has signed: `atomos publish --key-set {} --key KEY --to DIR` goes over to it",
            text::escape_path(file)
        ));
    }
    Ok(Outcome::Done)
}

/// Prints the set as the result.
fn print(context: &Context, draft: &KeySetDraft, before: Option<&KeySet>) -> RunResult {
    if context.json() {
        let model = Model::of(draft, before);
        context.ui().result(|out| json::write(out, &model))?;
    } else {
        context.ui().result(|out| describe(out, draft))?;
    }
    Ok(Outcome::Done)
}
