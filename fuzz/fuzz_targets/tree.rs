//! Invariant: a table of a tree is refused, or it is exactly what encoding it gives, and its list of blobs has each once.
#![no_main]

atomos_fuzz::laws!(Tree);
