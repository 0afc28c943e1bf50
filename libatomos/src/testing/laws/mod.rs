//! What must be true of every byte string that a site, a mirror or a bundle can bring, whatever is in it.
//!
//! A [`Laws`] publishes a small site in three versions, with everything that sites have: packs with a blob in segments, an
//! image, patches in windows and in groups, whole and relative manifests, a key set. [`Laws::seeds`] are its bytes, and
//! [`Laws::check`] gives any bytes to one parser and panics where a law is broken: what is accepted is written
//! as it was read, nothing lies outside of what was announced, nothing is believed that was not signed, and a pull ends with
//! an error or with exactly what was published. No digest stands in the way of a mutation: where one would, what leads
//! to it is made anew, or it is not asked for.
//!
//! The same laws run under libFuzzer (`fuzz/`) and, on mutated seeds, in the test suite (`tests/format/hostile.rs`).

mod bytes;
mod files;
mod tables;
mod texts;
mod whole;
mod world;

use files::Files;
use world::World;

/// What reads bytes that come from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parser {
    /// A signed envelope, and key sets as they are served.
    Envelope,
    /// A key set's payload.
    Keys,
    /// A record's payload, withdrawn versions included.
    Record,
    /// A release's payload, history included.
    Release,
    /// `atomos.json`.
    Info,
    /// A manifest's section TREE, and the list of blobs that follows from it.
    Tree,
    /// A manifest's section INDEX, and the plans that follow from it.
    Index,
    /// A manifest as it is served, whole or relative.
    Manifest,
    /// A frame of a pack, an image or a patch file: two bytes that say which one it is to be, and its bytes; or the streams of a
    /// group, before compression.
    Frame,
    /// A stream of bsdiff: a byte that says which blob it is to make, and its bytes.
    Stream,
    /// A bundle.
    Bundle,
    /// A whole pull: a byte that says which part of the site is replaced, and what by. What is above it is signed anew.
    Pull,
}

impl Parser {
    /// Every one, with the name of its fuzz target.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Envelope, "envelope"),
        (Self::Keys, "keys"),
        (Self::Record, "record"),
        (Self::Release, "release"),
        (Self::Info, "info"),
        (Self::Tree, "tree"),
        (Self::Index, "index"),
        (Self::Manifest, "manifest"),
        (Self::Frame, "frame"),
        (Self::Stream, "stream"),
        (Self::Bundle, "bundle"),
        (Self::Pull, "pull"),
    ];
}

/// A small site, and what must be true of anything that pretends to be a part of it.
#[derive(Debug)]
pub struct Laws {
    world: World,
    files: Files,
}

impl Laws {
    /// Publishes the site, in memory where there is such a file system.
    #[must_use]
    pub fn new() -> Self {
        let world = World::new();
        let files = Files::of(&world);
        Self { world, files }
    }

    /// Returns real inputs of a parser.
    #[must_use]
    pub fn seeds(&self, parser: Parser) -> Vec<Vec<u8>> {
        let files = &self.files;
        match parser {
            Parser::Envelope => texts::envelopes(files),
            Parser::Keys => vec![files.key_set.clone()],
            Parser::Record => texts::records(files),
            Parser::Release => files
                .releases
                .iter()
                .map(|(payload, _)| payload.clone())
                .collect(),
            Parser::Info => vec![files.all[crate::site::INFO].to_vec()],
            Parser::Tree => vec![files.table.clone(), files.base_table.clone()],
            Parser::Index => vec![files.index.clone(), files.relative_index.clone()],
            Parser::Manifest => tables::manifests(files),
            Parser::Frame => bytes::frames(files),
            Parser::Stream => bytes::streams(files),
            Parser::Bundle => bytes::bundles(&self.world),
            Parser::Pull => whole::seeds(files),
        }
    }

    /// Gives `bytes` to a parser.
    ///
    /// # Panics
    ///
    /// If a law is broken.
    pub fn check(&self, parser: Parser, bytes: &[u8]) {
        let files = &self.files;
        match parser {
            Parser::Envelope => texts::envelope(&self.world, files, bytes),
            Parser::Keys => texts::keys(bytes),
            Parser::Record => texts::record(bytes),
            Parser::Release => texts::release(bytes),
            Parser::Info => texts::info(bytes),
            Parser::Tree => tables::tree(bytes),
            Parser::Index => tables::index(&files.blobs, bytes),
            Parser::Manifest => tables::manifest(files, bytes),
            Parser::Frame => bytes::frame(&self.world, files, bytes),
            Parser::Stream => bytes::stream(files, bytes),
            Parser::Bundle => bytes::bundle(bytes),
            Parser::Pull => whole::pull(&self.world, files, bytes),
        }
    }
}

impl Default for Laws {
    fn default() -> Self {
        Self::new()
    }
}
