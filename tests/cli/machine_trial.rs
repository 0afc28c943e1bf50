//! A version on trial: checked, given up, not installed again.

use super::*;

impl Machine {
    /// Sets what the check of the trees, or of what runs, says.
    fn check(&self, root: &str, script: &str) {
        let path = format!("{root}/usr/lib/atomos/health.d/10-web");
        self.scratch.write(&path, format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(self.scratch.path(&path), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Starts the deployment of the commit, as boot number `id`.
    fn start(&mut self, commit: &str, id: u32) {
        let root = self.root(commit);
        fs::create_dir_all(root.join("proc/sys/kernel/random")).unwrap();
        let boot_id = format!("{id:08x}-0000-4000-8000-000000000000\n");
        fs::write(root.join("proc/sys/kernel/random/boot_id"), boot_id).unwrap();
        self.running = Some(root);
    }

    fn entries(&self) -> Vec<String> {
        let dir = self.scratch.path("machine/boot/loader/entries");
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Counts as systemd-boot does.
    fn count(&self, from: &str, to: &str) {
        let dir = self.scratch.path("machine/boot/loader/entries");
        let name = self.entries().pop().unwrap();
        assert!(name.contains(from), "{name}");
        fs::rename(dir.join(&name), dir.join(name.replace(from, to))).unwrap();
    }
}

#[test]
fn a_version_that_fails_its_checks_is_left_told_of_and_not_installed_again() {
    let mut machine = Machine::new();
    machine.check("tree", "echo no answer; exit 7");
    let one = machine.boot();
    machine.start(&one, 1);
    // The first version has nothing to go back to.
    let run = machine.atomos(&["boot", "check"]).code(21);
    assert!(run.out.contains("failed  10-web  exit code 7\n"), "{}", run.out);
    assert!(run.out.contains("no answer"), "{}", run.out);
    machine.atomos(&["boot", "mark-good"]).code(0);
    machine.commit("2");
    let two = machine.atomos(&["upgrade", "--now", "--json"]).json();
    let two = two["deployment"].as_str().unwrap().to_owned();
    let commit = two.split(['/', '.']).nth(1).unwrap().to_owned();
    assert!(
        machine.entries()[1].ends_with("+3.conf"),
        "{:?}",
        machine.entries()
    );
    let status = machine.atomos(&["status"]).code(0);
    assert!(status.out.contains("on trial, 3 tries left"), "{}", status.out);
    assert!(status.err.contains("panic=10"), "{}", status.err);

    machine.count("+3", "+0-3");
    machine.start(&commit, 2);
    let json = machine.atomos(&["boot", "check", "--no-mark", "--json"]).code(20);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["checks"][0]["code"], 7);
    assert_eq!(json["reboot-helps"], true);
    assert_eq!(json["on-trial"], true);

    machine.start(&one, 3);
    let run = machine.atomos(&["boot", "record"]).code(0);
    assert!(run.err.contains("gave up 2"), "{}", run.err);
    let status = machine.status();
    assert_eq!(status["rolled-back-from"], two.as_str());
    assert_eq!(status["deployments"][0]["assessment"], "bad");
    assert_eq!(status["deployments"][1]["default"], true);
    let attempts = status["rejected"][0]["attempts"].as_array().unwrap();
    let last = attempts.last().unwrap();
    assert_eq!(
        (&last["stage"], &last["failed"][0]["check"]),
        (&"checks".into(), &"10-web".into())
    );
    assert_eq!(last["boot-id"], "00000002000040008000000000000000");
    let text = machine.atomos(&["status"]).code(0).out;
    assert!(text.contains("journalctl -b 00000002"), "{text}");

    let run = machine.atomos(&["upgrade", "--unchanged-exit-77"]).code(77);
    assert!(
        run.err.contains("--allow-rejected") && run.err.contains("boot forget"),
        "{}",
        run.err
    );
    let run = machine.atomos(&["boot", "forget", &commit[..12]]).code(0);
    assert_eq!(run.out.trim(), commit);
    let check = machine.atomos(&["upgrade", "--check", "--json"]).json();
    assert_eq!(check["outcome"], "available");
}

#[test]
fn what_comes_up_is_good_and_a_deadline_is_for_what_does_not() {
    let mut machine = Machine::new();
    machine.check("tree", "exit 0");
    let one = machine.boot();
    machine.start(&one, 1);
    machine.atomos(&["boot", "check"]).code(0);
    machine.atomos(&["boot", "check", "--deadline"]).code(0);
    machine.commit("2");
    let two = machine.atomos(&["upgrade", "--now", "--json"]).json();
    let commit = two["deployment"]
        .as_str()
        .unwrap()
        .split(['/', '.'])
        .nth(1)
        .unwrap()
        .to_owned();
    machine.count("+3", "+2-1");
    machine.start(&commit, 2);
    let run = machine.atomos(&["boot", "record"]).code(0);
    assert!(run.err.contains("on trial, with 2 tries left"), "{}", run.err);
    machine.atomos(&["boot", "check", "--deadline"]).code(20);
    machine.atomos(&["boot", "check"]).code(0);
    assert!(!machine.entries()[1].contains('+'), "{:?}", machine.entries());
    let run = machine.atomos(&["rollback"]).code(0);
    assert!(run.err.contains("may have written to /var"), "{}", run.err);
    machine.atomos(&["boot", "forget", "nope"]).code(3);
    machine.atomos(&["boot", "mark-bad", "default"]).code(0);
    machine.atomos(&["boot", "mark-bad", "booted"]).code(10);
    let conf = machine.atomos(&["boot", "extlinux"]).code(0).out;
    assert!(conf.starts_with("default atomos-2-os-"), "{conf}");
    let back = machine.atomos(&["boot", "extlinux", "--alternative"]).code(0).out;
    assert_eq!(back, conf, "what has failed is no way back");
}

#[test]
fn what_u_boot_gave_up_is_given_up_by_the_hook_and_nothing_else_is() {
    let mut machine = Machine::new();
    machine.check("tree", "exit 0");
    let one = machine.boot();
    machine.start(&one, 1);
    machine.atomos(&["boot", "check"]).code(0);
    machine.commit("2");
    machine.atomos(&["upgrade", "--now"]).code(0);
    let scratch = &machine.scratch;
    let boot = scratch.path("machine/boot");
    fs::create_dir(boot.join("extlinux")).unwrap();
    let environment = scratch.path("env");
    fs::create_dir(&environment).unwrap();
    let program = |name: &str, text: &str| {
        let path = format!("board/{name}");
        scratch.write(&path, format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(scratch.path(&path), PermissionsExt::from_mode(0o755)).unwrap();
    };
    program("fw_printenv", &format!("cat {}/$2", environment.display()));
    program("fw_setenv", &format!("echo $2 >{}/$1", environment.display()));
    program("atomos", &format!("exec {} \"$@\"", env!("CARGO_BIN_EXE_atomos")));
    scratch.write("env/bootlimit", "3\n");
    let hook = |verb: &str, count: &str| {
        scratch.write("env/bootcount", count);
        let hook = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../bootloader-hooks/extlinux/atomos-extlinux"
        );
        let mut command = Command::new("sh");
        for (name, value) in machine.command(&[]).get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let path = std::env::var("PATH").unwrap();
        command
            .args([hook, verb])
            .env_remove("ATOMOS_REPO")
            .env("ATOMOS_BOOT", &boot)
            .env("PATH", format!("{}:{path}", scratch.path("board").display()));
        let run = scratch.run(&mut command).code(0);
        let assessments = machine.status()["deployments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|deployment| deployment["assessment"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>();
        let conf = fs::read_to_string(boot.join("extlinux/extlinux.conf")).unwrap_or_default();
        (run, assessments, conf)
    };

    let (_, before, stale) = hook("update", "1");
    assert!(stale.starts_with("default atomos-2-os-"), "{stale}");
    let (run, after, conf) = hook("boot", "4");
    assert_eq!(after, ["bad", before[1].as_str()], "{run:?}");
    assert!(conf.starts_with("default atomos-1-os-"), "{conf}");
    let back = fs::read_to_string(boot.join("extlinux/alternative.conf")).unwrap();
    assert_eq!(back, conf, "what has failed is no way back");
    // As if it could not have been written.
    fs::write(boot.join("extlinux/extlinux.conf"), stale).unwrap();
    assert_eq!(hook("boot", "4").1, after);
    assert_eq!(fs::read_to_string(environment.join("bootcount")).unwrap(), "0\n");
}
