//! Writes real inputs into the corpus of each target: `fuzz/corpus/TARGET/seed-NN`. With tar, bsdtar and ostree, theirs are among them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use atomos_fuzz::{Laws, Parser, seals};
use libatomos::digest::{BlobId, CommitId, Digest, DirTreeId};
use libatomos::format::{Commit, DirTree, Entry, Metadata, MetadataValue, Node};
use libatomos::testing::decode;

fn main() {
    let scratch = tempfile::tempdir().expect("there is a directory for temporary files");
    let laws = Laws::new();
    for (parser, target) in Parser::ALL {
        write(target, laws.seeds(parser));
    }
    make_tree(scratch.path());
    write(
        "tar",
        [decode::archive_seeds(), archives(scratch.path())].concat(),
    );
    write("oci", decode::layout_seeds());
    write(
        "ostree",
        [decode::ostree_seeds(), ostree_objects(scratch.path())].concat(),
    );
    write("stat_cache", decode::stat_cache_seeds());
    write("seal", seals::seeds());
    // A tree's table is its commit and its dirtrees, each after its length.
    let (mut commits, mut dirtrees) = (vec![full_commit()], vec![full_dirtree()]);
    for table in laws.seeds(Parser::Tree) {
        let mut objects = objects(&table);
        commits.push(objects.remove(0));
        dirtrees.append(&mut objects);
    }
    let hex = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    let text = |text: String| vec![text.into_bytes()];
    write("commit", commits);
    write("dirtree", dirtrees);
    write(
        "refs",
        text(format!("refs 2\n{hex} os/stable\n{hex} origin:os/testing\n")),
    );
    write("aliases", text("debian/13 latest\nlatest stable\n".to_owned()));
    write(
        "root",
        text(format!("{{\"commits\": [\"{hex}\"], \"blobs\": [\"{hex}\"]}}")),
    );
    let features = "[features]\ncompatible = []\nread-only-compatible = []\nincompatible = []\n";
    let config = |mode: &str, features: &str| {
        format!(
            "format = 1\nmode = \"{mode}\"\nid = \"{}\"\n{features}",
            &hex[..32]
        )
        .into_bytes()
    };
    let spaces = ["3%", "500M", "2GiB", "4096"].map(|space| format!("min-free-space = \"{space}\"\n"));
    let mut configs = vec![
        config("bare", features),
        config("bare-user", &features.replacen("[]", "[\"a\"]", 2)),
        config("bare", "[features]\nincompatible = [\"warp\"]\n"),
    ];
    configs.extend(
        spaces
            .iter()
            .map(|space| config("bare", &format!("{space}{features}"))),
    );
    write("config", configs);
    write(
        "names",
        ["origin:os/stable", "main", hex]
            .map(|name| name.as_bytes().to_vec())
            .into(),
    );
    let remote = "urls = [\"https://a.example/os\", \"file:///srv/site\"]\nno-verify = true\nproxy = \"http://p.example:3128\"\n";
    write("remote", text(remote.to_owned()));
}

fn objects(mut table: &[u8]) -> Vec<Vec<u8>> {
    let mut objects = Vec::new();
    while let Some((len, rest)) = table.split_first_chunk::<4>() {
        let (object, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        objects.push(object.to_vec());
        table = rest;
    }
    objects
}

fn write(target: &str, seeds: Vec<Vec<u8>>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&dir).expect("the corpus can be written");
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{number:02}")), seed).expect("the corpus can be written");
    }
    println!("{target}: {} seeds", seeds.len());
}

/// Returns a commit with all that one can have.
fn full_commit() -> Vec<u8> {
    let mut root_metadata = Metadata::with_mode(0o1755);
    root_metadata.xattrs.insert(b"user.a".to_vec(), b"b".to_vec());
    root_metadata.xattrs.insert(b"user.c".to_vec(), Vec::new());
    let metadata = BTreeMap::from([
        ("a.text".to_owned(), MetadataValue::Text("größer".to_owned())),
        ("b.number".to_owned(), MetadataValue::Number(1 << 40)),
        ("c.no".to_owned(), MetadataValue::Bool(false)),
        ("c.yes".to_owned(), MetadataValue::Bool(true)),
        ("d.bytes".to_owned(), MetadataValue::Bytes(vec![0, 0xff])),
    ]);
    let commit = Commit {
        root: DirTreeId::new(Digest::of(b"tree")),
        root_metadata,
        parent: Some(CommitId::new(Digest::of(b"parent"))),
        time: -1,
        subject: "a subject".to_owned(),
        body: "a body\nof lines\n".to_owned(),
        version: "13.1".to_owned(),
        metadata,
    };
    commit.encode().expect("it can be encoded").1
}

/// Returns a directory with an entry of each kind.
fn full_dirtree() -> Vec<u8> {
    let mut metadata = Metadata::with_mode(0o4755);
    metadata.mtime = -1;
    metadata
        .xattrs
        .insert(b"security.capability".to_vec(), vec![1, 0, 0, 2]);
    let file = |bytes: &[u8], verity| Node::File {
        size: bytes.len() as u64,
        blob: BlobId::new(Digest::of(bytes)),
        verity,
    };
    let target = b"../target".to_vec();
    let tree = DirTreeId::new(Digest::of(b"tree"));
    let entries = [
        file(b"", None),
        file(b"bytes", Some([7; 32])),
        Node::Dir { tree },
        Node::Symlink { target },
        Node::Char { major: 1, minor: 3 },
        Node::Block { major: 8, minor: 1 },
        Node::Fifo,
    ];
    let entry = |(name, node): (u8, Node)| {
        let mut metadata = metadata.clone();
        if matches!(node, Node::Symlink { .. }) {
            metadata.mode = 0o777;
        }
        Entry {
            name: vec![name],
            metadata,
            node,
        }
    };
    let tree = DirTree::new((b'a'..).zip(entries).map(entry).collect()).expect("its names are sorted");
    tree.encode().expect("it can be encoded").1
}

/// Runs a program; returns whether it is there and did what it was asked.
fn run(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Makes a tree that other programs archive.
fn make_tree(scratch: &Path) {
    use std::os::unix::fs::symlink;
    let tree = scratch.join("tree");
    let long = "n".repeat(120);
    std::fs::create_dir_all(tree.join("dir")).expect("a tree is made");
    std::fs::write(tree.join("dir/file"), b"some bytes").expect("a tree is made");
    std::fs::write(tree.join("dir").join(&long), b"").expect("a tree is made");
    std::fs::hard_link(tree.join("dir/file"), tree.join("hard")).expect("a tree is made");
    symlink("dir/file", tree.join("link")).expect("a tree is made");
    symlink(&long, tree.join("long")).expect("a tree is made");
    let sparse = std::fs::File::create(tree.join("sparse")).expect("a tree is made");
    for piece in 0..6 {
        use std::os::unix::fs::FileExt;
        sparse.write_all_at(b"x", piece << 16).expect("a tree is made");
    }
    // An archive with its holes written out would be too large an input, so those leave it out.
    sparse.set_len(1 << 20).expect("a tree is made");
    // What the file system lacks is not in the archives.
    run(Command::new("setfattr")
        .args(["-n", "user.a=b", "-v", "x"])
        .arg(tree.join("dir/file")));
    run(Command::new("setfacl")
        .args(["-m", "u:1000:r"])
        .arg(tree.join("dir/file")));
    run(Command::new("mkfifo").arg(tree.join("fifo")));
}

/// Returns archives of that tree, as GNU tar and libarchive's write them.
fn archives(scratch: &Path) -> Vec<Vec<u8>> {
    let ways: [(&str, &[&str]); 9] = [
        (
            "tar",
            &[
                "--format=ustar",
                "--exclude=./long",
                "--exclude=./dir/n*",
                "--exclude=./sparse",
            ],
        ),
        ("tar", &["--format=gnu", "--sparse"]),
        (
            "tar",
            &[
                "--format=posix",
                "--sparse",
                "--sparse-version=0.0",
                "--xattrs",
                "--acls",
            ],
        ),
        ("tar", &["--format=posix", "--sparse", "--sparse-version=0.1"]),
        ("tar", &["--format=posix", "--sparse", "--sparse-version=1.0"]),
        ("tar", &["--format=posix", "--zstd"]),
        ("bsdtar", &["--format=pax", "--xattrs", "--acls"]),
        ("bsdtar", &["--format=gnutar", "--exclude=./sparse"]),
        (
            "bsdtar",
            &[
                "--format=v7",
                "--exclude=dir/n*",
                "--exclude=long",
                "--exclude=sparse",
            ],
        ),
    ];
    let mut archives = Vec::new();
    for (number, (program, options)) in ways.iter().enumerate() {
        let path = scratch.join(format!("{number}.tar"));
        let mut command = Command::new(program);
        command.args(*options).args(["-b1", "-cf"]).arg(&path);
        if run(command.arg("-C").arg(scratch.join("tree")).arg(".")) {
            let bytes = std::fs::read(&path).expect("it was written");
            archives.push([&[0], &bytes[..]].concat());
        } else {
            println!("tar: without what `{program} {}` makes", options.join(" "));
        }
    }
    archives
}

/// Returns the objects of OSTree repositories that ostree itself has made of that tree.
fn ostree_objects(scratch: &Path) -> Vec<Vec<u8>> {
    let mut objects = Vec::new();
    let repo = format!("--repo={}", scratch.join("ostree").display());
    let tree = format!("--tree=dir={}", scratch.join("tree/dir").display());
    let init = ["init", &repo, "--mode=archive"];
    let commit = [
        "commit",
        &repo,
        &tree,
        "--branch=a",
        "--add-metadata-string=version=1",
    ];
    if !run(Command::new("ostree").args(init)) || !run(Command::new("ostree").args(commit)) {
        println!("ostree: without what `ostree` makes");
    }
    let mut dirs = vec![scratch.join("ostree/objects")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let kind = path.extension().and_then(|kind| kind.to_str());
            let part: &[u8] = match kind {
                Some("filez") => &[decode::OSTREE_FILE],
                _ => &[0],
            };
            objects.push([part, &std::fs::read(&path).expect("it is there")].concat());
        }
    }
    objects
}
