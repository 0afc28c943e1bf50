//! Invariant: a manifest is refused, or what is in it keeps the laws of `tree` and `index`.
#![no_main]

atomos_fuzz::laws!(Manifest);
