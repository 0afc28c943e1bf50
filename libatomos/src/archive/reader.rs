//! Reading an archive, member by member.

use std::io::{self, Read};

use crate::format::{Metadata, limits};

use super::acl;
use super::header::Header;
use super::pax::{MAX_EXTENDED, MAX_GLOBALS, MAX_RECORDS, Records};
use super::sparse::{Map, Piece};
use super::{BLOCK, LITERAL, TarError};

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file of so many bytes, which the [`TarReader`] gives.
    File {
        /// Bytes, the holes of a sparse file among them.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// Another name of the member with this path.
    HardLink(Vec<u8>),
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path, as it stands in the archive.
    pub path: Vec<u8>,
    /// Owner, mode, time and extended attributes. Names of users and groups are not looked at.
    pub metadata: Metadata,
    /// What it is.
    pub kind: MemberKind,
    /// Its name means itself, even if it begins with `.wh.`.
    pub literal: bool,
}

/// What is still to be read of the current member.
#[derive(Debug, Default)]
struct Data {
    /// Bytes in the archive.
    stored: u64,
    /// Bytes after them, to the end of a block.
    padding: u64,
    /// Bytes that the reader has been given.
    position: u64,
    /// Bytes of the file.
    size: u64,
    /// Where in the file what is stored belongs; all of it where `None`.
    pieces: Option<Vec<Piece>>,
    /// The piece that is being read.
    piece: usize,
}

/// Reads an archive that is not compressed, from its start. Reading from it gives the bytes of the current member, in which holes are
/// zeros.
#[derive(Debug)]
pub struct TarReader<R> {
    stream: R,
    offset: u64,
    globals: Records,
    data: Data,
    member: Option<String>,
    ended: bool,
}

/// What extended headers say of the member that follows.
#[derive(Default)]
struct Pending {
    records: Records,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.name.is_none() && self.link.is_none()
    }
}

impl<R: Read> TarReader<R> {
    /// Begins to read.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            offset: 0,
            globals: Records::default(),
            data: Data::default(),
            member: None,
            ended: false,
        }
    }

    /// Goes to the next member; `None` at the end of the archive, after which there is nothing but zeros.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_data()?;
        self.member = None;
        let mut pending = Pending::default();
        loop {
            let Some(block) = self.block()? else {
                return Err(self.bad("it ends without a block of zeros, so it may have been cut"));
            };
            if block.iter().all(|byte| *byte == 0) {
                if !pending.is_empty() {
                    return Err(self.bad("it ends after an extended header, without its member"));
                }
                self.finish()?;
                return Ok(None);
            }
            let header = Header::new(block).map_err(|rule| self.bad(rule))?;
            match header.kind() {
                b'x' | b'X' => {
                    let bytes = self.extended(&header)?;
                    let read = pending.records.read(&bytes, MAX_RECORDS);
                    read.map_err(|rule| self.bad(rule))?;
                }
                b'g' => {
                    let bytes = self.extended(&header)?;
                    let read = self.globals.read(&bytes, MAX_GLOBALS);
                    read.map_err(|rule| self.bad(rule))?;
                }
                b'L' => pending.name = Some(self.long_name(&header)?),
                b'K' => pending.link = Some(self.long_name(&header)?),
                // The label of a volume.
                b'V' => self.skip_label(&header)?,
                _ => return self.member(&header, pending).map(Some),
            }
        }
    }

    /// Returns the error that reading a member's bytes has failed with `source`.
    pub fn read_error(&self, source: io::Error) -> TarError {
        TarError::Read {
            member: self.member.clone(),
            offset: self.offset,
            source,
        }
    }

    /// Returns the error that the current member breaks `rule`.
    pub fn bad(&self, rule: impl Into<String>) -> TarError {
        TarError::Member {
            member: self.member.clone(),
            offset: self.offset,
            rule: rule.into(),
        }
    }

    fn member(&mut self, header: &Header, pending: Pending) -> Result<Member, TarError> {
        let records = self.globals.overlay(pending.records);
        let sparse_name = records.get(b"GNU.sparse.name");
        let path = sparse_name
            .or_else(|| records.get(b"path"))
            .map(<[u8]>::to_vec)
            .or(pending.name)
            .unwrap_or_else(|| header.name());
        self.member = Some(path.escape_ascii().to_string());
        if path.is_empty() || path.contains(&0) {
            return Err(self.bad("its name is empty or has a NUL"));
        }
        let link = records
            .get(b"linkpath")
            .map(<[u8]>::to_vec)
            .or(pending.link)
            .unwrap_or_else(|| header.link());
        let metadata = metadata(header, &records).map_err(|rule| self.bad(rule))?;
        let size = size(header, &records).map_err(|rule| self.bad(rule))?;
        let is_dir_by_name = path.ends_with(b"/");
        let kind = match header.kind() {
            // Before POSIX a directory was known by its slash alone.
            b'0' | 0 if is_dir_by_name && size == 0 => MemberKind::Dir,
            b'0' | 0 | b'7' | b'S' => {
                let literal = records.get(LITERAL).is_some();
                let size = self.begin_file(header, &records, size)?;
                return Ok(Member {
                    path,
                    metadata,
                    kind: MemberKind::File { size },
                    literal,
                });
            }
            b'1' => MemberKind::HardLink(link),
            b'2' => MemberKind::Symlink(link),
            b'3' | b'4' => {
                let (major, minor) = device(header, &records).map_err(|rule| self.bad(rule))?;
                if header.kind() == b'3' {
                    MemberKind::Char(major, minor)
                } else {
                    MemberKind::Block(major, minor)
                }
            }
            b'5' => MemberKind::Dir,
            b'6' => MemberKind::Fifo,
            other => {
                let letter = other.escape_ascii();
                return Err(self.bad(format!(
                    "it is of the type '{letter}', which this program does not know"
                )));
            }
        };
        if let MemberKind::HardLink(target) | MemberKind::Symlink(target) = &kind
            && (target.is_empty() || target.contains(&0) || target.len() > limits::MAX_LINK_TARGET)
        {
            return Err(self.bad("its link's target is empty, too long, or has a NUL"));
        }
        // Programs disagree whether bytes follow then, and so on what the next member is.
        if size != 0 {
            return Err(self.bad("it is no regular file, and has bytes"));
        }
        let metadata = match kind {
            // Linux has no other, and one value keeps one tree one tree.
            MemberKind::Symlink(_) => Metadata {
                mode: 0o777,
                ..metadata
            },
            _ => metadata,
        };
        self.data = Data::default();
        Ok(Member {
            path,
            metadata,
            kind,
            literal: records.get(LITERAL).is_some(),
        })
    }

    /// Gets ready to read a file that takes `stored` bytes of the archive; returns its size.
    fn begin_file(&mut self, header: &Header, records: &Records, stored: u64) -> Result<u64, TarError> {
        self.data = Data {
            stored,
            padding: padding(stored),
            size: stored,
            ..Data::default()
        };
        let sparse = match header.kind() {
            b'S' => Some(self.gnu_map(header)?),
            _ => self.pax_map(records)?,
        };
        if let Some((map, size)) = sparse {
            let size = u64::try_from(size).map_err(|_| self.bad("its size is negative"))?;
            let pieces = map.finish(size, self.data.stored);
            self.data.pieces = Some(pieces.map_err(|rule| self.bad(rule))?);
            self.data.size = size;
        }
        Ok(self.data.size)
    }

    /// Reads the map that GNU's own format has in the header and in blocks after it.
    fn gnu_map(&mut self, header: &Header) -> Result<(Map, i64), TarError> {
        let mut map = Map::default();
        let (first, mut more, size) = header.gnu_sparse().map_err(|rule| self.bad(rule))?;
        map.push_gnu(first).map_err(|rule| self.bad(rule))?;
        while more {
            let block = self.block()?.ok_or_else(|| self.cut())?;
            map.push_gnu(&block[..504]).map_err(|rule| self.bad(rule))?;
            more = block[504] != 0;
        }
        Ok((map, size))
    }

    /// Reads the map that PAX records have, or lead to.
    fn pax_map(&mut self, records: &Records) -> Result<Option<(Map, i64)>, TarError> {
        let number = |keyword| records.number(keyword).map_err(|rule| self.bad(rule));
        let version = (number("GNU.sparse.major")?, number("GNU.sparse.minor")?);
        let size = match (number("GNU.sparse.realsize")?, number("GNU.sparse.size")?) {
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => return Ok(None),
        };
        let mut map = Map::default();
        match version {
            (Some(1), Some(0)) => {
                self.stored_map(&mut map)?;
                return Ok(Some((map, size)));
            }
            (None, None) | (Some(0), _) => {}
            _ => return Err(self.bad("it is sparse in a way that this program does not know")),
        }
        let numbers: Vec<&[u8]> = match records.get(b"GNU.sparse.map") {
            Some(text) => text.split(|byte| *byte == b',').collect(),
            None => records.pieces.iter().map(Vec::as_slice).collect(),
        };
        if !numbers.len().is_multiple_of(2) {
            return Err(self.bad("its map of a sparse file is cut"));
        }
        for pair in numbers.chunks_exact(2) {
            let parse = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
            let pushed = match (parse(pair[0]), parse(pair[1])) {
                (Some(offset), Some(len)) => map.push(offset, len),
                _ => Err("its map of a sparse file has no numbers".to_owned()),
            };
            pushed.map_err(|rule| self.bad(rule))?;
        }
        Ok(Some((map, size)))
    }

    /// Reads the map that stands before the bytes, as lines, up to a block's end.
    fn stored_map(&mut self, map: &mut Map) -> Result<(), TarError> {
        let mut lines = Lines::default();
        let count = self.line(&mut lines)?;
        for _ in 0..count {
            let offset = self.line(&mut lines)?;
            let len = self.line(&mut lines)?;
            map.push(offset, len).map_err(|rule| self.bad(rule))?;
        }
        Ok(())
    }

    fn line(&mut self, lines: &mut Lines) -> Result<i64, TarError> {
        let mut value = 0i64;
        let mut digits = 0;
        loop {
            if lines.at == lines.len {
                if self.data.stored < BLOCK as u64 {
                    return Err(self.bad("its map of a sparse file is cut"));
                }
                lines.block = self.block()?.ok_or_else(|| self.cut())?;
                self.data.stored -= BLOCK as u64;
                (lines.at, lines.len) = (0, BLOCK);
            }
            let byte = lines.block[lines.at];
            lines.at += 1;
            match byte {
                b'0'..=b'9' if digits < 18 => {
                    value = value * 10 + i64::from(byte - b'0');
                    digits += 1;
                }
                b'\n' if digits > 0 => return Ok(value),
                _ => return Err(self.bad("its map of a sparse file has no numbers")),
            }
        }
    }

    /// Reads what an extended header holds.
    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header
            .size()
            .ok()
            .and_then(|size| u64::try_from(size).ok())
            .filter(|size| *size <= MAX_EXTENDED)
            .ok_or_else(|| self.bad("an extended header has more than 1 MiB"))?;
        let mut bytes = vec![0; (size + padding(size)) as usize];
        self.fill(&mut bytes)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// Reads a name that GNU has put before its member.
    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let mut name = self.extended(header)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn skip_label(&mut self, header: &Header) -> Result<(), TarError> {
        match header.size() {
            Ok(0) => Ok(()),
            _ => Err(self.bad("the label of a volume has bytes")),
        }
    }

    /// Reads past what nobody asked for.
    fn skip_data(&mut self) -> Result<(), TarError> {
        let mut left = self.data.stored + self.data.padding;
        self.data = Data::default();
        let mut buffer = [0; 8 * BLOCK];
        while left > 0 {
            let len = left.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..len])?;
            left -= len as u64;
        }
        Ok(())
    }

    /// Reads to the end, so that a checksum of the compression is looked at, and nothing stands there unread.
    fn finish(&mut self) -> Result<(), TarError> {
        self.ended = true;
        let mut buffer = [0; 8 * BLOCK];
        loop {
            match self
                .read_some(&mut buffer)
                .map_err(|error| self.read_error(error))?
            {
                0 => return Ok(()),
                len if buffer[..len].iter().all(|byte| *byte == 0) => {}
                _ => return Err(self.bad("something stands after its end; is it two archives in a row?")),
            }
        }
    }

    /// Reads a block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self
                .read_some(&mut block[filled..])
                .map_err(|error| self.read_error(error))?
            {
                0 if filled == 0 => return Ok(None),
                0 => return Err(self.cut()),
                len => filled += len,
            }
        }
        Ok(Some(block))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .read_some(&mut buffer[filled..])
                .map_err(|error| self.read_error(error))?
            {
                0 => return Err(self.cut()),
                len => filled += len,
            }
        }
        Ok(())
    }

    fn cut(&self) -> TarError {
        self.read_error(unexpected_end())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Ok(len) => {
                    self.offset += len as u64;
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = (self.data.stored.min(buffer.len() as u64)) as usize;
        // Some decompressors take an empty buffer for a mistake.
        if len == 0 {
            return Ok(0);
        }
        let read = self.read_some(&mut buffer[..len])?;
        if read == 0 {
            return Err(unexpected_end());
        }
        self.data.stored -= read as u64;
        self.data.position += read as u64;
        Ok(read)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(pieces) = &self.data.pieces else {
            return self.read_stored(buffer);
        };
        let position = self.data.position;
        while pieces
            .get(self.data.piece)
            .is_some_and(|piece| position >= piece.offset + piece.len)
        {
            self.data.piece += 1;
        }
        let (end, is_hole) = match pieces.get(self.data.piece) {
            Some(piece) if position >= piece.offset => (piece.offset + piece.len, false),
            Some(piece) => (piece.offset, true),
            None => (self.data.size, true),
        };
        let len = (end - position).min(buffer.len() as u64) as usize;
        if is_hole {
            buffer[..len].fill(0);
            self.data.position += len as u64;
            Ok(len)
        } else {
            self.read_stored(&mut buffer[..len])
        }
    }
}

/// Lines of a map that is being read.
struct Lines {
    block: [u8; BLOCK],
    at: usize,
    len: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            block: [0; BLOCK],
            at: 0,
            len: 0,
        }
    }
}

/// Returns how many bytes there are from a member's end to the end of its last block.
const fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn unexpected_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle")
}

fn metadata(header: &Header, records: &Records) -> Result<Metadata, String> {
    let owner = |what: &str, keyword: &str, field: Result<i64, String>| {
        let value = match records.number(keyword)? {
            Some(value) => value,
            None => field?,
        };
        u32::try_from(value)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| format!("its {what} is not below 4294967295"))
    };
    let mtime = match records.time("mtime")? {
        Some(mtime) => mtime,
        None => header.mtime()?,
    };
    let xattrs = records.xattrs()?;
    // Some programs write the type here, too.
    let mut mode = (header.mode()? & i64::from(limits::MODE_MASK)) as u32;
    // bsdtar writes what the owning group may, where the kernel shows the mask of a list. Whoever writes the attribute itself does not.
    if records.get(b"SCHILY.acl.access").is_some()
        && records.get(b"SCHILY.xattr.system.posix_acl_access").is_none()
        && let Some(permissions) = xattrs.get(acl::ACCESS).and_then(acl::permissions)
    {
        mode = mode & !0o070 | permissions & 0o070;
    }
    Ok(Metadata {
        mode,
        uid: owner("user", "uid", header.uid())?,
        gid: owner("group", "gid", header.gid())?,
        mtime,
        xattrs,
    })
}

fn size(header: &Header, records: &Records) -> Result<u64, String> {
    let size = match records.number("size")? {
        Some(size) => size,
        None => header.size()?,
    };
    u64::try_from(size).map_err(|_| "its size is negative".to_owned())
}

fn device(header: &Header, records: &Records) -> Result<(u32, u32), String> {
    let (major, minor) = header.device()?;
    let major = records.number("SCHILY.devmajor")?.unwrap_or(major);
    let minor = records.number("SCHILY.devminor")?.unwrap_or(minor);
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok((major, minor)),
        _ => Err("its device's numbers cannot be kept".to_owned()),
    }
}
