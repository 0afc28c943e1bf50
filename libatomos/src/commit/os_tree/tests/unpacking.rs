//! What is unpacked, what follows it, and what stays as it is.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::super::links::Places;
use super::*;
use crate::commit::{CommitOptions, CommitReport, commit};
use crate::format::{Metadata, Node};
use crate::progress::NoProgress;
use crate::repo::{Repo, RepoMode};
use crate::unpack::{Codec, Compressed};

fn pack(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Codec::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Codec::Zstd => zstd::bulk::compress(bytes, 3).unwrap(),
    }
}

/// Makes a tree: links, directories, and files whose content is their unpacked path, compressed as their name says.
fn make_packed(root: &Path, items: &[&str]) {
    make(root, &BASE);
    make(root, items);
    for item in items
        .iter()
        .filter(|item| !item.contains(" -> ") && !item.ends_with('/'))
    {
        for codec in [Codec::Gzip, Codec::Xz, Codec::Zstd] {
            if let Some(name) = item.strip_suffix(codec.suffix()) {
                fs::write(root.join(item), pack(codec, name.as_bytes())).unwrap();
            }
        }
    }
}

fn everything() -> OsTreeOptions {
    OsTreeOptions {
        unpack: Unpack {
            modules: true,
            documents: true,
        },
        ..OsTreeOptions::default()
    }
}

fn try_unpack(base: tempfile::TempDir, options: &OsTreeOptions) -> Result<Shaped, CommitError> {
    let mut tree = scan(base.path());
    let report = arrange(&mut tree, options, None, &Cancel::new())?;
    Ok(Shaped {
        tree,
        report,
        _base: base,
    })
}

fn unpack(items: &[&str]) -> Shaped {
    let base = tempfile::tempdir().unwrap();
    make_packed(base.path(), items);
    try_unpack(base, &everything()).unwrap()
}

fn left(shaped: &Shaped) -> BTreeMap<LeftPacked, Vec<String>> {
    let warnings = shaped.report.warnings.iter();
    warnings
        .filter_map(|warning| match warning {
            OsTreeWarning::LeftPacked { reason, paths } => Some((*reason, paths.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn modules_of_every_format_and_the_files_that_name_them() {
    let base = tempfile::tempdir().unwrap();
    make_packed(
        base.path(),
        &[
            "usr/lib/modules/6.1/kernel/a.ko.xz",
            "usr/lib/modules/6.1/kernel/b.ko.zst",
            "usr/lib/modules/6.1/updates/c.ko.gz",
            "usr/lib/modules/6.1/kernel/d.ko",
            "usr/lib/modules/6.1/weak-updates/a.ko.xz -> ../kernel/a.ko.xz",
            "usr/lib/modules/5.0/kernel/a.ko.xz",
        ],
    );
    let dep = "kernel/a.ko.xz: kernel/b.ko.zst kernel/d.ko\nkernel/b.ko.zst:\nweak-updates/a.ko.xz:\n";
    let modules = base.path().join("usr/lib/modules");
    fs::write(modules.join("6.1/modules.dep"), dep).unwrap();
    fs::write(
        modules.join("6.1/modules.order"),
        "kernel/b.ko.zst\nupdates/c.ko\n",
    )
    .unwrap();
    fs::write(modules.join("6.1/modules.alias"), "alias x kernel/a.ko.xz\n").unwrap();
    // Of its modules it names none that this tree has.
    fs::write(modules.join("5.0/modules.dep"), "kernel/other.ko.xz:\n").unwrap();
    let shaped = try_unpack(base, &everything()).unwrap();
    shaped.assert_has(&[
        "usr/lib/modules/6.1/kernel/a.ko = usr/lib/modules/6.1/kernel/a.ko",
        "usr/lib/modules/6.1/kernel/b.ko = usr/lib/modules/6.1/kernel/b.ko",
        "usr/lib/modules/6.1/updates/c.ko = usr/lib/modules/6.1/updates/c.ko",
        "usr/lib/modules/6.1/weak-updates/a.ko -> ../kernel/a.ko",
        "usr/lib/modules/5.0/kernel/a.ko = usr/lib/modules/5.0/kernel/a.ko",
        "usr/lib/modules/6.1/modules.dep = kernel/a.ko: kernel/b.ko kernel/d.ko\nkernel/b.ko:\nweak-updates/a.ko:\n",
        "usr/lib/modules/6.1/modules.order = kernel/b.ko\nupdates/c.ko\n",
        "usr/lib/modules/6.1/modules.alias = alias x kernel/a.ko.xz\n",
        "usr/lib/modules/5.0/modules.dep = kernel/other.ko.xz:\n",
    ]);
    assert!(!list(&shaped.tree).iter().any(|line| line.contains(".ko.xz =")));
    let unpacked: Vec<(Compressed, u64)> = shaped
        .report
        .unpacked
        .iter()
        .map(|unpacked| (unpacked.what, unpacked.files))
        .collect();
    assert_eq!(unpacked, [(Compressed::Modules, 4)]);
}

#[test]
fn an_index_that_cannot_be_understood_is_refused_with_what_to_do() {
    let base = tempfile::tempdir().unwrap();
    make_packed(base.path(), &["usr/lib/modules/6.1/a.ko.xz"]);
    let index = base.path().join("usr/lib/modules/6.1/modules.dep.bin");
    fs::write(index, b"\xb0\x07\xf4\x57\0\x09\0\x01\0\0\0\0").unwrap();
    let error = match try_unpack(base, &everything()) {
        Err(error) => crate::Error::from(error),
        Ok(_) => panic!("it was understood"),
    };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    assert!(
        text.contains("/usr/lib/modules/6.1/modules.dep.bin") && text.contains("depmod"),
        "{text}"
    );
    assert!(text.contains("its version is unknown"), "{text}");
}

#[test]
fn documents_are_unpacked_and_links_to_them_follow() {
    let shaped = unpack(&[
        "usr/share/doc/a/changelog.gz",
        "usr/share/doc/a/NEWS -> changelog.gz",
        "usr/share/doc/a/copyright",
        "usr/share/doc/b -> a",
        "usr/share/doc/c/changelog.gz -> ../b/changelog.gz",
        "usr/share/man/man1/mawk.1.gz",
        "usr/share/man/man1/nawk.1.gz -> awk.1.gz",
        "usr/share/man/man1/awk.1.gz -> /etc/alternatives/awk.1.gz",
        "etc/alternatives/awk.1.gz -> /usr/share/man/man1/mawk.1.gz",
        "usr/share/man/man1/gone.1.gz -> nothing.1.gz",
        "usr/share/info/a.info.gz",
        "usr/share/other/x.gz",
    ]);
    shaped.assert_has(&[
        "usr/share/doc/a/changelog = usr/share/doc/a/changelog",
        "usr/share/doc/a/NEWS -> changelog",
        "usr/share/doc/c/changelog -> ../b/changelog",
        "usr/share/man/man1/mawk.1 = usr/share/man/man1/mawk.1",
        "usr/share/man/man1/nawk.1 -> awk.1",
        "usr/share/man/man1/awk.1 -> /etc/alternatives/awk.1.gz",
        "usr/etc/alternatives/awk.1.gz -> /usr/share/man/man1/mawk.1",
        "usr/share/man/man1/gone.1.gz -> nothing.1.gz",
        "usr/share/info/a.info = usr/share/info/a.info",
    ]);
    assert!(shaped.has_path("usr/share/other/x.gz"));
    assert_eq!(left(&shaped), BTreeMap::new());
}

#[test]
fn what_cannot_be_unpacked_stays_and_is_named() {
    let base = tempfile::tempdir().unwrap();
    make_packed(
        base.path(),
        &[
            "usr/share/doc/a/taken.gz",
            "usr/share/doc/a/taken",
            "usr/share/doc/a/cut.gz",
            "usr/share/doc/a/bomb.gz",
            "usr/share/doc/a/named.gz",
            "usr/share/program/data.gz -> ../doc/a/named.gz",
            "usr/share/doc/a/link-taken.gz -> far.gz",
            "usr/share/doc/a/link-taken",
            "usr/share/doc/a/far.gz",
            "usr/lib/modules/6.1/two.ko.xz",
            "usr/lib/modules/6.1/two.ko.zst",
            "usr/lib/modules/6.1/good.ko.xz",
        ],
    );
    let doc = base.path().join("usr/share/doc/a");
    let whole = fs::read(doc.join("cut.gz")).unwrap();
    fs::write(doc.join("cut.gz"), &whole[..whole.len() - 1]).unwrap();
    fs::write(doc.join("bomb.gz"), pack(Codec::Gzip, &vec![0; 8 << 20])).unwrap();
    fs::write(base.path().join("usr/lib/modules/6.1/text.ko.gz"), "text").unwrap();
    let shaped = try_unpack(base, &everything()).unwrap();
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let expected = BTreeMap::from([
        (
            LeftPacked::NameTaken,
            paths(&[
                "usr/lib/modules/6.1/two.ko.xz",
                "usr/lib/modules/6.1/two.ko.zst",
                "usr/share/doc/a/taken.gz",
            ]),
        ),
        (
            LeftPacked::NotPacked,
            paths(&[
                "usr/lib/modules/6.1/text.ko.gz",
                "usr/share/doc/a/bomb.gz",
                "usr/share/doc/a/cut.gz",
            ]),
        ),
        (
            LeftPacked::Named,
            paths(&["usr/share/doc/a/far.gz", "usr/share/doc/a/named.gz"]),
        ),
    ]);
    assert_eq!(left(&shaped), expected);
    for path in expected.values().flatten() {
        assert!(shaped.has_path(path), "{path}");
    }
    assert!(shaped.has_path("usr/lib/modules/6.1/good.ko"));
}

#[test]
fn what_an_attribute_signs_stays_as_it_was_signed() {
    let base = tempfile::tempdir().unwrap();
    make_packed(base.path(), &["usr/lib/modules/6.1/a.ko.xz"]);
    let path = base.path().join("usr/lib/modules/6.1/a.ko.xz");
    let flags = rustix::fs::XattrFlags::empty();
    if let Err(errno) = rustix::fs::setxattr(&path, "security.ima", b"\x03\x02", flags) {
        println!("skipped: security.ima cannot be set here: {errno}");
        return;
    }
    let shaped = try_unpack(base, &everything()).unwrap();
    let expected = vec!["usr/lib/modules/6.1/a.ko.xz".to_owned()];
    assert_eq!(left(&shaped), BTreeMap::from([(LeftPacked::Signed, expected)]));
}

#[test]
fn only_what_is_asked_for_is_unpacked_and_the_rest_is_warned_of() {
    let items = ["usr/lib/modules/6.1/a.ko.xz", "usr/share/doc/a/b.gz"];
    let warned = |modules, documents| {
        let base = tempfile::tempdir().unwrap();
        make_packed(base.path(), &items);
        let initramfs = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[0; 96]].concat();
        fs::write(base.path().join("boot/initrd.img-6.1"), initramfs).unwrap();
        let mut options = everything();
        options.unpack = Unpack { modules, documents };
        let shaped = try_unpack(base, &options).unwrap();
        let warnings = shaped.report.warnings.iter();
        let warned: Vec<(Compressed, u64)> = warnings
            .filter_map(|warning| match warning {
                OsTreeWarning::Compressed { what, cost } => Some((*what, cost.files)),
                _ => None,
            })
            .collect();
        assert_eq!(
            shaped.report.unpacked.len(),
            usize::from(modules) + usize::from(documents)
        );
        warned
    };
    use Compressed::{Documents, Initramfs, Modules};
    assert_eq!(
        warned(false, false),
        [(Modules, 1), (Documents, 1), (Initramfs, 1)]
    );
    assert_eq!(warned(true, false), [(Documents, 1), (Initramfs, 1)]);
    assert_eq!(warned(true, true), [(Initramfs, 1)]);
}

/// Commits with everything unpacked.
fn through_a_repository(root: &Path, scratch: &Path) -> Result<(Repo, CommitReport), CommitError> {
    let repo = Repo::init(&scratch.join("repo"), RepoMode::BareUser).unwrap();
    let options = CommitOptions {
        os: Some(everything()),
        ..CommitOptions::default()
    };
    let source = Dir::open_ambient(root).unwrap();
    let report = commit(&repo, source, &options, &NoProgress, &Cancel::new())?;
    Ok((repo, report))
}

/// Returns a stored file's metadata and bytes.
fn stored(repo: &Repo, report: &CommitReport, path: &str) -> (Metadata, Vec<u8>) {
    let mut tree = repo.load_dirtree(&report.root).unwrap();
    let (dirs, name) = path.rsplit_once('/').unwrap();
    for dir in dirs.split('/') {
        tree = match tree.get(dir.as_bytes()).unwrap().node {
            Node::Dir { tree } => repo.load_dirtree(&tree).unwrap(),
            ref other => panic!("{dir} is {other:?}"),
        };
    }
    let entry = tree
        .get(name.as_bytes())
        .unwrap_or_else(|| panic!("there is no {path}"));
    let Node::File { blob, .. } = &entry.node else {
        panic!("{path} is no file");
    };
    let mut bytes = Vec::new();
    repo.open_blob(blob).unwrap().read_to_end(&mut bytes).unwrap();
    (entry.metadata.clone(), bytes)
}

#[test]
fn a_file_keeps_everything_but_its_bytes_and_large_ones_stream() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    make_packed(&root, &["usr/lib/modules/6.1/a.ko.xz", "usr/share/doc/a/b.gz"]);
    // Larger than what is kept in memory.
    let mut state = 1u32;
    let large: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(1_500_000)
    .collect();
    let module = root.join("usr/lib/modules/6.1/a.ko.xz");
    fs::write(&module, pack(Codec::Xz, &large)).unwrap();
    fs::set_permissions(&module, fs::Permissions::from_mode(0o640)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let has_xattrs = rustix::fs::setxattr(&module, "user.note", b"kept", flags).is_ok();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::open(&module).unwrap().set_modified(time).unwrap();
    // An index that is rewritten keeps its own.
    let index = root.join("usr/lib/modules/6.1/modules.dep");
    fs::write(&index, "a.ko.xz:\n").unwrap();
    if has_xattrs {
        rustix::fs::setxattr(&index, "user.note", b"kept", flags).unwrap();
    }
    fs::hard_link(
        root.join("usr/share/doc/a/b.gz"),
        root.join("usr/share/doc/a/c.gz"),
    )
    .unwrap();

    let (repo, report) = through_a_repository(&root, scratch.path()).unwrap();
    let (metadata, bytes) = stored(&repo, &report, "usr/lib/modules/6.1/a.ko");
    assert!(bytes == large);
    assert_eq!((metadata.mode, metadata.mtime), (0o640, 1_000_000));
    let (of_index, index) = stored(&repo, &report, "usr/lib/modules/6.1/modules.dep");
    assert_eq!(index, b"a.ko:\n");
    if has_xattrs {
        assert_eq!(metadata.xattrs.get(b"user.note"), Some(&b"kept"[..]));
        assert_eq!(of_index.xattrs.get(b"user.note"), Some(&b"kept"[..]));
    }
    // One inode with two names is one blob.
    let b = stored(&repo, &report, "usr/share/doc/a/b");
    assert_eq!(b.1, b"usr/share/doc/a/b");
    assert_eq!(b, stored(&repo, &report, "usr/share/doc/a/c"));
    assert!(report.bytes > large.len() as u64, "{} bytes", report.bytes);
}

#[test]
fn a_damaged_module_is_an_error_that_names_it() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    make_packed(&root, &["usr/lib/modules/6.1/kernel/bad.ko.xz"]);
    let path = root.join("usr/lib/modules/6.1/kernel/bad.ko.xz");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    match through_a_repository(&root, scratch.path()) {
        Err(CommitError::Unpack { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{:?}", other.map(|(_, report)| report)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_link_leads_where_it_led_and_unpacking_is_done_once(
        files in prop::collection::btree_set("usr/share/(doc|man)/[ab]/[xyz](\\.gz)?", 1..8),
        links in prop::collection::btree_map(
            "(usr/share/(doc|man)/[ab]|etc/alternatives|usr/share/other)/[uvwxyz](\\.gz)?",
            "(/usr/share/(doc|man)/[abl]/|/etc/alternatives/|\\.\\./[abl]/|)[u-z](\\.gz)?",
            0..16,
        ),
    ) {
        let base = tempfile::tempdir().unwrap();
        let mut items: Vec<String> = files.iter().cloned().collect();
        items.extend(links.iter().filter(|(path, _)| !files.contains(*path)).map(|(path, to)| format!("{path} -> {to}")));
        items.push("usr/share/doc/l -> b".to_owned());
        items.push("usr/share/man/l -> ../doc/a".to_owned());
        items.sort();
        let items: Vec<&str> = items.iter().map(String::as_str).collect();
        make_packed(base.path(), &items);
        let mut tree = scan(base.path());
        let ends = |tree: &SourceTree| -> BTreeMap<u32, Option<u32>> {
            let places = Places::new(tree);
            places.links().map(|link| (link, places.end(link))).collect()
        };
        let before = ends(&tree);
        let mut shaper = Shaper::new(&mut tree);
        unpack::arrange(&mut shaper, everything().unpack, &Cancel::new()).unwrap();
        let report = shaper.into_report();
        // A node keeps its number, whatever it is called. A link that led nowhere may find what it looked for.
        let after = ends(&tree);
        for (link, end) in before.iter().filter(|(_, end)| end.is_some()) {
            prop_assert_eq!(end, &after[link], "{}", Places::new(&tree).path(*link).escape_ascii());
        }
        let lines = list(&tree);
        let paths: std::collections::BTreeSet<&str> = lines
            .iter()
            .map(|line| line.split(" = ").next().unwrap().split(" -> ").next().unwrap())
            .collect();
        prop_assert_eq!(paths.len(), lines.len(), "no two have one name: {:#?}", lines);
        for file in files.iter().filter_map(|file| file.strip_suffix(".gz")) {
            let left = report.warnings.iter().any(|warning| match warning {
                OsTreeWarning::LeftPacked { paths, .. } => paths.contains(&format!("{file}.gz")),
                _ => false,
            });
            let unpacked = lines.contains(&format!("{file} = {file}"));
            prop_assert!(left || unpacked, "{file} in {lines:#?}");
        }
        let mut shaper = Shaper::new(&mut tree);
        unpack::arrange(&mut shaper, everything().unpack, &Cancel::new()).unwrap();
        prop_assert_eq!(list(&tree), lines);
    }
}
