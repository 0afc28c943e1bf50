//! Keys that other tools make, and signatures that other programs make.

use std::fs;
use std::process::Command;

use crate::common::{Run, Scratch, has_tool, published};

fn tool(scratch: &Scratch, program: &str, args: &[&str]) {
    let status = Command::new(program)
        .args(args)
        .current_dir(scratch.path(""))
        .stdin(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// Publishes with the secret key, and pulls trusting the public one.
fn publishes_and_is_trusted(secret: &str, public: &str) {
    let scratch = published();
    // Another site, whose first key it is.
    fs::remove_dir_all(scratch.path("site")).unwrap();
    make(&scratch, secret);
    assert_eq!(
        scratch.atomos(&["key", "show", secret]).ok(),
        scratch.atomos(&["key", "show", public]).ok()
    );
    scratch.publish(&["--key", secret]).code(0);
    let site = scratch.path("site");
    scratch
        .client(&["remote", "add", "other", site.to_str().unwrap(), "--key", public])
        .code(0);
    scratch.client(&["pull", "other", "os"]).code(0);
    // The key of `published` is another one.
    let run = scratch.client(&["pull", "origin", "os"]).code(7);
    assert!(run.err.contains("error: cannot trust "), "{}", run.err);
    assert!(run.err.contains("0 of the 1 signatures"), "{}", run.err);
    assert!(run.err.contains("hint: `atomos remote show NAME`"), "{}", run.err);
}

fn make(scratch: &Scratch, secret: &str) {
    match secret {
        "openssl.pem" => {
            let args = ["genpkey", "-algorithm", "ed25519", "-out", "openssl.pem"];
            tool(scratch, "openssl", &args);
            let args = ["pkey", "-in", "openssl.pem", "-pubout", "-out", "openssl.pub"];
            tool(scratch, "openssl", &args);
        }
        _ => {
            let args = ["-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", secret];
            tool(scratch, "ssh-keygen", &args);
        }
    }
}

#[test]
fn openssl_reads_a_key_of_ours() {
    if has_tool("openssl", "reading a key") {
        let scratch = Scratch::new();
        scratch.atomos(&["key", "generate", "key"]).code(0);
        tool(
            &scratch,
            "openssl",
            &["pkey", "-in", "key", "-pubout", "-out", "again.pub"],
        );
        let read = |name: &str| std::fs::read_to_string(scratch.path(name)).unwrap();
        assert_eq!(read("again.pub"), read("key.pub"));
    }
}

#[test]
fn a_key_by_openssl_signs_and_is_trusted() {
    if has_tool("openssl", "a key of its making") {
        publishes_and_is_trusted("openssl.pem", "openssl.pub");
    }
}

#[test]
fn a_key_by_ssh_keygen_signs_and_is_trusted() {
    if has_tool("ssh-keygen", "a key of its making") {
        publishes_and_is_trusted("ssh-key", "ssh-key.pub");
    }
}

#[test]
fn a_key_with_a_passphrase_says_what_to_do() {
    let scratch = published();
    if has_tool("ssh-keygen", "a key with a passphrase") {
        let args = ["-q", "-t", "ed25519", "-N", "secret", "-f", "ssh-key"];
        tool(&scratch, "ssh-keygen", &args);
        let run = scratch.publish(&["--key", "ssh-key", "--renew"]).code(5);
        assert_eq!(
            run.err,
            "error: cannot use the key ssh-key: cannot read the secret key: it has a passphrase (OpenSSH)\n\
             hint: `ssh-keygen -p -N '' -f ssh-key` takes it off, best off a copy; or sign with a command: \
             --sign-command COMMAND --public FILE\n"
        );
        // The public half needs none.
        scratch.atomos(&["key", "show", "ssh-key.pub"]).code(0);
    }
    if has_tool("openssl", "a key with a passphrase") {
        let args = [
            "genpkey",
            "-algorithm",
            "ed25519",
            "-aes256",
            "-pass",
            "pass:secret",
            "-out",
            "pem",
        ];
        tool(&scratch, "openssl", &args);
        let run = scratch.publish(&["--key", "pem", "--renew"]).code(5);
        assert!(run.err.contains("it has a passphrase (PEM)"), "{}", run.err);
        assert!(
            run.err.contains("hint: `openssl pkey -in pem -out FILE`"),
            "{}",
            run.err
        );
    }
}

#[test]
fn a_key_of_another_kind_is_refused_by_its_name() {
    let scratch = published();
    if has_tool("ssh-keygen", "a key of another kind") {
        let args = ["-q", "-t", "ecdsa", "-N", "", "-f", "ecdsa"];
        tool(&scratch, "ssh-keygen", &args);
        let run = scratch.publish(&["--key", "ecdsa", "--renew"]).code(5);
        assert!(run.err.contains("it is not of type ed25519"), "{}", run.err);
        let run = scratch.atomos(&["key", "show", "ecdsa.pub"]).code(5);
        assert!(
            run.err.contains("it is of type ecdsa-sha2-nistp256"),
            "{}",
            run.err
        );
    }
    if has_tool("openssl", "a key of another kind") {
        let args = ["genpkey", "-algorithm", "X25519", "-out", "x25519"];
        tool(&scratch, "openssl", &args);
        let run = scratch.publish(&["--key", "x25519", "--renew"]).code(5);
        assert!(run.err.contains("it is no ed25519 key"), "{}", run.err);
    }
}

/// The command as docs/keys.md has it.
const OPENSSL_SIGN: &str = "openssl pkeyutl -sign -rawin -in /dev/stdin -inkey openssl.pem";

fn sign(scratch: &Scratch, command: &str) -> Run {
    let path = std::env::var_os("PATH").unwrap();
    let mut command = scratch.command(&[
        "publish",
        "--to",
        "site",
        "--sign-command",
        command,
        "--public",
        "openssl.pub",
    ]);
    scratch.run(command.env("PATH", path))
}

#[test]
fn a_command_signs_as_a_hardware_key_would() {
    if !has_tool("openssl", "signing by a command") {
        return;
    }
    let scratch = published();
    fs::remove_dir_all(scratch.path("site")).unwrap();
    make(&scratch, "openssl.pem");
    sign(&scratch, OPENSSL_SIGN).code(0);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "openssl.pub"])
        .code(0);
    // In hexadecimal, too, for tools that print nothing else.
    scratch.version("2");
    let hex = format!("{OPENSSL_SIGN} | od -An -v -tx1 | tr -d ' \\n'");
    sign(&scratch, &hex).code(0);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "openssl.pub"])
        .code(0);
    // The same for taking a release back, and for key sets.
    let path = std::env::var_os("PATH").unwrap();
    let mut withdraw = scratch.command(&[
        "site",
        "withdraw",
        "site",
        "os@2",
        "--reason",
        "no",
        "--sign-command",
        OPENSSL_SIGN,
        "--public",
        "openssl.pub",
    ]);
    scratch.run(withdraw.env("PATH", path)).code(0);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "openssl.pub"])
        .code(0);
}

#[test]
fn a_command_that_does_not_sign_publishes_nothing() {
    if !has_tool("openssl", "a command that does not sign") {
        return;
    }
    let scratch = published();
    fs::remove_dir_all(scratch.path("site")).unwrap();
    make(&scratch, "openssl.pem");
    sign(&scratch, OPENSSL_SIGN).code(0);
    scratch.version("2");
    let before = scratch.site_files();
    for (command, reason) in [
        ("exit 3", "the command failed: exit status: 3"),
        ("kill -9 $$", "the command failed: signal: 9"),
        ("no-such-program", "the command failed: exit status: 127"),
        ("true", "the command printed 0 bytes, and a signature has 64"),
        (
            "echo rubbish",
            "the command printed 8 bytes, and a signature has 64",
        ),
        ("yes", "the command printed 1024 bytes or more"),
        (
            "head -c 64 /dev/zero",
            "what came back is not this key's signature",
        ),
        // Another message, signed well.
        (
            "echo hello > message; openssl pkeyutl -sign -rawin -in message -inkey openssl.pem",
            "what came back is not this key's signature",
        ),
        // The right bytes, and half of the signature.
        (
            "openssl pkeyutl -sign -rawin -in /dev/stdin -inkey openssl.pem | head -c 32",
            "the command printed 32 bytes",
        ),
    ] {
        let run = sign(&scratch, command).code(1);
        assert!(
            run.err.contains("error: cannot sign with key "),
            "{command}: {}",
            run.err
        );
        assert!(run.err.contains(reason), "{command}: {}", run.err);
        assert!(
            run.err
                .contains("hint: no record has changed; run the command by itself"),
            "{}",
            run.err
        );
        assert_eq!(scratch.site_files(), before, "{command}");
    }
    let run = scratch
        .atomos(&["publish", "--to", "site", "--sign-command", "true"])
        .code(2);
    assert!(run.err.contains("--public <FILE>"), "{}", run.err);
}
