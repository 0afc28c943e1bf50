//! Three versions of a tree, published one after another, and a client that stopped at the first. Every byte of it is the
//! same in every process: an input that breaks a law must do so again.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::commit::{CommitOptions, MtimePolicy, commit};
use crate::digest::CommitId;
use crate::fs::Dir;
use crate::names::RefName;
use crate::progress::NoProgress;
use crate::publish::{Profile, PublishOptions, publish};
use crate::pull::{PullOptions, SessionOptions, Wanted, pull};
use crate::remote::{RemoteConfig, RemoteName};
use crate::repo::{Repo, RepoMode};
use crate::sign::{SecretKey, Signer};

/// When everything was published.
pub(super) const NOW: i64 = 1_800_000_000;

pub(super) fn reference() -> RefName {
    "os".parse().unwrap()
}

pub(super) fn remote() -> RemoteName {
    "origin".parse().unwrap()
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

#[derive(Debug)]
pub(super) struct World {
    scratch: tempfile::TempDir,
    pub(super) publisher: Repo,
    /// Has the first version. It must stay as it is.
    pub(super) client: Repo,
    pub(super) key: SecretKey,
    /// The first and the third version: what the client has, and what there is.
    pub(super) base: CommitId,
    pub(super) newest: CommitId,
}

impl World {
    pub(super) fn new() -> Self {
        let parent = crate::testing::memory_dir();
        remove_leftovers(&parent);
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in(parent)
            .unwrap();
        let path = scratch.path();
        let publisher = repo(&path.join("publisher"));
        let client = repo(&path.join("client"));
        let key = SecretKey::from_seed(&[1; 32]);
        let config = RemoteConfig {
            urls: vec![path.join("site").to_str().unwrap().to_owned()],
            keys: vec![key.public().to_pem()],
            ..RemoteConfig::default()
        };
        config.save(&client, &remote()).unwrap();
        let mut commits = Vec::new();
        for version in 1..=3 {
            let tree = path.join("tree");
            write_tree(&tree, version);
            let options = CommitOptions {
                reference: Some(reference()),
                version: version.to_string(),
                time: Some(NOW),
                mtime: MtimePolicy::Zero,
                owner: Some((0, 0)),
                ..CommitOptions::default()
            };
            let tree = Dir::open_ambient(tree).unwrap();
            let made = commit(&publisher, tree, &options, &NoProgress, &Cancel::new()).unwrap();
            commits.push(made.commit);
            let options = PublishOptions {
                signers: vec![&key],
                time: Some(NOW + version),
                // Windows first, groups then.
                profile: if version < 3 {
                    Profile::Fast
                } else {
                    Profile::Thorough
                },
                ..PublishOptions::default()
            };
            publish(
                &publisher,
                &path.join("site"),
                &options,
                &NoProgress,
                &Cancel::new(),
            )
            .unwrap();
            if version == 1 {
                let wanted = [Wanted {
                    reference: reference(),
                    selector: crate::pull::Selector::Newest,
                }];
                pull(
                    &client,
                    &remote(),
                    &wanted,
                    &session(),
                    &PullOptions::default(),
                    &NoProgress,
                    &Cancel::new(),
                )
                .unwrap();
            }
        }
        Self {
            publisher,
            client,
            key,
            base: commits[0],
            newest: commits[2],
            scratch,
        }
    }

    pub(super) fn site(&self) -> PathBuf {
        self.scratch.path().join("site")
    }

    /// Returns a directory beside the others.
    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

/// Makes a repository whose id is always the same.
fn repo(path: &Path) -> Repo {
    let made = Repo::init(path, RepoMode::BareUser).unwrap();
    let config = std::fs::read_to_string(path.join("config")).unwrap();
    let config = config.replace(&made.config().id, "0123456789abcdef0123456789abcdef");
    std::fs::write(path.join("config"), config).unwrap();
    Repo::open(path).unwrap()
}

pub(super) fn session() -> SessionOptions {
    SessionOptions {
        now: Some(NOW + 100),
        backoff: Some(std::time::Duration::from_millis(1)),
        ..SessionOptions::default()
    }
}

const PREFIX: &str = "atomos-laws-";

/// A fuzzer's process ends without ceremony and leaves its directory. The next one removes it.
fn remove_leftovers(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let owner = owner.and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A tree that has little and compresses well, so that seeds are small, and yet has everything: a blob in segments and
/// windows that only the second version changes, one that changes as programs do, some that come and go, a
/// directory that occurs twice.
fn write_tree(tree: &Path, version: i64) {
    let write = |path: &str, bytes: &[u8]| {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        for dir in path.ancestors().skip(1).take_while(|dir| dir.starts_with(tree)) {
            std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        }
    };
    let mut large = noise(1, 2000).repeat(if version == 1 { 300 } else { 4300 });
    large[100_000] = version.min(2) as u8;
    write("usr/share/large", &large);
    for seed in 2..5 {
        // As where every address has moved: bsdiff does better than windows.
        let mut program = noise(seed, 1500);
        for at in (3..1500).step_by(15) {
            program[at] = version as u8;
        }
        write(&format!("usr/bin/program{seed}"), &program);
    }
    write(
        "usr/lib/modules/6.1/vmlinuz",
        format!("kernel {version}\n").repeat(20).as_bytes(),
    );
    for number in version..version + 4 {
        let text = format!("{number} and more of it\n").repeat(3 + number as usize);
        write(&format!("usr/share/doc/{number}"), text.as_bytes());
    }
    for dir in ["a", "b"] {
        write(&format!("usr/{dir}/same"), b"the same in two places\n");
        write(&format!("usr/{dir}/empty"), b"");
    }
    if version == 1 {
        std::os::unix::fs::symlink("program2", tree.join("usr/bin/link")).unwrap();
    }
}
