//! Files that a person names for what a verb writes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{FileType, Mode};

use crate::common::{Run, Scratch, is_root, published};

const EXPORT: &[&str] = &["export", "os", "-o"];
const BUNDLE: &[&str] = &["bundle", "create", "site", "os", "-o"];

fn write_to(scratch: &Scratch, verb: &[&str], file: &str) -> Run {
    scratch.atomos(&[verb, &[file]].concat())
}

/// Returns what a verb writes where nothing is in its way.
fn written(scratch: &Scratch, verb: &[&str]) -> Vec<u8> {
    write_to(scratch, verb, "plain").code(0);
    let bytes = fs::read(scratch.path("plain")).unwrap();
    fs::remove_file(scratch.path("plain")).unwrap();
    bytes
}

fn make_node(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::from_raw_mode(0o666), device).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_device_or_a_pipe_is_written_to_and_not_replaced() {
    let scratch = published();
    let pipe = scratch.path("pipe");
    make_node(&pipe, FileType::Fifo, 0);
    for verb in [EXPORT, BUNDLE] {
        let wanted = written(&scratch, verb);
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        // Otherwise the reader would wait for ever for somebody to write.
        let held = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let run = write_to(&scratch, verb, "pipe");
        drop(held);
        assert_eq!(reader.join().unwrap(), wanted, "{verb:?}");
        run.code(0);
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    }
    if !is_root("writing to a device") {
        return;
    }
    let device = scratch.path("device");
    // The null device, under a name of its own.
    make_node(&device, FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    for verb in [EXPORT, BUNDLE] {
        write_to(&scratch, verb, "device").code(0);
        assert!(
            fs::symlink_metadata(&device)
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }
}

#[test]
fn standard_output_by_name_is_written_to_where_it_is() {
    let scratch = published();
    scratch.symlink("/dev/stdout", "out");
    for verb in [EXPORT, BUNDLE] {
        let wanted = written(&scratch, verb);
        let args = [verb, &["out"]].concat();
        let piped = scratch.command(&args).output().unwrap();
        assert_eq!(piped.stdout, wanted, "{verb:?}");
        // A file that has something already, and a writer that goes on afterwards.
        let path = scratch.path("appended");
        fs::write(&path, "before").unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        scratch
            .run(scratch.command(&args).stdout(file.try_clone().unwrap()))
            .code(0);
        file.write_all(b"after").unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes, [b"before", &wanted[..], b"after"].concat(), "{verb:?}");
    }
    assert!(fs::symlink_metadata(scratch.path("out")).unwrap().is_symlink());
}

#[test]
fn a_link_keeps_leading_to_the_file_that_is_written() {
    let scratch = published();
    fs::create_dir(scratch.path("elsewhere")).unwrap();
    for target in ["elsewhere/old", "elsewhere/new"] {
        fs::write(scratch.path("elsewhere/old"), "old").unwrap();
        for verb in [EXPORT, BUNDLE] {
            let wanted = written(&scratch, verb);
            // By way of another one, which is relative to where it lies.
            let _ = fs::remove_file(scratch.path("elsewhere/link"));
            let _ = fs::remove_file(scratch.path("link"));
            scratch.symlink(target.strip_prefix("elsewhere/").unwrap(), "elsewhere/link");
            scratch.symlink("elsewhere/link", "link");
            write_to(&scratch, verb, "link").code(0);
            assert!(fs::symlink_metadata(scratch.path("link")).unwrap().is_symlink());
            let file = scratch.path(target);
            assert!(fs::symlink_metadata(&file).unwrap().is_file());
            assert_eq!(fs::read(file).unwrap(), wanted, "{verb:?} {target}");
            fs::remove_file(scratch.path(target)).unwrap();
        }
    }
    let create = [
        "key", "set", "create", "--root", "key.pub", "--record", "key.pub", "-o", "set",
    ];
    scratch.atomos(&create).code(0);
    scratch.symlink("set", "set-link");
    scratch
        .atomos(&["key", "set", "sign", "set-link", "--key", "key"])
        .code(0);
    assert!(
        fs::symlink_metadata(scratch.path("set-link"))
            .unwrap()
            .is_symlink()
    );
    let signed = fs::read_to_string(scratch.path("set")).unwrap();
    assert!(signed.contains("\"signatures\""), "{signed}");
}

#[test]
fn what_is_written_under_another_name_first_takes_no_file_of_anybody() {
    let scratch = published();
    for verb in [EXPORT, BUNDLE, &["key", "set", "sign", "--key", "key"]] {
        let dir = scratch.path("dir");
        fs::create_dir(&dir).unwrap();
        if verb[0] == "key" {
            let set = "dir/out";
            let args = [
                "key", "set", "create", "--root", "key.pub", "--record", "key.pub", "-o", set,
            ];
            scratch.atomos(&args).code(0);
        }
        fs::write(dir.join("precious"), "precious").unwrap();
        // The shell's process becomes the program's.
        let script = "ln -s precious dir/out.new; ln -s precious dir/.out.new; ln -s precious dir/.out.$$; exec \"$@\"";
        let program = scratch.command(&[verb, &["dir/out"]].concat());
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script, "sh"])
            .arg(program.get_program())
            .args(program.get_args())
            .current_dir(scratch.path(""));
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        scratch.run(&mut command).code(0);
        assert_eq!(fs::read(dir.join("precious")).unwrap(), b"precious", "{verb:?}");
        let names = names(&dir);
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(fs::symlink_metadata(dir.join("out")).unwrap().is_file());
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn what_cannot_be_written_is_named_and_leaves_nothing() {
    let scratch = published();
    fs::create_dir(scratch.path("dir")).unwrap();
    fs::write(scratch.path("kept"), "kept").unwrap();
    let before = names(&scratch.path(""));
    for verb in [EXPORT, BUNDLE] {
        for file in ["dir", "nowhere/file", "kept/file", ".."] {
            let run = write_to(&scratch, verb, file);
            assert!(
                run.code != 0 && run.err.contains("cannot write"),
                "{file}: {run:?}"
            );
        }
    }
    scratch
        .atomos(&["bundle", "create", "site", "nope", "-o", "kept"])
        .code(3);
    assert_eq!(names(&scratch.path("")), before);
    let mut kept = String::new();
    let mut file = fs::File::open(scratch.path("kept")).unwrap();
    file.read_to_string(&mut kept).unwrap();
    assert_eq!(kept, "kept");
}
