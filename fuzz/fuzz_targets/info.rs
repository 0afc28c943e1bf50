//! Invariant: `atomos.json` is refused, or it is of this format and needs nothing that is unknown.
#![no_main]

atomos_fuzz::laws!(Info);
