//! Writing an archive: ustar, with PAX records where it has no room.

use std::io::{self, Write};

use crate::format::Metadata;

use super::{BLOCK, LITERAL, Member, MemberKind};
use super::{acl, pax};

/// Bytes of a name or a link's target that a header holds.
const NAME: usize = 100;

/// The largest numbers that fields of 8 and of 12 bytes hold.
const MAX_7: u64 = 0o7_777_777;
const MAX_11: u64 = 0o77_777_777_777;

/// Blocks to which GNU tar fills up an archive, and so does this.
const RECORD: u64 = 20 * BLOCK as u64;

/// Writes an archive. The same members in the same order are the same bytes, always.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    written: u64,
}

impl<W: Write> TarWriter<W> {
    /// Begins to write.
    pub const fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    /// Writes a member's header. That of a file is to be followed by its bytes ([`TarWriter::write_data`]) and
    /// [`TarWriter::end_file`].
    pub fn write_member(&mut self, member: &Member) -> io::Result<()> {
        let header = header(member);
        if !header.records.is_empty() {
            let mut extended = Vec::new();
            for (keyword, value) in &header.records {
                pax::write(&mut extended, keyword, value);
            }
            if extended.len() as u64 > pax::MAX_EXTENDED {
                return Err(io::Error::other("its attributes do not fit into an archive"));
            }
            let about = Metadata::with_mode(0o644);
            let block = block(b"PaxHeader", b"", b'x', &about, extended.len() as u64, (0, 0));
            self.put(&block)?;
            self.put(&extended)?;
            self.pad(extended.len() as u64)?;
        }
        self.put(&header.block)
    }

    /// Writes bytes of the file whose header was written last.
    pub fn write_data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes)
    }

    /// Ends the file of `size` bytes.
    pub fn end_file(&mut self, size: u64) -> io::Result<()> {
        self.pad(size)
    }

    /// Ends the archive and returns what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(&[0; 2 * BLOCK])?;
        let left = self.written.wrapping_neg() % RECORD;
        for _ in 0..left / BLOCK as u64 {
            self.put(&[0; BLOCK])?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let len = (size.wrapping_neg() % BLOCK as u64) as usize;
        self.put(&[0; BLOCK][..len])
    }
}

struct Written {
    /// In order of the keywords.
    records: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
    block: [u8; BLOCK],
}

fn header(member: &Member) -> Written {
    let mut records = std::collections::BTreeMap::new();
    let mut record = |keyword: &[u8], value: &[u8]| {
        records.insert(keyword.to_vec(), value.to_vec());
    };
    let (kind, link, size, device): (u8, &[u8], u64, (u32, u32)) = match &member.kind {
        MemberKind::File { size } => (b'0', b"", *size, (0, 0)),
        MemberKind::HardLink(target) => (b'1', target, 0, (0, 0)),
        MemberKind::Symlink(target) => (b'2', target, 0, (0, 0)),
        MemberKind::Char(major, minor) => (b'3', b"", 0, (*major, *minor)),
        MemberKind::Block(major, minor) => (b'4', b"", 0, (*major, *minor)),
        MemberKind::Dir => (b'5', b"", 0, (0, 0)),
        MemberKind::Fifo => (b'6', b"", 0, (0, 0)),
    };
    // A name that ends with a slash would be taken for a directory's by old programs.
    if member.path.len() > NAME {
        record(b"path", &member.path);
    }
    if link.len() > NAME {
        record(b"linkpath", link);
    }
    let metadata = &member.metadata;
    let mut fits = |keyword: &[u8], value: i64, max: u64| -> u64 {
        match u64::try_from(value) {
            Ok(value) if value <= max => value,
            _ => {
                record(keyword, value.to_string().as_bytes());
                0
            }
        }
    };
    let shown = Metadata {
        mode: metadata.mode,
        uid: fits(b"uid", i64::from(metadata.uid), MAX_7) as u32,
        gid: fits(b"gid", i64::from(metadata.gid), MAX_7) as u32,
        mtime: fits(b"mtime", metadata.mtime, MAX_11) as i64,
        xattrs: crate::format::Xattrs::new(),
    };
    let shown_size = if size > MAX_11 {
        record(b"size", size.to_string().as_bytes());
        0
    } else {
        size
    };
    let mut number = |keyword: &[u8], value: u32| {
        if u64::from(value) > MAX_7 {
            record(keyword, value.to_string().as_bytes());
            0
        } else {
            value
        }
    };
    let device = (
        number(b"SCHILY.devmajor", device.0),
        number(b"SCHILY.devminor", device.1),
    );
    if member.literal {
        record(LITERAL, b"1");
    }
    for (name, value) in metadata.xattrs.iter() {
        // Programs that unpack lists read their text, and pass over the attribute.
        let text = match name {
            acl::ACCESS => Some("SCHILY.acl.access"),
            acl::DEFAULT => Some("SCHILY.acl.default"),
            _ => None,
        };
        if let Some((keyword, text)) = text.zip(acl::to_text(value)) {
            records.insert(keyword.into(), text.into_bytes());
        }
        let (keyword, value) = pax::xattr(name, value);
        records.insert(keyword, value);
    }
    let block = block(&member.path, link, kind, &shown, shown_size, device);
    Written { records, block }
}

/// Returns a header. Names that are too long are cut; a record has them whole.
fn block(
    name: &[u8],
    link: &[u8],
    kind: u8,
    metadata: &Metadata,
    size: u64,
    device: (u32, u32),
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let name = &name[..name.len().min(NAME)];
    block[..name.len()].copy_from_slice(name);
    let link = &link[..link.len().min(NAME)];
    block[157..157 + link.len()].copy_from_slice(link);
    octal(&mut block[100..108], u64::from(metadata.mode));
    octal(&mut block[108..116], u64::from(metadata.uid));
    octal(&mut block[116..124], u64::from(metadata.gid));
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], metadata.mtime as u64);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(device.0));
    octal(&mut block[337..345], u64::from(device.1));
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// Writes digits, and a NUL after them.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
}
