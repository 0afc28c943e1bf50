//! The mounts, for real: in mount and process namespaces of their own, on a physical root in a tmpfs, with a kernel
//! command line bound over `/proc/cmdline`. Needs root.

use std::process::{Command, Output};

const PREPARE_ROOT: &str = env!("CARGO_BIN_EXE_atomos-prepare-root");

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.0";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.0";
const C: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc.1";

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
fn in_namespace(script: &str) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return None;
    }
    let script = format!("set -eu\n{PRELUDE}\n{script}");
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
        .output()
        .expect("util-linux has unshare");
    Some(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a script that must succeed, and returns what it printed.
fn succeeds(script: &str) -> Option<(String, String)> {
    let output = in_namespace(script)?;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    Some((out, err))
}

#[test]
fn the_deployment_becomes_the_root_with_etc_and_var_writable() {
    let Some((out, _)) = succeeds(
        r#"
finished $A; finished $B
cmdline "ro atomos=os/$A quiet"
identity=$(stat -c '"device":%d,"inode":%i' $S/deploy/$A)
mkdir $R/boot/atomos
boot
cat $R/etc/name
for dir in "" /usr /etc /var /sysroot /boot; do writable $R$dir; done
: > $R/var/lib/kept; ls $R/sysroot/atomos/deploy/os/var/lib
: > $R/etc/changed; ls $R/sysroot/atomos/deploy/os/deploy/$A/etc
test "$(stat -c '"device":%d,"inode":%i' $R)" = "$identity"
grep -q "$identity" /run/atomos/booted
cat /run/atomos/booted
ls -d /run/atomos/root 2>&1 || true
"#,
    ) else {
        return;
    };
    let root = "/run/test/root";
    for (dir, expected) in [
        ("", "read-only"),
        ("/usr", "read-only"),
        ("/etc", "writable"),
        ("/var", "writable"),
        ("/sysroot", "read-only"),
        ("/boot", "read-only"),
    ] {
        assert!(out.contains(&format!("{root}{dir} {expected}\n")), "{dir}: {out}");
    }
    assert!(out.starts_with(A), "{out}");
    assert!(out.contains("\nkept\n") && out.contains("\nchanged\n"), "{out}");
    let record = format!(
        "\"stateroot\":\"os\",\"deployment\":\"{A}\",\"path\":\"/sysroot/atomos/deploy/os/deploy/{A}\""
    );
    assert!(out.contains(&record), "{out}");
    assert!(
        out.contains("No such file"),
        "the staging directory is gone: {out}"
    );
}

#[test]
fn a_boot_of_its_own_file_system_is_left_to_fstab() {
    let Some((out, _)) = succeeds(
        r#"finished $A; : > $R/boot/something; cmdline "atomos=os/$A"; boot
ls -A $R/boot; echo end"#,
    ) else {
        return;
    };
    assert_eq!(out, "end\n");
}

#[test]
fn shared_mounts_as_systemd_makes_them_do_not_stop_it() {
    let Some((out, _)) =
        succeeds(r#"finished $A; cmdline "atomos=os/$A"; mount --make-rshared /; boot; cat $R/etc/name"#)
    else {
        return;
    };
    assert_eq!(out.trim(), A);
}

#[test]
fn a_second_run_changes_nothing() {
    let Some((out, _)) = succeeds(
        r#"finished $A; cmdline "atomos=os/$A"; boot
cat /proc/self/mountinfo | wc -l; $PREPARE_ROOT $R; cat /proc/self/mountinfo | wc -l"#,
    ) else {
        return;
    };
    let counts: Vec<&str> = out.lines().collect();
    assert_eq!(counts.len(), 2);
    assert_eq!(counts[0], counts[1]);
}

#[test]
fn a_missing_deployment_gives_way_to_the_newest_finished_one_and_says_so() {
    let Some((out, err)) = succeeds(
        r#"
finished $B; touch -d @2000 $S/deploy/$B.complete
finished $C; touch -d @1000 $S/deploy/$C.complete
cmdline "atomos=os/$A"; boot; cat $R/etc/name; cat /run/atomos/booted"#,
    ) else {
        return;
    };
    assert!(out.starts_with(B), "{out}");
    assert!(out.contains(&format!("\"deployment\":\"{B}\"")), "{out}");
    assert!(
        err.contains(&format!("os/{A} is missing; booting os/{B} instead")),
        "{err}"
    );
}

#[test]
fn an_unfinished_deployment_is_never_booted_and_failure_leaves_the_root_alone() {
    let Some(output) = in_namespace(
        r#"
finished $A; rm $S/deploy/$A.complete
finished $B; rm -r $S/deploy/$B/usr/lib/modules/*
cmdline "atomos=os/$A"; status=0; boot || status=$?
ls -d $R/atomos; ls /run/atomos 2>/dev/null || echo nothing; exit $status"#,
    ) else {
        return;
    };
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("was never finished, and os has no other finished deployment for kernel"),
        "{err}"
    );
    assert_eq!(text(&output.stdout), "/run/test/root/atomos\nnothing\n");
}

#[test]
fn without_the_argument_nothing_is_done() {
    let Some((out, _)) = succeeds(r#"finished $A; cmdline "root=/dev/vda1 quiet"; boot; ls $R"#) else {
        return;
    };
    assert_eq!(out, "atomos\nboot\n");
}

#[test]
fn each_unusable_machine_is_refused_by_name() {
    let cases = [
        (
            r#"cmdline "atomos=os/xyz"; boot"#,
            "atomos=os/xyz on the kernel command line is not",
        ),
        (
            r#"cmdline "atomos=other/$A"; boot"#,
            "opening /atomos/deploy/other",
        ),
        (
            r#"rm -r $R/atomos; cmdline "atomos=os/$A"; boot"#,
            "does root= name the right device",
        ),
        (
            r#"finished $A; cmdline "atomos=os/$A"; umount $R; $PREPARE_ROOT $R"#,
            "does root= name the right device",
        ),
        (
            r#"finished $A; rmdir $S/deploy/$A/sysroot; cmdline "atomos=os/$A"; boot"#,
            "looking for",
        ),
        (
            r#"finished $A; rmdir $S/deploy/$A/run; ln -s /etc $S/deploy/$A/run; cmdline "atomos=os/$A"; boot"#,
            "run is not a directory",
        ),
        (
            r#"finished $A; rm -r $S/var; cmdline "atomos=os/$A"; boot"#,
            "binding",
        ),
        (r#"$PREPARE_ROOT relative"#, "must be the absolute path"),
        (r#"$PREPARE_ROOT"#, "usage:"),
    ];
    for (script, expected) in cases {
        let Some(output) = in_namespace(script) else {
            return;
        };
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{script}: {err}");
        assert!(err.contains(expected), "{script}: {err}");
    }
}

#[test]
fn garbage_among_the_deployments_is_passed_over() {
    let Some((out, _)) = succeeds(
        r#"
finished $B
cd $S/deploy
: > $A; : > $A.complete                       # a file where a directory should be
ln -s $B $C; : > $C.complete                  # a link to a good one
mkfifo x; mkdir .complete "$(printf '\377\376')"; ln -s loop loop
D=dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd.0
mkdir -p $D $D.complete                       # a marker that is no file
ln -s /etc/passwd $B.origin
touch -d @99999999999 $A.complete; touch -d @-99999999999 $B.complete
cd /
cmdline "atomos=os/$A"; boot; cat $R/etc/name"#,
    ) else {
        return;
    };
    assert_eq!(out.trim(), B);
}

#[test]
fn as_the_first_process_it_goes_on_to_the_deployment_s_init() {
    let Some((out, err)) = succeeds(
        r#"
finished $A
copy() { mkdir -p "$2$(dirname "$1")"; cp -L "$1" "$2$1"; }
for root in $R $S/deploy/$A; do
    for program in /bin/sh $PREPARE_ROOT; do
        copy $program $root
        for library in $(ldd $program | grep -o '/[^ ]*'); do copy $library $root; done
    done
done
mkdir -p $S/deploy/$A/sbin $R/proc
cat > $S/deploy/$A/sbin/init <<'INIT'
#!/bin/sh
echo "init $$ $*"
read -r record < /run/atomos/booted; echo "$record"
read -r name < /etc/name; echo "$name"
for dir in / /etc /var /run /sysroot; do
    ( : > $dir/file ) 2>/dev/null && echo "$dir writable" || echo "$dir read-only"
done
test -d /sysroot/atomos/deploy && echo physical root
INIT
chmod +x $S/deploy/$A/sbin/init
cmdline "atomos=os/$A"
mkdir $R/old; cd $R
mount --bind /run/test/cmdline /proc/cmdline; mount --rbind /proc $R/proc
pivot_root . old
exec $PREPARE_ROOT argument"#,
    ) else {
        return;
    };
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.first(), Some(&"init 1 argument"), "{out}{err}");
    assert!(out.contains(&format!("\"deployment\":\"{A}\"")), "{out}");
    assert_eq!(
        lines[2..],
        [
            A,
            "/ read-only",
            "/etc writable",
            "/var writable",
            "/run writable",
            "/sysroot read-only",
            "physical root"
        ],
        "{out}{err}"
    );
}
