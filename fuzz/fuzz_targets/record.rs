//! Invariant: a record is refused, or it is written and read as itself, withdrawn versions and extensions included.
#![no_main]

atomos_fuzz::laws!(Record);
