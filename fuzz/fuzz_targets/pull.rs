//! Invariant: a pull ends with an error or with exactly what was signed, and the repository is whole in either case.
#![no_main]

atomos_fuzz::laws!(Pull);
