//! One case for each rule that a decoder enforces, named by what it must say.

use libatomos::digest::{BlobId, Digest, DirTreeId};
use libatomos::format::{Commit, DirTree, Entry, FormatError, Metadata, Node, Xattrs, limits};
use libatomos::testing::decode;

/// The bytes of a dirtree with these entries, checked by nobody.
fn dirtree(entries: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::to_le_bytes(entries.len() as u32);
    [b"atomosT\x01", &count[..], &entries.concat()].concat()
}

struct Raw {
    kind: u8,
    flags: u8,
    name: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: Vec<u8>,
    rest: Vec<u8>,
}

fn fifo(name: &[u8]) -> Raw {
    Raw {
        kind: b'p',
        flags: 0,
        name: name.to_vec(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
        rest: Vec::new(),
    }
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        [
            &[self.kind, self.flags][..],
            &u16::to_le_bytes(self.name.len() as u16),
            &self.mode.to_le_bytes(),
            &self.uid.to_le_bytes(),
            &self.gid.to_le_bytes(),
            &[0; 8],
            &u32::to_le_bytes(self.xattrs.len() as u32),
            &self.name,
            &self.xattrs,
            &self.rest,
        ]
        .concat()
    }

    fn decode(&self) -> Result<DirTree, FormatError> {
        DirTree::decode(&dirtree(&[self.bytes()]))
    }
}

fn xattr(name: &[u8], value: &[u8]) -> Vec<u8> {
    [
        &u16::to_le_bytes(name.len() as u16)[..],
        &u32::to_le_bytes(value.len() as u32),
        name,
        value,
    ]
    .concat()
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, FormatError>, why: &str) {
    let error = result.expect_err(why);
    assert!(
        error.to_string().contains(why),
        "{why:?} is not in {:?}",
        error.to_string()
    );
}

#[test]
fn the_cases_start_from_something_accepted() {
    fifo(b"name").decode().unwrap();
    DirTree::decode(&dirtree(&[fifo(b"a").bytes(), fifo(b"b").bytes()])).unwrap();
}

#[test]
fn names_that_could_leave_the_directory_are_refused() {
    for name in [
        &b""[..],
        b".",
        b"..",
        b"/",
        b"a/b",
        b"../../etc/shadow",
        b"a\0",
        b"\0",
        &[b'n'; 256],
    ] {
        let bytes = dirtree(&[fifo(name).bytes(), fifo(b"\xff\xff").bytes()]);
        assert_refused(DirTree::decode(&bytes), "is not allowed in a directory");
        let entry = Entry {
            name: name.to_vec(),
            metadata: Metadata::with_mode(0o644),
            node: Node::Fifo,
        };
        assert_refused(DirTree::new(vec![entry]), "is not allowed in a directory");
    }
    fifo(&[b'n'; 255]).decode().unwrap();
}

#[test]
fn names_out_of_order_or_twice_are_refused() {
    for names in [[b"a", b"a"], [b"b", b"a"]] {
        let entries = names.map(|name| fifo(name).bytes());
        assert_refused(DirTree::decode(&dirtree(&entries)), "does not sort after");
    }
    let twice = [fifo(b"a"), fifo(b"a")].map(|raw| raw.decode().unwrap().into_entries().remove(0));
    assert_refused(DirTree::new(twice.into()), "does not sort after");
}

#[test]
fn kinds_flags_modes_and_owners_outside_their_rule_are_refused() {
    let change = |change: fn(&mut Raw)| {
        let mut raw = fifo(b"name");
        change(&mut raw);
        raw.decode()
    };
    assert_refused(change(|raw| raw.kind = b's'), "is one of f d l c b p");
    assert_refused(change(|raw| raw.flags = 1), "only the flags");
    assert_refused(change(|raw| raw.flags = 0x80), "only the flags");
    assert_refused(change(|raw| raw.mode = 0o10000), "at most 07777");
    assert_refused(change(|raw| raw.mode = 0o100_644), "at most 07777");
    assert_refused(change(|raw| raw.uid = u32::MAX), "below 4294967295");
    assert_refused(change(|raw| raw.gid = u32::MAX), "below 4294967295");
}

#[test]
fn extended_attributes_outside_their_rule_are_refused() {
    let with = |xattrs: Vec<u8>| {
        let mut raw = fifo(b"name");
        raw.xattrs = xattrs;
        raw.decode()
    };
    with([xattr(b"user.a", b""), xattr(b"user.b", b"1")].concat()).unwrap();
    assert_refused(
        with([xattr(b"user.b", b""), xattr(b"user.a", b"")].concat()),
        "does not sort after",
    );
    assert_refused(
        with([xattr(b"user.a", b""), xattr(b"user.a", b"")].concat()),
        "does not sort after",
    );
    assert_refused(with(xattr(b"", b"")), "1 to 255 bytes and no NUL");
    assert_refused(with(xattr(b"a\0b", b"")), "1 to 255 bytes and no NUL");
    assert_refused(with(xattr(&[b'a'; 256], b"")), "1 to 255 bytes and no NUL");
    assert_refused(
        with(xattr(b"user.a", &vec![0; limits::MAX_XATTR_VALUE + 1])),
        "the format allows 65536",
    );
    with(xattr(b"user.a", &vec![0; limits::MAX_XATTR_VALUE])).unwrap();
    // The list ends in the middle of an attribute.
    assert_refused(
        with(xattr(b"user.a", b"value")[..9].to_vec()),
        "the bytes end inside",
    );
    let many: Vec<_> = (0..5)
        .map(|n| xattr(&[b'a' + n], &vec![0; limits::MAX_XATTR_VALUE]))
        .collect();
    assert_refused(with(many.concat()), "the format allows 262144");
}

#[test]
fn files_and_links_outside_their_rule_are_refused() {
    let file = |size: u64, blob: Digest| {
        let mut raw = fifo(b"name");
        raw.kind = b'f';
        raw.rest = [&size.to_le_bytes()[..], blob.as_bytes()].concat();
        raw
    };
    file(0, Digest::of(b"")).decode().unwrap();
    file(1, Digest::of(b"x")).decode().unwrap();
    assert_refused(file(1, Digest::of(b"")).decode(), "is 0 for the empty blob alone");
    assert_refused(
        file(0, Digest::of(b"x")).decode(),
        "is 0 for the empty blob alone",
    );
    let mut verity = file(1, Digest::of(b"x"));
    verity.flags = 1;
    assert_refused(verity.decode(), "the bytes end inside an fs-verity digest");
    let link = |mode: u32, target: &[u8]| {
        let mut raw = fifo(b"name");
        (raw.kind, raw.mode) = (b'l', mode);
        raw.rest = [&u16::to_le_bytes(target.len() as u16)[..], target].concat();
        raw.decode()
    };
    link(0o777, b"x").unwrap();
    link(0o777, &[b'x'; 4095]).unwrap();
    assert_refused(link(0o755, b"x"), "is 0777");
    for target in [&b""[..], b"a\0", &[b'x'; 4096]] {
        assert_refused(link(0o777, target), "1 to 4095 bytes and no NUL");
    }
}

#[test]
fn headers_of_something_else_are_refused() {
    let good = dirtree(&[]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        DirTree::decode(&bytes)
    };
    assert_refused(DirTree::decode(b""), "do not start as a dirtree does");
    assert_refused(with(0, b'A'), "do not start as a dirtree does");
    assert_refused(with(6, b'C'), "do not start as a dirtree does");
    assert_refused(with(7, 0), "encoding version 0");
    assert_refused(with(7, 2), "encoding version 2");
    assert_refused(Commit::decode(&good), "do not start as a commit does");
    assert_refused(with(8, 1), "the bytes end inside the entries");
}

#[test]
fn a_count_that_no_bytes_stand_behind_allocates_nothing() {
    for count in [u32::MAX, 1 << 30, 1_000_000] {
        let bytes = [b"atomosT\x01", &count.to_le_bytes()[..]].concat();
        assert_refused(DirTree::decode(&bytes), "the bytes end inside the entries");
    }
    assert_refused(
        DirTree::decode(&vec![0; limits::MAX_DIRTREE + 1]),
        "the format allows",
    );
    assert_refused(
        Commit::decode(&vec![0; limits::MAX_COMMIT + 1]),
        "the format allows",
    );
}

fn commit() -> Commit {
    Commit {
        root: DirTreeId::new(Digest::of(b"root")),
        root_metadata: Metadata::with_mode(0o755),
        parent: None,
        time: 0,
        subject: "subject".to_owned(),
        body: String::new(),
        version: String::new(),
        metadata: [("k".to_owned(), libatomos::format::MetadataValue::Bool(true))].into(),
    }
}

/// Where the fields of [`commit`]'s encoding lie.
const PARENT: usize = 64;
const SUBJECT: usize = 73;
const COUNT: usize = SUBJECT + 9 + 2 + 4;
const KEY: usize = COUNT + 4;

#[test]
fn commits_outside_their_rule_are_refused() {
    let good = commit().encode().unwrap().1;
    Commit::decode(&good).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        Commit::decode(&changed)
    };
    assert_refused(with(PARENT, &[2]), "is 0 or 1");
    assert_refused(with(SUBJECT + 2, b"\n"), "is one line");
    assert_refused(with(SUBJECT + 2, b"\0"), "is one line");
    assert_refused(with(SUBJECT + 2, b"\xff"), "is UTF-8");
    assert_refused(with(SUBJECT, &[0xff, 0xff]), "the format allows 4096");
    assert_refused(with(COUNT, &[1, 4, 0, 0]), "the format allows 1024");
    assert_refused(with(KEY + 2, b"\n"), "is one line");
    assert_refused(with(KEY + 3, b"x"), "has the form of its type");
    assert_refused(with(KEY + 3, b"u"), "has the form of its type");
    assert_refused(with(KEY + 8, &[2]), "has the form of its type");
    let entry = &good[KEY..];
    let twice = [&good[..COUNT], &[2, 0, 0, 0], entry, entry].concat();
    assert_refused(Commit::decode(&twice), "does not sort after");
}

#[test]
fn an_encoder_refuses_what_a_decoder_does() {
    let entry = |metadata: Metadata, node: Node| {
        let entry = Entry {
            name: b"name".to_vec(),
            metadata,
            node,
        };
        DirTree::new(vec![entry]).and_then(|tree| tree.encode())
    };
    let plain = Metadata::with_mode(0o644);
    assert_refused(entry(Metadata::with_mode(0o10000), Node::Fifo), "at most 07777");
    let nobody = Metadata {
        uid: u32::MAX,
        ..plain.clone()
    };
    assert_refused(entry(nobody, Node::Fifo), "below 4294967295");
    let target = b"x".to_vec();
    assert_refused(entry(plain.clone(), Node::Symlink { target }), "is 0777");
    let target = Vec::new();
    assert_refused(
        entry(Metadata::with_mode(0o777), Node::Symlink { target }),
        "1 to 4095",
    );
    let lie = Node::File {
        size: 0,
        blob: BlobId::new(Digest::of(b"x")),
        verity: None,
    };
    assert_refused(entry(plain.clone(), lie), "the empty blob alone");
    let large: Xattrs = [(b"user.a".to_vec(), vec![0; limits::MAX_XATTR_VALUE + 1])]
        .into_iter()
        .collect();
    let large = Metadata {
        xattrs: large,
        ..plain.clone()
    };
    assert_refused(entry(large, Node::Fifo), "the format allows 65536");
    for subject in ["two\nlines", "nul\0"] {
        let subject = subject.to_owned();
        assert_refused(Commit { subject, ..commit() }.encode(), "is one line");
    }
    let body = "x".repeat(limits::MAX_COMMIT);
    assert_refused(Commit { body, ..commit() }.encode(), "the format allows");
}

#[test]
fn config_of_another_format_or_with_unknown_needs_is_refused_and_says_so() {
    let good = "format = 1\nmode = \"bare\"\nid = \"00112233445566778899aabbccddeeff\"\n";
    decode::config(good.as_bytes()).unwrap();
    for (text, why) in [
        (String::new(), "it has no number `format`"),
        ("format = \"1\"".to_owned(), "it has no number `format`"),
        ("format = 2".to_owned(), "format 2"),
        ("format = -1".to_owned(), "format -1"),
        (good.replace("bare", "bear"), "unknown variant"),
        (
            good.replace("00112233", "0011223"),
            "32 lower-case hexadecimal digits",
        ),
        (good.replace("ff", "FF"), "32 lower-case hexadecimal digits"),
        (good.replace("mode", "# mode"), "missing field `mode`"),
        (format!("{good}colour = 1\n"), "colour"),
        (format!("{good}[features]\nincompatible = [\"warp\"]\n"), "warp"),
        (format!("{good}[features]\nlist = []\n"), "list"),
        (format!("{good}[features]\ncompatible = 3\n"), "invalid type"),
        ("format = 1\nformat = 1\n".to_owned(), "duplicate key"),
        (
            format!("a = {}", "[".repeat(10_000)),
            "cannot use the configuration",
        ),
    ] {
        let error = decode::config(text.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{why:?} is not in {error:?}");
    }
    assert!(decode::config(&[0xff, 0xfe]).unwrap_err().contains("not UTF-8"));
    // What may be ignored is.
    decode::config(format!("{good}[features]\ncompatible = [\"warp\"]\n").as_bytes()).unwrap();
}

#[test]
fn refs_that_no_writer_writes_are_refused_with_their_line() {
    let hex = Digest::of(b"x").to_hex();
    for (lines, why) in [
        (format!("{hex} a"), "last line is cut short"),
        ("\n".to_owned(), "line 2"),
        (format!("{hex} a\n\n"), "line 3"),
        (format!("{hex}  a\n"), "line 2"),
        (format!("{hex} a\r\n"), "line 2"),
        (format!("{} a\n", hex.to_uppercase()), "line 2"),
        (format!("{} a\n", &hex[1..]), "line 2"),
        (format!("{hex} ..\n"), "line 2"),
        (format!("{hex} b\n{hex} a\n"), "line 3: the names are not sorted"),
        (format!("{hex} a\n{hex} a\n"), "line 3: the names are not sorted"),
        (format!("{hex} a\n{hex} a/b\n"), "line 3"),
        (format!("{hex} a\n{hex} a-b\n{hex} a/b\n"), "line 4"),
    ] {
        let text = format!("refs {}\n{lines}", lines.lines().count());
        let error = decode::refs(text.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{why:?} is not in {error:?} for {text:?}");
    }
    for (text, why) in [
        (String::new(), "its first line"),
        ("refs".to_owned(), "its first line"),
        ("refs 0".to_owned(), "its first line"),
        ("refs 00\n".to_owned(), "its first line"),
        ("refs -1\n".to_owned(), "its first line"),
        (format!("{hex} a\n"), "its first line"),
        (
            format!("refs 2\n{hex} a\n"),
            "it has 1 refs, and says that there are 2",
        ),
        (
            format!("refs 0\n{hex} a\n"),
            "it has 1 refs, and says that there are 0",
        ),
    ] {
        let error = decode::refs(text.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{why:?} is not in {error:?} for {text:?}");
    }
    assert!(decode::refs(b"refs 0\n").unwrap().is_empty());
}
