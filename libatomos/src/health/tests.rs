//! Checks that are scripts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct System {
    scratch: tempfile::TempDir,
}

impl System {
    fn new() -> Self {
        Self {
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, path: &str, mode: u32, text: &str) {
        let path = self.scratch.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Written elsewhere and moved: another test's child must not hold it open for writing when it is executed.
        let fresh = path.with_extension("fresh-copy");
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&fresh, &path).unwrap();
    }

    fn check(&self, name: &str, script: &str) {
        self.file(
            &format!("usr/lib/atomos/health.d/{name}"),
            0o755,
            &format!("#!/bin/sh\n{script}\n"),
        );
    }

    fn run(&self, options: &HealthOptions) -> HealthReport {
        // A child of another test that was just forked may hold the script open for a moment.
        loop {
            let report = run(self.scratch.path(), options, &Cancel::new()).unwrap();
            let busy = |check: &CheckResult| matches!(&check.end, CheckEnd::NotStarted { reason } if reason.contains("busy"));
            if !report.checks.iter().any(busy) {
                return report;
            }
        }
    }

    fn ends(&self) -> Vec<(String, CheckEnd)> {
        let report = self.run(&HealthOptions::default());
        report
            .checks
            .into_iter()
            .map(|check| (check.check, check.end))
            .collect()
    }
}

#[test]
fn a_machine_without_checks_is_well() {
    let report = System::new().run(&HealthOptions::default());
    assert!(report.passed());
    assert_eq!(report, HealthReport::default());
}

#[test]
fn each_check_says_how_it_ended_and_what_it_printed() {
    let system = System::new();
    system.check("10-well", "echo fine");
    system.check("20-ill", "echo out; echo err >&2; exit 3");
    system.check("30-killed", "kill -9 $$");
    system.check("40-env", "test \"$ATOMOS_TEST\" = 1 && test \"$PWD\" = /");
    system.file(
        "usr/lib/atomos/health.d/50-no-program",
        0o755,
        "#!/no/such/interpreter\n",
    );
    system.file("usr/lib/atomos/health.d/README", 0o644, "text");
    system.file(
        "usr/lib/atomos/health.d/60-x.dpkg-old",
        0o755,
        "#!/bin/sh\nexit 1\n",
    );
    let mut options = HealthOptions::default();
    options.variables.push(("ATOMOS_TEST".to_owned(), "1".to_owned()));
    let report = system.run(&options);
    let ends: Vec<_> = report
        .checks
        .iter()
        .map(|check| (check.check.as_str(), &check.end))
        .collect();
    assert_eq!(ends[0], ("10-well", &CheckEnd::Exited { code: 0 }));
    assert_eq!(ends[1], ("20-ill", &CheckEnd::Exited { code: 3 }));
    assert_eq!(ends[2], ("30-killed", &CheckEnd::Killed { signal: 9 }));
    assert_eq!(ends[3], ("40-env", &CheckEnd::Exited { code: 0 }));
    assert!(
        matches!(ends[4], ("50-no-program", CheckEnd::NotStarted { .. })),
        "{ends:?}"
    );
    assert_eq!(ends.len(), 5);
    assert_eq!(report.checks[1].output, "out\nerr");
    assert_eq!(report.not_run.len(), 2, "{:?}", report.not_run);
    let failed: Vec<_> = report.failed().map(|check| check.check.as_str()).collect();
    assert_eq!(failed, ["20-ill", "30-killed", "50-no-program"]);
}

#[test]
fn what_is_in_etc_comes_first_and_takes_a_check_away() {
    let system = System::new();
    system.check("a", "exit 1");
    system.check("b", "exit 1");
    system.file("etc/atomos/health.d/a", 0o755, "#!/bin/sh\nexit 0\n");
    symlink("/dev/null", system.scratch.path().join("etc/atomos/health.d/b")).unwrap();
    assert_eq!(system.ends(), [("a".to_owned(), CheckEnd::Exited { code: 0 })]);
}

#[test]
fn what_is_wanted_decides_nothing() {
    let system = System::new();
    system.check("wanted.d/network", "exit 1");
    let report = system.run(&HealthOptions::default());
    assert_eq!(report.checks[0].check, "wanted.d/network");
    assert!(!report.checks[0].passed() && report.passed());
}

#[test]
fn a_check_that_does_not_end_is_killed_with_what_it_started_and_others_are_not_kept_waiting() {
    let system = System::new();
    let alive = system.scratch.path().join("alive");
    // Both processes would run for as long as nobody ends them.
    system.check(
        "hangs",
        "echo begun\ntail -f /dev/null &\necho $! > \"$ALIVE\"\nwait",
    );
    system.check("other", "exit 0");
    let options = HealthOptions {
        timeout: Duration::from_secs(1),
        variables: vec![("ALIVE".to_owned(), alive.display().to_string())],
        ..HealthOptions::default()
    };
    let report = system.run(&options);
    assert_eq!(report.checks[0].end, CheckEnd::TimedOut { seconds: 1 });
    // A machine that is slow enough gives it no time to say anything.
    if let Ok(pid) = fs::read_to_string(&alive) {
        let pid = pid.trim();
        while fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| stat.contains("(tail)") && !stat.contains(") Z "))
        {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_check_that_leaves_something_running_ends_when_it_ends() {
    let system = System::new();
    // What it leaves holds the pipe open.
    system.check("leaves", "tail -f /dev/null &\nexit 0");
    assert_eq!(
        system.ends(),
        [("leaves".to_owned(), CheckEnd::Exited { code: 0 })]
    );
}

#[test]
fn of_much_output_the_end_is_kept() {
    let system = System::new();
    system.check(
        "talks",
        "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; exit 1",
    );
    let options = HealthOptions {
        max_output: 100,
        ..HealthOptions::default()
    };
    let output = &system.run(&options).checks[0].output;
    assert!(
        output.ends_with("line 4999") && output.len() <= 100 && output.starts_with("line "),
        "{output}"
    );
}

#[test]
fn who_stops_gets_no_report() {
    let system = System::new();
    system.check("hangs", "tail -f /dev/null");
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(run(system.scratch.path(), &HealthOptions::default(), &cancel).is_err());
}
