//! Invariant: a frame of a pack, an image or a patch is what it should be, or it is refused, and no other thing is blamed.
#![no_main]

atomos_fuzz::laws!(Frame);
