//! `/var` becomes a mount point; what was in it goes to the factory, the package database to `/usr`, the rest away.

use super::super::{CommitError, SourceKind};
use super::OsTreeError;
use super::home::adjust_links;
use super::report::DropReason;
use super::shaper::{Shaper, Taken, join};
use super::tmpfiles;
use crate::os_var::FACTORY_VAR;

const SYSIMAGE: &str = "usr/lib/sysimage";

/// State that says what *this version* consists of, where it was and its name in `/usr/lib/sysimage`. In `/var` it
/// would be the first version's forever.
const PACKAGE_STATE: [(&str, &str); 4] = [
    ("lib/dpkg", "dpkg"),
    // Which packages were installed for others' sake: half of what dpkg's status says to apt.
    ("lib/apt/extended_states", "apt/extended_states"),
    ("lib/rpm", "rpm"),
    ("lib/pacman", "pacman"),
];

/// Secrets and names that one machine makes for itself.
const IDENTITIES: [&[u8]; 5] = [
    b"lib/dbus/machine-id",
    b"lib/systemd/random-seed",
    b"lib/systemd/credential.secret",
    b"lib/urandom/random-seed",
    b"lib/NetworkManager/secret_key",
];

/// Not a cache, whatever its directory says: the answers that packages asked for. dpkg-reconfigure needs it.
const DEBCONF: &[u8] = b"cache/debconf/";

pub(super) fn arrange(shaper: &mut Shaper<'_>, owner: Option<(u32, u32)>) -> Result<(), CommitError> {
    let var = shaper.make_dir("var", 0o755)?;
    drop_volatile(shaper, var);
    for (path, name) in PACKAGE_STATE {
        move_package_state(shaper, path, name)?;
    }
    for (name, target) in [("run", "/run"), ("lock", "/run/lock")] {
        // Real directories until 2011; a link since.
        let path = format!("var/{name}");
        if shaper.dir(&path).is_some() {
            shaper.drop_path(&path, "var", DropReason::Volatile);
            shaper.make_link(&path, target);
        }
    }
    if shaper.is_empty(var) {
        return Ok(());
    }
    shaper.note_moved(var, "var", FACTORY_VAR);
    let factory = shaper.ensure_dir(FACTORY_VAR)?;
    for (name, _) in shaper.entries(var) {
        let child = shaper.tree.detach(var, &name).expect("it was listed");
        // In a tree that was deployed before, what is in /var now is newer than what the factory has.
        let (from, to) = (join(b"var", &name), join(FACTORY_VAR.as_bytes(), &name));
        shaper.put(child, factory, &from, &to, Taken::Replace)?;
    }
    let claimed = tmpfiles::claimed_paths(shaper.tree)?;
    let snippet = tmpfiles::snippet(shaper.tree, factory, owner, &claimed);
    shaper.make_file(
        tmpfiles::SNIPPET,
        snippet,
        "makes what is missing in /var at each start",
    )?;
    Ok(())
}

/// What to do with an entry of `/var`.
enum Fate {
    Keep,
    Drop(&'static str, DropReason),
}

fn drop_volatile(shaper: &mut Shaper<'_>, var: u32) {
    let mut stack = vec![(var, Vec::<u8>::new())];
    while let Some((dir, below)) = stack.pop() {
        for (name, child) in shaper.entries(dir) {
            let path = join(&below, &name);
            match fate(&path, &shaper.tree.node(child).kind) {
                Fate::Drop(beneath, reason) => {
                    shaper.drop_child(dir, &name, &join(b"var", &path), beneath, reason);
                }
                Fate::Keep if shaper.is_dir(child) => stack.push((child, path)),
                Fate::Keep => {}
            }
        }
    }
}

/// `path` is relative to `/var`. Directories of caches and logs stay: their owners and modes are the packages'.
fn fate(path: &[u8], kind: &SourceKind) -> Fate {
    let is_dir = matches!(kind, SourceKind::Dir { .. });
    let is_link = matches!(kind, SourceKind::Symlink(_));
    let is_empty_dir = matches!(kind, SourceKind::Dir { children } if children.is_empty());
    let has_bytes = matches!(kind, SourceKind::File { size, .. } if *size > 0);
    let below = |dir: &str| path.strip_prefix(dir.as_bytes());
    if path == b".updated" || path == b"lost+found" && is_empty_dir {
        return Fate::Drop("var", DropReason::Volatile);
    }
    if IDENTITIES.contains(&path) && !is_link {
        return Fate::Drop("var/lib", DropReason::Identity);
    }
    if below("tmp/").is_some() {
        return Fate::Drop("var/tmp", DropReason::Volatile);
    }
    if below("cache/").is_some() && !is_dir {
        let answers = path.starts_with(DEBCONF) && path.ends_with(b".dat");
        return if answers {
            Fate::Keep
        } else {
            Fate::Drop("var/cache", DropReason::Cache)
        };
    }
    if below("lib/apt/lists/").is_some() && !is_dir {
        return Fate::Drop("var/lib/apt/lists", DropReason::Cache);
    }
    if below("log/journal/").is_some_and(|name| !is_dir || is_machine_id(name)) {
        return Fate::Drop("var/log", DropReason::Log);
    }
    // An empty file is there for its owner and mode.
    if below("log/").is_some() && has_bytes {
        return Fate::Drop("var/log", DropReason::Log);
    }
    Fate::Keep
}

fn is_machine_id(name: &[u8]) -> bool {
    name.len() == 32 && name.iter().all(u8::is_ascii_hexdigit)
}

/// Moves `/var/<path>` to `/usr/lib/sysimage/<name>` and puts a link in its place. The link says the same in every
/// version, so the one that a machine's `/var` was seeded with leads to the database of whichever version runs.
fn move_package_state(shaper: &mut Shaper<'_>, path: &str, name: &str) -> Result<(), OsTreeError> {
    let from = format!("var/{path}");
    let to = format!("{SYSIMAGE}/{name}");
    let Some(node) = shaper.tree.find(&from) else {
        return Ok(());
    };
    if matches!(shaper.tree.node(node).kind, SourceKind::Symlink(_)) {
        return Ok(());
    }
    let is_vacant = |shaper: &Shaper<'_>, node: u32| shaper.is_dir(node) && shaper.is_empty(node);
    match shaper.tree.find(&to) {
        Some(_) if is_vacant(shaper, node) => {
            shaper.drop_path(&from, super::shaper::parent_of(&from), DropReason::Replaced);
        }
        Some(there) if !is_vacant(shaper, there) => {
            return Err(OsTreeError::TwoPackageDatabases {
                var: from,
                sysimage: to,
            });
        }
        there => {
            let (parent, last) = super::shaper::split(&to);
            if there.is_some() {
                shaper.drop_path(&to, parent, DropReason::Replaced);
            }
            let parent = shaper.ensure_dir(parent)?;
            shaper.note_moved(node, &from, &to);
            adjust_links(shaper, node, &from, &to);
            let node = shaper.take(&from, last).expect("it was found");
            shaper.tree.attach(parent, node);
        }
    }
    // Relative, so that it is right in a tree that is looked at from outside, too.
    let up = "../".repeat(from.matches('/').count());
    shaper.make_link(&from, &format!("{up}{to}"));
    Ok(())
}
