//! Invariant: bytes are refused, or are an envelope that is written and read as itself; nothing verifies that the key did not sign.
#![no_main]

atomos_fuzz::laws!(Envelope);
