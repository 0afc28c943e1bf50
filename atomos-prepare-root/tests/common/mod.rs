//! Scripts that boot a machine in namespaces of their own.
#![allow(dead_code, reason = "each test uses a part")]

use std::process::{Command, Output};

const PREPARE_ROOT: &str = env!("CARGO_BIN_EXE_atomos-prepare-root");

pub const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.0";
pub const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.0";
pub const C: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc.1";

/// Shell functions that lay out a machine. `$R` is where the initramfs has mounted the physical root, read-only as
/// loaders ask for it once `boot` begins.
const PRELUDE: &str = r#"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/test; R=/run/test/root; mkdir $R
mount -t tmpfs -o mode=755 tmpfs $R
S=$R/atomos/deploy/os
mkdir -p $S/var/lib $S/deploy $R/boot
finished() {
    for dir in dev etc proc run sys sysroot tmp var boot usr/lib/modules/$(uname -r); do mkdir -p $S/deploy/$1/$dir; done
    echo $1 > $S/deploy/$1/etc/name
    : > $S/deploy/$1.complete
}
cmdline() { echo "$1" > /run/test/cmdline; mount --bind /run/test/cmdline /proc/cmdline; }
boot() { mount -o remount,ro $R; $PREPARE_ROOT $R; }
writable() { ( : > $1/file ) 2>/dev/null && echo "$1 writable" || echo "$1 read-only"; }
"#;

/// Runs a script in namespaces of its own; `None`, and says so, where that is not possible.
pub fn in_namespace(script: &str) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return None;
    }
    let script = format!("set -eu\n{PRELUDE}\n{script}");
    run(&script, &[])
}

/// Runs a whole script in namespaces of its own, with more variables in its environment.
pub fn run(script: &str, variables: &[(&str, &str)]) -> Option<Output> {
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--mount-proc",
            "--",
            "sh",
            "-c",
        ])
        .arg(script)
        .envs([("PREPARE_ROOT", PREPARE_ROOT), ("A", A), ("B", B), ("C", C)])
        .envs(variables.iter().copied())
        .output()
        .expect("util-linux has unshare");
    Some(output)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a script that must succeed, and returns what it printed.
pub fn succeeds(script: &str) -> Option<(String, String)> {
    let output = in_namespace(script)?;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    Some((out, err))
}
