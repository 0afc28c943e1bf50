//! Invariant: a key set is refused, or it is written and read as itself, and every role can be filled by keys that are in it.
#![no_main]

atomos_fuzz::laws!(Keys);
