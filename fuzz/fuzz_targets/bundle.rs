//! Invariant: a bundle is refused, or it answers as a site does, whatever its index says.
#![no_main]

atomos_fuzz::laws!(Bundle);
