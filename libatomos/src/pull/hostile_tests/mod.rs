//! Servers that misbehave: the pull ends with an error that names the file, or goes on with another mirror, and nothing that was not
//! verified is ever to be seen.
#![allow(clippy::disallowed_methods, reason = "tests are programs, not the library")]

mod answers;
mod contents;
mod resume;

use std::error::Error;
use std::sync::Mutex;

use atomos_httpd::testing::{BadServer, Deed, Fault};

use super::tests::{NOW, World, name, noise, os};
use super::*;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::progress::{Event, Progress};
use crate::publish::SiteDir;
use crate::repo::{FsckOptions, Repo, RepoMode};
use crate::sign::{Envelope, SecretKey, Signer, TrustedKeys};
use crate::site::{
    Artifact, FileRef, Index, Manifest, RECORD_TYPE, RELEASE_TYPE, Record, Release, TreeTable,
};

/// Remembers the warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn report(&self, event: Event<'_>) {
        if let Event::Warning { text } = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

/// A site with two releases, without an image unless a test wants one.
struct Site {
    world: World,
    clients: std::cell::Cell<u32>,
    /// Seconds that a server may say nothing: few where it is to say nothing, and many elsewhere, since a machine with much to do
    /// may leave a good server waiting for a second.
    patience: std::cell::Cell<u64>,
}

const PATIENT: u64 = 20;
const IMPATIENT: u64 = 2;

/// The files of a kind.
fn files(site: &std::path::Path, kind: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(site.join(kind)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What a client has before.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Has {
    Nothing,
    First,
}

impl Site {
    fn new(image: bool) -> Self {
        let world = World::new();
        world.commit("1");
        world.publish_with(|options| options.no_image = !image);
        let first = Self {
            world,
            clients: Default::default(),
            patience: PATIENT.into(),
        };
        let world = &first.world;
        for number in 0..30u64 {
            let mut bytes = noise(number, 3000 + number as usize * 500);
            bytes[50..90].fill(number as u8);
            world.write(&format!("usr/lib/modules/6.1.0-1/m{number}.ko"), &bytes);
        }
        world.write("usr/lib/new", &noise(500, 60_000));
        let mut large = noise(2000, 10_000_000);
        large[9_000_000..9_001_000].fill(1);
        world.write("usr/share/large", &large);
        world.write("usr/share/other", &noise(600, 9_000_000));
        world.commit("2");
        world.publish_with(|options| options.no_image = !image);
        first
    }

    /// Without the large files.
    fn small(image: bool) -> Self {
        let world = World::new();
        world.write("usr/share/large", &noise(2000, 50_000));
        world.commit("1");
        world.publish_with(|options| options.no_image = !image);
        world.write("usr/lib/new", &noise(500, 60_000));
        let mut program = noise(1000, 200_000);
        program[500..900].fill(0);
        world.write("usr/bin/program", &program);
        world.commit("2");
        world.publish_with(|options| options.no_image = !image);
        Self {
            world,
            clients: Default::default(),
            patience: PATIENT.into(),
        }
    }

    /// The newest release as somebody signs it who has the key, and means no good.
    fn sign_another(
        &self,
        key: &SecretKey,
        change: impl FnOnce(&mut Index, &mut Vec<u8>),
        change_release: impl FnOnce(&mut Release),
    ) {
        let site = SiteDir::open(&self.world.site()).unwrap();
        let keys = TrustedKeys::pinned([self.world.key.public()]).unwrap();
        let published = site.published(&os(), &keys, &[]).unwrap().unwrap();
        let (mut release, commit) = (published.release.clone(), published.release.commit);
        let mut index = site.manifest(&release).unwrap().index;
        let mut table = TreeTable::encode(&self.world.publisher, &commit).unwrap();
        change(&mut index, &mut table);
        let manifest = Manifest::encode(&commit, &table, &index, None, 3).unwrap();
        let put = |kind: Artifact, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            std::fs::write(self.world.site().join(kind.path(&digest)), bytes).unwrap();
            FileRef {
                digest,
                size: bytes.len() as u64,
            }
        };
        release.manifest = put(Artifact::Manifest, &manifest);
        release.manifests.clear();
        change_release(&mut release);
        let envelope = Envelope::sign(RELEASE_TYPE, release.to_payload(), &[key]).unwrap();
        let file = put(Artifact::Release, &envelope.encode());
        let record = Record {
            sequence: published.record.sequence + 1,
            time: NOW,
            release: file.digest,
            release_size: file.size,
            ..published.record
        };
        let envelope = Envelope::sign(RECORD_TYPE, record.to_payload(), &[&self.world.key]).unwrap();
        std::fs::write(self.world.site().join("refs/os"), envelope.encode()).unwrap();
    }

    /// A client that has something, and a site that is made as somebody wants it: the pull fails.
    fn refuses(&mut self, has: Has, why: &[&str]) {
        let server = BadServer::start(self.world.site(), []);
        self.client(has, &[server.url()]);
        let error = self.pull().0.unwrap_err();
        let text = chain(&error);
        assert!(why.iter().any(|why| text.contains(why)), "{text}");
        assert!(text.contains(&server.url()), "no file is named: {text}");
        self.assert_nothing_visible(has);
    }

    /// Another client; `self.world.client` from now on.
    fn client(&mut self, has: Has, urls: &[String]) {
        let number = self.clients.get() + 1;
        self.clients.set(number);
        let path = self.world.scratch.path().join(format!("client-{number}"));
        self.world.client = Repo::init(&path, RepoMode::BareUser).unwrap();
        if has == Has::First {
            self.world.remote(|_| {});
            let session = self.world.session(|_| {});
            self.world
                .pull_with(
                    Selector::Version("1".to_owned()),
                    &session,
                    &PullOptions::default(),
                )
                .unwrap();
        }
        self.remote(urls);
    }

    fn remote(&self, urls: &[String]) {
        self.world.remote(|config| {
            config.urls = urls.to_vec();
            let patience = self.patience.get();
            config.connect_timeout = Some(patience);
            config.stall_timeout = Some(patience);
            config.request_timeout = Some(4 * patience);
            config.retries = Some(1);
        });
    }

    fn pull(&self) -> (Result<PullReport, PullError>, Vec<String>) {
        let wanted = [Wanted {
            reference: os(),
            selector: Selector::Newest,
        }];
        let warnings = Warnings::default();
        let result = pull(
            &self.world.client,
            &name(),
            &wanted,
            &self.world.session(|_| {}),
            &PullOptions::default(),
            &warnings,
            &Cancel::new(),
        );
        (result, warnings.0.into_inner().unwrap())
    }

    /// After a failure: no ref has moved, and whatever is in the repository verifies.
    fn assert_nothing_visible(&self, has: Has) {
        let named = self.world.client.refs().unwrap();
        let version = named.values().next().map(|commit| {
            let commit = self.world.client.load_commit(commit).unwrap();
            commit.version
        });
        let expected = (has == Has::First).then(|| "1".to_owned());
        assert_eq!(version, expected);
        let report = self
            .world
            .client
            .fsck(
                &FsckOptions::default(),
                &crate::progress::NoProgress,
                &Cancel::new(),
            )
            .unwrap();
        assert_eq!(report.findings, []);
    }

    /// A deed that nobody can make up for: alone it is an error that names a file of the server; beside a good mirror it costs a
    /// warning.
    fn fails(&mut self, has: Has, prefix: &str, deed: &Deed, why: &[&str]) {
        let bad = BadServer::start(self.world.site(), [Fault::on(prefix, deed.clone())]);
        self.patience.set(match deed {
            Deed::Stall(_) | Deed::Silence | Deed::Trickle(..) => IMPATIENT,
            _ => PATIENT,
        });
        self.client(has, &[bad.url()]);
        let (result, _) = self.pull();
        let error = match result {
            // What comes before the end of an endless file is right, and whoever has it may be gone before the rest arrives.
            Ok(report) if *deed == Deed::Endless && prefix == "p" => {
                assert_eq!(report.refs[0].version, "2");
                return self.world.assert_same_as_tree();
            }
            Ok(report) => panic!("{deed:?} on {prefix:?} did no harm: {report:?}"),
            Err(error) => error,
        };
        let text = chain(&error);
        assert!(
            why.iter().any(|why| text.contains(why)),
            "{deed:?} on {prefix:?}: {text}"
        );
        assert!(
            text.contains(&format!("{}/", bad.url())),
            "{deed:?} on {prefix:?}: no file is named: {text}"
        );
        self.assert_nothing_visible(has);
        // The same client, and a good mirror besides.
        let good = BadServer::start(self.world.site(), []);
        self.remote(&[bad.url(), good.url()]);
        drop(bad.take_requests());
        let (result, warnings) = self.pull();
        let report = result.unwrap_or_else(|error| panic!("{deed:?} on {prefix:?}: {}", chain(&error)));
        assert_eq!(report.refs[0].version, "2");
        // What came before it failed is kept, so there may be nothing left to ask it for; and what comes before the end of an
        // endless body is right, and may be all that is waited for.
        let was_asked = bad.requests().iter().any(|seen| seen.deed.is_some()) && *deed != Deed::Endless;
        assert!(
            !was_asked || warnings.iter().any(|text| text.contains(&bad.url())),
            "{deed:?} on {prefix:?}: the bad mirror is not named: {warnings:?}"
        );
        self.world.assert_same_as_tree();
    }

    /// A deed that costs requests and nothing else.
    fn completes(&mut self, has: Has, faults: Vec<Fault>) -> Vec<atomos_httpd::testing::Seen> {
        let bad = BadServer::start(self.world.site(), faults);
        self.client(has, &[bad.url()]);
        self.world.remote(|config| {
            config.urls = vec![bad.url()];
            config.retries = Some(20);
        });
        let (result, _) = self.pull();
        result.unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.world.assert_same_as_tree();
        bad.requests()
    }
}

fn chain(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
