//! Invariant: a release is refused, or it is written and read as itself, with a history that only goes back.
#![no_main]

atomos_fuzz::laws!(Release);
