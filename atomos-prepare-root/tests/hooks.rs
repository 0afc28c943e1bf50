//! The hooks for initramfs generators, with a generator that is a few lines of shell. The real ones are used by `cargo xtask test`.
#![expect(clippy::unwrap_used, reason = "what a test helper cannot do ends the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const HOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bootloader-hooks");
const PROGRAM: &str = "usr/lib/atomos/atomos-prepare-root";

/// Of both generators what the hooks call. A copy of what `$FAILS` names does not work.
const GENERATOR: &str = r#"
copy() { case "$1" in *"${FAILS:-nothing}") return 1 ;; *) mkdir -p "${2%/*}" && command cp -L "$1" "$2" ;; esac; }
cp() { case "$2" in *"${FAILS:-nothing}") return 1 ;; *) command cp "$@" ;; esac; }
copy_exec() { copy "$1" "$DESTDIR$2"; }
manual_add_modules() { :; }
inst() { copy "$1" "$initdir${2:-$1}"; }
inst_simple() { inst "$@"; }
inst_binary() { inst "$@"; }
ln_r() { ln -s "$1" "$initdir$2"; }
dfatal() { echo "$@" >&2; }
panic() { echo "panic: $*"; }
"#;

/// A machine in a directory: each absolute path of a script leads there.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        scene.write("usr/share/initramfs-tools/hook-functions", GENERATOR);
        scene.write("scripts/functions", GENERATOR);
        scene.write("usr/lib/atomos/seal.d/ours.pub", "a key");
        scene.add_program();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn add_program(&self) {
        self.write(
            PROGRAM,
            "#!/bin/sh\necho \"prepared $1\"\nexit \"${PREPARED:-0}\"\n",
        );
        fs::set_permissions(self.path(PROGRAM), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs the hook's script, as the generator or the initramfs does. Returns whether that went well, and what it said.
    fn run(&self, shell: &str, script: &str, after: &str, variables: &[(&str, &str)]) -> (bool, String) {
        let mut text = fs::read_to_string(Path::new(HOOKS).join(script)).unwrap();
        for place in [
            " /usr/",
            "\n/usr/",
            " /etc/",
            " /scripts/",
            " </proc/",
            "\"/etc/atomos/seal.d/*",
        ] {
            let (before, name) = place.split_once('/').unwrap();
            text = text.replace(place, &format!("{before}{}/{name}", self.0.path().display()));
        }
        self.write("script", &format!("{text}\n{after}"));
        let output = Command::new(shell)
            .arg(self.path("script"))
            .envs(variables.iter().copied())
            .env("DESTDIR", self.path("image"))
            .env("initdir", self.path("image"))
            .env("rootmnt", "/root")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn make_tools_image(&self, fails: &str) -> (bool, String) {
        self.run("sh", "initramfs-tools/hooks/atomos", "", &[("FAILS", fails)])
    }

    fn make_dracut_image(&self, fails: &str) -> (bool, String) {
        let moddir = Path::new(HOOKS).join("dracut/50atomos");
        let variables = [
            ("FAILS", fails),
            ("moddir", moddir.to_str().unwrap()),
            ("systemdsystemunitdir", "/usr/lib/systemd/system"),
        ];
        // As dracut does, which goes on whatever this returns.
        let after = format!("{GENERATOR}\ninstall\nexit 0\n");
        self.run("bash", "dracut/50atomos/module-setup.sh", &after, &variables)
    }

    /// Whether any file of the image is called so.
    fn image_has(&self, name: &str) -> bool {
        let output = Command::new("find").arg(self.path("image")).output().unwrap();
        let list = String::from_utf8(output.stdout).unwrap();
        list.lines().any(|line| line.ends_with(name))
    }
}

#[test]
fn an_image_that_lacks_something_is_not_made() {
    type Make = fn(&Scene, &str) -> (bool, String);
    let generators: [(Make, &[&str]); 2] = [
        (Scene::make_tools_image, &["atomos-prepare-root", "ours.pub"]),
        (
            Scene::make_dracut_image,
            &["atomos-prepare-root", "atomos-prepare-root.service", "ours.pub"],
        ),
    ];
    for (make, files) in generators {
        let scene = Scene::new();
        let (made, said) = make(&scene, "");
        assert!(made, "{said}");
        for name in files {
            assert!(scene.image_has(&format!("/{name}")), "{name}: {said}");
        }
        for name in files {
            let (made, said) = make(&Scene::new(), &format!("/{name}"));
            assert!(!made, "{name}: {said}");
            assert!(said.contains("atomos: ") && said.contains(name), "{said}");
            assert!(said.contains("could not be put into the initramfs"), "{said}");
        }
    }
}

#[test]
fn an_ordinary_system_gets_an_ordinary_image() {
    let scene = Scene::new();
    fs::remove_file(scene.path(PROGRAM)).unwrap();
    assert_eq!(scene.make_tools_image(""), (true, String::new()));
    assert!(!scene.path("image").exists());
}

#[test]
fn a_program_that_is_missing_is_said_where_it_is_asked_for() {
    let name = "atomos=os/0011.0";
    let lines = [
        (format!("root=/dev/vda1 {name} quiet"), true),
        (name.to_owned(), true),
        (format!("quiet \"{name}\""), true),
        (String::new(), false),
        (
            "root=/dev/vda1 quiet atomos.etc=transient noatomos=1".to_owned(),
            false,
        ),
        (format!("quiet -- {name}"), false),
    ];
    for script in ["local-bottom", "nfs-bottom"] {
        let script = format!("initramfs-tools/scripts/{script}/atomos");
        for (line, asked) in &lines {
            let scene = Scene::new();
            scene.write("proc/cmdline", &format!("{line}\n"));
            fs::remove_file(scene.path(PROGRAM)).unwrap();
            let (well, said) = scene.run("sh", &script, "", &[]);
            assert!(well, "{line}: {said}");
            assert_eq!(said.starts_with("panic: atomos: "), *asked, "{line}: {said}");
            assert_eq!(said.contains("is missing"), *asked, "{line}: {said}");
            assert!(*asked || said.is_empty(), "{line}: {said}");

            // What is there decides for itself.
            scene.add_program();
            let (_, said) = scene.run("sh", &script, "", &[]);
            assert_eq!(said, "prepared /root\n");
            let (_, said) = scene.run("sh", &script, "", &[("PREPARED", "1")]);
            assert!(
                said.contains("panic: atomos: the deployment could not be mounted"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_root_over_nfs_is_prepared_in_the_same_way() {
    let [local, nfs] = ["local", "nfs"].map(|kind| {
        fs::read(Path::new(HOOKS).join(format!("initramfs-tools/scripts/{kind}-bottom/atomos"))).unwrap()
    });
    assert_eq!(local, nfs);
}
