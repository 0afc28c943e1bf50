//! A tree of every odd thing.

use std::ffi::{OsStr, OsString};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, XattrFlags};

/// What making an entry takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Root's rights.
    Root,
}

/// The order in which entries are made. Names and metadata are the same; directories and inodes on disk are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are listed.
    Forward,
    /// The last first.
    Reverse,
    /// Every seventh, then the ones after those, and so on.
    Strided,
}

#[derive(Debug, Clone)]
enum Make {
    File(Vec<u8>),
    /// A hole of this size with a few bytes after it, and a hole after those.
    Sparse(u64),
    Dir,
    Symlink(Vec<u8>),
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
    /// A second name of the file at this path.
    HardLink(PathBuf),
}

#[derive(Debug, Clone)]
struct Spec {
    path: PathBuf,
    make: Make,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    xattrs: Vec<(&'static str, Vec<u8>)>,
    needs: Needs,
}

/// A list of entries that can be made in a directory, as often and in whatever order a test likes.
#[derive(Debug, Clone)]
pub struct OddTree {
    specs: Vec<Spec>,
    root: Spec,
}

impl OddTree {
    /// Returns everything that root can make, or what an ordinary user can where the process is not root.
    #[must_use]
    pub fn new() -> Self {
        let root = rustix::process::geteuid().is_root();
        Self::limited_to(if root { Needs::Root } else { Needs::Nothing })
    }

    /// Returns what can be made with these rights.
    #[must_use]
    pub fn limited_to(rights: Needs) -> Self {
        let mut tree = Self {
            specs: Vec::new(),
            root: spec("", Make::Dir).mode(0o755).mtime(1_234_567_890),
        };
        tree.names();
        tree.modes_and_times();
        tree.sizes_and_links();
        tree.attributes();
        tree.special_files();
        if rights == Needs::Root {
            tree.root = tree.root.owner(0, 4).xattr("user.root", b"of the tree");
        } else {
            tree.specs.retain(|spec| spec.needs == Needs::Nothing);
        }
        tree
    }

    /// Leaves out entries whose path starts with `prefix`: what a file system cannot hold.
    #[must_use]
    pub fn without(mut self, prefix: &str) -> Self {
        self.specs.retain(|spec| !spec.path.starts_with(prefix));
        self
    }

    /// Leaves out modification times that a file system without 64-bit times cannot hold, on either side.
    #[must_use]
    pub fn with_times_within(mut self, earliest: i64, latest: i64) -> Self {
        for spec in &mut self.specs {
            spec.mtime = spec.mtime.clamp(earliest, latest);
        }
        self
    }

    /// Returns how many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    fn add(&mut self, spec: Spec) {
        self.specs.push(spec);
    }

    fn names(&mut self) {
        self.add(spec("names", Make::Dir));
        let mut names: Vec<Vec<u8>> = vec![
            vec![0xff, 0xfe, b'\n', 0x01],
            b"new\nline".to_vec(),
            b" leading and trailing ".to_vec(),
            b"-rf".to_vec(),
            b"...".to_vec(),
            b"..a".to_vec(),
            b".hidden".to_vec(),
            b"back\\slash".to_vec(),
            "\u{65e5}\u{672c}\u{8a9e}".into(),
            // The same letter, composed and not: two names.
            "\u{e9}".into(),
            "e\u{301}".into(),
            b"A".to_vec(),
            b"a".to_vec(),
            // Sorting by bytes and by path differ around the slash.
            b"a-".to_vec(),
            b"a0".to_vec(),
            vec![b'n'; 255],
            vec![0x80; 255],
        ];
        names.extend(
            (1..=255)
                .filter(|byte| *byte != b'/' && *byte != b'.')
                .map(|byte| vec![b'%', byte]),
        );
        for name in names {
            let path = Path::new("names").join(OsStr::from_bytes(&name));
            self.add(spec(path, Make::File(name)));
        }
        self.add(spec("a/a", Make::File(b"inside".to_vec())));
        self.add(spec("a", Make::Dir));
        let deep: PathBuf = std::iter::repeat_n("deep", 200).collect();
        self.add(spec(deep.join("bottom"), Make::File(b"bottom".to_vec())));
        self.add(spec("many", Make::Dir));
        for index in 0..10_000 {
            let path = format!("many/{index}");
            // A few contents for many names, and many empty ones.
            let bytes = format!("{}", index % 7).into_bytes();
            let make = Make::File(if index % 2 == 0 { Vec::new() } else { bytes });
            self.add(spec(path, make).mtime(1_000_000_000));
        }
    }

    fn modes_and_times(&mut self) {
        for mode in [
            0o000, 0o001, 0o111, 0o200, 0o400, 0o444, 0o600, 0o644, 0o666, 0o755, 0o777, 0o1777, 0o2755,
            0o4755, 0o6755, 0o7777, 0o4000, 0o2644,
        ] {
            // Whoever is not root cannot read what has no mode.
            let needs = if mode & 0o400 == 0 {
                Needs::Root
            } else {
                Needs::Nothing
            };
            let file = spec(
                format!("modes/file-{mode:04o}"),
                Make::File(b"the same bytes".to_vec()),
            );
            self.add(file.mode(mode).needs(needs));
            let dir = spec(format!("modes/dir-{mode:04o}"), Make::Dir);
            let needs = if mode & 0o700 == 0o700 {
                Needs::Nothing
            } else {
                Needs::Root
            };
            self.add(dir.mode(mode).needs(needs));
        }
        for (name, mtime) in [
            ("epoch", 0),
            ("before-1970", -86_400 * 365 * 20),
            ("1901", -2_147_483_648),
            ("2038", 2_147_483_648),
            ("2400", 13_569_465_600),
            ("one", 1),
            ("minus-one", -1),
        ] {
            let file = spec(format!("times/{name}"), Make::File(b"time".to_vec()));
            self.add(file.mtime(mtime));
            self.add(spec(format!("times/{name}-dir"), Make::Dir).mtime(mtime));
            self.add(spec(format!("times/{name}-link"), Make::Symlink(b"x".to_vec())).mtime(mtime));
        }
        for (uid, gid) in [
            (0, 0),
            (1, 2),
            (1000, 1000),
            (65_534, 65_534),
            (4_294_967_294, 4_294_967_294),
        ] {
            let name = format!("owners/{uid}-{gid}");
            let file = spec(&name, Make::File(b"owned".to_vec())).owner(uid, gid);
            self.add(file.mode(0o4755).needs(Needs::Root));
            let dir = spec(format!("{name}-dir"), Make::Dir).owner(uid, gid);
            self.add(dir.mode(0o3700).needs(Needs::Root));
            let link = spec(format!("{name}-link"), Make::Symlink(b"nowhere".to_vec()));
            self.add(link.owner(uid, gid).needs(Needs::Root));
        }
    }

    fn sizes_and_links(&mut self) {
        let big: Vec<u8> = (0..3_000_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        self.add(spec("sizes/empty", Make::File(Vec::new())));
        self.add(spec("sizes/empty-setuid", Make::File(Vec::new())).mode(0o4711));
        self.add(spec("sizes/empty-dir", Make::Dir));
        // A file that holds the bytes of an object: each kind has its own place.
        let (_, empty_dirtree) = crate::format::DirTree::default().encode().unwrap();
        self.add(spec(
            "sizes/the-bytes-of-an-empty-dirtree",
            Make::File(empty_dirtree),
        ));
        self.add(spec("sizes/big", Make::File(big.clone())));
        self.add(spec("sizes/big-again", Make::File(big)).mode(0o600));
        for size in [1, 1 << 20, (1 << 20) - 1, (1 << 20) + 1, 256 << 10] {
            self.add(spec(format!("sizes/{size}"), Make::File(vec![b'x'; size])));
        }
        self.add(spec("sizes/sparse", Make::Sparse(20 << 20)));
        self.add(spec(
            "links/target",
            Make::File(b"one inode, three names".to_vec()),
        ));
        self.add(spec("links/hard-1", Make::HardLink("links/target".into())));
        self.add(spec("links/sub/hard-2", Make::HardLink("links/target".into())));
        self.add(spec("links/dangling", Make::Symlink(b"does/not/exist".to_vec())));
        self.add(spec("links/absolute", Make::Symlink(b"/etc/passwd".to_vec())));
        self.add(spec("links/upwards", Make::Symlink(b"../../../../..".to_vec())));
        self.add(spec("links/loop", Make::Symlink(b"loop".to_vec())));
        self.add(spec("links/bytes", Make::Symlink(vec![0xff, b'\n', 0x80])));
        self.add(spec(
            "links/longest",
            Make::Symlink([b"/x".repeat(2047), vec![b'y']].concat()),
        ));
    }

    fn attributes(&mut self) {
        let file = |name: &str| spec(format!("xattrs/{name}"), Make::File(b"attributes".to_vec()));
        self.add(file("user").xattr("user.comment", b"hello"));
        self.add(file("empty").xattr("user.empty", b""));
        self.add(file("binary").xattr("user.binary", &[0, 255, 10, 0]));
        self.add(
            file("several")
                .xattr("user.b", b"2")
                .xattr("user.a", b"1")
                .xattr("user.aa", b"3"),
        );
        // What ext4 can hold beside the inode in one block.
        self.add(file("large").xattr("user.large", &[7; 3000]));
        self.add(spec("xattrs/dir", Make::Dir).xattr("user.dir", b"dir"));
        self.add(
            file("acl")
                .mode(0o640)
                .xattr("system.posix_acl_access", &acl(6, &[(1000, 7)], 0, 4, 0)),
        );
        let default = acl(7, &[(1000, 5)], 5, 7, 0);
        let dir = spec("xattrs/acl-dir", Make::Dir).mode(0o770);
        let dir = dir.xattr("system.posix_acl_access", &acl(7, &[(1000, 7)], 5, 7, 0));
        self.add(dir.xattr("system.posix_acl_default", &default));
        self.add(spec("xattrs/acl-dir/inside", Make::File(b"without one".to_vec())));
        self.add(spec("xattrs/acl-dir/sub", Make::Dir));
        self.add(spec(
            "xattrs/acl-dir/sub/inside",
            Make::File(b"without one either".to_vec()),
        ));
        let capable = file("capability")
            .mode(0o755)
            .xattr("security.capability", &file_capability());
        self.add(capable.needs(Needs::Root));
        self.add(
            file("trusted")
                .xattr("trusted.secret", b"root's")
                .needs(Needs::Root),
        );
        self.add(
            file("security")
                .xattr("security.atomos", b"label")
                .needs(Needs::Root),
        );
        let link = spec("xattrs/trusted-link", Make::Symlink(b"x".to_vec()));
        self.add(link.xattr("trusted.link", b"on a link").needs(Needs::Root));
    }

    fn special_files(&mut self) {
        self.add(spec("special/fifo", Make::Fifo).mode(0o622));
        for (name, make) in [
            ("null", Make::Char(1, 3)),
            ("whiteout", Make::Char(0, 0)),
            ("high", Make::Char(4095, 1_048_575)),
            ("disk", Make::Block(8, 1)),
        ] {
            let device = spec(format!("special/{name}"), make).mode(0o660).owner(0, 6);
            self.add(device.needs(Needs::Root));
        }
        let fifo = spec("special/odd-fifo", Make::Fifo).mode(0o6711).owner(7, 8);
        self.add(fifo.xattr("trusted.fifo", b"yes").needs(Needs::Root));
    }

    /// Makes every entry in the directory `root`, which exists and is empty.
    pub fn make(&self, root: &Path, order: Order) {
        let mut specs: Vec<&Spec> = self.specs.iter().collect();
        match order {
            Order::Forward => {}
            Order::Reverse => specs.reverse(),
            Order::Strided => {
                let all = specs;
                specs = (0..7)
                    .flat_map(|start| all.iter().skip(start).step_by(7))
                    .copied()
                    .collect();
            }
        }
        // A second name needs the first.
        let (links, first): (Vec<&Spec>, Vec<&Spec>) = specs
            .into_iter()
            .partition(|spec| matches!(spec.make, Make::HardLink(_)));
        for spec in first.iter().chain(&links) {
            spec.make_at(root);
        }
        // Every path's ancestors too, so that nothing depends on the umask or on when it was made.
        let mut implied: Vec<PathBuf> = self
            .specs
            .iter()
            .flat_map(|spec| spec.path.ancestors().skip(1))
            .filter(|path| !path.as_os_str().is_empty())
            .map(Path::to_owned)
            .collect();
        implied.sort();
        implied.dedup();
        implied.retain(|path| self.specs.iter().all(|spec| spec.path != *path));
        let mut all: Vec<Spec> = implied.into_iter().map(|path| spec(path, Make::Dir)).collect();
        all.extend(first.into_iter().cloned());
        // The deepest first: setting a time is undone by making something inside, and mode 000 keeps others out.
        all.sort_by_key(|spec| std::cmp::Reverse(spec.path.components().count()));
        for spec in &all {
            spec.dress(root);
        }
        self.root.dress(root);
    }
}

impl Default for OddTree {
    fn default() -> Self {
        Self::new()
    }
}

fn spec(path: impl Into<PathBuf>, make: Make) -> Spec {
    let mode = if matches!(make, Make::Dir) { 0o755 } else { 0o644 };
    let me = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    Spec {
        path: path.into(),
        make,
        mode,
        owner: me,
        mtime: 1_500_000_000,
        xattrs: Vec::new(),
        needs: Needs::Nothing,
    }
}

impl Spec {
    fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    fn mtime(mut self, mtime: i64) -> Self {
        self.mtime = mtime;
        self
    }

    fn xattr(mut self, name: &'static str, value: &[u8]) -> Self {
        self.xattrs.push((name, value.to_vec()));
        self
    }

    fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    fn make_at(&self, root: &Path) {
        let path = root.join(&self.path);
        let parent = path.parent().unwrap();
        std::fs::create_dir_all(parent).unwrap();
        let special = |kind, major, minor| {
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device).unwrap();
        };
        match &self.make {
            Make::File(bytes) => std::fs::write(&path, bytes).unwrap(),
            Make::Sparse(size) => {
                let mut file = std::fs::File::create(&path).unwrap();
                file.seek(SeekFrom::Start(*size)).unwrap();
                file.write_all(b"after the hole").unwrap();
                file.set_len(2 * size).unwrap();
            }
            Make::Dir => std::fs::create_dir_all(&path).unwrap(),
            Make::Symlink(target) => {
                std::os::unix::fs::symlink(OsString::from_vec(target.clone()), &path).unwrap();
            }
            Make::Fifo => special(FileType::Fifo, 0, 0),
            Make::Char(major, minor) => special(FileType::CharacterDevice, *major, *minor),
            Make::Block(major, minor) => special(FileType::BlockDevice, *major, *minor),
            Make::HardLink(first) => std::fs::hard_link(root.join(first), &path).unwrap(),
        }
    }

    /// Sets owner, mode, attributes and time.
    fn dress(&self, root: &Path) {
        let path = root.join(&self.path);
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        if rustix::process::geteuid().is_root() {
            rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        if !matches!(self.make, Make::Symlink(_)) {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(self.mode)).unwrap();
        }
        for (name, value) in &self.xattrs {
            rustix::fs::lsetxattr(&path, *name, value, XattrFlags::empty())
                .unwrap_or_else(|errno| panic!("{name} on {}: {errno}", path.display()));
        }
        let times = crate::fs::mtime_only(self.mtime);
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Returns the bytes of a POSIX ACL: the owner's rights, named users, the group's, the mask, everybody's.
#[must_use]
pub fn acl(owner: u16, users: &[(u32, u16)], group: u16, mask: u16, other: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut entries = vec![(0x01, owner, NOBODY)];
    entries.extend(users.iter().map(|(uid, rights)| (0x02, *rights, *uid)));
    entries.extend([(0x04, group, NOBODY), (0x10, mask, NOBODY), (0x20, other, NOBODY)]);
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend_from_slice(&u16::to_le_bytes(tag));
        bytes.extend_from_slice(&rights.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Returns the bytes of a file capability: `cap_net_raw+ep`.
#[must_use]
pub fn file_capability() -> Vec<u8> {
    let words = [0x0200_0001u32, 1 << 13, 0, 0, 0];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}
