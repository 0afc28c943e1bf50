use crate::common::Scratch;

fn committed() -> Scratch {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch
}

#[test]
fn a_directory_is_listed_by_name() {
    let scratch = committed();
    assert_eq!(scratch.atomos(&["ls", "os"]).ok(), "bin\netc\nusr\n");
    assert_eq!(scratch.atomos(&["ls", "os", "/etc"]).ok(), "motd\nos-release\n");
    assert_eq!(scratch.atomos(&["ls", "os", "etc/motd"]).ok(), "motd\n");
    assert_eq!(
        scratch.atomos(&["ls", "os^{tree}", "usr//lib/."]).ok(),
        "os-release\n"
    );
}

#[test]
fn a_link_is_followed_on_the_way_and_with_a_slash_after_it() {
    let scratch = committed();
    assert_eq!(scratch.atomos(&["ls", "os", "/bin"]).ok(), "bin\n");
    assert_eq!(scratch.atomos(&["ls", "os", "/bin/"]).ok(), "sh\n");
    assert_eq!(scratch.atomos(&["ls", "os", "/bin/sh"]).ok(), "sh\n");
}

#[test]
fn the_long_form_shows_all_that_stat_does() {
    let scratch = committed();
    assert_eq!(
        scratch.atomos(&["ls", "-lR", "os"]).ok(),
        "\
lrwxrwxrwx      0     0           7 1970-01-01 00:00:00 UTC /bin -> usr/bin
drwxr-xr-x      0     0           - 1970-01-01 00:00:00 UTC /etc
-rw-r--r--      0     0           6 1970-01-01 00:00:00 UTC /etc/motd
lrwxrwxrwx      0     0          21 1970-01-01 00:00:00 UTC /etc/os-release -> ../usr/lib/os-release
drwxr-xr-x      0     0           - 1970-01-01 00:00:00 UTC /usr
drwxr-xr-x      0     0           - 1970-01-01 00:00:00 UTC /usr/bin
-rwxr-xr-x      0     0           3 1970-01-01 00:00:00 UTC /usr/bin/sh
drwxr-xr-x      0     0           - 1970-01-01 00:00:00 UTC /usr/lib
-rw-r--r--      0     0           8 1970-01-01 00:00:00 UTC /usr/lib/os-release
"
    );
}

#[test]
fn json_has_an_element_for_each_entry() {
    let scratch = committed();
    let list = scratch.atomos(&["ls", "-R", "--json", "os"]).json();
    assert_eq!(list.as_array().unwrap().len(), 9);
    assert_eq!(list[0]["path"], "/bin");
    assert_eq!(list[0]["kind"], "symlink");
    assert_eq!(list[0]["target"], "usr/bin");
    assert_eq!(list[2]["path"], "/etc/motd");
    assert_eq!(list[2]["kind"], "file");
    assert_eq!(list[2]["size"], 6);
    assert_eq!(list[2]["mode"], "0644");
    assert_eq!(list[2]["blob"].as_str().unwrap().len(), 64);
}

#[test]
fn a_name_cannot_talk_to_the_terminal() {
    let scratch = Scratch::new();
    scratch.write("tree/a\x1b[31mb\n", "");
    std::fs::write(
        scratch
            .path("tree")
            .join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
                b"\xff",
            )),
        "",
    )
    .unwrap();
    scratch.commit("odd");
    assert_eq!(scratch.atomos(&["ls", "os"]).ok(), "a\\x1b[31mb\\n\n\\xff\n");
    let list = scratch.atomos(&["ls", "--json", "os"]).json();
    assert_eq!(list[0]["path"], "/a\x1b[31mb\n");
    assert!(list[0].get("path-hex").is_none());
    assert_eq!(list[1]["path-hex"], "2fff");
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let scratch = committed();
    let run = scratch.atomos(&["ls", "os", "/etc/nope"]).code(3);
    assert_eq!(
        run.err,
        "error: /etc/nope in os: it does not exist\nhint: `atomos ls -R os` lists the tree\n"
    );
}
