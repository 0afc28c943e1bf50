//! The part of FUSE's protocol that a directory with a few files of fixed size needs (`linux/fuse.h`, version 7.31).
//!
//! The kernel writes one request at a time: a header of 40 bytes, then what the operation takes. An answer is a header of 16
//! bytes, then what the operation gives. Numbers are the machine's own, which is little-endian on every machine that
//! the tests run on; this is checked.

use anyhow::{Context, Result, ensure};

/// Bytes of one write or read, the header not counted.
pub const MAX_WRITE: u32 = 1 << 20;

const VERSION: (u32, u32) = (7, 31);

/// `FUSE_BIG_WRITES`, `FUSE_MAX_PAGES`.
const FLAGS: u32 = 1 << 5 | 1 << 22;

const IN_HEADER: usize = 40;

/// The directory's number; the files follow.
pub const ROOT: u64 = 1;

/// What the kernel wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The first request.
    Init {
        /// How far the kernel reads ahead.
        read_ahead: u32,
    },
    /// Which file has the name?
    Lookup(&'a [u8]),
    /// What is the file?
    GetAttr,
    /// Change what the file is. Only the size can be asked for, and nothing is changed.
    SetAttr,
    /// Open the file.
    Open,
    /// Open the directory.
    OpenDir,
    /// List the directory, which says nothing.
    ReadDir,
    /// Give bytes.
    Read {
        /// From where.
        offset: u64,
        /// How many at most.
        size: u32,
    },
    /// Take bytes.
    Write {
        /// To where.
        offset: u64,
        /// Which.
        bytes: &'a [u8],
    },
    /// Make everything lasting.
    Fsync,
    /// Make a hole.
    Punch {
        /// From where.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// How much room is there?
    StatFs,
    /// Somebody closed a descriptor. Nothing to do.
    Done,
    /// The kernel forgets, or interrupts: it wants no answer.
    Silent,
    /// The last request.
    Destroy,
    /// Anything else.
    Other,
}

/// A request, with what its answer must have.
#[derive(Debug)]
pub struct Received<'a> {
    /// Names the request.
    pub unique: u64,
    /// The file that it is about.
    pub node: u64,
    /// What it wants.
    pub request: Request<'a>,
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..at + 4).context("a request is cut short")?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + 8).context("a request is cut short")?;
    Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

impl<'a> Received<'a> {
    /// Reads one request.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        ensure!(
            u32_at(bytes, 0)? as usize == bytes.len(),
            "a request is cut short"
        );
        let body = bytes.get(IN_HEADER..).context("a request is cut short")?;
        let request = match u32_at(bytes, 4)? {
            1 => Request::Lookup(body.strip_suffix(b"\0").context("a name does not end")?),
            2 | 36 | 42 => Request::Silent,
            3 => Request::GetAttr,
            4 => Request::SetAttr,
            14 => Request::Open,
            15 => Request::Read {
                offset: u64_at(body, 8)?,
                size: u32_at(body, 16)?,
            },
            16 => {
                let size = u32_at(body, 16)? as usize;
                let bytes = body.get(40..).context("a write is cut short")?;
                ensure!(bytes.len() == size, "a write has another size than it says");
                Request::Write {
                    offset: u64_at(body, 8)?,
                    bytes,
                }
            }
            17 => Request::StatFs,
            18 | 25 | 29 => Request::Done,
            20 => Request::Fsync,
            26 => Request::Init {
                read_ahead: u32_at(body, 8)?,
            },
            27 => Request::OpenDir,
            28 => Request::ReadDir,
            38 => Request::Destroy,
            43 => Request::Punch {
                offset: u64_at(body, 8)?,
                length: u64_at(body, 16)?,
            },
            _ => Request::Other,
        };
        Ok(Self {
            unique: u64_at(bytes, 8)?,
            node: u64_at(bytes, 16)?,
            request,
        })
    }
}

/// Returns an answer.
#[must_use]
pub fn answer(unique: u64, body: &[u8]) -> Vec<u8> {
    header(unique, 0, body)
}

/// Returns the answer that refuses.
#[must_use]
pub fn refusal(unique: u64, errno: rustix::io::Errno) -> Vec<u8> {
    header(unique, -errno.raw_os_error(), &[])
}

fn header(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + body.len());
    out.extend((16 + body.len() as u32).to_le_bytes());
    out.extend(error.to_le_bytes());
    out.extend(unique.to_le_bytes());
    out.extend(body);
    out
}

/// Returns what an `Init` gives.
#[must_use]
pub fn init(read_ahead: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [VERSION.0, VERSION.1, read_ahead, FLAGS] {
        out.extend(number.to_le_bytes());
    }
    // Requests in the background, and when there are many of them.
    out.extend(64u16.to_le_bytes());
    out.extend(48u16.to_le_bytes());
    out.extend(MAX_WRITE.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(((MAX_WRITE / 4096) as u16).to_le_bytes());
    out.resize(64, 0);
    out
}

/// Returns what a `GetAttr` gives: an hour, and the directory or a file of `size` bytes.
#[must_use]
pub fn attributes(node: u64, size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(3600u64.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend(inode(node, size));
    out
}

/// Returns what a `Lookup` gives.
#[must_use]
pub fn entry(node: u64, size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [node, 0, 3600, 3600, 0] {
        out.extend(number.to_le_bytes());
    }
    out.extend(inode(node, size));
    out
}

fn inode(node: u64, size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [node, size, size.div_ceil(512), 0, 0, 0] {
        out.extend(number.to_le_bytes());
    }
    let mode: u32 = if node == ROOT { 0o040_700 } else { 0o100_600 };
    for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.extend(number.to_le_bytes());
    }
    out
}

/// Returns what an `Open` gives: a handle that nobody looks at.
#[must_use]
pub fn opened() -> Vec<u8> {
    vec![0; 16]
}

/// Returns what a `Write` gives.
#[must_use]
pub fn written(length: usize) -> Vec<u8> {
    let mut out = (length as u32).to_le_bytes().to_vec();
    out.resize(8, 0);
    out
}

/// Returns what a `StatFs` gives: blocks of 4096 bytes.
#[must_use]
pub fn statfs() -> Vec<u8> {
    let mut out = Vec::new();
    for number in [1u64 << 32, 1 << 31, 1 << 31, 16, 8] {
        out.extend(number.to_le_bytes());
    }
    for number in [4096u32, 255, 4096] {
        out.extend(number.to_le_bytes());
    }
    out.resize(80, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend((IN_HEADER as u32 + body.len() as u32).to_le_bytes());
        out.extend(opcode.to_le_bytes());
        out.extend(7u64.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.resize(IN_HEADER, 0);
        out.extend(body);
        out
    }

    #[test]
    fn a_write_is_understood_and_one_that_is_cut_short_is_not() {
        let mut body = vec![0; 40];
        body[8..16].copy_from_slice(&4096u64.to_le_bytes());
        body[16..20].copy_from_slice(&3u32.to_le_bytes());
        body.extend(b"abc");
        let bytes = request(16, &body);
        let received = Received::parse(&bytes).unwrap();
        let write = Request::Write {
            offset: 4096,
            bytes: b"abc",
        };
        assert_eq!((received.unique, received.node, received.request), (7, 2, write));
        body.pop();
        Received::parse(&request(16, &body)).unwrap_err();
        for length in 0..bytes.len() {
            Received::parse(&bytes[..length]).unwrap_err();
        }
    }

    #[test]
    fn answers_have_the_sizes_that_the_kernel_expects() {
        assert_eq!(init(0).len(), 64);
        assert_eq!(attributes(ROOT, 0).len(), 104);
        assert_eq!(entry(2, 4096).len(), 128);
        assert_eq!((opened().len(), written(1).len(), statfs().len()), (16, 8, 80));
        let refusal = refusal(3, rustix::io::Errno::NOSYS);
        assert_eq!(refusal.len(), 16);
        assert_eq!(refusal[4..8], (-38i32).to_le_bytes());
    }
}
