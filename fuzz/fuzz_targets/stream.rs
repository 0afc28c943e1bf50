//! Invariant: a stream makes as many bytes as were announced, or is refused.
#![no_main]

atomos_fuzz::laws!(Stream);
