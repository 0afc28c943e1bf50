//! Power cuts, at every write.
//!
//! A kill at a failpoint shows what a program leaves in the page cache. It does not show what a disk has when the power goes:
//! that is what was flushed, and any part of what was written since. So an update is recorded write by write, and the disks
//! are built again as they may have been at any moment; each is mounted, checked, and updated again.
//!
//! ```text
//! recorder   disks by FUSE and loop devices: each write and flush in a log          wire, log
//! watcher    what the program was doing meanwhile; others who sync; faults          atomos
//! scenario   what is recorded, and what must hold afterwards                        machine, store, tree, digest, grub
//! cuts       which moments, and which of the writes since the last flush            phase
//! image      the disks after a cut                                                  mount
//! trial      every cut: the loader's view, mount, check, go on
//! boots, kit some of them are booted
//! prove      with a sync left out or a rename too early, a cut must show it, or the source says why not    sources
//! report     the tables of docs/boot-tests.md
//! ```
//!
//! `docs/boot-tests.md` says what the model does not cover.

pub mod atomos;
pub mod boots;
pub mod command;
pub mod cuts;
pub mod digest;
pub mod grub;
pub mod image;
pub mod interrupt;
pub mod kit;
pub mod log;
pub mod machine;
pub mod mount;
pub mod phase;
pub mod prove;
pub mod recorder;
pub mod report;
pub mod scenario;
pub mod sources;
pub mod store;
pub mod tree;
pub mod trial;
pub mod watcher;
mod wire;

pub use command::{CutArgs, power_cut};
