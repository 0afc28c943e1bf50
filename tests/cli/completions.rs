use crate::common::Scratch;

#[test]
fn every_shell_gets_a_script() {
    let scratch = Scratch::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = scratch.atomos(&["completions", shell]).ok();
        assert!(script.contains("rev-parse"), "{shell}");
    }
    scratch.atomos(&["completions", "csh"]).code(2);
}

#[test]
fn help_is_a_verb_too() {
    let scratch = Scratch::empty();
    for verb in [&[][..], &["upgrade"], &["site", "withdraw"]] {
        let asked = scratch.atomos(&[&["help"], verb].concat()).ok();
        assert_eq!(asked, scratch.atomos(&[verb, &["--help"]].concat()).ok());
    }
    let run = scratch.atomos(&["help", "upgrad"]).code(2);
    assert!(
        run.err.contains("unrecognized subcommand 'upgrad'"),
        "{}",
        run.err
    );
}

#[test]
fn every_verb_gets_a_manual_page() {
    let scratch = Scratch::empty();
    scratch.atomos(&["man", "man1"]).code(0);
    let page = std::fs::read_to_string(scratch.path("man1/atomos-commit.1")).unwrap();
    assert!(page.contains("SOURCE_DATE_EPOCH"), "{page}");
    assert!(scratch.path("man1/atomos.1").exists());
}
