//! The command line of atomos.

fn main() {}
