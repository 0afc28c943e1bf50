use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::Scratch;

/// A repository, a key in `release-key.pub`, and the key's id.
fn with_key() -> (Scratch, String) {
    let scratch = Scratch::new();
    scratch.atomos(&["key", "generate", "release-key"]).code(0);
    let key = fs::read_to_string(scratch.path("release-key.pub")).unwrap();
    assert!(key.starts_with("-----BEGIN PUBLIC KEY-----"), "{key}");
    scratch
        .atomos(&["remote", "add", "probe", "/site", "--key", "release-key.pub"])
        .code(0);
    let model = scratch.atomos(&["remote", "show", "probe", "--json"]).json();
    scratch.atomos(&["remote", "remove", "probe"]).code(0);
    let id = model["keys"][0].as_str().unwrap().to_owned();
    (scratch, id)
}

#[test]
fn a_remote_is_added_shown_listed_and_removed() {
    let (scratch, id) = with_key();
    let run = scratch.atomos(&[
        "remote",
        "add",
        "origin",
        "https://os.example/site",
        "--mirror",
        "/media/usb/site",
        "--key",
        "release-key.pub",
        "--compatible",
        "board-a",
        "--ca",
        "ca.pem",
        "--limit-rate",
        "500k",
    ]);
    assert_eq!(run.code(0).err, "Added remote origin: https://os.example/site\n");
    assert_eq!(
        scratch.atomos(&["remote", "list"]).ok(),
        "origin  https://os.example/site /media/usb/site\n"
    );
    assert_eq!(
        scratch.atomos(&["remote", "show", "origin"]).ok(),
        format!(
            "Remote: origin\nURL: https://os.example/site\nURL: /media/usb/site\nKey: {id} (key set 0)\n\
             Compatible: board-a\nSetting: ca-file = [SCRATCH]/ca.pem\nSetting: limit-rate = 500000\n"
        )
    );
    let mode = fs::metadata(scratch.path("repo/remotes/origin.toml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        scratch.atomos(&["remote", "remove", "origin"]).code(0).err,
        "Removed remote origin\n"
    );
    assert_eq!(
        scratch.atomos(&["remote", "list", "--json"]).json(),
        serde_json::json!([])
    );
    let run = scratch.atomos(&["remote", "show", "origin"]).code(3);
    assert!(
        run.err.contains("there is no remote origin in [SCRATCH]/repo"),
        "{}",
        run.err
    );
}

#[test]
fn nothing_is_believed_without_a_key_unless_that_is_said() {
    let (scratch, _) = with_key();
    let run = scratch
        .atomos(&["remote", "add", "lab", "http://10.0.0.1"])
        .code(2);
    for way in ["--key ", "--key-set", "--no-verify"] {
        assert!(run.err.contains(way), "{}", run.err);
    }
    scratch
        .atomos(&[
            "remote",
            "add",
            "lab",
            "http://10.0.0.1",
            "--no-verify",
            "--key",
            "release-key.pub",
        ])
        .code(2);
    let run = scratch
        .atomos(&["remote", "add", "lab", "http://10.0.0.1", "--no-verify"])
        .code(0);
    assert!(
        run.err.contains("warning: whatever lab sends will be believed"),
        "{}",
        run.err
    );
    assert!(scratch.atomos(&["remote", "list"]).ok().contains("NOT VERIFIED"));
}

#[test]
fn secrets_are_not_printed() {
    let scratch = Scratch::new();
    let run = scratch.atomos(&[
        "remote",
        "add",
        "origin",
        "https://os.example",
        "--no-verify",
        "--header",
        "X-Key: s3cr3t",
        "--proxy",
        "http://me:s3cr3t@proxy:3128",
    ]);
    assert!(!run.code(0).err.contains("s3cr3t"));
    for args in [
        &["remote", "show", "origin"][..],
        &["remote", "show", "origin", "--json"],
        &["remote", "list"],
    ] {
        let run = scratch.atomos(args).code(0);
        assert!(
            !run.out.contains("s3cr3t") && !run.err.contains("s3cr3t"),
            "{}",
            run.out
        );
    }
    assert!(
        scratch
            .atomos(&["remote", "show", "origin"])
            .ok()
            .contains("X-Key")
    );
    let run = scratch.atomos(&[
        "remote",
        "add",
        "b",
        "https://b",
        "--no-verify",
        "--header",
        "s3cr3t",
    ]);
    assert!(!run.code(2).err.contains("s3cr3t"));
    let run = scratch.atomos(&["remote", "add", "b", "me:s3cr3t@host/site", "--no-verify"]);
    assert!(!run.code(2).err.contains("s3cr3t"));
    // A proxy that nobody listens at, named without a scheme.
    scratch
        .atomos(&["remote", "add", "c", "http://site.invalid", "--no-verify"])
        .code(0);
    let file = scratch.path("repo/remotes/c.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("retries = 0\n{text}")).unwrap();
    let mut command = scratch.command(&["pull", "c", "os"]);
    let run = scratch.run(command.env("http_proxy", "me:s3cr3t@127.0.0.1:9"));
    assert_ne!(run.code, 0);
    assert!(run.err.contains("127.0.0.1:9"), "{}", run.err);
    assert!(!run.err.contains("s3cr3t"), "{}", run.err);
    let mut command = scratch.command(&["pull", "c", "os"]);
    let run = scratch.run(command.env("all_proxy", "socks5://me:s3cr3t@127.0.0.1:9"));
    assert!(
        run.err
            .contains("its proxy socks5://127.0.0.1:9, which `http_proxy` or `all_proxy`"),
        "{}",
        run.err
    );
}

#[test]
fn a_remote_is_replaced_only_by_force_and_forgets_with_its_keys() {
    let (scratch, _) = with_key();
    let add = |more: &[&str]| {
        let base = ["remote", "add", "origin", "/site"];
        scratch.atomos(&[&base[..], more].concat())
    };
    add(&["--key", "release-key.pub"]).code(0);
    let run = add(&["--key", "release-key.pub"]).code(4);
    assert!(run.err.contains("hint: --force replaces it"), "{}", run.err);
    let state = scratch.path("repo/remotes/origin.state");
    fs::write(&state, "{}").unwrap();
    let run = add(&["--key", "release-key.pub", "--jobs", "2", "--force"]).code(0);
    assert!(!run.err.contains("forgotten"), "{}", run.err);
    assert!(state.exists(), "the same keys: what was seen still counts");
    let run = add(&["--no-verify", "--force"]).code(0);
    assert!(
        run.err.contains("what was seen of origin is forgotten"),
        "{}",
        run.err
    );
    assert!(!state.exists());
    // The same two keys in another order.
    scratch.atomos(&["key", "generate", "other-key"]).code(0);
    let keys = ["release-key.pub", "other-key.pub"];
    add(&["--force", "--key", keys[0], "--key", keys[1]]).code(0);
    fs::write(&state, "{}").unwrap();
    let run = add(&["--force", "--key", keys[1], "--key", keys[0]]).code(0);
    assert!(!run.err.contains("forgotten"), "{}", run.err);
    assert!(state.exists());
}

#[test]
fn a_mistake_in_the_file_is_named_and_hides_no_other_remote() {
    let scratch = Scratch::new();
    for name in ["a", "b"] {
        scratch
            .atomos(&["remote", "add", name, "/site", "--no-verify"])
            .code(0);
    }
    let file = scratch.path("repo/remotes/a.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("retrys = 3\n{text}")).unwrap();
    let run = scratch.atomos(&["remote", "list"]).code(5);
    assert_eq!(run.out, "b  /site  NOT VERIFIED\n");
    assert!(
        run.err
            .contains("[SCRATCH]/repo/remotes/a.toml: `retrys`: unknown field"),
        "{}",
        run.err
    );
    scratch
        .atomos(&["remote", "add", "a", "/site", "--no-verify", "--force"])
        .code(0);
    scratch.atomos(&["remote", "show", "a"]).code(0);
}

#[test]
fn what_cannot_work_is_refused_before_it_is_written() {
    let scratch = Scratch::new();
    for (args, reason) in [
        (&["ftp://os.example"][..], "no http, https or file URL"),
        (&["site"], "no absolute path"),
        (&["https://u:p@os.example"], "`user`"),
        (&["https://os.example?x"], "no query"),
        (&["http://[::1"], "brackets"),
        (&["http://[::1]x/site"], "brackets"),
        (&["http://[fe80::1%eth0]/site"], "IPv6 address"),
        (&["http://os.exam]ple"], "no name and no address"),
        (&["https://os.example", "--proxy", "socks5://p"], "`proxy`"),
        (
            &["https://os.example", "--header", "Range: x"],
            "set by the program itself",
        ),
        (
            &["https://os.example", "--token-file", "t", "--netrc", "n"],
            "only one of",
        ),
    ] {
        let run = scratch
            .atomos(&[&["remote", "add", "origin", "--no-verify"], args].concat())
            .code(2);
        assert!(run.err.contains(reason), "{reason}: {}", run.err);
    }
    assert!(!scratch.path("repo/remotes").exists());
    scratch
        .atomos(&["remote", "add", "../x", "/site", "--no-verify"])
        .code(2);
}

#[test]
fn a_directory_of_keys_is_every_key_in_it() {
    let scratch = Scratch::new();
    scratch.write("keys/README", "whose keys these are\n");
    let add = |name: &str| scratch.atomos(&["remote", "add", name, "/site", "--key", "keys"]);
    let run = add("origin").code(3);
    assert!(run.err.contains("there is no key in keys"), "{}", run.err);
    for name in ["keys/a", "keys/b"] {
        scratch.atomos(&["key", "generate", name]).code(0);
    }
    fs::copy(scratch.path("keys/b.pub"), scratch.path("keys/c.pem")).unwrap();
    add("origin").code(0);
    let keys = scratch.atomos(&["remote", "show", "origin", "--json"]).json()["keys"].clone();
    let mut ids: Vec<String> = ["keys/a.pub", "keys/b.pub"]
        .iter()
        .map(|file| scratch.atomos(&["key", "show", file]).ok().trim().to_owned())
        .collect();
    ids.sort();
    assert_eq!(keys, serde_json::json!(ids));
    // One that cannot be read is not left out in silence.
    scratch.write("keys/d.pub", "nonsense\n");
    let run = add("other").code(5);
    assert!(run.err.contains("keys/d.pub"), "{}", run.err);
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_cause() {
    let scratch = Scratch::new();
    scratch.write("ca.pem", "no certificate\n");
    let add = |name: &str, more: &[&str]| {
        let base = ["remote", "add", name, "https://127.0.0.1:9", "--no-verify"];
        scratch.atomos(&[&base[..], more].concat()).code(0);
        scratch.atomos(&["pull", name, "os"])
    };
    let run = add("a", &["--ca", "ca.pem"]).code(5);
    assert!(run.err.contains("[SCRATCH]/ca.pem"), "{}", run.err);
    assert!(run.err.contains("there is no certificate in it"), "{}", run.err);
    let run = add("b", &["--ca", "nowhere.pem"]).code(3);
    assert!(run.err.contains("[SCRATCH]/nowhere.pem"), "{}", run.err);
    assert!(run.err.contains("No such file"), "{}", run.err);
}
