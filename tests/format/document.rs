//! `repo-format.md` is the authority: its examples are decoded and encoded, its tables compared with the constants.

use std::collections::BTreeMap;

use libatomos::digest::{BlobId, CommitId, Digest, DirTreeId};
use libatomos::format::{Commit, DirTree, Entry, Metadata, MetadataValue, Node, Xattrs, limits};
use libatomos::repo::{Features, RepoMode};
use libatomos::testing::{decode, file_capability};

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../repo-format.md");
    std::fs::read_to_string(path).unwrap()
}

/// Returns the contents of the fenced blocks that are marked `language`.
fn blocks(language: &str) -> Vec<String> {
    let text = document();
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == format!("```{language}") {
            found.push(
                lines
                    .by_ref()
                    .take_while(|line| *line != "```")
                    .map(|line| format!("{line}\n"))
                    .collect(),
            );
        }
    }
    found
}

/// A test vector: its bytes, and the digest or the variant's name that the document gives for them.
struct Vector {
    bytes: Vec<u8>,
    name: String,
}

fn vectors() -> BTreeMap<String, Vector> {
    let mut vectors = BTreeMap::new();
    for block in blocks("vector") {
        let (mut title, mut name, mut bytes) = (String::new(), String::new(), Vec::new());
        for line in block.lines() {
            if let Some(text) = line.strip_prefix("name: ") {
                title = text.to_owned();
            } else if let Some(text) = line.strip_prefix("digest: ").or(line.strip_prefix("variant: ")) {
                name = text.to_owned();
            } else {
                let digits = line.split(';').next().unwrap_or_default();
                bytes.extend(
                    digits
                        .split_whitespace()
                        .map(|pair| u8::from_str_radix(pair, 16).unwrap()),
                );
            }
        }
        assert!(vectors.insert(title, Vector { bytes, name }).is_none());
    }
    vectors
}

fn xattrs(pairs: &[(&str, &[u8])]) -> Xattrs {
    pairs
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
        .collect()
}

fn entry(name: &[u8], metadata: Metadata, node: Node) -> Entry {
    Entry {
        name: name.to_vec(),
        metadata,
        node,
    }
}

fn owned(mode: u32, uid: u32, gid: u32, mtime: i64, xattrs: Xattrs) -> Metadata {
    Metadata {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    }
}

fn empty_dirtree() -> DirTreeId {
    DirTree::default().encode().unwrap().0
}

fn every_kind() -> DirTree {
    let hello = BlobId::new(Digest::of(b"hello\n"));
    let file = |verity| Node::File {
        size: 6,
        blob: hello,
        verity,
    };
    let verity = "9c76eecc7b76fcb46199cb27b90cf59a660e10575bb0412128905129d5b1c2aa";
    let verity: Digest = verity.parse().unwrap();
    let capability = file_capability();
    DirTree::new(vec![
        entry(
            b"\xff",
            owned(0o622, u32::MAX - 1, u32::MAX - 1, i64::MIN, Xattrs::new()),
            Node::Fifo,
        ),
        entry(
            b"block",
            owned(0o660, 0, 6, 0, Xattrs::new()),
            Node::Block { major: 8, minor: 1 },
        ),
        entry(
            b"char",
            Metadata::with_mode(0o666),
            Node::Char { major: 1, minor: 3 },
        ),
        entry(
            b"dir",
            owned(
                0o755,
                0,
                0,
                1_700_000_000,
                xattrs(&[("user.b", b"\0\xff"), ("user.a", b"")]),
            ),
            Node::Dir {
                tree: empty_dirtree(),
            },
        ),
        entry(
            b"file",
            owned(
                0o4755,
                1000,
                100,
                -1,
                xattrs(&[("security.capability", &capability)]),
            ),
            file(None),
        ),
        entry(
            b"link",
            owned(0o777, 0, 0, 1, Xattrs::new()),
            Node::Symlink {
                target: b"dir/file".to_vec(),
            },
        ),
        entry(
            b"verity",
            Metadata::with_mode(0o444),
            file(Some(*verity.as_bytes())),
        ),
    ])
    .unwrap()
}

fn least_commit() -> Commit {
    Commit {
        root: empty_dirtree(),
        root_metadata: Metadata::with_mode(0o755),
        parent: None,
        time: 0,
        subject: String::new(),
        body: String::new(),
        version: String::new(),
        metadata: BTreeMap::new(),
    }
}

fn full_commit() -> Commit {
    Commit {
        root: every_kind().encode().unwrap().0,
        root_metadata: owned(0o1755, 0, 4, 1_700_000_000, xattrs(&[("user.x", b"y")])),
        parent: Some(least_commit().encode().unwrap().0),
        time: 1_700_000_001,
        subject: "Gr\u{fc}\u{df}e".to_owned(),
        body: "One line.\nAnother.\n".to_owned(),
        version: "13.1".to_owned(),
        metadata: [
            ("a.bool", MetadataValue::Bool(true)),
            ("a.bytes", MetadataValue::Bytes(vec![0, 255])),
            ("a.number", MetadataValue::Number(u64::MAX)),
            ("a.text", MetadataValue::Text("text".to_owned())),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
    }
}

#[test]
fn the_documents_vectors_are_what_this_library_reads_and_writes() {
    let mut vectors = vectors();
    let mut take = |title: &str| {
        vectors
            .remove(title)
            .unwrap_or_else(|| panic!("no vector {title:?}"))
    };
    for (title, value) in [
        ("dirtree, empty", DirTree::default()),
        ("dirtree, every kind of entry", every_kind()),
    ] {
        let vector = take(title);
        let (id, bytes) = value.encode().unwrap();
        assert_eq!(bytes, vector.bytes, "{title}: encoded");
        assert_eq!(id.to_string(), vector.name, "{title}: digest");
        assert_eq!(DirTree::decode(&vector.bytes).unwrap(), value, "{title}: decoded");
    }
    for (title, value) in [
        ("commit, the least", least_commit()),
        ("commit, with everything", full_commit()),
    ] {
        let vector = take(title);
        let (id, bytes) = value.encode().unwrap();
        assert_eq!(bytes, vector.bytes, "{title}: encoded");
        assert_eq!(id.to_string(), vector.name, "{title}: digest");
        assert_eq!(Commit::decode(&vector.bytes).unwrap(), value, "{title}: decoded");
    }
    let capability = file_capability();
    let all = xattrs(&[("user.a", b"1"), ("security.capability", &capability)]);
    for (title, value) in [
        ("inode metadata, plain", Metadata::with_mode(0o644)),
        (
            "inode metadata, with everything",
            owned(0o6755, 1000, 100, -1, all),
        ),
    ] {
        let vector = take(title);
        assert_eq!(value.encode().unwrap(), vector.bytes, "{title}: encoded");
        assert_eq!(value.variant_name().unwrap(), vector.name, "{title}: name");
    }
    assert!(vectors.is_empty(), "untested vectors: {:?}", vectors.keys());
}

#[test]
fn the_empty_blobs_digest_is_the_documents() {
    assert!(document().contains(&Digest::of(b"").to_hex()));
}

#[test]
fn the_documents_config_is_what_this_library_reads_and_writes() {
    let [block] = <[String; 1]>::try_from(blocks("config")).unwrap();
    let config = decode::config(block.as_bytes()).unwrap();
    assert_eq!(config.mode, RepoMode::BareUser);
    assert_eq!(config.features, Features::default());
    assert_eq!(String::from_utf8(decode::encode_config(&config)).unwrap(), block);
}

#[test]
fn the_documents_refs_are_what_this_library_reads_and_writes() {
    let [block] = <[String; 1]>::try_from(blocks("refs")).unwrap();
    let refs = decode::refs(block.as_bytes()).unwrap();
    assert_eq!(refs.len(), 3);
    assert_eq!(String::from_utf8(decode::encode_refs(&refs)).unwrap(), block);
}

#[test]
fn the_documents_root_is_what_this_library_reads() {
    let [block] = <[String; 1]>::try_from(blocks("root")).unwrap();
    let record = decode::root_record(block.as_bytes()).unwrap();
    let commit: CommitId = least_commit().encode().unwrap().0;
    assert_eq!(record.commits, [commit].into());
    assert!(decode::root_record(b"{}").unwrap().commits.is_empty());
    assert!(decode::root_record(b"{\"comits\": []}").is_err());
}

/// Signed by a key that is no secret: its seed is in the document.
#[test]
fn the_documents_seal_is_what_this_library_writes_and_reads() {
    use libatomos::composefs::Seal;
    use libatomos::sign::{SecretKey, Signer};
    use libatomos::verity::VerityDigest;

    let [block] = <[String; 1]>::try_from(blocks("seal")).unwrap();
    let field = |name: &str| {
        let lines = block
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        lines.unwrap().to_owned()
    };
    let seed: Digest = field("seed").parse().unwrap();
    let key = SecretKey::from_seed(seed.as_bytes());
    // The fs-verity digest of "hello\n", and the tree with every kind of entry.
    let image = VerityDigest::of(b"hello\n");
    let tree = "a95fbb39df82d315d290e1061df039b2bf59d250475198eb950a62594e1832ae";
    let seal = Seal::sign(image, DirTreeId::new(tree.parse().unwrap()), "13.1", &[&key]).unwrap();
    assert_eq!(String::from_utf8(seal.encode()).unwrap(), field("envelope"));
    assert_eq!(serde_json::to_string(&seal.sealed).unwrap(), field("payload"));
    let read = Seal::decode(field("envelope").as_bytes()).unwrap();
    assert_eq!(read.signer_among([&key.public()]), Some(&key.public()));
}

#[test]
fn the_documents_limits_are_the_codes() {
    let text = document();
    let section = text
        .split("\n## Limits\n")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let found: Vec<usize> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what"))
        .map(|line| {
            let digits: String = line
                .split('|')
                .nth(2)
                .unwrap()
                .chars()
                .filter(char::is_ascii_digit)
                .collect();
            digits.parse().unwrap()
        })
        .collect();
    assert_eq!(
        found,
        [
            limits::MAX_NAME,
            limits::MAX_LINK_TARGET,
            limits::MAX_XATTR_NAME,
            limits::MAX_XATTR_VALUE,
            limits::MAX_XATTRS,
            limits::MAX_DIRTREE,
            limits::MAX_COMMIT,
            limits::MAX_COMMIT_LINE,
            limits::MAX_COMMIT_METADATA,
            limits::MAX_DEPTH,
            limits::MAX_REF_NAME,
            limits::MAX_CONFIG,
            limits::MAX_REFS,
        ]
    );
}

#[test]
fn every_link_within_the_document_leads_somewhere() {
    let text = document();
    let anchors: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| format!("#{}", title.to_lowercase().replace(' ', "-")))
        .collect();
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(anchors.iter().any(|anchor| anchor == link), "{link}");
    }
}

/// The example of an index in `docs/site-format.md` is what the code writes, and reads.
#[test]
fn the_index_in_the_sites_document_is_what_the_code_writes() {
    use libatomos::site::{BlobList, FileRef, Index, PatchFrame, Place};

    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/site-format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let block = text
        .split("```index")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let digits: String = block.split_whitespace().collect();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|index| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).unwrap())
        .collect();

    let digest = |byte| libatomos::digest::Digest::from_bytes([byte; 32]);
    let place = |blob, offset, len| Place {
        blob,
        pack: 0,
        offset,
        frames: vec![len],
    };
    let index = Index {
        packs: vec![FileRef {
            digest: digest(0x11),
            size: 17,
        }],
        places: vec![place(0, 0, 8), place(1, 8, 9)],
        patch_files: vec![FileRef {
            digest: digest(0x22),
            size: 4,
        }],
        patches: vec![PatchFrame::Prefix {
            file: 0,
            offset: 0,
            windows: vec![4],
            blob: 1,
            base: [0xaa; 8],
        }],
        image: None,
    };
    assert_eq!(index.encode(), bytes);

    let scratch = tempfile::tempdir().unwrap();
    let repo = libatomos::Repo::init(&scratch.path().join("repo"), libatomos::RepoMode::BareUser).unwrap();
    let transaction = repo.begin().unwrap();
    let file = |name: &str, size, byte| libatomos::format::Entry {
        name: name.into(),
        metadata: libatomos::format::Metadata::with_mode(0o644),
        node: libatomos::format::Node::File {
            size,
            blob: libatomos::digest::BlobId::new(digest(byte)),
            verity: None,
        },
    };
    let tree = libatomos::format::DirTree::new(vec![file("a", 5, 1), file("b", 7, 2)]).unwrap();
    let root = transaction.store_dirtree(&tree).unwrap();
    transaction.commit().unwrap();
    let blobs = BlobList::of_tree(&repo, &root).unwrap();
    assert_eq!(Index::decode(&bytes, &blobs).unwrap(), index);
}
