use std::os::unix::fs::PermissionsExt;

use crate::digest::{CommitId, Digest};
use crate::error::ErrorKind;
use crate::repo::Repo;
use crate::sign::{KeySet, Role, SecretKey, Signer, TrustedKeys};
use crate::testing::TestRepo;

use super::{RemoteConfig, RemoteError, RemoteName, RemoteState, SeenRef, set_verified, unverified_commits};

fn name(text: &str) -> RemoteName {
    text.parse().unwrap()
}

fn sample() -> RemoteConfig {
    RemoteConfig {
        urls: vec!["https://os.example/site".to_owned(), "/media/stick".to_owned()],
        keys: vec![SecretKey::generate().unwrap().public().to_pem()],
        compatible: vec!["board-a".to_owned()],
        proxy: Some("http://user:hidden@proxy:3128".to_owned()),
        headers: [("X-Token".to_owned(), "hidden".to_owned())].into(),
        limit_rate: Some(1_000_000),
        ..RemoteConfig::default()
    }
}

#[test]
fn what_is_written_is_read_and_only_by_its_owner() {
    let test = TestRepo::new();
    let repo = test.repo();
    let config = sample();
    config.create(repo, &name("origin")).unwrap();
    assert_eq!(RemoteConfig::load(repo, &name("origin")).unwrap(), config);
    let file = test.path().join("remotes/origin.toml");
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    RemoteConfig {
        urls: vec!["/x".to_owned()],
        ..config.clone()
    }
    .create(repo, &name("b.c"))
    .unwrap();
    assert_eq!(RemoteConfig::list(repo).unwrap(), [name("b.c"), name("origin")]);
    let error = config.create(repo, &name("origin")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    RemoteConfig::remove(repo, &name("origin")).unwrap();
    assert_eq!(RemoteConfig::list(repo).unwrap(), [name("b.c")]);
    for error in [
        RemoteConfig::remove(repo, &name("origin")).unwrap_err(),
        RemoteConfig::load(repo, &name("origin")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[test]
fn a_mistake_is_named_with_its_key_and_file() {
    let test = TestRepo::new();
    let good = sample().to_text().unwrap();
    let file = test.path().join("remotes/origin.toml");
    std::fs::create_dir(test.path().join("remotes")).unwrap();
    for (text, key) in [
        (format!("url = \"x\"\n{good}"), "unknown field `url`"),
        (format!("retries = \"often\"\n{good}"), "`retries`"),
        (format!("jobs = -1\n{good}"), "`jobs`"),
        (format!("jobs = 0\n{good}"), "`jobs`"),
        (format!("user = [\n1,\n2]\n{good}"), "`user`"),
        (format!("retries = 1\nretries = 2\n{good}"), "`retries`"),
        (format!("no-verify = true\n{good}"), "`no-verify`"),
        (good.replace("BEGIN PUBLIC", "BEGIN OTHER"), "`keys`"),
        (good.replace("/media/stick", "media/stick"), "`urls`"),
        (good.replace("https:", "ftp:"), "`urls`"),
        (good.replace("/site", "/site?sig=1"), "`urls`"),
        (good.replace("os.example", "user:pw@os.example"), "`urls`"),
        (
            good.replace("https://os.example", "user:hidden@os.example"),
            "`urls`",
        ),
        (good.replace("/media/stick", "https://os.example/site/"), "twice"),
        (
            good.replace("http://user:hidden@proxy:3128", "socks5://p"),
            "`proxy`",
        ),
        (
            good.replace("http://user:hidden@proxy:3128", "http://user:hidden@"),
            "`proxy`",
        ),
        (good.replace("X-Token", "Range"), "Range"),
        (good.replace("X-Token", "\"X Token\""), "`headers`"),
        (format!("ca-file = \"ca.pem\"\n{good}"), "`ca-file`"),
        (format!("client-cert = \"/c\"\n{good}"), "`client-key`"),
        (format!("user = \"u\"\n{good}"), "`password-file`"),
        (
            format!("token-file = \"/t\"\nnetrc-file = \"/n\"\n{good}"),
            "`netrc-file`",
        ),
        (
            format!(
                "token-file = \"/t\"\n{}",
                good.replace("X-Token", "authorization")
            ),
            "Authorization",
        ),
        (format!("stall-timeout = 0\n{good}"), "`stall-timeout`"),
        (
            format!("limit-rate = 0\n{}", good.replace("limit-rate = 1000000", "")),
            "`limit-rate`",
        ),
        (format!("urls\n{good}"), "line 1: "),
        (String::new(), "`urls`"),
        ("urls = [\"/x\"]".to_owned(), "`no-verify = true`"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let error = RemoteConfig::load(test.repo(), &name("origin")).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            message.contains(key) && message.contains("remotes/origin.toml"),
            "{key}: {message}"
        );
        assert!(!message.contains("hidden"), "{message}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = sample();
    assert!(!format!("{config:?}").contains("hidden"));
    let shown = config.without_secrets();
    assert!(!shown.to_text().unwrap().contains("hidden"));
    assert_eq!(shown.proxy.as_deref(), Some("http://proxy:3128"));
}

fn seen(order: (u64, u64)) -> SeenRef {
    SeenRef {
        record: "a record".to_owned(),
        order,
        etag: Some(("https://os.example".to_owned(), "\"t\"".to_owned())),
        fetched: 1_700_000_000,
        releases: [(CommitId::new(Digest::of(b"c")), 7)].into(),
    }
}

fn state() -> RemoteState {
    RemoteState {
        repository: Some("0".repeat(32)),
        keys: Some(TrustedKeys::pinned([SecretKey::generate().unwrap().public()]).unwrap()),
        pinned: None,
        newest_time: 1_700_000_000,
        refs: [("os".parse().unwrap(), seen((0, 1)))].into(),
    }
}

#[test]
fn what_was_seen_is_remembered_until_the_remote_goes() {
    let test = TestRepo::new();
    let (repo, origin) = (test.repo(), name("origin"));
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), RemoteState::default());
    sample().create(repo, &origin).unwrap();
    let state = state();
    state.save(repo, &origin).unwrap();
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), state);
    sample().save(repo, &origin).unwrap();
    assert_eq!(
        RemoteState::load(repo, &origin).unwrap(),
        state,
        "a new URL is no new remote"
    );
    RemoteConfig::remove(repo, &origin).unwrap();
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), RemoteState::default());
}

#[test]
fn a_remote_does_not_inherit_what_an_older_one_of_its_name_has_seen() {
    let test = TestRepo::new();
    let (repo, origin) = (test.repo(), name("origin"));
    state().save(repo, &origin).unwrap();
    sample().create(repo, &origin).unwrap();
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), RemoteState::default());
}

#[test]
fn damaged_memory_is_an_error_that_names_the_file() {
    let test = TestRepo::new();
    let (repo, origin) = (test.repo(), name("origin"));
    state().save(repo, &origin).unwrap();
    let file = test.path().join("remotes/origin.state");
    let good = std::fs::read_to_string(&file).unwrap();
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{\"sequence\": 1}",
        &good[..good.len() / 2],
        &good.replace("\"newest-time\"", "\"newest\""),
        &good.replace("\"refs\"", "\"ref\""),
        &good.replace("\"record\": \"", "\"recorded\": \""),
        &good.replace("\"threshold\": 1", "\"threshold\": 0"),
    ] {
        std::fs::write(&file, bad).unwrap();
        let error = RemoteState::load(repo, &origin).unwrap_err();
        assert!(
            matches!(error, RemoteError::DamagedState { .. }),
            "{bad:?}: {error}"
        );
        assert!(error.to_string().contains("remotes/origin.state"), "{error}");
    }
}

#[test]
fn what_a_newer_program_has_seen_besides_stops_nobody() {
    let test = TestRepo::new();
    let (repo, origin) = (test.repo(), name("origin"));
    let state = state();
    state.save(repo, &origin).unwrap();
    let file = test.path().join("remotes/origin.state");
    let good = std::fs::read_to_string(&file).unwrap();
    let newer = good
        .replace("\"newest-time\"", "\"seen-by\": [1], \"newest-time\"")
        .replace("\"record\": \"", "\"came-by\": \"post\", \"record\": \"");
    assert_eq!(
        newer.matches("seen-by").count() + newer.matches("came-by").count(),
        2
    );
    std::fs::write(&file, newer).unwrap();
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), state);
}

#[test]
fn pulls_at_once_do_not_forget_what_the_other_has_seen() {
    let test = TestRepo::new();
    let path = test.path();
    let config = sample();
    config.create(test.repo(), &name("origin")).unwrap();
    let update = |reference: &str| {
        let repo = &Repo::open(path).unwrap();
        for sequence in 1..=10 {
            let state = RemoteState {
                refs: [(reference.parse().unwrap(), seen((0, sequence)))].into(),
                ..begun_with(&config)
            };
            state.remember(repo, &name("origin")).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for reference in ["a", "b", "c"] {
            scope.spawn(|| update(reference));
        }
    });
    let state = RemoteState::load(test.repo(), &name("origin")).unwrap();
    let orders: Vec<_> = state.refs.values().map(|seen| seen.order).collect();
    assert_eq!(orders, [(0, 10); 3]);
}

#[test]
fn of_two_memories_the_newer_stays() {
    let test = TestRepo::new();
    let (repo, origin) = (test.repo(), name("origin"));
    let config = sample();
    config.create(repo, &origin).unwrap();
    let [old, new] = [1, 2].map(|sequence| RemoteState {
        newest_time: sequence as i64,
        refs: [("os".parse().unwrap(), seen((0, sequence)))].into(),
        ..begun_with(&config)
    });
    let mut other = new.clone();
    other.refs = [("other".parse().unwrap(), seen((0, 1)))].into();
    new.save(repo, &origin).unwrap();
    assert_eq!(old.remember(repo, &origin).unwrap().refs, new.refs);
    let both = other.remember(repo, &origin).unwrap();
    assert_eq!(both, RemoteState::load(repo, &origin).unwrap());
    assert_eq!(both.refs.len(), 2);
    assert_eq!(both.newest_time, 2);
    // Key sets count before sequences: a counter that ran away is set back by the next set.
    let mut repaired = new;
    repaired.refs = [("os".parse().unwrap(), seen((1, 1)))].into();
    let known = repaired.remember(repo, &origin).unwrap();
    assert_eq!(known.refs[&"os".parse().unwrap()].order, (1, 1));
}

/// What was seen of a remote of which nothing has been asked yet.
fn begun_with(config: &RemoteConfig) -> RemoteState {
    let mut state = RemoteState::default();
    state.begin_with(config.pinned_keys().unwrap());
    state
}

/// A set of one key, as a site publishes it.
fn key_set(number: u64) -> TrustedKeys {
    let key = SecretKey::generate().unwrap().public();
    let role = Role {
        keys: [key.id()].into(),
        threshold: 1,
    };
    TrustedKeys::given(KeySet {
        repository: "0".repeat(32),
        number,
        time: 1,
        expires: None,
        keys: [(key.id(), key)].into(),
        root: role.clone(),
        record: role,
        release: None,
    })
}

#[test]
fn keys_that_were_taken_back_are_not_written_again_by_who_still_has_them() {
    let test = TestRepo::new();
    let (repo, origin) = (test.repo(), name("origin"));
    let old = sample();
    old.create(repo, &origin).unwrap();
    let mut running = begun_with(&old);
    running.refs.insert("os".parse().unwrap(), seen((0, u64::MAX)));
    running.remember(repo, &origin).unwrap();
    let new = sample();
    assert!(new.replace(repo, &origin).unwrap(), "other keys");
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), RemoteState::default());
    let error = running.remember(repo, &origin).unwrap_err();
    assert!(matches!(error, RemoteError::Replaced { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    RemoteConfig::remove(repo, &origin).unwrap();
    let error = running.remember(repo, &origin).unwrap_err();
    assert!(matches!(error, RemoteError::NotFound { .. }), "{error}");
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), RemoteState::default());
}

#[test]
fn the_same_keys_in_another_order_or_encoding_are_no_others() {
    let test = TestRepo::new();
    let (repo, origin) = (test.repo(), name("origin"));
    let [a, b] = [0; 2].map(|_| SecretKey::generate().unwrap().public());
    let with = |keys: &[String]| RemoteConfig {
        keys: keys.to_vec(),
        ..sample()
    };
    let old = with(&[a.to_pem(), b.to_pem()]);
    assert!(!old.replace(repo, &origin).unwrap(), "there was none");
    let mut state = begun_with(&old);
    state.refs.insert("os".parse().unwrap(), seen((0, 5)));
    let state = state.remember(repo, &origin).unwrap();
    let reordered = with(&[format!("\n{}\n", b.to_pem()), a.to_pem(), b.to_pem()]);
    assert!(!reordered.replace(repo, &origin).unwrap());
    assert_eq!(RemoteConfig::load(repo, &origin).unwrap(), reordered);
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), state);
    state.remember(repo, &origin).unwrap();
    assert!(with(&[a.to_pem()]).replace(repo, &origin).unwrap());
    // One that cannot be read is replaced, and what was seen of it goes.
    std::fs::write(test.path().join("remotes/origin.toml"), "urls").unwrap();
    state.save(repo, &origin).unwrap();
    assert!(old.replace(repo, &origin).unwrap());
    assert_eq!(RemoteState::load(repo, &origin).unwrap(), RemoteState::default());
}

#[test]
fn what_other_keys_vouched_for_is_forgotten() {
    let [one, other] = [0; 2].map(|_| sample());
    let begun = |pinned: &RemoteConfig| {
        let mut state = begun_with(pinned);
        state.refs.insert("os".parse().unwrap(), seen((0, 1)));
        state
    };
    let mut state = begun(&one);
    assert!(!state.begin_with(one.pinned_keys().unwrap()));
    assert_eq!(state, begun(&one));
    assert!(state.begin_with(other.pinned_keys().unwrap()));
    assert_eq!(state, begun_with(&other));
    assert!(state.begin_with(None), "no-verify");
    assert_eq!(state, RemoteState::default());
    // Whoever follows the chain stays where he is as long as it began with these keys.
    let mut followed = begun(&one);
    followed.go_over_to(key_set(3));
    let before = followed.clone();
    assert!(!followed.begin_with(one.pinned_keys().unwrap()));
    assert_eq!(followed, before);
    assert!(followed.begin_with(other.pinned_keys().unwrap()));
    assert_eq!(followed, begun_with(&other));
    // The very set that it led to, given by hand.
    let mut again = before.clone();
    assert!(!again.begin_with(before.keys.clone()));
    assert_eq!((&again.keys, &again.refs), (&before.keys, &before.refs));
    assert_ne!(again.pinned, before.pinned);
    // A newer set than the one that was followed to.
    let mut state = begun(&one);
    let set = key_set(1);
    assert!(!state.begin_with(Some(set.clone())));
    assert_eq!(state.keys, Some(set));
    assert_eq!(state.refs.len(), 1);
    // A set of another repository is none, whatever its number.
    for pinned in [begun_with(&one).pinned, None] {
        let mut state = begun(&one);
        state.repository = Some("f".repeat(32));
        state.pinned = pinned;
        assert!(state.begin_with(Some(key_set(1))));
        assert_eq!((state.refs.len(), state.repository), (0, None));
    }
}

#[test]
fn a_memory_that_does_not_say_what_it_began_with_is_shown_again() {
    let config = sample();
    let old = |keys: TrustedKeys| RemoteState {
        pinned: None,
        keys: Some(keys),
        ..state()
    };
    let pinned = || config.pinned_keys().unwrap();
    let digest = begun_with(&config).pinned;
    assert!(digest.is_some());
    // The keys themselves are in it.
    let mut same = old(pinned().unwrap());
    assert!(!same.begin_with(pinned()));
    assert_eq!((same.refs.len(), same.pinned), (1, digest));
    let mut edited = old(sample().pinned_keys().unwrap().unwrap());
    assert!(edited.begin_with(pinned()));
    assert_eq!(edited, begun_with(&config));
    // Where the chain has gone on nobody can tell yet: the set in use counts until it is shown.
    let mut followed = old(key_set(3));
    assert!(!followed.begin_with(pinned()));
    assert_eq!(followed, old(followed.keys.clone().unwrap()));
    followed.note_beginning(&pinned().unwrap());
    assert_eq!((followed.refs.len(), followed.pinned), (1, digest));
    let text = serde_json::to_string(&old(key_set(3))).unwrap();
    assert!(!text.contains("pinned"), "{text}");
}

#[test]
fn a_condition_is_short_and_of_this_day() {
    let day = 24 * 3600;
    let at = 1_700_000_000;
    let mut seen = SeenRef::default();
    seen.note_fetched(at, "https://os.example", Some("\"t\""));
    let known = Some(("https://os.example", "\"t\""));
    assert_eq!(seen.condition(at), known);
    assert_eq!(seen.condition(at + day - 1), known);
    assert_eq!(seen.condition(at + day), None);
    assert_eq!(seen.condition(at - 1), None, "a clock that was set back");
    seen.note_fetched(at, "https://os.example", Some(&"t".repeat(257)));
    assert_eq!((seen.condition(at), &seen.etag), (None, &None));
    // As older programs have written it.
    let text = format!(
        r#"{{"record": "r", "order": [0, 1], "etag": ["https://os.example", "{}"]}}"#,
        "t".repeat(10_000)
    );
    let old: SeenRef = serde_json::from_str(&text).unwrap();
    assert_eq!((old.fetched, old.condition(0)), (0, None));
}

#[test]
fn what_came_unverified_is_known_until_it_comes_verified() {
    let test = TestRepo::new();
    let repo = test.repo();
    let [a, b] = [b"a", b"b"].map(|bytes| CommitId::new(Digest::of(bytes)));
    set_verified(repo, &a, true).unwrap();
    assert!(!test.path().join("remotes").exists(), "there was nothing to note");
    set_verified(repo, &a, false).unwrap();
    set_verified(repo, &b, false).unwrap();
    assert_eq!(unverified_commits(repo).unwrap(), [a, b].into());
    set_verified(repo, &a, true).unwrap();
    assert_eq!(unverified_commits(repo).unwrap(), [b].into());
    RemoteConfig::remove(repo, &name("origin")).unwrap_err();
    assert_eq!(RemoteConfig::list(repo).unwrap(), []);
}

/// Every key that there is.
fn full() -> String {
    let mut config = sample();
    let path = |name: &str| Some(std::path::PathBuf::from(name));
    config.ca_file = path("/ca");
    config.client_cert = path("/cert");
    config.client_key = path("/key");
    config.token_command = Some("echo token".to_owned());
    config.connect_timeout = Some(1);
    config.stall_timeout = Some(2);
    config.request_timeout = Some(3);
    config.retries = Some(0);
    config.jobs = Some(64);
    config.to_text().unwrap()
}

proptest::proptest! {
    /// As the fuzz target `remote`, with a text that has a chance.
    #[test]
    fn what_is_read_can_be_written_and_read_again(
        changes in proptest::collection::vec((proptest::num::usize::ANY, 0..5usize, "[ -~\n]{0,3}"), 0..4),
    ) {
        let mut text = full();
        for (at, len, new) in changes {
            let at = at % text.len();
            let end = (at + len).min(text.len());
            text.replace_range(at..end, &new);
        }
        if let Ok(config) = RemoteConfig::parse(&text) {
            let written = config.to_text().unwrap();
            proptest::prop_assert_eq!(RemoteConfig::parse(&written).unwrap(), config.clone());
            proptest::prop_assert!(!config.urls.is_empty());
            proptest::prop_assert_eq!(config.keys.is_empty(), config.no_verify);
            proptest::prop_assert!(config.without_secrets().check().is_ok());
        }
    }
}
