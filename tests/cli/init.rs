use crate::common::{Scratch, is_root};

#[test]
fn a_repository_is_made_and_says_its_mode() {
    let scratch = Scratch::empty();
    let run = scratch.atomos(&["init", "--mode", "bare-user"]).code(0);
    assert_eq!(run.out, "");
    assert_eq!(run.err, "Made the bare-user repository [SCRATCH]/repo\n");
    scratch.atomos(&["fsck"]).code(0);
}

#[test]
fn the_mode_follows_from_who_asks() {
    let scratch = Scratch::empty();
    let made = scratch.atomos(&["init", "--json"]).json();
    let expected = if is_root("the default mode of ordinary users' opposite") {
        "bare"
    } else {
        "bare-user"
    };
    assert_eq!(made["mode"], expected);
    assert_eq!(made["id"].as_str().unwrap().len(), 32);
}

#[test]
fn making_it_twice_is_no_error() {
    let scratch = Scratch::new();
    let run = scratch.atomos(&["init", "--mode", "bare-user"]).code(0);
    assert_eq!(
        run.err,
        "There is a bare-user repository at [SCRATCH]/repo already.\n"
    );
}

#[test]
fn a_directory_that_is_not_empty_is_refused() {
    let scratch = Scratch::empty();
    scratch.write("repo/letter", "dear");
    let run = scratch.atomos(&["init", "--mode", "bare-user"]).code(4);
    assert_eq!(
        run.err,
        "error: cannot make a repository at [SCRATCH]/repo: the directory is not empty\n\
         hint: choose an empty directory with --repo DIR, or another --mode\n"
    );
}

#[test]
fn the_sysroot_is_not_taken_by_accident() {
    let scratch = Scratch::empty();
    let run = scratch
        .run(scratch.command(&["init"]).env_remove("ATOMOS_REPO"))
        .code(2);
    assert!(run.err.contains("no directory was named"), "{}", run.err);
    assert!(
        run.err.contains("hint: name one: `atomos init --repo DIR`"),
        "{}",
        run.err
    );
}
