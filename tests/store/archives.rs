//! Archives as sources: the tree is the one that was archived, and no archive reaches anything else.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libatomos::Cancel;
use libatomos::archive::{Member, MemberKind, TarWriter};
use libatomos::checkout::{CheckoutOptions, UpdateOptions, update};
use libatomos::commit::{CommitOptions, CommitReport, commit};
use libatomos::digest::DirTreeId;
use libatomos::error::ErrorKind;
use libatomos::format::{Metadata, Node};
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::{FsckOptions, RepoMode};
use libatomos::source::{Source, SourceError, SourceOptions, StatOverride, commit_sources};
use libatomos::testing::{OddTree, Order, TestRepo, acl, is_root_or_skip, memory_dir, skip};
use proptest::prelude::*;

pub fn tar_source(bytes: Vec<u8>) -> Source {
    Source::Tar {
        name: PathBuf::from("a.tar"),
        stream: Box::new(std::io::Cursor::new(bytes)),
    }
}

pub fn commit_all(repo: &TestRepo, sources: Vec<Source>) -> Result<CommitReport, SourceError> {
    let options = SourceOptions::default();
    commit_sources(repo.repo(), sources, &options, &NoProgress, &Cancel::new())
}

fn commit_tar(repo: &TestRepo, bytes: Vec<u8>) -> Result<CommitReport, SourceError> {
    commit_all(repo, vec![tar_source(bytes)])
}

fn commit_dir(repo: &TestRepo, path: &Path) -> DirTreeId {
    let source = Dir::open_ambient(path).unwrap();
    let options = CommitOptions::default();
    commit(repo.repo(), source, &options, &NoProgress, &Cancel::new())
        .unwrap()
        .root
}

pub fn member(path: &str, kind: MemberKind) -> Member {
    Member {
        path: path.as_bytes().to_vec(),
        metadata: Metadata::with_mode(0o644),
        kind,
        literal: false,
    }
}

pub fn file(path: &str, bytes: &str) -> (Member, Vec<u8>) {
    let size = bytes.len() as u64;
    (member(path, MemberKind::File { size }), bytes.as_bytes().to_vec())
}

pub fn other(path: &str, kind: MemberKind) -> (Member, Vec<u8>) {
    (member(path, kind), Vec::new())
}

pub fn archive(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (member, bytes) in members {
        writer.write_member(member).unwrap();
        writer.write_data(bytes).unwrap();
        writer.end_file(bytes.len() as u64).unwrap();
    }
    writer.finish().unwrap()
}

/// Returns the paths of a commit's tree with what files hold and where links point.
pub fn listing(repo: &TestRepo, report: &CommitReport) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack = vec![(report.root, String::new())];
    while let Some((tree, path)) = stack.pop() {
        for entry in repo.repo().load_dirtree(&tree).unwrap().entries() {
            let path = format!("{path}/{}", entry.name.escape_ascii());
            match &entry.node {
                Node::Dir { tree } => {
                    found.push(format!("{path}/"));
                    stack.push((*tree, path));
                }
                Node::File { blob, .. } => {
                    let mut bytes = Vec::new();
                    let blob = repo.repo().open_blob(blob).unwrap();
                    blob.take(4096).read_to_end(&mut bytes).unwrap();
                    found.push(format!("{path}={}", bytes.escape_ascii()));
                }
                Node::Symlink { target } => found.push(format!("{path}->{}", target.escape_ascii())),
                other => found.push(format!("{path}:{}", other.letter())),
            }
        }
    }
    found.sort();
    found
}

#[track_caller]
fn refused(members: &[(Member, Vec<u8>)], name: &str, rule: &str) {
    let repo = TestRepo::new();
    let error = commit_tar(&repo, archive(members)).unwrap_err();
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(text.contains(name) && text.contains(rule), "{text}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(repo.repo().refs().unwrap().is_empty());
}

#[test]
fn what_would_lead_out_of_the_tree_is_refused_and_named() {
    let link = |target: &str| MemberKind::Symlink(target.into());
    let hard = |target: &str| MemberKind::HardLink(target.into());
    refused(&[file("a/../../x", "")], "a/../../x", "\"..\"");
    refused(&[file("..", "")], "..", "\"..\"");
    refused(&[file("/etc/passwd", "")], "/etc/passwd", "absolute");
    refused(
        &[other("d", link("/etc")), file("d/passwd", "x")],
        "d/passwd",
        "a symbolic link",
    );
    refused(
        &[other("d", link(".")), other("d/e", MemberKind::Dir)],
        "d/e",
        "a symbolic link",
    );
    refused(&[file("f", "x"), file("f/g", "x")], "f/g", "no directory");
    refused(&[other("h", hard("../../etc/passwd"))], "h", "\"..\"");
    refused(&[other("h", hard("/etc/passwd"))], "h", "absolute");
    refused(&[other("h", hard("missing"))], "h", "does not stand before it");
    refused(
        &[other("d", MemberKind::Dir), other("h", hard("d"))],
        "h",
        "is a directory",
    );
    refused(
        &[other("d", link("/etc")), other("h", hard("d/passwd"))],
        "h",
        "a symbolic link",
    );
    refused(&[file(&"n".repeat(256), "")], "nnn", "longer than 255");
    refused(&[file(&"d/".repeat(2100), "")], "d/d/d", "2048");
    refused(&[file(".", "x")], ".", "root");
    refused(&[file("a/b", ""), file("a/.wh...", "")], ".wh...", "name nothing");
    refused(&[file("a/b", ""), file("a/.wh.", "")], ".wh.", "name nothing");
}

#[test]
fn the_last_of_several_members_of_a_name_stands() {
    let repo = TestRepo::new();
    let report = commit_tar(
        &repo,
        archive(&[
            file("x", "1"),
            file("x", "2"),
            other("d", MemberKind::Dir),
            file("d/kept", "3"),
            other("d", MemberKind::Dir),
            other("e", MemberKind::Dir),
            file("e/gone", "4"),
            file("e", "5"),
            other("e", MemberKind::Dir),
            file("e/new", "6"),
            other("l", MemberKind::Symlink(b"x".to_vec())),
            file("l", "7"),
            other("x", MemberKind::HardLink(b"x".to_vec())),
        ]),
    )
    .unwrap();
    let wanted = ["/d/", "/d/kept=3", "/e/", "/e/new=6", "/l=7", "/x=2"];
    assert_eq!(listing(&repo, &report), wanted);
    assert!(repo.fsck().findings.is_empty());
    // What was replaced is not in the store.
    assert_eq!(report.stats.blobs_added, 4);
}

#[test]
fn a_hard_link_has_what_its_target_had_then() {
    let repo = TestRepo::new();
    let mut first = file("a", "old");
    first.0.metadata.mode = 0o4755;
    let report = commit_tar(
        &repo,
        archive(&[
            first,
            other("b", MemberKind::HardLink(b"./a".to_vec())),
            file("a", "new"),
            other("s", MemberKind::Symlink(b"nowhere".to_vec())),
            other("t", MemberKind::HardLink(b"s".to_vec())),
        ]),
    )
    .unwrap();
    let wanted = ["/a=new", "/b=old", "/s->nowhere", "/t->nowhere"];
    assert_eq!(listing(&repo, &report), wanted);
    let root = repo.repo().load_dirtree(&report.root).unwrap();
    assert_eq!(root.get(b"b").unwrap().metadata.mode, 0o4755);
    assert_eq!(root.get(b"a").unwrap().metadata.mode, 0o644);
}

#[test]
fn a_hard_link_to_a_file_of_a_directory_before_is_that_file_under_whatever_name() {
    let repo = TestRepo::new();
    let lower = repo.scratch().join("lower");
    std::fs::create_dir_all(lower.join("bin")).unwrap();
    std::fs::write(lower.join("bin/a"), "AAA").unwrap();
    std::fs::write(lower.join("bin/b"), "another").unwrap();
    let upper = archive(&[
        other("bin/b", MemberKind::HardLink(b"bin/a".to_vec())),
        other("bin/new", MemberKind::HardLink(b"bin/a".to_vec())),
    ]);
    let report = commit_all(
        &repo,
        vec![Source::Dir(Dir::open_ambient(&lower).unwrap()), tar_source(upper)],
    )
    .unwrap();
    let wanted = ["/bin/", "/bin/a=AAA", "/bin/b=AAA", "/bin/new=AAA"];
    assert_eq!(listing(&repo, &report), wanted);
}

#[test]
fn whiteouts_remove_what_the_sources_before_have_and_nothing_of_their_own() {
    let repo = TestRepo::new();
    let lower = archive(&[
        file("a/one", "1"),
        file("a/two", "2"),
        file("b/three", "3"),
        file("b/deep/four", "4"),
        file("c", "5"),
        file("d/five", "5"),
    ]);
    let upper = archive(&[
        file("a/.wh.one", ""),
        file("b/new", "n"),
        file("b/.wh..wh..opq", ""),
        file("b/deep/six", "6"),
        file(".wh.c", ""),
        file("c", "again"),
        file("d/.wh..wh.plnk", ""),
        file(".wh.missing", ""),
        file("nowhere/.wh.x", ""),
        file("d/seven", "7"),
        file(".wh.d", ""),
    ]);
    let report = commit_all(&repo, vec![tar_source(lower), tar_source(upper)]).unwrap();
    let wanted = [
        "/a/",
        "/a/two=2",
        "/b/",
        "/b/deep/",
        "/b/deep/six=6",
        "/b/new=n",
        "/c=again",
        "/d/",
        "/d/seven=7",
    ];
    assert_eq!(listing(&repo, &report), wanted);
}

#[test]
fn a_directory_that_no_path_leads_to_is_refused() {
    let long = |bytes: usize| {
        let mut path = "d".repeat(200);
        while path.len() + 201 < bytes {
            path = format!("{path}/{}", "d".repeat(200));
        }
        let rest = bytes - path.len() - 1;
        format!("{path}/{}", "e".repeat(rest))
    };
    refused(&[other(&long(4096), MemberKind::Dir)], "eee", "4096 bytes");
    refused(&[file(&format!("{}/f", long(4096)), "")], "/f", "4096 bytes");
    refused(
        &[file(&long(4096), ""), other(&long(4096), MemberKind::Dir)],
        "eee",
        "4096 bytes",
    );
    // The longest that there is can be checked out, committed from there, and updated.
    let repo = TestRepo::new();
    let path = long(4095);
    let [old, new] = ["1", "2"].map(|text| {
        let source = archive(&[file(&format!("{path}/f"), text)]);
        commit_tar(&repo, source).unwrap()
    });
    let out = repo.scratch().join("out");
    let mut options = CheckoutOptions::default();
    options.remember = true;
    let _made = repo.checkout(&old.commit.to_string(), &out, &options).unwrap();
    assert_eq!(commit_dir(&repo, &out), old.root);
    let (rev, how) = (new.commit.to_string(), UpdateOptions::default());
    update(
        repo.repo(),
        &rev,
        &out,
        &options,
        &how,
        &NoProgress,
        &Cancel::new(),
    )
    .unwrap();
    assert_eq!(commit_dir(&repo, &out), new.root);
}

#[test]
fn a_name_that_says_so_is_no_whiteout() {
    let repo = TestRepo::new();
    let mut literal = file("d/.wh.x", "text");
    literal.0.literal = true;
    let report = commit_tar(&repo, archive(&[file("d/x", ""), literal])).unwrap();
    assert_eq!(listing(&repo, &report), ["/d/", "/d/.wh.x=text", "/d/x="]);
}

#[test]
fn attributes_that_the_kernel_would_not_keep_are_refused_and_those_of_one_machine_left_out() {
    if !is_root_or_skip("attributes of the system") {
        return;
    }
    let with = |name: &str, value: &[u8]| {
        let (mut member, bytes) = file("f", "bytes");
        member.metadata.xattrs.insert(name.into(), value.to_vec());
        archive(&[(member, bytes)])
    };
    let repo = TestRepo::new();
    let plain = commit_tar(&repo, archive(&[file("f", "bytes")])).unwrap().root;
    for name in ["trusted.overlay.opaque", "security.evm", "system.nfs4_acl"] {
        let report = commit_tar(&repo, with(name, b"y")).unwrap();
        assert_eq!(report.root, plain, "{name}");
    }
    const ACL: &str = "system.posix_acl_access";
    let good = acl(6, &[(1000, 4)], 4, 4, 4);
    commit_tar(&repo, with(ACL, &good)).unwrap();
    let mut mask_with_id = good;
    mask_with_id[32] = 7;
    // The mask is what a mode says of the group, which is 4.
    let other_mode = acl(6, &[(1000, 4)], 4, 6, 4);
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let caps = "security.capability";
    commit_tar(&repo, with(caps, &words(&[0x0200_0001, 1 << 13, 0, 0, 0]))).unwrap();
    commit_tar(&repo, with(caps, &words(&[0x0300_0000, 1, 0, 0, 0, 1000]))).unwrap();
    for (name, value) in [
        (ACL, mask_with_id),
        (ACL, other_mode),
        (ACL, b"junk".to_vec()),
        ("system.posix_acl_default", acl(6, &[(1000, 4)], 4, 4, 4)),
        (caps, b"junk".to_vec()),
        (caps, words(&[0x0100_0001, 0, 0])),
        // What the kernel gives back as version 2.
        (caps, words(&[0x0300_0000, 1, 0, 0, 0, 0])),
        ("com.apple.quarantine", b"x".to_vec()),
        ("system.other", b"x".to_vec()),
    ] {
        let error = commit_tar(&repo, with(name, &value)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("member f:") && text.contains(name), "{text}");
        repo.assert_clean();
    }
}

#[test]
fn an_attribute_of_users_on_a_link_is_refused_when_it_is_read() {
    let mut link = member("link", MemberKind::Symlink(b"f".to_vec()));
    let xattrs = &mut link.metadata.xattrs;
    xattrs.insert(b"user.a".to_vec(), b"b".to_vec());
    refused(&[file("f", ""), (link, Vec::new())], "link", "user.a");
}

#[test]
fn lists_of_bsdtar_are_those_of_the_files() {
    if !is_root_or_skip("access control lists") {
        return;
    }
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "bytes").unwrap();
    let list = acl(6, &[(1000, 7)], 4, 7, 4);
    let set = rustix::fs::setxattr(
        source.join("file"),
        "system.posix_acl_access",
        &list,
        rustix::fs::XattrFlags::empty(),
    );
    let packed = Command::new("bsdtar")
        .args(["--format=pax", "--acls", "--numeric-owner", "-cf", "-", "."])
        .current_dir(&source)
        .output();
    let (Ok(()), Ok(packed)) = (set, packed) else {
        return skip("lists of bsdtar", "no lists, or no bsdtar");
    };
    assert!(packed.status.success());
    // The kernel shows the mask as the rights of the group, and bsdtar writes those that the group has.
    let report = commit_tar(&repo, packed.stdout).unwrap();
    assert_eq!(report.root, commit_dir(&repo, &source));
    repo.assert_clean();
}

#[test]
fn sources_of_each_kind_are_laid_over_one_another() {
    let repo = TestRepo::new();
    let base = commit_tar(
        &repo,
        archive(&[file("a/one", "1"), file("a/two", "2"), file("b", "3")]),
    )
    .unwrap();
    let dir = tempfile::tempdir_in(memory_dir()).unwrap();
    std::fs::create_dir_all(dir.path().join("a/sub")).unwrap();
    std::fs::write(dir.path().join("a/two"), "from the directory").unwrap();
    std::fs::write(dir.path().join("a/sub/x"), "x").unwrap();
    let second = tempfile::tempdir_in(memory_dir()).unwrap();
    std::fs::create_dir_all(second.path().join("a/sub")).unwrap();
    std::fs::write(second.path().join("a/sub/y"), "y").unwrap();
    let sources = vec![
        Source::Commit(base.commit),
        Source::Dir(Dir::open_ambient(dir.path()).unwrap()),
        Source::Dir(Dir::open_ambient(second.path()).unwrap()),
        tar_source(archive(&[
            file("b/now-a-directory", "4"),
            file(".wh.nothing", ""),
        ])),
    ];
    // A file that is in the way of a directory is an error, and not silently lost.
    let error = commit_all(&repo, sources).unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("b/now-a-directory")
    );
    let sources = vec![
        Source::Commit(base.commit),
        Source::Dir(Dir::open_ambient(dir.path()).unwrap()),
        Source::Dir(Dir::open_ambient(second.path()).unwrap()),
        tar_source(archive(&[other("b", MemberKind::Dir), file("b/c", "4")])),
    ];
    let report = commit_all(&repo, sources).unwrap();
    let wanted = [
        "/a/",
        "/a/one=1",
        "/a/sub/",
        "/a/sub/x=x",
        "/a/sub/y=y",
        "/a/two=from the directory",
        "/b/",
        "/b/c=4",
    ];
    assert_eq!(listing(&repo, &report), wanted);
    let fsck = repo
        .repo()
        .fsck(&FsckOptions::default(), &NoProgress, &Cancel::new());
    assert!(fsck.unwrap().findings.is_empty());
}

#[test]
fn modes_are_changed_as_a_list_says_on_disk_and_in_archives() {
    let repo = TestRepo::new();
    let dir = tempfile::tempdir_in(memory_dir()).unwrap();
    std::fs::write(dir.path().join("su"), "su").unwrap();
    let mut options = SourceOptions::default();
    options.overrides = StatOverride::parse_list(b"=04755 /su\n+2048 in-the-archive\n=0700 /d\n").unwrap();
    let sources = || {
        vec![
            tar_source(archive(&[file("in-the-archive", ""), file("d/x", "")])),
            Source::Dir(Dir::open_ambient(dir.path()).unwrap()),
        ]
    };
    let report = commit_sources(repo.repo(), sources(), &options, &NoProgress, &Cancel::new()).unwrap();
    let root = repo.repo().load_dirtree(&report.root).unwrap();
    let mode = |name: &str| root.get(name.as_bytes()).unwrap().metadata.mode;
    assert_eq!(
        (mode("su"), mode("in-the-archive"), mode("d")),
        (0o4755, 0o4644, 0o700)
    );
    options.overrides = StatOverride::parse_list(b"=0755 /missing\n").unwrap();
    let error = commit_sources(repo.repo(), sources(), &options, &NoProgress, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_cut_or_damaged_is_refused() {
    let bytes = archive(&[
        file("a", "one"),
        file("b", &"x".repeat(1300)),
        other("c", MemberKind::Dir),
    ]);
    let end = 512 * (1 + 1 + 1 + 3 + 1);
    for len in (0..end).step_by(97).chain([512, 1024, end]) {
        let repo = TestRepo::new();
        let error = commit_tar(&repo, bytes[..len].to_vec()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{len}");
    }
    let repo = TestRepo::new();
    let mut damaged = bytes.clone();
    damaged[512 * 2] ^= 1;
    assert!(
        commit_tar(&repo, damaged)
            .unwrap_err()
            .to_string()
            .contains("a.tar")
    );
    // Two in a row are not half of it.
    let error = commit_tar(&repo, [bytes.clone(), bytes.clone()].concat()).unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("two archives")
    );
    commit_tar(&repo, bytes).unwrap();
}

#[test]
fn a_hole_of_exabytes_is_stopped_by_a_cancel_and_never_in_memory() {
    // A sparse file of PAX 1.0 that has no bytes and a size near the largest.
    let mut map = b"0\n".to_vec();
    map.resize(512, 0);
    let mut extended = Vec::new();
    for record in [
        "22 GNU.sparse.major=1\n",
        "22 GNU.sparse.minor=0\n",
        "43 GNU.sparse.realsize=9000000000000000000\n",
    ] {
        let len: usize = record.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(len, record.len(), "{record}");
        extended.extend_from_slice(record.as_bytes());
    }
    let mut bytes = archive(&[(
        member(
            "x",
            MemberKind::File {
                size: extended.len() as u64,
            },
        ),
        extended,
    )]);
    bytes.truncate(1024);
    bytes[156] = b'x';
    fix_checksum(&mut bytes[..512]);
    bytes.extend_from_slice(&archive(&[(
        member("sparse", MemberKind::File { size: 512 }),
        map,
    )]));
    let repo = TestRepo::new();
    let cancel = Cancel::new();
    // The flag is set by what reads the archive: as soon as the hole is asked for.
    struct Watch(std::io::Cursor<Vec<u8>>, Cancel);
    impl std::io::Read for Watch {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = std::io::Read::read(&mut self.0, buffer)?;
            if self.0.position() >= 1536 {
                self.1.cancel();
            }
            Ok(read)
        }
    }
    let source = Source::Tar {
        name: "a.tar".into(),
        stream: Box::new(Watch(std::io::Cursor::new(bytes), cancel.clone())),
    };
    let error = commit_sources(
        repo.repo(),
        vec![source],
        &SourceOptions::default(),
        &NoProgress,
        &cancel,
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

fn fix_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Runs `tar` in `dir` with these words; `None` where there is no such program.
fn gnu_tar(dir: &Path, words: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("tar")
        .current_dir(dir)
        .args(words)
        .args(["-cf", "-", "."])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(output.stdout)
}

#[test]
fn an_archive_of_gnu_tar_in_each_format_is_the_tree_that_was_archived() {
    for mode in [RepoMode::Bare, RepoMode::BareUser] {
        if mode == RepoMode::Bare && !is_root_or_skip("archives in a repository of mode bare") {
            continue;
        }
        let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
        let tree = scratch.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        // GNU tar names a list's users where the machine has names for them, and names are refused.
        let odd = OddTree::new().without("xattrs/acl").without("xattrs/acl-dir");
        odd.make(&tree, Order::Forward);
        let repo = TestRepo::with_mode(mode);
        let wanted = commit_dir(&repo, &tree);
        let attributes = ["--xattrs", "--xattrs-include=*", "--numeric-owner"];
        for words in [
            &["--format=pax"][..],
            &["--format=pax", "--sparse", "--sparse-version=0.0"],
            &["--format=pax", "--sparse", "--sparse-version=0.1"],
            &["--format=pax", "--sparse", "--sparse-version=1.0"],
            &["--format=pax", "--gzip"],
            &["--format=pax", "--xz"],
            &["--format=pax", "--zstd"],
        ] {
            let words = [words, &attributes].concat();
            let Some(bytes) = gnu_tar(&tree, &words) else {
                return skip("archives of GNU tar", "there is no tar");
            };
            let report = commit_tar(&repo, bytes).unwrap();
            assert_eq!(report.root, wanted, "{words:?}");
        }
        assert!(repo.fsck().findings.is_empty());
    }
}

#[test]
fn gnu_s_own_format_keeps_everything_but_attributes() {
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir_all(tree.join("d".repeat(200)).join("e".repeat(200))).unwrap();
    std::os::unix::fs::symlink("t".repeat(300), tree.join("link")).unwrap();
    std::fs::write(tree.join("one"), "1").unwrap();
    std::fs::hard_link(tree.join("one"), tree.join("two")).unwrap();
    // More pieces than a header and one block after it have.
    let mut sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    for piece in 0..60u64 {
        std::io::Seek::seek(&mut sparse, std::io::SeekFrom::Start(piece * 65_536 + 100)).unwrap();
        sparse.write_all(b"here").unwrap();
    }
    sparse.set_len(70 * 65_536).unwrap();
    drop(sparse);
    let repo = TestRepo::new();
    let wanted = commit_dir(&repo, &tree);
    for words in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
    ] {
        let Some(bytes) = gnu_tar(&tree, words) else {
            return skip("archives of GNU tar", "there is no tar");
        };
        assert_eq!(commit_tar(&repo, bytes).unwrap().root, wanted, "{words:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_mutated_archive_is_refused_or_a_tree(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        rooted in any::<bool>(),
    ) {
        let mut bytes = archive(&[
            file("dir/file", "some bytes"),
            other("dir/hard", MemberKind::HardLink(b"dir/file".to_vec())),
            other("link", MemberKind::Symlink(b"dir".to_vec())),
            file(&format!("dir/{}", "n".repeat(200)), "more"),
            file("dir/.wh.file", ""),
        ]);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
            let header = at / 512 * 512;
            // Where a header was hit, its checksum is made to fit.
            if bytes[header + 257..].starts_with(b"ustar") {
                fix_checksum(&mut bytes[header..header + 512]);
            }
        }
        libatomos::testing::decode::check_archive(&bytes, rooted);
    }
}
