//! The mounts, for real: in mount and process namespaces of their own, on a physical root in a tmpfs, with a kernel
//! command line bound over `/proc/cmdline`. Needs root.

mod common;

use common::{A, B, C, in_namespace, succeeds, text};

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
fn a_boot_of_a_deployment_on_trial_leaves_its_id_and_no_other_does() {
    let Some((out, err)) = succeeds(
        r#"
finished $A; finished $B
: > $S/deploy/$A.trial
ln -s /run/test/elsewhere $S/deploy/$B.trial; : > /run/test/elsewhere
cmdline "ro atomos=os/$A atomos.entry=7"
boot
cat $R/sysroot/atomos/deploy/os/deploy/$A.trial /proc/sys/kernel/random/boot_id
echo "other: $(cat /run/test/elsewhere)"
"#,
    ) else {
        return;
    };
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert_eq!(lines[0], lines[1], "the id of this boot");
    assert_eq!(lines[2], "other: ");
    assert!(!err.contains("entry"), "it is the running system's: {err}");
    // A link, and a file that is too large, are left alone; the boot goes on.
    let Some((out, _)) = succeeds(
        r#"
finished $A
ln -s /run/test/elsewhere $S/deploy/$A.trial; : > /run/test/elsewhere
cmdline "ro atomos=os/$A"
boot
echo "other: $(cat /run/test/elsewhere)"; cat $R/etc/name
"#,
    ) else {
        return;
    };
    assert_eq!(out, format!("other: \n{A}\n"));
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
    assert!(out.contains(&format!("\"requested\":\"{A}\"")), "{out}");
    assert!(
        err.contains(&format!("os/{A} is missing; booting os/{B} instead")),
        "{err}"
    );
}

#[test]
fn a_deployment_that_is_known_to_be_bad_is_no_substitute_but_boots_when_it_is_named() {
    let script = |more: &str| {
        format!(
            r#"
finished $B; touch -d @2000 $S/deploy/$B.complete; : > $S/deploy/$B.bad
finished $C; touch -d @1000 $S/deploy/$C.complete
{more}; boot; cat $R/etc/name"#
        )
    };
    let Some((out, _)) = succeeds(&script(r#"cmdline "atomos=os/$A""#)) else {
        return;
    };
    assert_eq!(out.trim(), C);
    let (out, _) = succeeds(&script(r#"cmdline "atomos=os/$B""#)).expect("it ran before");
    assert_eq!(out.trim(), B);
    let output =
        in_namespace(&script(r#": > $S/deploy/$C.bad; cmdline "atomos=os/$A""#)).expect("it ran before");
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("that is not known to be bad"), "{err}");
}

/// Shell: what a boot is asked to be in the tree, and the lines that show what it became.
const TRANSIENT: &str = r#"
finished $A
chmod 0751 $S/deploy/$A/etc; chown 3:4 $S/deploy/$A/etc
conf() { mkdir -p $S/deploy/$A/usr/lib/atomos; echo "$1" > $S/deploy/$A/usr/lib/atomos/prepare-root.conf; }
show() {
    for dir in "" /usr /etc /var /sysroot; do writable $R$dir; done
    stat -c '%n %a %u:%g' $R/etc
    cat $R/etc/name; echo changed > $R/etc/name; cat $R/etc/name
    cat $R/sysroot/atomos/deploy/os/deploy/$A/etc/name; ls $R/sysroot/atomos/deploy/os/deploy/$A/etc
    ls $R/sysroot/atomos/deploy/os/deploy/$A/usr; ls $R/sysroot/atomos/deploy/os/var
    grep -o '"root":.*' /run/atomos/booted; ls -A /run/atomos
}
"#;

fn transient(more: &str) -> Option<(String, String)> {
    succeeds(&format!("{TRANSIENT}\n{more}\nboot; show"))
}

#[test]
fn a_transient_etc_can_be_written_to_and_the_deployment_keeps_its_own() {
    for asked in [
        r#"conf "etc = transient"; cmdline "atomos=os/$A""#,
        r#"cmdline "atomos.etc=transient atomos=os/$A""#,
    ] {
        let Some((out, _)) = transient(asked) else { return };
        let expected = format!(
            "/run/test/root read-only\n/run/test/root/usr read-only\n/run/test/root/etc writable\n\
             /run/test/root/var writable\n/run/test/root/sysroot read-only\n/run/test/root/etc 751 3:4\n\
             {A}\nchanged\n{A}\nname\nlib\nfile\nlib\n\
             \"root\":\"read-only\",\"etc\":\"transient\"}}\nbooted\n"
        );
        assert_eq!(out, expected);
    }
}

#[test]
fn a_transient_root_can_be_written_to_and_etc_and_var_are_kept() {
    let Some((out, _)) = transient(r#"conf "root = transient"; cmdline "atomos=os/$A""#) else {
        return;
    };
    let expected = format!(
        "/run/test/root writable\n/run/test/root/usr writable\n/run/test/root/etc writable\n\
         /run/test/root/var writable\n/run/test/root/sysroot read-only\n/run/test/root/etc 751 3:4\n\
         {A}\nchanged\nchanged\nfile\nname\nlib\nfile\nlib\n\
         \"root\":\"transient\",\"etc\":\"persistent\"}}\nbooted\n"
    );
    assert_eq!(out, expected);
}

#[test]
fn a_root_that_is_wholly_transient_keeps_var_alone() {
    let Some((out, _)) = transient(r#"conf "root = transient"; cmdline "atomos.etc=transient atomos=os/$A""#)
    else {
        return;
    };
    let expected = format!(
        "/run/test/root writable\n/run/test/root/usr writable\n/run/test/root/etc writable\n\
         /run/test/root/var writable\n/run/test/root/sysroot read-only\n/run/test/root/etc 751 3:4\n\
         {A}\nchanged\n{A}\nname\nlib\nfile\nlib\n\
         \"root\":\"transient\",\"etc\":\"transient\"}}\nbooted\n"
    );
    assert_eq!(out, expected);
}

#[test]
fn the_command_line_overrides_the_tree() {
    let Some((out, _)) = transient(
        r#"conf "etc = transient
root = transient"; cmdline "atomos.etc=persistent atomos.root=read-only atomos=os/$A""#,
    ) else {
        return;
    };
    assert!(
        out.contains("\"root\":\"read-only\",\"etc\":\"persistent\""),
        "{out}"
    );
    assert!(out.starts_with("/run/test/root read-only\n"), "{out}");
}

#[test]
fn an_image_that_is_required_is_not_done_without_and_one_that_is_wanted_is() {
    let asked = |mode: &str, image: &str| {
        in_namespace(&format!(
            r#"{TRANSIENT}
{image}; cmdline "atomos=os/$A atomos.composefs={mode}"; boot; cat $R/etc/name"#
        ))
    };
    let image = "mkdir -p $R/atomos/repo/objects; : > $S/deploy/$A.image";
    for (mode, image, boots, said) in [
        ("off", image, true, ""),
        (
            "wanted",
            "true",
            true,
            "has no composefs image; booting its files",
        ),
        ("wanted", image, true, "; booting the files"),
        (
            "required",
            "true",
            false,
            "has no composefs image, and one is required",
        ),
        (
            "required",
            "mkdir $S/deploy/$A.image",
            false,
            "has no composefs image, and",
        ),
        // Whatever the kernel says of it, the image is named.
        ("required", image, false, ".0.image"),
        ("requird", image, false, "composefs cannot be requird"),
    ] {
        let Some(output) = asked(mode, image) else { return };
        let err = text(&output.stderr);
        assert_eq!(output.status.success(), boots, "{mode}: {err}");
        assert_eq!(text(&output.stdout).trim() == A, boots, "{mode}");
        assert!(err.contains(said), "{mode}: {err}");
    }
}

#[test]
fn a_machine_without_its_watchdog_boots_and_says_so() {
    let Some((out, err)) = succeeds(
        r#"finished $A; mount -t tmpfs tmpfs /dev; cmdline "atomos=os/$A atomos.watchdog=60"; boot; cat $R/etc/name"#,
    ) else {
        return;
    };
    assert_eq!(out.trim(), A);
    assert!(err.contains("opening /dev/watchdog"), "{err}");
    assert!(err.contains("going on without a watchdog"), "{err}");
}

#[test]
fn settings_that_are_no_file_stop_the_boot_and_garbage_in_them_does_not() {
    let file = "$S/deploy/$A/usr/lib/atomos/prepare-root.conf";
    for (make, said) in [
        (
            format!("ln -s /etc/passwd {file}"),
            "opening /atomos/deploy/os/deploy/",
        ),
        (format!("mkfifo {file}"), "is not a file"),
        (format!("mkdir {file}"), "is not a file"),
        (
            format!("head -c 70000 /dev/zero > {file}"),
            "is larger than any such file",
        ),
        (
            "rmdir $S/deploy/$A/usr/lib/atomos; ln -s / $S/deploy/$A/usr/lib/atomos".to_owned(),
            "opening the directories of",
        ),
    ] {
        let Some(output) = in_namespace(&format!(
            r#"{TRANSIENT} mkdir $S/deploy/$A/usr/lib/atomos; {make}; cmdline "atomos=os/$A"; boot"#
        )) else {
            return;
        };
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{make}: {err}");
        assert!(err.contains(said), "{make}: {err}");
    }
    let (out, err) = succeeds(&format!(
        r#"{TRANSIENT} mkdir $S/deploy/$A/usr/lib/atomos; yes | head -c 60000 > {file}
echo 'etc = transient' >> {file}; cmdline "atomos=os/$A"; boot; cat /run/atomos/booted"#
    ))
    .expect("it ran before");
    assert!(out.contains("\"etc\":\"transient\""), "{out}");
    assert!(err.contains("29992 more settings are passed over"), "{err}");
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

/// Boots without an initramfs, with more arguments on the command line; returns what the deployment's init prints.
fn boot_as_init(arguments: &str) -> Option<(String, String)> {
    succeeds(&format!(
        r#"
finished $A
copy() {{ mkdir -p "$2$(dirname "$1")"; cp -L "$1" "$2$1"; }}
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
for dir in / /usr /etc /var /run /sysroot; do
    ( : > $dir/file ) 2>/dev/null && echo "$dir writable" || echo "$dir read-only"
done
test -d /sysroot/atomos/deploy && echo physical root
test -e /sysroot/atomos/deploy/os/deploy/$A/etc/file && echo etc is kept
test ! -e /sysroot/atomos/deploy/os/deploy/$A/usr/file && echo usr is not
for dir in /run/atomos/*; do echo $dir; done
INIT
sed -i "s/[$]A/$A/" $S/deploy/$A/sbin/init
chmod +x $S/deploy/$A/sbin/init
cmdline "atomos=os/$A {arguments}"
mkdir $R/old; cd $R
mount --bind /run/test/cmdline /proc/cmdline; mount --rbind /proc $R/proc
pivot_root . old
exec $PREPARE_ROOT argument"#
    ))
}

#[test]
fn as_the_first_process_it_goes_on_to_the_deployment_s_init() {
    let Some((out, err)) = boot_as_init("quiet") else {
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
            "/usr read-only",
            "/etc writable",
            "/var writable",
            "/run writable",
            "/sysroot read-only",
            "physical root",
            "etc is kept",
            "usr is not",
            "/run/atomos/booted",
        ],
        "{out}{err}"
    );
}

#[test]
fn as_the_first_process_it_makes_transient_what_was_asked_for() {
    for (arguments, root, etc) in [
        ("atomos.root=transient", "writable", Some("etc is kept")),
        ("atomos.etc=transient", "read-only", None),
        ("atomos.root=transient atomos.etc=transient", "writable", None),
    ] {
        let Some((out, err)) = boot_as_init(arguments) else {
            return;
        };
        let (slash, usr) = (format!("/ {root}"), format!("/usr {root}"));
        let mut expected = vec![
            A,
            &slash,
            &usr,
            "/etc writable",
            "/var writable",
            "/run writable",
            "/sysroot read-only",
            "physical root",
        ];
        expected.extend(etc);
        expected.extend(["usr is not", "/run/atomos/booted"]);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[2..], expected, "{arguments}: {out}{err}");
    }
}
