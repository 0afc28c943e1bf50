use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::Scratch;

#[test]
fn a_key_is_two_files_and_its_id_is_the_result() {
    let scratch = Scratch::empty();
    let run = scratch.atomos(&["key", "generate", "release-key"]).code(0);
    assert_eq!(
        run.err,
        "Wrote the secret key to release-key, and the public one to release-key.pub\n"
    );
    let id = run.out.trim_end();
    assert!(
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );
    for (file, mode, begin) in [
        ("release-key", 0o600, "-----BEGIN PRIVATE KEY-----"),
        ("release-key.pub", 0o644, "-----BEGIN PUBLIC KEY-----"),
    ] {
        let path = scratch.path(file);
        let found = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{file}");
        assert!(fs::read_to_string(path).unwrap().starts_with(begin), "{file}");
        assert_eq!(scratch.atomos(&["key", "show", file]).ok(), run.out, "{file}");
    }
    let model = scratch.atomos(&["key", "show", "release-key", "--json"]).json();
    assert_eq!(model["id"], id);
    assert_eq!(
        model["public"],
        fs::read_to_string(scratch.path("release-key.pub")).unwrap()
    );
    assert!(!model.to_string().contains("PRIVATE"));
}

#[test]
fn a_key_is_never_overwritten() {
    let scratch = Scratch::empty();
    scratch.atomos(&["key", "generate", "key"]).code(0);
    let before = fs::read(scratch.path("key")).unwrap();
    let run = scratch.atomos(&["key", "generate", "key"]).code(4);
    assert_eq!(
        run.err,
        "error: cannot write key.pub\n  caused by: entity already exists\nhint: choose another name; whoever signs with the old key would miss it\n"
    );
    assert_eq!(fs::read(scratch.path("key")).unwrap(), before);
    // The public part alone is enough of a reason: it would belong to no secret.
    fs::remove_file(scratch.path("key")).unwrap();
    scratch.atomos(&["key", "generate", "key"]).code(4);
    assert!(!scratch.path("key").exists());
    // And a secret whose public part is gone can be shown, not made again.
    fs::write(scratch.path("key"), before).unwrap();
    fs::remove_file(scratch.path("key.pub")).unwrap();
    scratch.atomos(&["key", "generate", "key"]).code(4);
    assert!(!scratch.path("key.pub").exists());
}

#[test]
fn what_is_no_key_is_refused_with_a_way_to_make_one() {
    let scratch = Scratch::empty();
    scratch.write("text", "hello\n");
    let run = scratch.atomos(&["key", "show", "text"]).code(5);
    assert!(
        run.err.contains("error: cannot use the key text: "),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("hint: `atomos key generate FILE`"),
        "{}",
        run.err
    );
    let run = scratch.atomos(&["key", "show", "nowhere"]).code(3);
    assert!(run.err.contains("cannot read nowhere"), "{}", run.err);
    // A public key does not sign, a secret one is not handed out.
    scratch.atomos(&["key", "generate", "key"]).code(0);
    scratch.atomos(&["init", "--mode", "bare-user"]).code(0);
    let run = scratch
        .atomos(&["publish", "--to", "site", "--key", "key.pub"])
        .code(5);
    assert!(run.err.contains("this is a public key"), "{}", run.err);
    let run = scratch
        .atomos(&["remote", "add", "origin", "/site", "--key", "key"])
        .code(5);
    assert!(run.err.contains("this is a secret key"), "{}", run.err);
}
