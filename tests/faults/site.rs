//! A published site with two versions of a tree, and pulls of them by HTTP.
//!
//! The site and its server are made once in a process. They are no part of what fails: the server writes
//! nothing, and knows nothing of the library whose calls do.

use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use atomos_httpd::{Server, ServerOptions};
use libatomos::cancel::Cancel;
use libatomos::commit::commit;
use libatomos::digest::CommitId;
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::publish::{PublishOptions, publish};
use libatomos::pull::{PullError, PullOptions, PullReport, Selector, SessionOptions, Wanted, pull};
use libatomos::remote::RemoteConfig;
use libatomos::repo::{Repo, RepoMode};
use libatomos::sign::{SecretKey, Signer};
use libatomos::testing::{TestRepo, small_tree, touch_up};

const FILES: usize = 3;

const NOISE: usize = 40_000;

/// Longer than what comes in one part.
const LARGE: usize = 9 << 20;

/// Seconds since 1970: the same for who signs and who looks.
const NOW: i64 = 1_800_000_000;

pub struct Site {
    _publisher: TestRepo,
    server: Server,
    key: SecretKey,
    /// The commits of the two versions of `os`.
    pub versions: [CommitId; 2],
    /// The commit of `large`, which has one file that comes in parts.
    pub large: CommitId,
}

impl Site {
    /// The one of this process. It goes when nobody has it any more: whoever does one work after another keeps it.
    pub fn of_this_process() -> Arc<Self> {
        static SITE: Mutex<Weak<Site>> = Mutex::new(Weak::new());
        let mut site = SITE.lock().unwrap();
        site.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Self::new());
            *site = Arc::downgrade(&new);
            new
        })
    }

    fn new() -> Self {
        let publisher = TestRepo::with_mode(RepoMode::BareUser);
        let (tree, site) = (publisher.scratch().join("tree"), publisher.scratch().join("site"));
        let key = SecretKey::from_seed(&[7; 32]);
        let release = |reference: &str, version: &str, now: i64, tree: &Path| {
            let mut options = TestRepo::options(reference);
            options.version = version.to_owned();
            let source = Dir::open_ambient(tree).unwrap();
            let (progress, cancel) = (NoProgress, Cancel::new());
            let made = commit(publisher.repo(), source, &options, &progress, &cancel).unwrap();
            let mut options = PublishOptions::default();
            options.signers = vec![&key];
            options.time = Some(now);
            publish(publisher.repo(), &site, &options, &progress, &cancel).unwrap();
            made.commit
        };
        small_tree(&tree, 70, FILES);
        // What does not compress: the second version comes as a patch of it.
        let mut state = 1_u32;
        let mut noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(NOISE)
        .collect();
        std::fs::write(tree.join("noise"), &noise).unwrap();
        let first = release("os", "1", NOW, &tree);
        touch_up(&tree, 71, FILES);
        noise[NOISE / 2] ^= 1;
        std::fs::write(tree.join("noise"), &noise).unwrap();
        let second = release("os", "2", NOW + 1, &tree);
        let large = publisher.scratch().join("large");
        std::fs::create_dir(&large).unwrap();
        std::fs::write(large.join("large"), vec![b'.'; LARGE]).unwrap();
        let large = release("large", "1", NOW + 2, &large);
        let server = Server::start(&site, ServerOptions::default()).unwrap();
        let site = Self {
            _publisher: publisher,
            server,
            key,
            versions: [first, second],
            large,
        };
        site.try_it();
        site
    }

    /// What is tried brings patches, and a blob in parts.
    fn try_it(&self) {
        let client = TestRepo::with_mode(RepoMode::BareUser);
        self.remember(client.repo());
        for reference in ["os", "large"] {
            fetch(client.repo(), reference, "1", None).unwrap();
        }
        let report = fetch(client.repo(), "os", "2", None).unwrap();
        assert!(report.patched_blobs > 0, "{report:?}");
    }

    /// Makes it the remote `origin` of a repository.
    pub fn remember(&self, repo: &Repo) {
        let mut config = RemoteConfig::default();
        config.urls = vec![self.server.url()];
        config.keys = vec![self.key.public().to_pem()];
        config.retries = Some(0);
        config.save(repo, &"origin".parse().unwrap()).unwrap();
    }
}

/// Pulls a version of a ref from the remote, or what is beneath a path of it.
pub fn fetch(
    repo: &Repo,
    reference: &str,
    version: &str,
    subpath: Option<&str>,
) -> Result<PullReport, PullError> {
    let wanted = [Wanted {
        reference: reference.parse().unwrap(),
        selector: Selector::Version(version.to_owned()),
    }];
    let mut session = SessionOptions::default();
    session.now = Some(NOW + 100);
    session.backoff = Some(Duration::ZERO);
    session.jobs = Some(1);
    let mut options = PullOptions::default();
    options.subpath = subpath.map(str::to_owned);
    let name = "origin".parse().unwrap();
    let (progress, cancel) = (NoProgress, Cancel::new());
    pull(repo, &name, &wanted, &session, &options, &progress, &cancel)
}

/// What a pull must have made of a repository: the ref names the commit, and nothing is left of the transaction.
pub fn has(client: &TestRepo, reference: &str, commit: CommitId) {
    let now = client.reopen().ref_optional(&reference.parse().unwrap());
    assert_eq!(now.unwrap(), Some(commit));
    nothing_is_left(client);
}

pub fn nothing_is_left(client: &TestRepo) {
    let left = std::fs::read_dir(client.path().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "staging directories stay");
}
