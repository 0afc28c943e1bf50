//! Deployments whose root is an image, as the library makes them: on a disk of their own, since EROFS takes no file that lies in memory.
//! Needs root, and a kernel that can mount images.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking and owns the directories that it names"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use libatomos::cancel::Cancel;
use libatomos::commit::{CommitOptions, commit};
use libatomos::composefs::Seal;
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::RepoMode;
use libatomos::sign::{SecretKey, Signer};
use libatomos::sysroot::{DeployOptions, KargsChange, Sysroot, SysrootOptions};

use common::text;

/// What a tree has besides what it asks for. `$1` is the tree, `$2` its name.
const TREE: &str = r#"
set -eu
tree=$1
for dir in dev proc run sys sysroot tmp var boot sbin usr/bin usr/etc usr/lib/atomos "usr/lib/modules/$(uname -r)"; do
    mkdir -p "$tree/$dir"
done
echo "$2" > "$tree/usr/etc/name"; chmod 751 "$tree/usr/etc"
echo "a tool of $2" > "$tree/usr/bin/tool"
echo kernel > "$tree/usr/lib/modules/$(uname -r)/vmlinuz"
copy() { mkdir -p "$tree$(dirname "$1")"; cp -L "$1" "$tree$1"; }
for program in /bin/sh /bin/cat; do
    copy $program
    for library in $(ldd $program | grep -o '/[^ ]*'); do [ -e "$tree$library" ] || copy $library; done
done
cat > "$tree/sbin/init" <<'INIT'
#!/bin/sh
echo "init $$ $*"
for file in /run/atomos/booted /etc/name /usr/bin/tool; do read -r line < $file; echo "$line"; done
for dir in / /usr /etc /var /run /sysroot; do
    ( : > $dir/file ) 2>/dev/null && echo "$dir writable" || echo "$dir read-only"
done
INIT
chmod +x "$tree/sbin/init"
"#;

/// Of the key that has sealed every deployment's image.
const SEED: [u8; 32] = [7; 32];

/// Shell functions for a machine on the disk `$DISK`, which is mounted as the physical root. `$N` are its deployments, by number.
const PRELUDE: &str = r#"
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/test; R=/run/test/root; mkdir $R
cp --sparse=always $DISK /run/test/disk
mount -o loop /run/test/disk $R
S=$R/atomos/deploy/os
cmdline() { echo "$1" > /run/test/cmdline; mount --bind /run/test/cmdline /proc/cmdline; }
boot() { mount -o remount,ro $R; $PREPARE_ROOT $R; }
writable() { ( : > $1/file ) 2>/dev/null && echo "$1 writable" || echo "$1 read-only"; }
show() {
    cat $R/etc/name $R/usr/bin/tool
    for dir in "" /usr /etc /var /sysroot; do writable $R$dir; done
    stat -c '%a' $R/etc
    grep -o '"composefs":.*' /run/atomos/booted
}
"#;

/// Puts the key where the initramfs has it, and a seal beside a deployment.
const SEALING: &str = r#"
have_key() { mount -t tmpfs tmpfs /etc; mkdir -p /etc/atomos/seal.d; echo "${1-$KEY}" > /etc/atomos/seal.d/key.pub; }
seal() { cp "$SEALS/seal-$1" "$S/deploy/$2.seal"; }
"#;

struct Machine {
    scratch: tempfile::TempDir,
    /// The names of the deployments' directories, in the order in which they were made.
    deployments: Vec<String>,
}

impl Machine {
    /// Makes one with a deployment for each word about composefs: what its tree asks for, nothing where it is empty. `None`, and says so,
    /// where nothing can be mounted.
    fn new(words: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("machine");
        let sysroot = Sysroot::init(&path, RepoMode::Bare, &SysrootOptions::default()).unwrap();
        sysroot.init_stateroot(&"os".parse().unwrap()).unwrap();
        let mut deployments = Vec::new();
        for (number, word) in words.iter().enumerate() {
            let tree = scratch.path().join(format!("tree-{number}"));
            make_tree(&tree, number, word);
            let mut options = CommitOptions::default();
            options.reference = Some("os".parse().unwrap());
            options.sealers.add(Arc::new(SecretKey::from_seed(&SEED)));
            let source = Dir::open_ambient(&tree).unwrap();
            let report = commit(sysroot.repo(), source, &options, &NoProgress, &Cancel::new()).unwrap();
            let sealed = sysroot.repo().load_commit(&report.commit).unwrap();
            let seal = Seal::of_commit(&sealed).unwrap().expect("it is sealed");
            std::fs::write(scratch.path().join(format!("seal-{number}")), seal.encode()).unwrap();
            let mut options = DeployOptions::default();
            options.kargs = vec![KargsChange::AppendIfMissing("root=LABEL=root".to_owned())];
            options.keep = Some(words.len());
            let report = sysroot
                .deploy("os", &options, &NoProgress, &Cancel::new())
                .unwrap();
            deployments.push(report.deployment.dir_name());
        }
        let machine = Self { scratch, deployments };
        std::fs::File::create(machine.disk())
            .and_then(|file| file.set_len(64 << 20))
            .unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-d"])
            .args([&path, &machine.disk()])
            .output()
            .expect("e2fsprogs has mkfs.ext4");
        assert!(made.status.success(), "{}", text(&made.stderr));
        Some(machine)
    }

    fn disk(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }

    /// Runs a script; deployments are `$N0`, `$N1` and so on in it. `None`, and says so, where this kernel mounts no images.
    fn run(&self, script: &str) -> Option<Output> {
        let names: Vec<String> = (0..self.deployments.len()).map(|n| format!("N{n}")).collect();
        let disk = self.disk();
        let key = SecretKey::from_seed(&SEED).public().to_pem();
        let scratch = self.scratch.path().to_str().unwrap();
        let mut variables = vec![
            ("DISK", disk.to_str().unwrap()),
            ("KEY", &key),
            ("SEALS", scratch),
        ];
        let named = names.iter().zip(&self.deployments);
        variables.extend(named.map(|(name, value)| (name.as_str(), value.as_str())));
        let output = common::run(&format!("{PRELUDE}\n{script}"), &variables)?;
        let said = text(&output.stderr);
        let cannot = [
            "has the kernel, or the initramfs, the module",
            "from block devices only",
            "which Linux 6.8 and newer can",
        ];
        if cannot.iter().any(|words| said.contains(words)) {
            eprintln!("skipped: {said}");
            return None;
        }
        Some(output)
    }

    fn succeeds(&self, script: &str) -> Option<(String, String)> {
        let output = self.run(script)?;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
        Some((out, err))
    }

    fn fails(&self, script: &str) -> Option<String> {
        let output = self.run(script)?;
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}\n{err}", text(&output.stdout));
        Some(err)
    }
}

fn make_tree(tree: &Path, number: usize, word: &str) {
    let made = Command::new("sh")
        .args(["-c", TREE, "sh"])
        .arg(tree)
        .arg(number.to_string())
        .output()
        .expect("there is a shell");
    assert!(made.status.success(), "{}", text(&made.stderr));
    if !word.is_empty() {
        let conf = tree.join("usr/lib/atomos/prepare-root.conf");
        std::fs::write(conf, format!("composefs = {word}\n")).unwrap();
    }
}

#[test]
fn the_image_becomes_the_root_with_etc_and_var_writable() {
    let Some(machine) = Machine::new(&["required"]) else {
        return;
    };
    let Some((out, err)) = machine.succeeds(
        r#"
cmdline "ro atomos=os/$N0"
identity=$(stat -c '"device":%d,"inode":%i' $S/deploy/$N0)
boot; show
echo mine > $R/etc/name; cat $R/sysroot/atomos/deploy/os/deploy/$N0/etc/name
ls $R/sysroot/atomos/deploy/os/var
grep -c "$identity" /run/atomos/booted
findmnt -no FSTYPE,SOURCE $R
findmnt -no FSTYPE $R/etc
ls -A /run/atomos
# As systemd does when the machine goes down: nothing that is mounted holds it.
umount $R/sysroot && ls -A $R/sysroot && cat $R/usr/bin/tool
"#,
    ) else {
        return;
    };
    let root = "/run/test/root";
    let expected = format!(
        "0\na tool of 0\n{root} read-only\n{root}/usr read-only\n{root}/etc writable\n{root}/var writable\n\
         {root}/sysroot read-only\n751\n\"composefs\":true,\"root\":\"read-only\",\"etc\":\"persistent\"}}\nmine\nfile\n1\n\
         overlay atomos\next4\nbooted\na tool of 0\n"
    );
    assert_eq!(out, expected, "{err}");
}

#[test]
fn a_root_and_an_etc_that_are_transient_are_layers_of_the_image_and_forgotten() {
    let Some(machine) = Machine::new(&["required"]) else {
        return;
    };
    let root = "/run/test/root";
    for (arguments, slash, kept) in [
        ("atomos.root=transient", "writable", "mine"),
        ("atomos.etc=transient", "read-only", "0"),
        ("atomos.root=transient atomos.etc=transient", "writable", "0"),
    ] {
        let Some((out, err)) = machine.succeeds(&format!(
            r#"cmdline "ro atomos=os/$N0 {arguments}"; boot; show
echo mine > $R/etc/name; cat $R/etc/name $R/sysroot/atomos/deploy/os/deploy/$N0/etc/name
if [ {slash} = writable ]; then
    echo tried > $R/usr/bin/tool; chmod 700 $R/bin/cat; cat $R/usr/bin/tool
    cmp $R/bin/cat $(readlink -f /bin/cat) && stat -c %a $R/bin/cat
fi"#
        )) else {
            return;
        };
        let expected = format!(
            "0\na tool of 0\n{root} {slash}\n{root}/usr {slash}\n{root}/etc writable\n{root}/var writable\n\
             {root}/sysroot read-only\n751\n\"composefs\":true,"
        );
        assert!(out.starts_with(&expected), "{arguments}: {out}{err}");
        let end = match slash {
            "writable" => format!("}}\nmine\n{kept}\ntried\n700\n"),
            _ => format!("}}\nmine\n{kept}\n"),
        };
        assert!(out.ends_with(&end), "{arguments}: {out}{err}");
    }
}

#[test]
fn what_has_no_files_is_not_booted_without_its_image() {
    let Some(machine) = Machine::new(&["required"]) else {
        return;
    };
    let Some(err) = machine.fails(r#"cmdline "atomos=os/$N0 atomos.composefs=off"; boot"#) else {
        return;
    };
    assert!(err.contains("has no files to boot with composefs = off"), "{err}");
    for (damage, said) in [
        (
            "rm $S/deploy/$N0.image",
            "has lost its image, and has nothing else",
        ),
        (
            "dd if=/dev/zero of=$S/deploy/$N0.image bs=4k count=1 conv=notrunc status=none",
            "is it damaged",
        ),
        (": > $S/deploy/$N0.image", "is it damaged"),
    ] {
        let err = machine
            .fails(&format!(r#"{damage}; cmdline "atomos=os/$N0"; boot"#))
            .expect("it ran before");
        assert!(err.contains(said), "{damage}: {err}");
        assert!(
            err.contains("and os has no other finished deployment"),
            "{damage}: {err}"
        );
    }
    let err = machine
        .fails(r#"rm $S/deploy/$N0.skeleton; cmdline "atomos=os/$N0 atomos.composefs=off"; boot"#)
        .expect("it ran before");
    assert!(err.contains("looking for"), "nothing takes it for a root: {err}");
}

#[test]
fn an_image_that_is_lost_or_damaged_gives_way_to_another_deployment() {
    let Some(machine) = Machine::new(&["", "required", "required"]) else {
        return;
    };
    let script = |more: &str| {
        format!(
            r#"
touch -d @1000 $S/deploy/$N0.complete; touch -d @2000 $S/deploy/$N1.complete; touch -d @3000 $S/deploy/$N2.complete
cmdline "atomos=os/$N2"; {more}; boot; cat $R/etc/name; grep -o '"composefs":[a-z]*' /run/atomos/booted"#
        )
    };
    let zero = "dd if=/dev/zero bs=4k count=1 conv=notrunc status=none of=$S/deploy";
    for (damage, expected) in [
        ("true".to_owned(), "2\n\"composefs\":true\n"),
        ("rm $S/deploy/$N2.image".to_owned(), "1\n\"composefs\":true\n"),
        (format!("{zero}/$N2.image"), "1\n\"composefs\":true\n"),
        (
            format!("rm $S/deploy/$N2.image; {zero}/$N1.image"),
            "0\n\"composefs\":false\n",
        ),
        // What asks for files alone has no image for a substitute.
        (
            r#"rm $S/deploy/$N2.image; cmdline "atomos=os/$N2 atomos.composefs=off""#.to_owned(),
            "0\n\"composefs\":false\n",
        ),
    ] {
        let Some((out, err)) = machine.succeeds(&script(&damage)) else {
            return;
        };
        assert_eq!(out, expected, "{damage}: {err}");
    }
}

#[test]
fn an_image_that_is_only_wanted_gives_way_to_the_files() {
    let Some(machine) = Machine::new(&["wanted"]) else {
        return;
    };
    let end = "grep -o '\"composefs\":[a-z]*' /run/atomos/booted; cat $R/usr/bin/tool";
    for (more, composefs, said) in [
        ("true", "true", ""),
        (
            "rm $S/deploy/$N0.image",
            "false",
            "has no composefs image; booting its files",
        ),
        (": > $S/deploy/$N0.image", "false", "; booting the files"),
        (r#"cmdline "atomos=os/$N0 atomos.composefs=off""#, "false", ""),
        (r#"cmdline "atomos=os/$N0 atomos.composefs=required""#, "true", ""),
        // What was begun for the image does not get in the way.
        (
            r#": > $S/deploy/$N0.image; cmdline "atomos=os/$N0 atomos.root=transient""#,
            "false",
            "; booting the files",
        ),
    ] {
        let Some((out, err)) = machine.succeeds(&format!(r#"cmdline "atomos=os/$N0"; {more}; boot; {end}"#))
        else {
            return;
        };
        assert_eq!(
            out,
            format!("\"composefs\":{composefs}\na tool of 0\n"),
            "{more}: {err}"
        );
        assert!(err.contains(said), "{more}: {err}");
    }
}

#[test]
fn as_the_first_process_it_goes_on_to_the_init_in_the_image() {
    let Some(machine) = Machine::new(&["required"]) else {
        return;
    };
    for (arguments, root) in [("quiet", "read-only"), ("atomos.root=transient", "writable")] {
        let Some((out, err)) = machine.succeeds(&format!(
            r#"
mkdir -p $R/proc $R/old $R$(dirname $PREPARE_ROOT)
cp $PREPARE_ROOT $R$PREPARE_ROOT
for library in $(ldd $PREPARE_ROOT | grep -o '/[^ ]*'); do mkdir -p $R$(dirname $library); cp -L $library $R$library; done
cmdline "atomos=os/$N0 {arguments}"
cd $R
mount --bind /run/test/cmdline /proc/cmdline; mount --rbind /proc $R/proc
pivot_root . old
exec $PREPARE_ROOT argument"#
        )) else {
            return;
        };
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.first(), Some(&"init 1 argument"), "{out}{err}");
        assert!(lines[1].contains("\"composefs\":true"), "{out}");
        assert_eq!(
            lines[2..],
            [
                "0",
                "a tool of 0",
                &format!("/ {root}"),
                &format!("/usr {root}"),
                "/etc writable",
                "/var writable",
                "/run writable",
                "/sysroot read-only",
            ],
            "{arguments}: {out}{err}"
        );
    }
}

/// Whatever kernel this is: none of these images has fs-verity, so that none is booted.
#[test]
fn what_is_to_be_verified_gives_way_to_nothing_that_is_not() {
    let Some(machine) = Machine::new(&["", "required", "required"]) else {
        return;
    };
    let other = SecretKey::from_seed(&[8; 32]).public().to_pem();
    let verified = "rm $S/deploy/$N1/usr/lib/atomos/prepare-root.conf; \
                    echo composefs=verified > $S/deploy/$N1/usr/lib/atomos/prepare-root.conf";
    for (change, arguments, said) in [
        // A key in the initramfs demands it of every deployment, and no argument takes that back.
        ("have_key", "", "is not verified (nobody has sealed it)"),
        ("have_key; seal 1 $N1", "", "fs-verity"),
        ("have_key; seal 1 $N1", "atomos.composefs=off", "fs-verity"),
        ("have_key; seal 1 $N1", "atomos.composefs=wanted", "fs-verity"),
        ("have_key; seal 2 $N1", "", "fs-verity"),
        (
            "have_key; seal 1 $N1; sed -i 's/\"sig\":\"..../\"sig\":\"AAAA/' $S/deploy/$N1.seal",
            "",
            "no key of the initramfs has sealed it",
        ),
        ("have_key; seal 1 $N1; rm $S/deploy/$N1.image", "", "opening"),
        ("have_key; ln -s /dev/zero $S/deploy/$N1.seal", "", "opening"),
        ("have_key; mkfifo $S/deploy/$N1.seal", "", "is not a file"),
        (
            "have_key; truncate -s 1G $S/deploy/$N1.seal",
            "",
            "is larger than any such file",
        ),
        (
            "have_key \"$OTHER\"; seal 1 $N1",
            "",
            "no key of the initramfs has sealed it",
        ),
        ("have_key nonsense; seal 1 $N1", "", "the initramfs has no key"),
        // Without a key there is nothing that could be booted where somebody asks for it.
        (
            "seal 1 $N1",
            "atomos.composefs=verified",
            "the initramfs has no key",
        ),
        (verified, "", "nobody has sealed it"),
        (verified, "atomos.composefs=verified", "nobody has sealed it"),
    ] {
        let Some(err) = machine.fails(&format!(
            "OTHER='{other}'\n{SEALING}\n{change}; cmdline \"atomos=os/$N1 {arguments}\"; boot"
        )) else {
            return;
        };
        assert!(
            err.contains("is not verified (") && err.contains(said),
            "{change} {arguments}: {err}"
        );
        assert!(
            err.contains("no other finished deployment"),
            "{change} {arguments}: {err}"
        );
    }
    // Files alone are nothing that a key vouches for.
    let err = machine.fails(&format!("{SEALING}\nhave_key; cmdline \"atomos=os/$N0\"; boot"));
    let err = err.expect("it ran before");
    assert!(err.contains("is not verified (nobody has sealed it)"), "{err}");
    // Nor is the physical root.
    let err = machine.fails(&format!("{SEALING}\nhave_key; cmdline \"ro quiet\"; boot"));
    let err = err.expect("it ran before");
    assert!(err.contains("says what to boot, and with the keys in"), "{err}");
    // What asks for nothing is no substitute for what does; without a key and without asking, nothing has changed.
    for (change, expected) in [
        ("true", "1\n"),
        ("seal 1 $N1", "1\n"),
        ("rm $S/deploy/$N1.image", "2\n"),
    ] {
        let (out, err) = machine
            .succeeds(&format!(
                "touch -d @1000 $S/deploy/$N0.complete; {SEALING}\n{change}; cmdline \"atomos=os/$N1\"; boot; cat $R/etc/name"
            ))
            .expect("it ran before");
        assert_eq!(out, expected, "{change}: {err}");
    }
}
