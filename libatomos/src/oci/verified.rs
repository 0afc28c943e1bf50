//! Digests of OCI, and readers that check them.

use std::fmt;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256, Sha512};

use super::OciError;

/// A digest: the algorithm's name, a colon, and hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OciDigest {
    algorithm: Algorithm,
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Algorithm {
    Sha256,
    Sha512,
}

impl OciDigest {
    /// Reads one; `None` for what is none, or of an algorithm that is not known.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        let (algorithm, len) = match algorithm {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return None,
        };
        let is_hex = hex.len() == len && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }

    /// Returns the directory beneath `blobs`, and the name in it.
    pub(super) fn path(&self) -> String {
        format!("blobs/{}/{}", self.algorithm.name(), self.hex)
    }
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for OciDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn finish(&self) -> OciDigest {
        let (algorithm, hex) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, crate::digest::hex(&hasher.clone().finalize())),
            Self::Sha512(hasher) => (Algorithm::Sha512, crate::digest::hex(&hasher.clone().finalize())),
        };
        OciDigest { algorithm, hex }
    }
}

/// Hashes what is read or written through it.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Hasher,
    len: u64,
}

impl<T> Hashing<T> {
    /// Hashes by the algorithm of `like`.
    pub(crate) fn like(inner: T, like: &OciDigest) -> Self {
        Self {
            inner,
            hasher: Hasher::new(like.algorithm),
            len: 0,
        }
    }

    /// Hashes by SHA-256.
    pub(crate) fn sha256(inner: T) -> Self {
        Self {
            inner,
            hasher: Hasher::new(Algorithm::Sha256),
            len: 0,
        }
    }

    /// Returns the digest of what went through, and how much it was.
    pub(crate) fn digest(&self) -> (OciDigest, u64) {
        (self.hasher.finish(), self.len)
    }

    pub(crate) fn into_inner(self) -> T {
        self.inner
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        self.len += len as u64;
        Ok(len)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads a blob, and no more than its descriptor says.
pub(crate) struct Verified<R: Read> {
    reader: Hashing<io::Take<R>>,
    digest: OciDigest,
    size: u64,
}

impl<R: Read> Verified<R> {
    pub(super) fn new(reader: R, digest: OciDigest, size: u64) -> Self {
        Self {
            // One more shows that there are too many.
            reader: Hashing::like(reader.take(size.saturating_add(1)), &digest),
            digest,
            size,
        }
    }

    /// Reads what is left, and fails unless all of it was what the digest says.
    pub(crate) fn finish(mut self) -> Result<(), OciError> {
        let blob = |rule: String| OciError::Blob {
            digest: self.digest.to_string(),
            rule,
        };
        io::copy(&mut self.reader, &mut io::sink())
            .map_err(|error| blob(format!("it cannot be read: {error}")))?;
        let (found, len) = self.reader.digest();
        if len != self.size {
            return Err(blob(format!("it has not {} bytes", self.size)));
        }
        if found != self.digest {
            return Err(blob(format!("its bytes have the digest {found}")));
        }
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}
