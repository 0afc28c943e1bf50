//! `docs/keys.md`, run from top to bottom.

use std::path::Path;
use std::process::Command;

use crate::common::{Scratch, has_tool};

#[test]
fn what_the_page_on_keys_says_works_and_a_machine_follows() {
    if !has_tool("openssl", "docs/keys.md") {
        return;
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/keys.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> = page
        .split("<!-- keys: a test runs this block -->\n```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 9);
    let scratch = Scratch::new();
    scratch.tree();
    scratch.version("1");
    scratch
        .atomos(&["init", "--repo", "client", "--mode", "bare-user"])
        .code(0);
    let program = Path::new(env!("CARGO_BIN_EXE_atomos")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    for (number, block) in blocks.iter().enumerate() {
        let output = Command::new("sh")
            .args(["-e", "-u", "-c", block])
            .current_dir(scratch.path(""))
            .env_clear()
            // How long something takes is the machine\'s affair.
            .env("ATOMOS_PROGRESS", "never")
            .env("PATH", format!("{}:{path}", program.display()))
            .env("ATOMOS_REPO", scratch.path("repo"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}\n{said}");
        assert!(!said.contains("warning"), "{block}\n{said}");
        if number == 0 {
            // The machine that sleeps through all the rest.
            let site = scratch.path("site");
            let add = [
                "remote",
                "add",
                "origin",
                site.to_str().unwrap(),
                "--key",
                "first.pub",
            ];
            scratch.client(&add).code(0);
            scratch.client(&["pull", "origin", "os"]).code(0);
        }
    }
    scratch.client(&["pull", "origin", "os"]).code(0);
    let model = scratch.client(&["remote", "show", "origin", "--json"]).json();
    assert_eq!(model["key-set"], 5);
    scratch
        .atomos(&["site", "fsck", "site", "--key", "first.pub"])
        .code(0);
    let site = scratch.path("site");
    let new = [
        "remote",
        "add",
        "new",
        site.to_str().unwrap(),
        "--key-set",
        "site/keys/5",
    ];
    scratch.client(&new).code(0);
    scratch.client(&["pull", "new", "os"]).code(0);
}
