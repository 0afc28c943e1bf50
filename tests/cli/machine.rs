//! A machine that runs what it deploys: staging, finishing, restarting, looking at it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::common::{Run, Scratch};

#[path = "machine_boot_dir.rs"]
mod boot_dir;
#[path = "machine_etc.rs"]
mod etc;
#[path = "machine_trial.rs"]
mod trial;

/// A sysroot in `machine`, whose trees are committed as the ref `os`.
struct Machine {
    scratch: Scratch,
    /// What runs as `/`, once something does.
    running: Option<PathBuf>,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            scratch: Scratch::empty(),
            running: None,
        };
        let mode = if rustix::process::geteuid().is_root() {
            "bare"
        } else {
            "bare-user"
        };
        machine.atomos(&["sysroot", "init", "--mode", mode]).code(0);
        machine.atomos(&["stateroot", "init", "os"]).code(0);
        machine
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scratch.command(args);
        command
            .env_remove("ATOMOS_REPO")
            .env("ATOMOS_SYSROOT", self.scratch.path("machine"))
            .env("PATH", self.scratch.path("bin"));
        if let Some(root) = &self.running {
            command.env("ATOMOS_HOST_ROOT", root);
        }
        command
    }

    fn atomos(&self, args: &[&str]) -> Run {
        self.scratch.run(&mut self.command(args))
    }

    fn commit(&self, version: &str) -> String {
        let scratch = &self.scratch;
        scratch.write("tree/boot/vmlinuz-6.1", format!("kernel of {version}"));
        scratch.write("tree/boot/initrd.img-6.1", "initramfs");
        scratch.write("tree/etc/hostname", "default\n");
        scratch.write("tree/usr/bin/tool", format!("tool of {version}"));
        scratch.write("tree/usr/lib/os-release", "PRETTY_NAME=\"Test\"\n");
        let args = [
            "commit",
            "--quiet",
            "--os",
            "--ref",
            "os",
            "--version",
            version,
            "tree",
        ];
        self.atomos(&args).ok().trim().to_owned()
    }

    /// Deploys version 1 and runs it, with somebody there who finishes updates at shutdown.
    fn boot(&mut self) -> String {
        let commit = self.commit("1");
        self.atomos(&["deploy", "os", "--karg", "root=LABEL=root"])
            .code(0);
        let root = self.root(&commit);
        fs::create_dir_all(root.join("run/atomos")).unwrap();
        fs::write(root.join("run/atomos/finalize-at-shutdown"), "").unwrap();
        self.running = Some(root);
        commit
    }

    fn root(&self, commit: &str) -> PathBuf {
        self.scratch
            .path(&format!("machine/atomos/deploy/os/deploy/{commit}.0"))
    }

    /// Makes a program that notes its arguments, and ends with `code`.
    fn program(&self, name: &str, code: i32) {
        let path = format!("bin/{name}");
        let log = self.scratch.path("log");
        let text = format!("#!/bin/sh\necho {name} \"$@\" >>{}\nexit {code}\n", log.display());
        self.scratch.write(&path, text);
        fs::set_permissions(self.scratch.path(&path), PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path("log")).unwrap_or_default()
    }

    fn status(&self) -> serde_json::Value {
        self.atomos(&["status", "--json"]).json()
    }
}

#[test]
fn a_tree_without_the_program_that_boots_it_is_told_by_whatever_deploys_it() {
    const WARNING: &str = "warning: the tree has no /usr/lib/atomos/atomos-prepare-root: unless its initramfs has it from elsewhere";
    const PROGRAM: &str = "tree/usr/lib/atomos/atomos-prepare-root";
    let mut machine = Machine::new();
    machine.boot();
    // Once as files, once as an image with a skeleton.
    for conf in ["", "composefs = wanted\n"] {
        machine
            .scratch
            .write("tree/usr/lib/atomos/prepare-root.conf", conf);
        for lacks in [true, false] {
            if !lacks {
                machine.scratch.write(PROGRAM, "program");
            }
            let other = format!("other-{lacks}-{}", conf.len());
            for verb in [&["upgrade"][..], &["switch", &other], &["deploy", "os"]] {
                let commit = machine.commit(&format!("{}-{other}", verb[0]));
                if verb[0] == "switch" {
                    let new = format!("{other}={commit}");
                    machine.atomos(&["refs", "--create", &new]).code(0);
                }
                let run = machine.atomos(verb).code(0);
                assert_eq!(run.err.contains(WARNING), lacks, "{verb:?}: {}", run.err);
            }
        }
        fs::remove_file(machine.scratch.path(PROGRAM)).unwrap();
    }
}

#[test]
fn an_upgrade_of_what_runs_is_staged_shown_and_finished() {
    let mut machine = Machine::new();
    let one = machine.boot();
    let two = machine.commit("2");
    let run = machine.atomos(&["upgrade"]).code(0);
    assert!(
        run.err.contains("Staged 2 (") && run.err.contains("Shutdown finishes it"),
        "{}",
        run.err
    );
    let status = machine.status();
    assert_eq!(status["staged"], format!("os/{two}.0"));
    let roles: Vec<_> = status["deployments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["role"])
        .collect();
    assert_eq!(roles, ["staged", "booted"]);
    assert!(status["deployments"][0].get("entry").is_none() && status.get("last-error").is_none());
    let text = machine.atomos(&["status"]).ok();
    assert!(
        text.contains("0 os  2  [staged]") && text.contains("● 1 os  1  [booted, default]"),
        "{text}"
    );
    machine.atomos(&["upgrade", "--unchanged-exit-77"]).code(77);

    fs::write(machine.root(&one).join("etc/hostname"), "later\n").unwrap();
    let outcome = machine.atomos(&["finalize", "--shutdown", "--json"]).json();
    assert_eq!(outcome["outcome"], "finished");
    assert_eq!(
        fs::read_to_string(machine.root(&two).join("etc/hostname")).unwrap(),
        "later\n"
    );
    machine.atomos(&["finalize", "--unchanged-exit-77"]).code(77);
    assert_eq!(machine.status()["deployments"][0]["role"], "pending");
}

#[test]
fn a_failed_finish_is_a_line_of_the_status_and_an_object_for_programs() {
    let mut machine = Machine::new();
    let one = machine.boot();
    machine.commit("2");
    machine.atomos(&["upgrade"]).code(0);
    let rules = "[[rule]]\npath = \"hostname\"\npolicy = \"fail\"\n";
    let policies = machine.root(&one).join("etc/atomos/etc-merge.d");
    fs::create_dir_all(&policies).unwrap();
    fs::write(policies.join("fail.conf"), rules).unwrap();
    fs::write(machine.root(&one).join("etc/hostname"), "mine\n").unwrap();
    // Only a change on both sides is a conflict.
    machine.atomos(&["undeploy", "staged"]).code(0);
    machine.scratch.write("tree/etc/hostname", "of 3\n");
    let commit = [
        "commit",
        "--quiet",
        "--os",
        "--ref",
        "os",
        "--version",
        "3",
        "tree",
    ];
    fs::remove_file(policies.join("fail.conf")).unwrap();
    machine.atomos(&commit).code(0);
    machine.atomos(&["upgrade"]).code(0);
    fs::write(policies.join("fail.conf"), rules).unwrap();
    machine.atomos(&["finalize", "--shutdown"]).code(10);
    let status = machine.status();
    let error = &status["last-error"];
    assert_eq!(
        (&error["operation"], &error["version"]),
        (&"finalize".into(), &"3".into())
    );
    assert!(error["reason"].as_str().unwrap().contains("hostname"), "{error}");
    let text = machine.atomos(&["status"]).ok();
    assert!(text.starts_with("! 3 could not be finished at "), "{text}");
}

#[test]
fn a_restart_comes_after_a_change_and_only_then() {
    let mut machine = Machine::new();
    machine.program("systemctl", 0);
    machine.program("reboot", 0);
    machine.commit("0");
    let refused = machine.atomos(&["deploy", "os", "--reboot"]).code(2);
    assert!(
        refused.err.contains("no deployment of this sysroot is running"),
        "{}",
        refused.err
    );
    machine.boot();
    machine.commit("2");
    machine.atomos(&["upgrade", "--reboot"]).code(0);
    assert_eq!(machine.log(), "systemctl reboot\n");
    machine.atomos(&["upgrade", "--reboot"]).code(0);
    machine
        .atomos(&["kargs", "--append-if-missing", "root=LABEL=root", "--reboot"])
        .code(0);
    machine.atomos(&["deploy", "no-such-ref", "--reboot"]).code(3);
    assert_eq!(machine.log(), "systemctl reboot\n", "nothing was changed");
    machine.program("systemctl", 1);
    machine.atomos(&["rollback", "--reboot"]).code(0);
    assert_eq!(machine.log(), "systemctl reboot\nsystemctl reboot\nreboot\n");
}

#[test]
fn kernel_arguments_keep_their_quotes_from_the_command_line_to_the_entry() {
    let mut machine = Machine::new();
    machine.boot();
    let quoted = "dyndbg=\"file drivers/usb/* +p; file x -p\"";
    let kargs = machine.atomos(&["kargs", "--append", quoted]).ok();
    assert_eq!(kargs, format!("root=LABEL=root {quoted}\n"));
    let list = machine.atomos(&["kargs", "--json"]).json();
    assert_eq!(list["kargs"], serde_json::json!(["root=LABEL=root", quoted]));
    machine.commit("2");
    machine
        .atomos(&["upgrade", "--now", "--karg", "init=\"/bin/sh -c\""])
        .code(0);
    let entries = machine.scratch.path("machine/boot/loader/entries");
    let newest = fs::read_dir(entries)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max()
        .unwrap();
    let text = fs::read_to_string(newest).unwrap();
    let expected = format!("options root=LABEL=root {quoted} init=\"/bin/sh -c\" atomos.entry=3 atomos=os/");
    assert!(text.contains(&expected), "{text}");
    for ours in ["atomos=foo", "atomos.entry=9"] {
        for words in [
            &["kargs", "--append", ours][..],
            &["deploy", "os", "--karg", ours],
        ] {
            let run = machine.atomos(words).code(5);
            assert!(run.err.contains("each boot entry says its own"), "{}", run.err);
        }
    }
    machine.atomos(&["kargs", "--delete", quoted]).code(0);
    assert_eq!(
        machine.atomos(&["kargs"]).ok(),
        "root=LABEL=root init=\"/bin/sh -c\"\n"
    );
}

#[test]
fn an_old_version_is_found_in_the_history_of_what_the_machine_follows() {
    let mut machine = Machine::new();
    let one = machine.boot();
    for version in ["13.2", "13.3"] {
        machine.commit(version);
    }
    machine.atomos(&["upgrade", "--now"]).code(0);
    let report = machine.atomos(&["deploy", "13.2", "--now", "--json"]).json();
    assert_eq!(report["version"], "13.2");
    let status = machine.status();
    assert_eq!(status["deployments"][0]["ref"], "os", "it goes on following");
    let run = machine.atomos(&["deploy", "1", "--dry-run"]).ok();
    assert!(run.contains(&one), "{run}");
    for more in [&[][..], &["--dry-run"]] {
        let run = machine.atomos(&[&["deploy", "13.9"], more].concat()).code(3);
        assert!(
            run.err.contains("`atomos history REMOTE REF` lists")
                && run
                    .err
                    .contains("`atomos pull REMOTE REF@13.9 --allow-downgrade` fetches it"),
            "{}",
            run.err
        );
    }
    // Another ref with another commit of one version.
    machine.atomos(&["switch", "os", "--now"]).code(0);
    for reference in ["a", "b"] {
        machine.scratch.write("tree/usr/bin/tool", reference);
        machine
            .atomos(&[
                "commit",
                "--quiet",
                "--os",
                "--ref",
                reference,
                "--version",
                "20",
                "tree",
            ])
            .code(0);
    }
    let run = machine.atomos(&["deploy", "20"]).code(5);
    assert!(
        run.err.contains("several commits have the version \"20\""),
        "{}",
        run.err
    );
}

#[test]
fn what_runs_is_compared_with_its_commit() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: an ordinary user's deployment has other owners than its commit");
        return;
    }
    let mut machine = Machine::new();
    let one = machine.boot();
    fs::remove_dir_all(machine.root(&one).join("run/atomos")).unwrap();
    fs::write(machine.root(&one).join("etc/hostname"), "mine\n").unwrap();
    assert_eq!(machine.atomos(&["diff", "--booted"]).ok(), "");
    // Not in place: the file is the store's, too.
    let tool = machine.root(&one).join("usr/bin/tool");
    fs::remove_file(&tool).unwrap();
    fs::write(&tool, "evil").unwrap();
    let run = machine.atomos(&["diff", "--booted"]).ok();
    assert!(run.contains("M /usr/bin/tool (content"), "{run}");
    machine.running = None;
    machine.atomos(&["diff", "--booted"]).code(3);
}

#[test]
fn what_was_fetched_is_deployed_without_asking_anybody() {
    let mut machine = Machine::new();
    machine.boot();
    let scratch = &machine.scratch;
    let vendor = scratch.path("vendor");
    let vendor = vendor.to_str().unwrap();
    machine
        .atomos(&["init", "--repo", vendor, "--mode", "bare-user"])
        .code(0);
    machine
        .atomos(&["pull", "--repo", vendor, "--from", "machine/atomos/repo", "os"])
        .code(0);
    machine.atomos(&["key", "generate", "--quiet", "key"]).code(0);
    let publish = || {
        machine
            .atomos(&["publish", "--repo", vendor, "--key", "key", "--to", "site"])
            .code(0);
    };
    publish();
    let site = scratch.path("site");
    machine
        .atomos(&[
            "remote",
            "add",
            "origin",
            site.to_str().unwrap(),
            "--key",
            "key.pub",
        ])
        .code(0);
    machine.atomos(&["switch", "origin:os", "--now"]).code(0);

    let release = |version| {
        scratch.write("tree/usr/bin/tool", format!("tool of {version}"));
        machine
            .atomos(&[
                "commit",
                "--repo",
                vendor,
                "--quiet",
                "--os",
                "--ref",
                "os",
                "--version",
                version,
                "tree",
            ])
            .code(0);
        publish();
    };
    release("2");
    let run = machine.atomos(&["upgrade", "--download-only"]).code(0);
    assert!(run.err.contains("Fetched from origin:os: 2 ("), "{}", run.err);
    assert!(machine.status().get("staged").is_none());
    fs::rename(&site, scratch.path("gone")).unwrap();
    machine.atomos(&["upgrade"]).code(3);
    let run = machine.atomos(&["upgrade", "--cache-only"]).code(0);
    assert!(run.err.contains("Staged 2 ("), "{}", run.err);
    // So is what came in a bundle.
    fs::rename(scratch.path("gone"), &site).unwrap();
    release("3");
    machine
        .atomos(&["bundle", "create", "site", "os", "--from", "2", "-o", "update"])
        .code(0);
    fs::rename(&site, scratch.path("gone")).unwrap();
    machine
        .atomos(&["bundle", "apply", "update", "--remote", "origin"])
        .code(0);
    let run = machine.atomos(&["upgrade", "--cache-only"]).code(0);
    assert!(run.err.contains("Staged 3 ("), "{}", run.err);
}

#[test]
fn a_root_that_is_an_image_is_made_shown_and_kept_from_arguments_that_do_not_fit() {
    let machine = Machine::new();
    let commit = machine.commit("1");
    let required = ["deploy", "os", "--karg", "atomos.composefs=required"];
    let preview = machine.atomos(&[&required[..], &["--dry-run"]].concat()).ok();
    assert!(preview.contains("root          an image\n"), "{preview}");
    let run = machine.atomos(&required).code(0);
    assert!(
        run.err.contains("Deployed 1 (") && run.err.contains(": an image of "),
        "{}",
        run.err
    );
    assert!(!machine.root(&commit).join("usr/bin").exists());

    let status = machine.status();
    let deployment = &status["deployments"][0];
    assert_eq!(
        (&deployment["root"], &deployment["complete"]),
        (&"image".into(), &true.into())
    );
    let digest = deployment["image"]["digest"].as_str().unwrap();
    let text = machine.atomos(&["status"]).ok();
    assert!(
        text.contains(&format!("root       image {} of ", &digest[..12])),
        "{text}"
    );

    let refused = machine.atomos(&["kargs", "--append", "atomos.composefs=off"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("it has no files to boot"), "{}", refused.err);
    assert!(refused.err.contains("deploy it anew"), "{}", refused.err);
    let wrong = machine.atomos(&["deploy", "os", "--karg", "atomos.composefs=yes"]);
    assert_ne!(wrong.code, 0);
    assert!(wrong.err.contains("cannot be \"yes\""), "{}", wrong.err);
}

#[test]
fn a_damaged_image_is_found_and_made_anew_without_a_source() {
    let machine = Machine::new();
    let commit = machine.commit("1");
    machine
        .atomos(&["deploy", "os", "--karg", "atomos.composefs=required"])
        .code(0);
    let run = machine.atomos(&["fsck"]).code(0);
    assert!(
        run.err.starts_with("Everything is whole: 1 commit, ")
            && run.err.ends_with("; 1 image of a deployment\n"),
        "{}",
        run.err
    );
    let image = machine.root(&commit).with_file_name(format!("{commit}.0.image"));
    let whole = fs::read(&image).unwrap();
    let damage = || {
        let mut bytes = whole.clone();
        bytes[3000] ^= 1;
        fs::write(&image, bytes).unwrap();
    };
    damage();
    let found = format!("image of os/{commit}.0 is damaged: its bytes have the digest ");
    let run = machine.atomos(&["fsck"]).code(6);
    assert!(run.out.starts_with(&found), "{}", run.out);
    let file = format!("machine/atomos/deploy/os/deploy/{commit}.0.image");
    assert!(run.out.ends_with(&format!("/{file}\n")), "{}", run.out);
    assert!(
        run.err.starts_with("warning: 1 bad image in ") && run.err.contains("hint: `atomos fsck --repair`"),
        "{}",
        run.err
    );
    let run = machine.atomos(&["fsck", "--json"]).code(6);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["images"]["checked"], 1);
    let finding = &report["images"]["findings"][0];
    assert_eq!(finding["problem"], "wrong-digest");
    assert_eq!(finding["deployment"], format!("os/{commit}.0"));
    assert!(finding["path"].as_str().unwrap().ends_with(&file), "{finding}");

    let run = machine.atomos(&["fsck", "--repair", "--dry-run"]).code(6);
    assert!(run.out.contains(" can be made anew\n"), "{}", run.out);
    assert!(run.err.contains("Would make 1 image anew\n"), "{}", run.err);
    machine.atomos(&["fsck"]).code(6);
    let run = machine.atomos(&["fsck", "--repair"]).code(0);
    assert!(
        run.out
            .starts_with(&format!("image of os/{commit}.0 made anew\n")),
        "{}",
        run.out
    );
    assert!(run.err.contains("Made 1 image anew\n"), "{}", run.err);
    assert_eq!(fs::read(&image).unwrap(), whole);
    machine.atomos(&["fsck"]).code(0);
    damage();
    let report = machine.atomos(&["fsck", "--repair", "--json"]).json();
    assert_eq!(report["images"]["repaired"].as_array().unwrap().len(), 1);
    assert_eq!(report["images"]["lost"], serde_json::json!([]));

    // The repository alone has no images.
    damage();
    let repo = machine.scratch.path("machine/atomos/repo");
    machine
        .atomos(&["fsck", "--repo", repo.to_str().unwrap()])
        .code(0);
}

#[test]
fn a_machine_whose_aliases_are_damaged_goes_on_upgrading() {
    let machine = Machine::new();
    machine.commit("1");
    machine.atomos(&["deploy", "os"]).code(0);
    let aliases = machine.scratch.path("machine/atomos/repo/aliases");
    fs::write(&aliases, "\0\0\0\0").unwrap();
    let two = machine.commit("2");
    let run = machine.atomos(&["upgrade"]).code(0);
    assert!(run.err.contains("Deployed 2 ("), "{}", run.err);
    machine.atomos(&["switch", "os"]).code(0);
    machine.atomos(&["deploy", &two]).code(0);
    machine.atomos(&["rollback"]).code(0);
    machine.atomos(&["status"]).code(0);
    machine.atomos(&["fsck"]).code(6);
}

#[test]
fn a_boot_without_its_entries_is_no_boot_that_is_whole() {
    let machine = Machine::new();
    machine.commit("1");
    machine
        .atomos(&["deploy", "os", "--karg", "root=LABEL=root"])
        .code(0);
    machine.atomos(&["boot", "status"]).code(0);
    fs::remove_dir_all(machine.scratch.path("machine/boot/loader/entries")).unwrap();
    let run = machine.atomos(&["boot", "status"]).code(6);
    assert!(
        run.err.contains("is not what the deployments need"),
        "{}",
        run.err
    );
    assert!(run.err.contains("boot recover"), "{}", run.err);
    machine.atomos(&["boot", "recover"]).code(0);
    let report = machine.atomos(&["boot", "status", "--json"]).json();
    assert_eq!(report["behind"], false);
    assert_eq!(report["entries"].as_array().unwrap().len(), 1);
}
