//! The program around the updater.
//!
//! `updater-daemon --sysroot DIR --memory DIR` does one round on a machine, as a timer would start it; the line
//! `cancel` on standard input ends it early. With `--broker SOCKET` it reaches remotes by way of a broker there. Without arguments it plays a whole life on a machine of its own making.

use std::error::Error as _;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use libatomos::NoProgress;
use libatomos::sysroot::{DeployPreview, SysrootOptions};
use updater_daemon::broker::BrokerTransport;
use updater_daemon::machine::Machine;
use updater_daemon::{Applied, Error, Finding, Job, Updater, Verdict};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] => play(),
        ["--sysroot", sysroot, "--memory", memory] => round(Path::new(sysroot), Path::new(memory), None),
        ["--sysroot", sysroot, "--memory", memory, "--broker", socket] => {
            round(Path::new(sysroot), Path::new(memory), Some(Path::new(socket)))
        }
        _ => {
            eprintln!("usage: updater-daemon [--sysroot DIR --memory DIR [--broker SOCKET]]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  caused by: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// One round: look, and update where there is something new.
fn round(sysroot: &Path, memory: &Path, broker: Option<&Path>) -> Result<(), Error> {
    let mut updater = Updater::new(sysroot, SysrootOptions::default(), memory, Arc::new(NoProgress));
    if let Some(socket) = broker {
        let socket = socket.to_owned();
        updater = updater.over(Arc::new(move |_, cancel| {
            vec![Box::new(BrokerTransport::new(&socket, cancel))]
        }));
    }
    match updater.check()? {
        Finding::UpToDate => println!("up to date"),
        Finding::Rejected(commit) => println!("{} is newer, and did not work here before", commit.short()),
        Finding::Update(update) => {
            println!("{} {} is newer", update.reference, update.version);
            let job = updater.start(*update, Box::new(inspect));
            let canceller = job.canceller();
            // It ends with the process, whenever that is.
            thread::spawn(move || {
                if io::stdin()
                    .lock()
                    .lines()
                    .map_while(Result::ok)
                    .any(|line| line == "cancel")
                {
                    canceller.cancel();
                }
            });
            match watch(job) {
                Err(error) if error.is_cancelled() => println!("cancelled; the next round goes on from here"),
                result => announce(&result?),
            }
        }
    }
    Ok(())
}

/// Agrees to everything that leaves no conflict in a file that logins depend on.
fn inspect(plan: &DeployPreview) -> Verdict {
    println!("the plan is to make {}", plan.deployment.short());
    let Some(etc) = &plan.etc else {
        return Verdict::Apply;
    };
    let counts = etc.counts();
    println!(
        "  /etc: {} new defaults, {} of this machine's own, {} in conflict",
        counts.default, counts.mine, counts.conflicts
    );
    for old in &plan.removed {
        println!("  {} will be removed", old.short());
    }
    let fatal = etc
        .conflicts()
        .find(|conflict| conflict.path.to_string().contains("pam.d/"));
    match fatal {
        Some(conflict) => Verdict::Refuse(format!("{} is in conflict", conflict.path)),
        None => Verdict::Apply,
    }
}

/// Says now and then how far it is, and then how it ended.
fn watch(job: Job<Applied>) -> Result<Applied, Error> {
    while !job.is_finished() {
        let snapshot = job.board().snapshot();
        if let (Some(phase), Some(percent)) = (snapshot.phase, snapshot.percent()) {
            println!("  {} {percent} %", phase.label());
        }
        thread::sleep(Duration::from_millis(50));
    }
    job.wait()
}

fn announce(applied: &Applied) {
    if let Some(pulled) = &applied.pulled {
        println!(
            "downloaded {} new files, and took {} over from an earlier attempt",
            pulled.stats.blobs_added, pulled.stats.resumed
        );
    }
    if let Some(received) = &applied.received {
        println!(
            "received {} new files in {} requests, signed by the vendor",
            received.missing_blobs, received.traffic.requests
        );
    }
    println!("the next boot is {}", applied.deployed.deployment.short());
}

/// The whole life of a small machine.
fn play() -> Result<(), Error> {
    let mut machine = Machine::new()?;
    machine.publish("1.0")?;
    println!("installed {}", machine.install()?.short());
    let updater = |machine: &Machine| {
        let (sysroot, memory): (PathBuf, PathBuf) = (machine.sysroot(), machine.memory());
        Updater::new(&sysroot, machine.options(), &memory, Arc::new(NoProgress))
    };
    println!("1.0 is good: {}", updater(&machine).mark_good()?.short());

    machine.publish("2.0")?;
    let Finding::Update(update) = updater(&machine).check()? else {
        return Err(Error::Refused("2.0 was not found".to_owned()));
    };
    println!("{} {} is newer", update.reference, update.version);
    announce(&watch(updater(&machine).start(*update, Box::new(inspect)))?);
    println!("booted {}", machine.boot()?.short());

    println!(
        "2.0 does not work; back to {}",
        updater(&machine).give_up()?.short()
    );
    println!("booted {}", machine.boot()?.short());
    match updater(&machine).check()? {
        Finding::Rejected(commit) => println!("{} is newer, and is not taken again", commit.short()),
        other => return Err(Error::Refused(format!("2.0 would be taken again: {other:?}"))),
    }
    Ok(())
}
